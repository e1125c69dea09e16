# A machine that hibernated before its update was written. initramfs-tools and busybox resume it before anything is merged. If the system
# does not resume, nothing is written; noresume discards the image.
. "$HERE/hibernate-lib.sh"
hibernate

resumes tools resume=/dev/vdc

# The swap disk is not named, so nothing is resumed: no root, a message, and the image is still there.
again absent "boottest=look $before"
[ "$code" -eq 125 ] || fail "it booted beside an image: $code"
shows console.absent 'a hibernation image is there \(S1SUSPEND on /dev/vdc\)' "the refusal"
shows console.absent 'there is a hibernation image, which was not resumed' "the panic"
! grep -aq 'boot: up' console.absent || fail "it booted beside an image"
untouched absent
hibernated swap.absent || fail "the image is gone"

# A stale image that noresume discards.
again stale "boottest=plain $before noresume resume=/dev/vdc"
ended 0 "noresume"
shows console.stale 'noresume on the kernel' "a warning"
same base.stale qcow2 new.img || fail "the base is not the new image"

# An image that the kernel rejects: the kernel removes the signature and returns, and the boot continues.
cp swap invalid
printf 'SWAPSPACE2S1SUSPEND\0' | dd of=invalid bs=1 seek=4076 conv=notrunc status=none
fresh old.img raw base.invalid
fresh cow raw cow.invalid
fresh invalid raw swap.invalid
start console.invalid "boottest=plain $before resume=/dev/vdc" "file=base.invalid,format=qcow2" "file=cow.invalid,format=qcow2" "file=swap.invalid,format=qcow2"
ended 0 "an image that is none"
! hibernated swap.invalid || fail "the kernel has left the signature"
same base.invalid qcow2 new.img || fail "the base is not the new image"

mkdir -p etc/snapuserd
cp table etc/snapuserd/table
cp "$ROOT/src/packaging/busybox/init" .
archive busybox init etc
ARCHIVE=busybox resumes busybox resume=/dev/vdc
