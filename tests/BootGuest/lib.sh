# Common code of the scenarios, on top of ../Guest/lib.sh.
. "$ROOT/tests/Guest/lib.sh"
root="root=/dev/mapper/system ro image=$(cat image.sum)"
# Written bytes per second: slow enough that the merge outlasts the boot on any machine; nothing else is slowed down.
slow=throttling.bps-write=60000
# A merge on request, at a rate that leaves time to cut the power.
on_request="boottest=cut rate=200k snapuserd.merge=manual"

# disks: creates fresh overlays of the two disks: base.0 and cow.0.
disks() {
    rm -f base.* cow.*
    fresh old.img raw base.0
    fresh cow raw cow.0
}

# start LOG WORDS DRIVE…: boots, and prints the guest's messages; its status is in $code.
start() {
    local log=$1 words=$2
    shift 2
    code=0
    boot ${CUT:+-c "$CUT"} -i "${INIT:-/init}" -a "${ARCHIVE:-initramfs}" -l "$log" -k "$root $words" "$@" || code=$?
    grep -aE '^boot: |^snapuserd: |^recovery: ' "$log" | cut -c -220 || true
    ! grep -aq '^boot: FAILED' "$log" || fail "$log has a failure"
}

# ended WANTED WHAT
ended() {
    [ "$code" -eq "$1" ] || fail "$2: the guest ended with $code instead of $1"
}

# shows LOG PATTERN WHAT: the log must have a matching line.
shows() {
    grep -aqE -- "$2" "$1" || fail "$3: nothing like '$2' in $1"
}

# state COW: prints "N of M" from the disk of a machine that is off.
state() {
    qemu-img convert -f qcow2 -O raw "$1" "$1.raw"
    "$SNAPUSERD" inspect "$1.raw" | sed -n 's/^Merge ops: *//p'
    rm -f "$1.raw"
}

# midway COW: its merge has begun and is not complete.
midway() {
    local count
    count=$(state "$1")
    echo "$1: $count ops merged"
    [ "${count%% *}" -gt 0 ] && [ "${count%% *}" -lt "${count##* }" ]
}
