# Pulls the plug of a guest that merges, at seeded moments, twice in a row: in the merge and in its resume. Then the same script finishes it.
. "$HERE/../lib.sh"
rounds=4
RANDOM=${SEED:-4}
# Slow disks stretch the merge, so that the moments fall into it however fast this machine is: requests per second.
slow=throttling.iops-total=150
span=2700

readme_loop
cp "$HERE/guest.sh" test.sh
archive guest test.sh merge-loop.sh
vector v3-zstd-256k-xor
mv v3-zstd-256k-xor.cow v3.cow
vector v2-gz-xor
mv v2-gz-xor.cow v2.cow

# state COW: how far the COW is, as in "510 of 800"; a line in the file "middle" if something of the merge is durable and something is not.
state() {
    local count
    qemu-img convert -f qcow2 -O raw "$1" "$1.raw"
    count=$("$SNAPUSERD" inspect "$1.raw" | sed -n 's/^Merge ops: *//p')
    [ "${count%% *}" -eq "${count##* }" ] || cmp -s "$1.raw" "$2.cow" || echo "$1" >>middle
    rm -f "$1.raw"
    echo "$count"
}

# round NUMBER COW MS MS: two cuts and the end.
round() {
    local number=$1 cow=$2 cut=0 code moment
    fresh "$cow.cow" raw "cow.$number.0"
    fresh old.img raw "base.$number.0"
    for moment in "$3" "$4"; do
        code=0
        boot -l "console.$number.$cut" -c "$moment" "file=cow.$number.$cut,format=qcow2,$slow" "file=base.$number.$cut,format=qcow2,$slow" || code=$?
        [ "$code" -eq 137 ] || [ "$code" -eq 0 ] || fail "round $number: status $code before cut $cut"
        [ "$code" -eq 0 ] || echo "$number" >>cuts
        echo "round $number, $cow: plug pulled $moment ms into $([ "$cut" -eq 0 ] && echo "the merge" || echo "its resume")$([ "$code" -eq 0 ] && echo ", too late"): $(state "cow.$number.$cut" "$cow") ops merged"
        fresh "cow.$number.$cut" qcow2 "cow.$number.$((cut + 1))"
        fresh "base.$number.$cut" qcow2 "base.$number.$((cut + 1))"
        cut=$((cut + 1))
    done
    code=0
    boot -l "console.$number.end" "file=cow.$number.$cut,format=qcow2" "file=base.$number.$cut,format=qcow2" || code=$?
    [ "$code" -eq 0 ] || fail "round $number: the last merge ended with $code"
    same "base.$number.$cut" qcow2 new.img || fail "round $number: the base is not the target"
    echo "round $number: the base is the target"
}

# Every round in its own quarter of the merge; the resume anywhere.
running=()
: >cuts
: >middle
for ((number = 0; number < rounds; number++)); do
    first=$((span * number / rounds + RANDOM % (span / rounds)))
    second=$((RANDOM % span))
    round "$number" "$([ $((number % 2)) -eq 0 ] && echo v3 || echo v2)" "$first" "$second" &
    running+=($!)
    if [ "${#running[@]}" -ge "$JOBS" ]; then
        wait "${running[0]}" || fail "a round failed"
        running=("${running[@]:1}")
    fi
done
for process in "${running[@]}"; do wait "$process" || fail "a round failed"; done
cuts=$(wc -l <cuts)
middle=$(wc -l <middle)
echo "$cuts of $((2 * rounds)) cuts came before the end, $middle of them left a merge that had begun on disk"
[ "$cuts" -ge "$rounds" ] && [ "$middle" -ge 2 ] || fail "the cuts missed the merge"
