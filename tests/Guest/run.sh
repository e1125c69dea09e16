#!/bin/bash
# run.sh [TEST…]: boots a stock Debian kernel in QEMU with the built program, and runs the named tests there, or all tests. The last line is
# "N passed, N failed[, N skipped]".
#
# A test is a folder beside this file. host.sh is its part on the host (lib.sh has the functions for it) and decides what to boot. The file
# modules names the kernel modules that its guests need. If one is missing, the test is skipped on a kernel that KERNEL_PACKAGE names, and
# fails on the default kernel, which has them all. If no test passes, the run fails.
#
# ARCH and PAGES in the environment select the machine (target.sh). KERNEL_PACKAGE names another kernel than linux-image-6.12-…; with
# "/SUITE" after it, the kernel of another Debian release than 12, such as linux-image-arm64/bullseye. It is kept in build/guest. At most
# JOBS guests run at a time.
set -euo pipefail
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
JOBS=${JOBS:-$(nproc)}
cache=$ROOT/build/guest

"$ROOT/build.sh" guest-deps
. "$HERE/target.sh"
results=$ROOT/build/test-results/Guest$VARIANT
# Remove the results of an earlier run, so that they are not mistaken for those of this run.
rm -rf "$results"
KERNEL=$("$HERE/fetch-kernel.sh" "$cache" "${KERNEL_PACKAGE:-$(kernel_package)}" "$ARCH")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
echo "starting virtual machines: all tests take 8 to 20 minutes on two cores, more in another architecture"
echo "kernel: $(basename "$KERNEL"), $ARCH, pages of $PAGES"

# has MODULE: true if the kernel has it, in a file or built in.
has() {
    modprobe -d "$KERNEL" -S "$(basename "$KERNEL")" --show-depends "$1" >/dev/null 2>&1
}

if [ $# -eq 0 ]; then
    for file in "$HERE"/*/host.sh; do set -- "$@" "$(basename "$(dirname "$file")")"; done
fi
modules=(virtio_pci virtio_blk)
tests=()
skipped=0
passed=0
failed=0
for test in "$@"; do
    [ -e "$HERE/$test/host.sh" ] || { echo "run.sh: there is no test $test" >&2; exit 1; }
    own=()
    if [ -e "$HERE/$test/modules" ]; then mapfile -t own <"$HERE/$test/modules"; fi
    lacks=
    for module in "${own[@]}"; do has "$module" || lacks="$lacks $module"; done
    if [ -n "$lacks" ] && [ -n "${KERNEL_PACKAGE:-}" ]; then
        echo "skipped: $test: this kernel has no module$lacks"
        skipped=$((skipped + 1))
    elif [ -n "$lacks" ]; then
        echo "FAILED: $test: this kernel has no module$lacks"
        failed=$((failed + 1))
    else
        tests+=("$test")
        modules+=("${own[@]}")
    fi
done
INITRAMFS=$work/initramfs.cpio
"$HERE/initramfs.sh" "$KERNEL" "$INITRAMFS" "$GUEST_SNAPUSERD" "$GUEST_BUSYBOX" "${modules[@]}"
export ROOT KERNEL INITRAMFS JOBS

mkdir -p "$cache/log"
for test in "${tests[@]}"; do
    log=${cache:?}/log/$test$VARIANT
    rm -rf "$log"
    mkdir "$work/$test" "$log"
    began=$SECONDS
    if (cd "$work/$test" && FOLDER=$work/$test HERE=$HERE/$test bash "$HERE/$test/host.sh") >"$log/output" 2>&1; then
        passed=$((passed + 1))
        sed 's/^/    /' "$log/output"
        echo "passed: $test, $((SECONDS - began)) s"
    else
        failed=$((failed + 1))
        cat "$log/output"
        cp "$work/$test"/console* "$log/" 2>/dev/null || true
        tail -n 20 "$log"/console* 2>/dev/null || true
        echo "FAILED: $test, $((SECONDS - began)) s; see build/guest/log/$test$VARIANT"
    fi
    rm -rf "${work:?}/$test"
done
# Write the results in the format of the other tests, so that tests/sum.sh can add them up.
mkdir -p "$results"
total=$((passed + failed + skipped))
echo "<Counters total=\"$total\" executed=\"$((passed + failed))\" passed=\"$passed\" failed=\"$failed\" />" >"$results/Guest$VARIANT.trx"
echo "all of it took $SECONDS s"
echo "$passed passed, $failed failed$([ "$skipped" -eq 0 ] || echo ", $skipped skipped")"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
