# An update that is not merged yet is booted and left alone, then rolled back, from the busybox ramdisk of the examples and from
# initramfs-tools.
. "$HERE/lib.sh"
disks
mkdir -p etc/snapuserd
cp table etc/snapuserd/table
install -m 0755 "$ROOT/src/packaging/busybox/init" boot-init
archive busybox boot-init etc
start console.manual "boottest=manual snapuserd.merge=manual" "file=base.0,format=qcow2" "file=cow.0,format=qcow2"
ended 0 "the new image, not merged"
shows console.manual 'up .*: the new image, on ublkb0' "the new image"
same base.0 qcow2 old.img || fail "the base has changed"
same cow.0 qcow2 cow || fail "the COW has changed"

# rollback LOG: boots the old image.
rollback() {
    start "$1" "boottest=look snapuserd.merge=rollback" "file=base.0,format=qcow2" "file=cow.0,format=qcow2"
    ended 0 "the rollback"
    shows "$1" 'up .*: the old image, on vda, 0 servers' "the old image"
    same base.0 qcow2 old.img || fail "the base has changed"
    same cow.0 qcow2 cow || fail "the COW has changed"
}
rollback console.rollback
# start uses /init by default; this scenario has a different one.
ARCHIVE=busybox INIT=/boot-init rollback console.busybox
echo "the base and the COW are what they were"
