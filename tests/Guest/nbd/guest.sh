device=/dev/nbd0
failed=0

# say WORD …: a line that the host shows.
say() {
    echo "nbd: $*"
}

# check WHAT COMMAND …
check() {
    what=$1
    shift
    if "$@" >/tmp/output 2>&1; then return 0; fi
    say "FAILED: $what"
    head -n 5 /tmp/output
    head -n 5 /tmp/serve.err
    failed=1
}

# expect CODE WHAT COMMAND …
expect() {
    wanted=$1
    what=$2
    shift 2
    "$@" >/tmp/output 2>&1
    code=$?
    say "$what: $code: $(head -n 1 /tmp/output)"
    [ "$code" -eq "$wanted" ] || { say "FAILED: expected $wanted"; failed=1; }
}

# serve OPTION …: starts the server, $server, and waits until it says that its device is usable.
serve() {
    rm -f /tmp/ready
    mkfifo /tmp/ready
    snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --progress never "$@" >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    read -r said </tmp/ready || said=nothing
    [ "$said" = "$device" ] || { say "FAILED: the server said $said"; cat /tmp/serve.err; failed=1; }
}

# stop: ends the server; its device is free behind it.
stop() {
    kill "$server"
    wait "$server"
    ended=$?
    [ "$ended" -eq 0 ] || { say "FAILED: the server ended with $ended"; cat /tmp/serve.err; failed=1; }
    [ ! -e /sys/block/nbd0/pid ] || { say "FAILED: $device is still attached"; failed=1; }
}

files() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd /mnt && sha256sum -c /files.sum)
}

image() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$device" bs=1M 2>/dev/null | sha256sum | cmp - /image.sum
}

merged() {
    snapuserd inspect --cow /dev/vda 2>&1 | sed -n 's/^Merge ops: *//p'
}

mkdir /mnt
rmmod nbd
expect 69 "no driver" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --progress never
insmod /modules/nbd.ko
expect 64 "a name that is none" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --name nbdx --progress never

# Served and not merged: nothing is written, writes are refused, the device goes with the server.
before=$(cat /dev/vda /dev/vdb | sha256sum)
serve
check "the image before the merge" image
expect 1 "a write" dd if=/dev/zero of="$device" bs=4096 count=1 conv=fsync
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files before the merge" files
umount /mnt
stop
[ "$before" = "$(cat /dev/vda /dev/vdb | sha256sum)" ] || { say "FAILED: something was written"; failed=1; }

# A device that somebody else has is not taken away: here, the one that another program holds open.
sleep 1000 <"$device" &
holder=$!
expect 76 "a device that is in use" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --name nbd0 --progress never
kill "$holder"
wait "$holder"

# Served and merged, with readers all the time; the server is killed in their midst, and its successor is told the name once and finds it once.
serve --merge
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files while it is merged" files
(
    while [ ! -e /tmp/enough ]; do
        files >/dev/null 2>&1 || echo files >>/tmp/lost
        image || echo image >>/tmp/lost
        echo >>/tmp/rounds
    done
) &
reader=$!
for name in "--name nbd0" ""; do
    tries=0
    while [ "$tries" -lt 50 ]; do
        count=$(merged)
        [ "${count%% *}" = 0 ] || break
        usleep 100000
        tries=$((tries + 1))
    done
    kill -KILL "$server"
    wait "$server"
    count=$(merged)
    say "killed at $count ops merged"
    [ "${count%% *}" -gt 0 ] && [ "${count%% *}" -lt "${count##* }" ] || { say "FAILED: that is not in the middle"; failed=1; }
    # shellcheck disable=SC2086 # two words or none
    serve --merge $name
done
: >/tmp/enough
wait "$reader"
say "$(wc -l </tmp/rounds) rounds of all files and the image, through two kills"
[ ! -e /tmp/lost ] || { say "FAILED: lost $(sort /tmp/lost | uniq -c | tr '\n' ' ')"; failed=1; }
tries=0
while [ "$tries" -lt 300 ]; do
    count=$(merged)
    [ "${count%% *}" != "${count##* }" ] || break
    usleep 200000
    tries=$((tries + 1))
done
say "merged: $count"
check "the files when all is merged" files
check "the image when all is merged" image
umount /mnt
stop
exit $failed
