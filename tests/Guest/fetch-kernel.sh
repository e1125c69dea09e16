#!/bin/bash
# fetch-kernel.sh CACHE PACKAGE: fetches a Debian kernel into CACHE without installing it, and prints its folder, CACHE/RELEASE, which has
# vmlinux and lib/modules/RELEASE. PACKAGE is a metapackage such as linux-image-6.12-cloud-amd64; apt knows the release behind it. A release
# that is there already is not fetched again, and if apt knows nothing (no network, no lists) the newest one of the cache does.
set -euo pipefail
mkdir -p "$1"
cache=$(realpath "$1")
meta=$2

# cached: the folder of the newest complete release that came from the same metapackage.
cached() {
    grep -lxs -- "$meta" "$cache"/*/.complete | sort -V | tail -n 1 | sed 's|/.complete$||'
}

# release: the package that apt knows behind the metapackage, or nothing.
release() {
    apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# download: the package into the working folder. As root, because the folder is root's then and not that of apt's own user.
download() {
    apt-get download -qq -o APT::Sandbox::User=root "$package" >&2
}

package=$(release)
if [ -z "$package" ] && [ "$(id -u)" -eq 0 ] && apt-get update -qq >&2; then package=$(release); fi
if [ -z "$package" ]; then
    folder=$(cached)
    [ -n "$folder" ] || { echo "fetch-kernel.sh: apt knows no $meta; apt-get update may help" >&2; exit 1; }
    echo "$folder"
    exit
fi
release=${package#linux-image-}
folder=$cache/$release
if [ ! -e "$folder/.complete" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    cd "$folder"
    # Lists that are too old name a package that the mirror no longer has.
    download || { [ "$(id -u)" -eq 0 ] && apt-get update -qq >&2 && download; } || { echo "fetch-kernel.sh: $package cannot be fetched" >&2; exit 1; }
    dpkg -x ./*.deb .
    rm -f ./*.deb
    depmod -b "$folder" "$release"

    # QEMU starts an uncompressed kernel directly (PVH), which saves the slowest part of a boot without hardware virtualisation. Where the
    # payload of a bzImage lies (Documentation/arch/x86/boot.rst): setup sectors at 0x1f1, payload offset at 0x248, length at 0x24c; the last
    # four bytes of the payload are its plain size.
    image=boot/vmlinuz-$release
    number() { od -An -v -j "$1" -N "$2" -t "u$2" "$image" | tr -d ' '; }
    start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
    length=$(($(number 588 4) - 4))
    tail -c "+$((start + 1))" "$image" | { head -c "$length"; cat >/dev/null; } >payload
    case $(od -An -N4 -t x1 payload | tr -d ' ') in
        28b52ffd) zstd -dqc payload >vmlinux ;;
        fd377a58) xz -dc payload >vmlinux 2>/dev/null || true ;;
    esac
    rm -f payload
    # Any other packing: it boots as it is, only slower.
    [ -s vmlinux ] || cp "$image" vmlinux
    echo "$meta" >.complete
fi
echo "$folder"
