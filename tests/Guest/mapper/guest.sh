. /common.sh
mkdir /mnt /mnt2
dd if=/dev/vda of="$fresh" bs=1M 2>/dev/null
dd if=/dev/zero of=/tmp/zeros bs=1M count=1 2>/dev/null
base=$(cat /sys/block/vdb/dev)
sectors=$(cat /sys/block/vdb/size)
on_base="$sectors linear $base 0 rw"

# on WHAT WORDS: the table must equal WORDS.
on() {
    found=$(/dm table root 2>&1)
    [ "$found" = "$2" ] || { say "FAILED: $1: the table is $found, not $2"; failed=1; }
}

# ended WHAT: the server must have ended by itself, with 0, and the served device must be gone.
ended() {
    wait "$server"
    code=$?
    [ "$code" -eq 0 ] || { say "FAILED: $1: the server ended with $code"; tail -n 5 /tmp/serve.err; failed=1; }
    [ ! -e /dev/ublkb0 ] || { say "FAILED: $1: /dev/ublkb0 is still there"; failed=1; }
}

# Another program's device, and an invalid name.
/dm create other
expect 76 "another's name" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --mapper other --progress never
/dm remove other
expect 64 "an invalid name" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --mapper a/b --progress never

# Serves without a merge: the table is not swapped, and no device is left.
serve
on "served" "$sectors linear $(cat /sys/block/ublkb0/dev) 0 ro"
check "the image before the merge" image
expect 1 "a write" dd if=/dev/zero of="$device" bs=4096 count=1 conv=fsync
stop

# Kills the server repeatedly, at random moments that the host has chosen. The locks that a supervisor holds must not prevent the start of
# its own next server. Several supervisors are used, because one gives up after ten kills in a row. Each server is killed only when it is
# ready, because this kernel (6.12) has a bug: it crashes if a server is killed while it takes over.
while read -r moments; do
    serve --supervise --merge-on-request --control /tmp/control
    next=
    for moment in $moments; do
        next=$(child "$next")
        until snapuserd ctl status --json --socket /tmp/control 2>/dev/null | grep -q "\"device\":\"$device\""; do usleep 50000; done
        usleep "$moment"
        kill -KILL "$next"
        ended_process "$next"
    done
    check "the image after the kills" image
    stop
done </moments
kills=$(wc -w </moments)
again=$(grep -c 'was killed by signal 9: starting it again' /tmp/serve.err)
say "killed $kills times at random moments; started again $again times"
[ "$again" -eq "$kills" ] || { say "FAILED: a server ended in another way"; cat /tmp/serve.err; failed=1; }

# Kills only the supervisor: its server must still hold all locks.
serve --supervise --merge-on-request --control /tmp/control
left=$(child)
looped=$(loop 0 /dev/vdb)
kill -KILL "$server"
wait "$server"
rivals "without a supervisor"
kill -KILL "$left"
ended_process "$left"
# After both are dead no lock is held, so another server can take the device over.
serve
stop

# Merges under a mount with a supervised server, and kills the server in the middle. At the end the device must be mapped to the base, and
# the server must have ended.
: >/tmp/serve.err
serve_slowly --supervise --log json
check "mount" mount -t ext4 -o ro,noload "$device" /mnt
read_on
await
kill -STOP "$server"
next=$(child)
kill -KILL "$next"
ended_process "$next"
count=$(merged)
say "killed at $count ops merged"
midway "$count" || { say "FAILED: the kill was not in the middle of the merge"; failed=1; }
rivals "between two servers"
kill -CONT "$server"
next=$(child "$next")
rivals "with the next server"

# Kills the server after it has released the base and before it loads the table. The supervisor has released the base too, but another merge
# must still be refused.
/dm at "$next" "sh /table.sh $server $next $looped" >/tmp/at 2>&1 &
at=$!
faster
wait "$at" || { say "FAILED: at the table"; failed=1; }
cat /tmp/at
kill -CONT "$server"
ended "supervised"
enough
say "handed over: $(/dm table root)"
on "handed over" "$on_base"
check "the report of the hand-over" grep -q "$device stands on /dev/vdb from now on" /tmp/serve.err
check "the files after the hand-over" files
check "the image after the hand-over" image
rival 76 /dev/vdb "handed over: another merge" snapuserd merge --cow @ --base /dev/vdb --progress never
rival 76 "$looped" "handed over: another merge through a loop device" snapuserd merge --cow @ --base "$looped" --progress never
rival 76 "$device" "handed over: a merge into what is mounted" snapuserd merge --cow @ --base "$device" --progress never
refused
losetup -d "$looped"
umount /mnt

# A supervised server that is started again must end at once.
expect 0 "again, when the device is mapped to the base" snapuserd serve --supervise --cow /dev/vda --base /dev/vdb --device ublk $options --merge --progress never
on "again" "$on_base"
check "remove" /dm remove root

# Kills a server before and after each call to the device mapper. A mount must wait for the next server, which must complete the steps.
point=0
kills=0
readers=0
while :; do
    point=$((point + 1))
    /dm kill "$point" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk $options --merge --progress never >/dev/null 2>>/tmp/serve.err
    code=$?
    [ "$code" -eq 137 ] || break
    kills=$((kills + 1))
    left=$(/dm table root 2>&1)
    reader=
    # The node is created last, so the device can be read once the node exists.
    if [ -e "$device" ]; then
        (mount -t ext4 -o ro,noload "$device" /mnt && files >/dev/null 2>&1 && umount /mnt) &
        reader=$!
        readers=$((readers + 1))
    fi
    snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk $options --merge --progress never >/dev/null 2>>/tmp/serve.err &
    server=$!
    ended "killed at point $point"
    [ -z "$reader" ] || wait "$reader" || { say "FAILED: point $point: the reader saw an error"; failed=1; }
    say "point $point left $left; now $(/dm table root)"
    on "killed at point $point" "$on_base"
    check "remove" /dm remove root
    rm -f "$device"
done
check "the image after the kills" image
say "killed at $kills points of the hand-over, with readers at $readers of them; after the last one the server ended with $code"
[ "$code" -eq 0 ] || failed=1
[ "$kills" -ge 16 ] && [ "$readers" -ge 6 ] || { say "FAILED: too few points for a whole hand-over"; failed=1; }
on "at the end" "$on_base"

# Hands over with NBD and synchronous system calls.
/dm remove root
kind=nbd
options="--name nbd0 --mapper root --io sync"
serve --merge
check "mount over NBD" mount -t ext4 -o ro,noload "$device" /mnt
ended "over NBD"
[ ! -e /sys/block/nbd0/pid ] || { say "FAILED: /dev/nbd0 is still there"; failed=1; }
on "over NBD" "$on_base"
check "the files over NBD" files
umount /mnt

# Makes a read-only mount writable after the hand-over, without unmounting it. Then the power is cut.
/dm remove root
kind=ublk
options="--name ublkb0 --mapper root"
serve --merge
check "mount" mount -t ext4 -o ro "$device" /mnt
ended "at the last"
check "the files" files
check "remount" mount -o remount,rw /mnt
echo "written after the hand-over" >/mnt/written
check "sync" sync
[ "$failed" -ne 0 ] || echo CUT
sleep 10
cat /tmp/serve.err
exit 1
