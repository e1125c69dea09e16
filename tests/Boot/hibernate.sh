# A machine that hibernated before its update was written: initramfs-tools and busybox resume it before anything is merged; where the system does not
# resume, nothing is written; noresume gives the image up.
. "$HERE/hibernate-lib.sh"
hibernate

resumes tools resume=/dev/vdc

# Nothing names the swap disk, so nothing resumes: no root, a sentence, and an image that is still there.
again absent "boottest=look $before"
[ "$code" -eq 125 ] || fail "it booted beside an image: $code"
shows console.absent 'a hibernation image is there \(S1SUSPEND on /dev/vdc\)' "the refusal"
shows console.absent 'there is a hibernation image, which was not resumed' "the panic"
! grep -aq 'boot: up' console.absent || fail "it booted beside an image"
untouched absent
hibernated swap.absent || fail "the image is gone"

# A stale image that is given up.
again stale "boottest=plain $before noresume resume=/dev/vdc"
ended 0 "noresume"
shows console.stale 'noresume on the kernel' "a warning"
same base.stale qcow2 new.img || fail "the base is not the new image"

mkdir -p etc/snapuserd
cp table etc/snapuserd/table
cp "$ROOT/src/Boot/busybox/init" .
archive busybox init etc
ARCHIVE=busybox resumes busybox resume=/dev/vdc
