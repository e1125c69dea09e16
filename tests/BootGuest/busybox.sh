# The unchanged example of a busybox init: serves, switches the root, and the new root requests the merge.
# Self-contained: its ramdisk has no files of this machine.
. "$HERE/lib.sh"
disks
mkdir -p etc/snapuserd
cp table etc/snapuserd/table
cp "$ROOT/src/packaging/busybox/init" .
archive busybox init etc
export ARCHIVE=busybox
start console.merge "boottest=merge request=yes snapuserd.merge=manual" "file=base.0,format=qcow2,throttling.bps-write=2000000" "file=cow.0,format=qcow2"
ended 0 "the merge"
shows console.merge 'up .*: the new image, on ublkb0' "the new root"
same base.0 qcow2 new.img || fail "the base is not the new image"
