# The initramfs that dracut creates with the installed module, including systemd, whose switch-root spares the servers. Then an invalid COW:
# there is no root file system, but a message and the emergency shell; the guest is powered off, because nothing would end that shell.
. "$HERE/lib.sh"
tool=${tool:-dracut-systemd}
disks
"$HERE/initramfs.sh" "$KERNEL" dracut.cpio table "$tool"
export ARCHIVE=dracut

# Nothing is merged before the new root requests it, so the device is on the view on any machine.
start console.merge "boottest=merge request=yes snapuserd.merge=manual" "file=base.0,format=qcow2,throttling.bps-write=2000000" "file=cow.0,format=qcow2"
ended 0 "the merge"
shows console.merge 'up .*: the new image, on ublkb0' "the new root"
same base.0 qcow2 new.img || fail "the base is not the new image"

fresh old.img raw base.1
head -c 65536 </dev/urandom >garbage
start console.lost "boottest=look rd.shell=0 rd.emergency=poweroff" "file=base.1,format=qcow2" "file=garbage,format=raw"
[ "$code" -eq 125 ] || fail "it booted although its COW is none: $code"
shows console.lost 'system cannot be used: .* is not a COW file' "a message"
! grep -aq 'boot: up' console.lost || fail "it booted although its COW is none"
same base.1 qcow2 old.img || fail "the base has changed"
