# Kills a small merge at each call that can change a file, from the first to the last. Then does the same with the resume of a merge that
# was killed halfway. Each time the next run must finish the merge.
failed=0
cd /tmp || exit 1

merge="merge --cow /tmp/cow --base /tmp/base --progress never"

# fresh: restores the base and the COW to their initial state.
fresh() {
    cp /old.img base
    cp /cow cow
}

# finish WHAT: an undisturbed run must turn the base into the target.
finish() {
    # shellcheck disable=SC2086 # some words
    snapuserd $merge --io "$io" >output 2>&1 || { echo "kills: FAILED: $io: $1: the next run ended with $?: $(head -n 1 output)"; failed=1; }
    cmp -s base /new.img || { echo "kills: FAILED: $io: $1: the base is not the target"; failed=1; }
}

# kill_at CALL: kills a merge at that call; false if the merge ended before.
kill_at() {
    # shellcheck disable=SC2086 # some words
    /killat "changes:$1" /bin/snapuserd $merge --io "$io" >output 2>&1
    code=$?
    [ "$code" -ne 137 ] || return 0
    [ "$code" -eq 0 ] || { echo "kills: FAILED: $io: call $1: ended with $code: $(head -n 1 output)"; failed=1; }
    return 1
}

for io in sync uring; do
    kills=0
    fresh
    while kill_at $((kills + 1)); do
        kills=$((kills + 1))
        finish "killed at call $kills"
        fresh
    done
    again=0
    fresh
    kill_at $((kills / 2))
    while kill_at $((again + 1)); do
        again=$((again + 1))
        finish "killed at call $((kills / 2)), and its resume at call $again"
        fresh
        kill_at $((kills / 2))
    done
    echo "kills: $io: killed at $kills calls of a merge, and at $again calls of a resume"
    # With a ring, one call may submit more or fewer requests.
    [ "$kills" -ge 15 ] && [ "$again" -ge 8 ] || { echo "kills: FAILED: too few calls for a whole merge"; failed=1; }
done
exit "$failed"
