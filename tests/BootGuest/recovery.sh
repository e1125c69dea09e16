# A recovery ramdisk finishes a merge that lost its power, with progress on the console; then the system boots from the plain device.
. "$HERE/lib.sh"
disks
CUT=300 start console.cut "$on_request" "file=base.0,format=qcow2" "file=cow.0,format=qcow2"
ended 137 "the cut"
midway cow.0 || fail "that is not in the midst of the merge"
fresh base.0 qcow2 base.1
fresh cow.0 qcow2 cow.1

mkdir -p etc/snapuserd
cp table etc/snapuserd/table
cp "$ROOT/src/packaging/recovery/finish-updates" .
echo 'exec sh /finish-updates' >test.sh
archive recovery finish-updates test.sh etc
root='' ARCHIVE=recovery start console.recovery '' "file=base.1,format=qcow2,throttling.bps-write=2000000" "file=cow.1,format=qcow2"
ended 0 "the recovery"
shows console.recovery 'merge +[0-9]+% ' "progress on the console"
tr '\r' '\n' <console.recovery | grep -a '^merge ' | sed -n '1p' || true
shows console.recovery '^recovery: system is the new image' "the end of the recovery"
same base.1 qcow2 new.img || fail "the base is not the new image"
start console.plain boottest=plain "file=base.1,format=qcow2" "file=cow.1,format=qcow2"
ended 0 "the boot after the recovery"
