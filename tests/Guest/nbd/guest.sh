kind=nbd
options=
device=/dev/nbd0
files=/mnt
gone() {
    [ ! -e /sys/block/nbd0/pid ]
}
. /serving.sh

mkdir /mnt
rmmod nbd
expect 69 "no driver" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --progress never
insmod /modules/nbd.ko
expect 64 "an invalid name" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --name nbdx --progress never

# Serves without a merge: nothing is written, writes are refused, and the device disappears with the server.
before=$(cat /dev/vda /dev/vdb | sha256sum)
serve
check "the image before the merge" image
expect 1 "a write" dd if=/dev/zero of="$device" bs=4096 count=1 conv=fsync
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files before the merge" files
umount /mnt
stop
[ "$before" = "$(cat /dev/vda /dev/vdb | sha256sum)" ] || { say "FAILED: something was written"; failed=1; }

# A device that another program has open is not taken over.
sleep 1000 <"$device" &
holder=$!
expect 76 "a device that is in use" snapuserd serve --cow /dev/vda --base /dev/vdb --device nbd --name nbd0 --progress never
kill "$holder"
wait "$holder"

# Serves and merges, with readers all the time, and kills the server twice. The first next server gets the device's name as an option, and
# the second finds the device by itself.
serve_slowly
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files while it is merged" files
read_on
for name in nbd0 ""; do
    await
    kill -KILL "$server"
    wait "$server"
    count=$(merged)
    say "killed at $count ops merged"
    midway "$count" || { say "FAILED: the kill was not in the middle of the merge"; failed=1; }
    if [ -n "$name" ]; then
        serve_slowly --name "$name"
    elif [ -e /sys/block/nbd0/backend ]; then
        serve --merge
    else
        say "this kernel (before 5.14) does not show the server of a device, so --name is given again"
        serve --merge --name nbd0
    fi
done
enough
to_the_end
exit $failed
