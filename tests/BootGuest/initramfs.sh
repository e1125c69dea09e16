#!/bin/bash
# initramfs.sh KERNEL OUT TABLE [dracut|dracut-systemd]: creates an initramfs by the instructions of docs/boot-setup.md: `make
# install-initramfs-tools`, the table, mkinitramfs; or the same with dracut. Everything happens in an overlay of this machine's file system,
# in a separate mount namespace, so that the machine does not change. KERNEL is the output of fetch-kernel.sh.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
if [ "${INSIDE:-}" != yes ]; then
    # Without root privileges, the script becomes root of a user namespace.
    user=$([ "$(id -u)" -eq 0 ] || echo --user --map-root-user)
    # shellcheck disable=SC2086 # two words or none
    INSIDE=yes exec unshare $user --mount "$0" "$@"
fi
kernel=$1
out=$2
table=$3
tool=${4:-initramfs-tools}
release=$(basename "$kernel")

layer=$(mktemp -d)
trap 'umount -R "$layer"; rmdir "$layer"' EXIT
mount -t tmpfs -o size=512m tmpfs "$layer"
system=$layer/system
mkdir "$layer/upper" "$layer/work" "$system"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" overlay "$system"
for folder in proc sys dev; do mount --rbind "/$folder" "$system/$folder"; done
mkdir -p "$system/lib/modules/$release" "$system/boot" "$system/tmp" "$system/var/tmp"
mount --bind "$kernel/lib/modules/$release" "$system/lib/modules/$release"
cp "$kernel/boot/config-$release" "$system/boot/"

# -o: the tested program is the one that was built. Few modules and little compression, because a guest without hardware virtualisation is
# slow.
make -s -C "$ROOT" -o build "install-${tool%-systemd}" DESTDIR="$system" PREFIX=/usr/local
install -D -m 0644 "$table" "$system/etc/snapuserd/table"
case $tool in
    initramfs-tools)
        cat >"$system/etc/initramfs-tools/initramfs.conf" <<CONF
MODULES=list
BUSYBOX=y
KEYMAP=n
COMPRESS=zstd
COMPRESSLEVEL=1
DEVICE=
NFSROOT=auto
RUNSIZE=10%
FSTYPE=ext4
CONF
        printf '%s\n' virtio_pci virtio_blk ext4 >"$system/etc/initramfs-tools/modules"
        chroot "$system" mkinitramfs -o /boot/initrd.img "$release"
        ;;
    dracut*)
        modules="dash base fs-lib rootfs-block udev-rules resume shutdown snapuserd"
        [ "$tool" = dracut ] || modules="$modules systemd systemd-initrd systemd-udevd dracut-systemd"
        chroot "$system" dracut --quiet --force --no-hostonly --no-hostonly-cmdline --no-early-microcode \
            --compress "zstd -1" -m "$modules" --add-drivers "virtio_pci virtio_blk ext4" \
            --kver "$release" /boot/initrd.img
        ;;
esac
cp "$system/boot/initrd.img" "$out"
