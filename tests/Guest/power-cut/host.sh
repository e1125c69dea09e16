# Cuts the power of a merging guest at moments derived from a seed, twice in a row: during the merge and during its resume. Then the same
# script must finish the merge.
. "$HERE/../lib.sh"
rounds=5
SEED=${SEED:-4}
RANDOM=$SEED
# Disk speed in bytes per second, so low that the merge takes seconds on any machine.
slow=throttling.bps-total=3000000

ramdisk_loop
cp "$HERE/guest.sh" test.sh
archive guest test.sh merge-loop.sh
vector v3-zstd-256k-xor
mv v3-zstd-256k-xor.cow v3.cow
vector v2-gz-xor
mv v2-gz-xor.cow v2.cow

# state COW: the progress of the COW, as in "510 of 800". Adds a line to the file "middle" if a part of the merge is durable, but not all.
state() {
    local count
    qemu-img convert -f qcow2 -O raw "$1" "$1.raw"
    count=$("$SNAPUSERD" inspect "$1.raw" | sed -n 's/^Merge ops: *//p')
    [ "${count%% *}" -eq "${count##* }" ] || cmp -s "$1.raw" "$2.cow" || echo "$1" >>middle
    rm -f "$1.raw"
    echo "$count"
}

# round NUMBER COW MS MS: two cuts and the end. A cut that comes too late, because the machine is faster now than during the measurement, is
# repeated at an earlier moment.
round() {
    local number=$1 cow=$2 cut=0 code moment
    fresh "$cow.cow" raw "cow.$number.0"
    fresh old.img raw "base.$number.0"
    for moment in "$3" "$4"; do
        while :; do
            code=0
            boot -l "console.$number.$cut" -c "$moment" "file=cow.$number.$cut,format=qcow2,$slow" "file=base.$number.$cut,format=qcow2,$slow" || code=$?
            [ "$code" -ne 0 ] || [ "$moment" -eq 0 ] || { late "$number" "$cut" "$cow"; moment=$((moment / 2)); continue; }
            break
        done
        [ "$code" -eq 137 ] || [ "$code" -eq 0 ] || fail "round $number: status $code before cut $cut"
        [ "$code" -eq 0 ] || echo "$number" >>cuts
        echo "round $number, $cow: power cut $moment ms into $([ "$cut" -eq 0 ] && echo "the merge" || echo "its resume"): $(state "cow.$number.$cut" "$cow") ops merged"
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

# late NUMBER CUT COW: restores the disks after a cut that came too late.
late() {
    echo "round $1, $3: the merge ended before the cut; the cut is repeated earlier"
    rm -f "cow.$1.$2" "base.$1.$2" "console.$1.$2"
    if [ "$2" -eq 0 ]; then
        fresh "$3.cow" raw "cow.$1.0"
        fresh old.img raw "base.$1.0"
    else
        fresh "cow.$1.$(($2 - 1))" qcow2 "cow.$1.$2"
        fresh "base.$1.$(($2 - 1))" qcow2 "base.$1.$2"
    fi
}

# control: checks the disks of this test: a cut keeps flushed data and loses unflushed data.
control() {
    cp "$HERE/control.sh" control.sh
    mkdir control.files
    mv control.sh control.files/test.sh
    archive control control.files/test.sh
    fresh old.img raw control.disk
    local code=0
    boot -a control -l console.control -c 0 file=control.disk,format=qcow2 || code=$?
    [ "$code" -eq 137 ] || fail "control: status $code"
    cp old.img control.expected
    dd if=/dev/zero of=control.expected bs=4096 count=1 seek=7 conv=notrunc status=none
    same control.disk qcow2 control.expected || fail "control: the disk does not hold exactly the flushed data"
    echo "control: the disk holds exactly the flushed data"
}

# measure: runs a merge without a cut, and writes its duration in milliseconds to the file "span". The moments of the cuts are derived from
# it.
measure() {
    fresh v3.cow raw cow.measure
    fresh old.img raw base.measure
    local code=0
    boot -l console.measure "file=cow.measure,format=qcow2,$slow" "file=base.measure,format=qcow2,$slow" || code=$?
    [ "$code" -eq 0 ] || fail "the uninterrupted merge ended with $code"
    same base.measure qcow2 new.img || fail "without a cut the base is not the target"
    sed -n 's/^merged in \([0-9]*\) ms$/\1/p' console.measure >span
}

: >cuts
: >middle
control &
controlled=$!
measure
wait "$controlled" || fail "the disks do not lose unflushed data"
span=$(cat span)
echo "seed $SEED; a merge takes $span ms"

# Each round cuts in another part of the merge. No round cuts in the first quarter, which only reads, or in the last twentieth. The resume
# is cut at a random moment within about the remaining time.
first_quarter=$((span / 4))
parts=$((span * 14 / 20))
running=()
for ((number = 0; number < rounds; number++)); do
    first=$((first_quarter + parts * number / rounds + RANDOM % (parts / rounds)))
    second=$((RANDOM % (span - first + 500)))
    round "$number" "$([ $((number % 2)) -eq 0 ] && echo v3 || echo v2)" "$first" "$second" &
    running+=($!)
    if [ "${#running[@]}" -ge "$JOBS" ]; then
        wait "${running[0]}" || fail "a round failed"
        running=("${running[@]:1}")
    fi
done
for process in "${running[@]}"; do wait "$process" || fail "a round failed"; done
# If the machine has become so slow that nearly all cuts came before the first write, more rounds follow, each with a later cut.
for ((; number < 5 * rounds && $(wc -l <middle) < 2; number++)); do
    round "$number" v3 "$((span * number / rounds))" "$((RANDOM % span))"
done
echo "$(wc -l <cuts) cuts, $(wc -l <middle) of them left a merge that had begun on disk"
[ "$(wc -l <cuts)" -ge 8 ] && [ "$(wc -l <middle)" -ge 2 ] || fail "the cuts missed the merge"
