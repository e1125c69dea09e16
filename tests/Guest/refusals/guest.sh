# Tests errors that need a kernel of the test's own: a mounted base, missing devices, and io_uring switched off.
failed=0

# expect CODE WHAT COMMAND …: the command must end with CODE.
expect() {
    wanted=$1
    what=$2
    shift 2
    "$@" >/tmp/output 2>&1
    code=$?
    echo "$what: $code: $(head -n 1 /tmp/output)"
    [ "$code" -eq "$wanted" ] || { echo "expected $wanted"; failed=1; }
}

mke2fs /dev/vdc >/dev/null 2>&1
mkdir /mnt
mount -t ext4 /dev/vdc /mnt || exit 1
before=$(sha256sum </dev/vdb)
expect 76 "mounted base" snapuserd merge --cow /dev/vda --base /dev/vdc --progress never
expect 66 "missing COW" snapuserd merge --cow /dev/vdz --base /dev/vdb --progress never
expect 66 "missing COW in a file system" snapuserd merge --cow /mnt/system.cow --base /dev/vdb --progress never
expect 66 "missing base" snapuserd merge --cow /dev/vda --base /dev/vdz --progress never
expect 64 "COW as its own base" snapuserd merge --cow /dev/vda --base /dev/vda --progress never
umount /mnt

switch=/proc/sys/kernel/io_uring_disabled
if [ -e "$switch" ]; then
    echo 2 >"$switch"
    expect 69 "io_uring switched off" snapuserd merge --cow /dev/vda --base /dev/vdb --io uring --progress never
    grep -q io_uring_disabled=2 /tmp/output || { echo "the message does not name the switch"; failed=1; }
    [ "$before" = "$(sha256sum </dev/vdb)" ] || { echo "a refusal wrote to the base"; failed=1; }
    expect 0 "io_uring switched off, --io auto" snapuserd merge --cow /dev/vda --base /dev/vdb --progress never --json
    grep -q '"io":"sync"' /tmp/output || { echo "the merge did not use synchronous calls"; failed=1; }
else
    echo "this kernel cannot switch io_uring off"
    expect 0 "merge" snapuserd merge --cow /dev/vda --base /dev/vdb --progress never
fi
exit $failed
