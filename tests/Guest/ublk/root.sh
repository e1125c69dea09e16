#!/bin/busybox sh
# The first process of a ramdisk without /proc. The root file system is on the view, whose supervised server starts before switch_root.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module"
done </modules/order
mkdir /new
mkfifo /ready
snapuserd serve --supervise --merge --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --progress never >/ready 2>/dev/console &
supervisor=$!
read -r device </ready
mount -t ext4 -o ro "$device" /new || echo "ublk: FAILED: no root"
mount --move /dev /new/dev
# The program and a COW, for a rival command in the next root.
mount -t tmpfs tmp /new/tmp
cp /bin/snapuserd /new/tmp/
cp /cow /new/tmp/cow
exec switch_root /new /second "$supervisor" "$(cut -d ' ' -f 1 /image.sum)"
