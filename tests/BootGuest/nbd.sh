# Debian 12's kernel has no ublk: the same over NBD, with a power cut in the middle of the merge. The server is not killed: an NBD device
# dies with it.
. "$HERE/lib.sh"
KERNEL=$NBD_KERNEL
ARCHIVE=nbd
disks
CUT=500 start console.cut "$on_request" "file=base.0,format=qcow2" "file=cow.0,format=qcow2"
ended 137 "the cut"
shows console.cut 'up .*: the new image, on nbd0' "the root"
midway cow.0 || fail "that is not in the midst of the merge"
fresh base.0 qcow2 base.1
fresh cow.0 qcow2 cow.1
start console.end boottest=merge "file=base.1,format=qcow2,throttling.bps-write=600000" "file=cow.1,format=qcow2"
ended 0 "the end of the merge"
same base.1 qcow2 new.img || fail "the base is not the new image"
