#!/bin/busybox sh
# The first process after switch_root, running from the served file system: kills the server of that file system, twice.
supervisor=$1
image=$2
failed=0
mount -t proc proc /proc

# server: waits for the supervisor's child and prints its process ID.
server() {
    while :; do
        for folder in /proc/[0-9]*; do
            read -r number _ _ parent _ <"$folder/stat" 2>/dev/null || continue
            if [ "$parent" = "$supervisor" ]; then
                echo "$number"
                return
            fi
        done
        usleep 50000
    done
}

files() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd /files && sha256sum -c /files.sum) >/tmp/files 2>&1 || { echo "ublk: FAILED: $1"; head -n 3 /tmp/files; failed=1; }
}

memory=$(grep -E 'VmRSS|VmLck' /proc/"$supervisor"/status | tr -d '\n' | tr -s '\t ' ' ')
echo "ublk: after switch_root, root on $(grep ' / ext4' /proc/mounts | cut -d ' ' -f 1); the supervisor: $memory"
files "the files of the root"
# A merge that began in the ramdisk must exclude other merges after switch_root, under any node of its base.
mknod /tmp/node b $((0x$(stat -c %t /dev/vdb))) $((0x$(stat -c %T /dev/vdb)))
looped=$(losetup -f)
losetup "$looped" /dev/vdb
for base in /dev/vdb /tmp/node "$looped"; do
    /tmp/snapuserd merge --cow /tmp/cow --base "$base" --progress never >/tmp/rival 2>&1
    code=$?
    echo "ublk: another merge after switch_root: $code: $(head -n 1 /tmp/rival)"
    [ "$code" -eq 76 ] || { echo "ublk: FAILED: expected 76"; failed=1; }
done
# For the loop device, the conflict must be found by the locks among this program's processes, whose path is the same in every root.
grep -q 'locked by another snapuserd' /tmp/rival || { echo "ublk: FAILED: the locks did not find the conflict"; failed=1; }
first=$(server)
kill -KILL "$first"
files "the files after a kill"
second=$(server)
kill -KILL "$second"
files "the files after a second kill"
third=$(server)
[ "$first" != "$second" ] && [ "$second" != "$third" ] || { echo "ublk: FAILED: servers $first $second $third"; failed=1; }
echo "ublk: the root file system was read through two kills of its server"
tries=0
while [ "$tries" -lt 1500 ] && [ "$(sha256sum </dev/vdb | cut -d ' ' -f 1)" != "$image" ]; do
    tries=$((tries + 1))
    usleep 200000
done
files "the files when all is merged"
[ "$tries" -lt 1500 ] || { echo "ublk: FAILED: the merge does not end"; failed=1; }
echo "GUEST status $failed"
poweroff -f
