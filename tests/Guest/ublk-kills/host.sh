# Tests SIGKILL at the system calls of a ublk server with one or two queues: while it starts, while it takes over (with readers and a
# mounted file system), and while it takes over in the middle of a hand-over to a mapped device. Runs a random sample of SAMPLE kills
# (default: 40); SEED, which is printed, repeats a sample. SET=all runs all kills, or with QUEUES=1 or QUEUES=2 those with that number of
# queues.
. "$HERE/../lib.sh"
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
echo "seed $SEED"
RANDOM=$((SEED % 32768))
sample=${SAMPLE:-40}

mkdir -p old/files
for number in 1 2 3 4; do head -c $((RANDOM * 4 + 4096)) </dev/urandom >"old/files/$number"; done
cp -a old new
dd if=/dev/urandom of=new/files/2 bs=4096 seek=2 count=8 conv=notrunc status=none
mv new/files/3 new/files/moved
(cd new/files && sha256sum -- *) >files.sum
for state in old new; do mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d "$state" "$state.img" 2M >/dev/null; done
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression lz4 --xor --progress never
truncate -s %4096 cow
sha256sum <new.img >image.sum
truncate -s "$(stat -c %s new.img)" image
compile "$HERE/killpoint.c" killpoint
compile "$HERE/../mapper/dm.c" dm
: >settings
cp "$HERE/guest.sh" test.sh
files=(test.sh settings image.sum files.sum image old.img cow killpoint dm)
export SMP=2

# run LOG SECONDS: boots a guest with the file "points".
run() {
    archive guest "${files[@]}" points
    local code=0
    boot -l "$1" -t "$2" -k oops=panic || code=$?
    grep '^kills: ' "$1" || true
    [ "$code" -eq 0 ] || fail "the guest ended with $code"
}

echo count >points
run console.count 600
# The first and last step of the hand-over at which the first server is killed (see "dm kill").
first=7 last=20
calls() { sed -n "s/^kills: calls $1 \([0-9]*\) \([0-9]*\).*/\\$2/p" console.count; }
if [ "${SET:-}" = all ]; then
    for queues in ${QUEUES:-1 2}; do
        for ((call = 1; call <= $(calls $queues 1); call++)); do echo "start $queues $call 0"; done
        for ((call = 1; call <= $(calls $queues 2); call++)); do echo "takeover $queues $call 0"; done
        for ((call = 1; call <= $(calls $queues 2); call++)); do echo "handover $queues $call 0 $((first + call % (last - first + 1)))"; done
    done >points
else
    for ((one = 0; one < sample; one++)); do
        queues=$((one % 2 + 1))
        # Half of the kills come after a delay, during or after the call.
        delay=$((RANDOM % 2 * (RANDOM % 5000)))
        case $((one % 5)) in
            0) echo "start $queues $((RANDOM % $(calls $queues 1) + 1)) $delay" ;;
            4) echo "handover $queues $((RANDOM % $(calls $queues 2) + 1)) $delay $((first + RANDOM % (last - first + 1)))" ;;
            *) echo "takeover $queues $((RANDOM % $(calls $queues 2) + 1)) $delay" ;;
        esac
    done | sort -s -k 1,2 >points
fi
run console $((300 + $(wc -l <points) * 5))
