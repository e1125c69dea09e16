# The common settings of guest and boot tests: the emulated machine. ROOT is the root of the repository. In the environment:
#   ARCH   amd64 or arm64 (default: this machine's)
#   PAGES  4k, or 16k on arm64: the page size of the kernel
#   KERNEL_PACKAGE  another kernel than the default one (run.sh), or nothing
# Sets and exports, besides those:
#   SNAPUSERD        the program built for this machine, which creates and inspects COWs on the host
#   GUEST_SNAPUSERD  the program built for the guest
#   GUEST_BUSYBOX    a static busybox for the guest
#   FOREIGN          "yes" if the guest's architecture differs from this machine's
#   VARIANT          a suffix that separates this machine's results from those of the default one: "", "-arm64-16k", "-arm64-4k-linux-image-cloud-arm64"
case $(uname -m) in aarch64) host=arm64 ;; *) host=amd64 ;; esac
ARCH=${ARCH:-$host}
PAGES=${PAGES:-4k}
SNAPUSERD=$ROOT/build/snapuserd
GUEST_SNAPUSERD=$SNAPUSERD
FOREIGN=no
VARIANT=
case $ARCH-$PAGES in
    amd64-4k | arm64-4k | arm64-16k) ;;
    *) echo "$0: there is no Debian kernel for ARCH=$ARCH with PAGES=$PAGES" >&2; exit 1 ;;
esac
[ "$ARCH-$PAGES" = "$host-4k" ] || VARIANT=-$ARCH-$PAGES
# A package name may end with "/SUITE".
if [ -n "${KERNEL_PACKAGE:-}" ]; then VARIANT=-$ARCH-$PAGES-${KERNEL_PACKAGE//\//-}; fi
if [ "$ARCH" != "$host" ]; then
    FOREIGN=yes
    GUEST_SNAPUSERD=$ROOT/build/$ARCH/snapuserd
fi
[ -x "$SNAPUSERD" ] || { echo "$0: there is no build/snapuserd; run make build" >&2; exit 1; }
[ -x "$GUEST_SNAPUSERD" ] || { echo "$0: there is no build/$ARCH/snapuserd; run make build ARCH=$ARCH" >&2; exit 1; }

# kernel_package: the metapackage of the newest kernel of Debian 12 for this machine. The small kernels for virtual machines exist with
# pages of 4 KiB only.
kernel_package() {
    if [ "$PAGES" = 4k ]; then echo "linux-image-6.12-cloud-$ARCH"; else echo "linux-image-6.12-$ARCH-$PAGES"; fi
}

# guest_busybox: prints its path.
guest_busybox() {
    if [ "$FOREIGN" = yes ]; then
        echo "$("$ROOT/interop/Sysroot/fetch.sh" "$ARCH" bookworm busybox-static)/bin/busybox"
    else
        command -v busybox
    fi
}
GUEST_BUSYBOX=$(guest_busybox)
export ARCH PAGES SNAPUSERD GUEST_SNAPUSERD GUEST_BUSYBOX FOREIGN VARIANT
