#!/bin/bash
# fetch-kernel.sh CACHE PACKAGE[/SUITE] [ARCH]: fetches a Debian kernel into CACHE without installing it, and prints its folder,
# CACHE/RELEASE. The folder has vmlinux, which QEMU starts, and lib/modules/RELEASE. PACKAGE is a metapackage such as
# linux-image-6.12-cloud-amd64 of SUITE (bookworm) for ARCH (this machine's), such as linux-image-cloud-amd64/trixie-backports, or the
# kernel itself, such as linux-image-5.10.0-45-cloud-arm64. A kernel that was fetched earlier from the same metapackage is used again.
set -euo pipefail
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
cache=$(realpath "$1")
meta=$2
case $(uname -m) in aarch64) host=arm64 ;; *) host=amd64 ;; esac
arch=${3:-$host}
suite=bookworm
case $meta in */*) suite=${meta#*/} ;; esac

# The newest complete release from the same metapackage. A metapackage's name includes the architecture.
folder=$(grep -lxs -- "$meta" "$cache"/*/.complete | sort -V | tail -n 1 | sed 's|/.complete$||' || true)
if [ -n "$folder" ]; then
    echo "$folder"
    exit
fi

# A name with a complete version is that of the kernel package itself.
depends=--depends
case $meta in linux-image-[0-9]*.[0-9]*.[0-9]*) depends= ;; esac
# shellcheck disable=SC2086 # one word or none
fetched=$("$HERE/../../interop/Sysroot/fetch.sh" $depends "$arch" "$suite" "${meta%%/*}") || {
    echo "fetch-kernel.sh: $meta cannot be fetched for $arch" >&2
    exit 1
}
# Newer kernels are below /usr, with vmlinuz beside the modules.
[ -e "$fetched/lib" ] || ln -s usr/lib "$fetched/lib"
modules=$(echo "$fetched"/lib/modules/*)
release=$(basename "$modules")
folder=$cache/$release
rm -rf "$folder"
mv "$fetched" "$folder"
rm -f "$folder/.complete"
cd "$folder"
depmod -b "$folder" "$release"

image=boot/vmlinuz-$release
[ -e "$image" ] || image=lib/modules/$release/vmlinuz
# number OFFSET LENGTH: prints a little-endian number of the image.
number() { od -An -v -j "$1" -N "$2" -t "u$2" "$image" | tr -d ' '; }
# bytes OFFSET LENGTH: prints that part of the image.
bytes() { tail -c "+$(($1 + 1))" "$image" | { head -c "$2"; cat >/dev/null; }; }

# QEMU gets an uncompressed kernel. For x86-64 (PVH boot) that avoids decompression, the slowest part of a boot without hardware
# virtualisation. For arm64 it is the only supported form.
if [ "$(number 4 4)" = 1735223674 ]; then
    # "zimg", an EFI image with a packed one inside: its offset at 8, its length at 12 (drivers/firmware/efi/libstub/zboot-header.S).
    bytes "$(number 8 4)" "$(number 12 4)" >payload
elif [ "$arch" = amd64 ]; then
    # A bzImage (Documentation/arch/x86/boot.rst): setup sectors at 0x1f1, payload offset at 0x248, length at 0x24c; the last four bytes of
    # the payload are its uncompressed size.
    bytes "$((($(number 497 1) + 1) * 512 + $(number 584 4)))" "$(($(number 588 4) - 4))" >payload
else
    cp "$image" payload
fi
case $(od -An -N4 -t x1 payload | tr -d ' ') in
    28b52ffd) zstd -dqc payload >vmlinux ;;
    fd377a58) xz -dc payload >vmlinux 2>/dev/null || true ;;
    1f8b*) gzip -dc payload >vmlinux 2>/dev/null || true ;;
esac
rm -f payload
# With any other compression, or none, use the image unchanged.
[ -s vmlinux ] || cp "$image" vmlinux
echo "$meta" >.complete
echo "$folder"
