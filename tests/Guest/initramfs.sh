#!/bin/bash
# initramfs.sh KERNEL OUT SNAPUSERD BUSYBOX MODULE…: writes the archive that all guests start from: both programs, and the modules (with
# their dependencies, in loading order). KERNEL is the output of fetch-kernel.sh. A test adds its own archive after this one (boot in
# lib.sh).
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
kernel=$1
out=$2
snapuserd=$3
busybox=$4
shift 4
release=$(basename "$kernel")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,etc,modules}
cp "$busybox" "$root/bin/busybox"
ln -s /bin/busybox "$root/sbin/init"
cp "$snapuserd" "$root/bin/snapuserd"
install -m 0755 "$here/init" "$root/init"

: >"$root/modules/order"
for module in "$@"; do
    modprobe -d "$kernel" -S "$release" --show-depends "$module" | while read -r kind path _; do
        # Skip a "builtin" module, which need not be loaded.
        [ "$kind" = insmod ] || continue
        name=$(basename "${path%.xz}")
        if grep -qx "$name" "$root/modules/order"; then continue; fi
        case $path in *.xz) xz -dc "$path" ;; *) cat "$path" ;; esac >"$root/modules/$name"
        echo "$name" >>"$root/modules/order"
    done
done
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$out"
