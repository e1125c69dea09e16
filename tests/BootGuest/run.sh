#!/bin/bash
# run.sh [SCENARIO…]: boots a stock Debian kernel in QEMU through an update, with an initramfs that this machine's mkinitramfs creates with
# the installed hook; all scenarios unless some are named. The last line is "N passed, N failed".
#
# A scenario is a file NAME.sh beside this one. It can use the variables of ../Guest/lib.sh. Its folder has old.img and new.img (two states
# of a root file system), cow (created from them with `create`), and the archives initramfs.cpio, nbd.cpio and recovery.cpio.
# SEED determines the moments of the power cuts; at most JOBS scenarios run at a time. ARCH and PAGES select the machine
# (../Guest/target.sh). This machine's mkinitramfs and dracut cannot create a ramdisk for another architecture. There, the scenarios with a
# self-contained ramdisk run, and the others are skipped.
# If no scenario passes, the run fails. KERNEL_PACKAGE is for guest tests only.
set -euo pipefail
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
JOBS=${JOBS:-$(nproc)}
cache=$ROOT/build/guest

"$ROOT/build.sh" boot-deps
unset KERNEL_PACKAGE
. "$ROOT/tests/Guest/target.sh"
results=$ROOT/build/test-results/Boot$VARIANT
# Remove the results of an earlier run, so that they are not mistaken for those of this run.
rm -rf "$results"
KERNEL=$("$ROOT/tests/Guest/fetch-kernel.sh" "$cache" "$(kernel_package)" "$ARCH")
NBD_KERNEL=$KERNEL
# Debian 12's own kernel has no ublk_drv. It exists with pages of 4 KiB only.
[ "$FOREIGN" = yes ] || [ "$PAGES" != 4k ] || NBD_KERNEL=$("$ROOT/tests/Guest/fetch-kernel.sh" "$cache" "linux-image-cloud-$ARCH" "$ARCH")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
echo "making the images, the update and the initramfs, which takes minutes"
echo "kernels: $(basename "$KERNEL"), $(basename "$NBD_KERNEL")"

if [ $# -eq 0 ]; then
    # The longest scenario first.
    set -- ublk
    for file in "$HERE"/*.sh; do
        case $(basename "$file" .sh) in
            ublk | run | initramfs | images | lib | hibernate-lib) ;;
            *) set -- "$@" "$(basename "$file" .sh)" ;;
        esac
    done
fi
scenarios=()
skipped=0
for scenario in "$@"; do
    [ -e "$HERE/$scenario.sh" ] || { echo "run.sh: there is no scenario $scenario" >&2; exit 1; }
    if [ "$FOREIGN" = yes ] && ! grep -q '^# Self-contained' "$HERE/$scenario.sh"; then
        echo "skipped: $scenario: this machine cannot make its initramfs for $ARCH"
        skipped=$((skipped + 1))
    elif [ "$scenario" = nbd ] && [ "$PAGES" != 4k ]; then
        echo "skipped: $scenario: Debian 12 has no kernel without ublk_drv and with pages of $PAGES"
        skipped=$((skipped + 1))
    else
        scenarios+=("$scenario")
    fi
done
set -- "${scenarios[@]}"
export ROOT KERNEL NBD_KERNEL HERE

mkdir "$work/common"
(cd "$work/common" && "$HERE/images.sh")
if [ "$FOREIGN" = no ]; then
    "$HERE/initramfs.sh" "$KERNEL" "$work/common/initramfs.cpio" "$work/common/table"
    [ "$NBD_KERNEL" = "$KERNEL" ] || "$HERE/initramfs.sh" "$NBD_KERNEL" "$work/common/nbd.cpio" "$work/common/table"
fi
INITRAMFS=$work/common/modules.cpio
export INITRAMFS
"$ROOT/tests/Guest/initramfs.sh" "$KERNEL" "$INITRAMFS" "$GUEST_SNAPUSERD" "$GUEST_BUSYBOX" virtio_pci virtio_blk ext4 ublk_drv dm-mod
echo "the images, the update and the initramfs were made in $SECONDS s"

# scenario NAME: runs one; its output goes to NAME.output, its result to NAME.end.
scenario() {
    local began=$SECONDS status=failed
    mkdir "$work/$1"
    ln -s "$work/common"/* "$work/$1/"
    if (cd "$work/$1" && FOLDER=$work/$1 bash "$HERE/$1.sh") >"$work/$1.output" 2>&1; then status=passed; fi
    rm -rf "${cache:?}/log/boot-$1$VARIANT"
    mkdir -p "$cache/log/boot-$1$VARIANT"
    cp "$work/$1.output" "$work/$1"/console* "$cache/log/boot-$1$VARIANT/" 2>/dev/null || true
    rm -rf "${work:?}/$1"
    echo "$status $((SECONDS - began))" >"$work/$1.end"
}

for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n || true; done
    scenario "$name" &
done
wait
passed=0
failed=0
for name in "$@"; do
    read -r status seconds <"$work/$name.end"
    sed 's/^/    /' "$work/$name.output"
    if [ "$status" = passed ]; then
        passed=$((passed + 1))
        echo "passed: $name, $seconds s"
    else
        failed=$((failed + 1))
        for console in "$cache/log/boot-$name$VARIANT"/console*; do
            echo "$console:"
            tail -n 25 "$console" || true
        done
        echo "FAILED: $name, $seconds s; see build/guest/log/boot-$name$VARIANT"
    fi
done
# In the format of the other test results, so that tests/sum.sh adds them up.
mkdir -p "$results"
total=$((passed + failed + skipped))
echo "<Counters total=\"$total\" executed=\"$((passed + failed))\" passed=\"$passed\" failed=\"$failed\" />" >"$results/Boot$VARIANT.trx"
echo "all of it took $SECONDS s"
echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
