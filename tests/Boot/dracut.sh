# The initramfs that dracut makes with the module as it is installed, with systemd in it: booted once, and merged to the end under the root.
. "$HERE/lib.sh"
disks
command -v dracut >/dev/null || fail "there is no dracut"
"$HERE/initramfs.sh" "$KERNEL" dracut.cpio table dracut-systemd
ARCHIVE=dracut start console.merge boottest=merge "file=base.0,format=qcow2,throttling.bps-write=600000" "file=cow.0,format=qcow2"
ended 0 "the merge"
shows console.merge 'up .*: the new image, on (ublkb0|vda)' "the new root"
same base.0 qcow2 new.img || fail "the base is not the new image"
