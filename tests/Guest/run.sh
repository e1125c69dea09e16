#!/bin/bash
# run.sh [TEST…]: boots a stock Debian kernel in QEMU with the built program and runs the tests there; all of them unless some are named. The
# last line is "N passed, N failed".
#
# A test is a folder beside this file: host.sh is its part here (lib.sh has what it may call), what it boots is up to it, and the file modules
# names the kernel modules that its guests need.
#
# KERNEL_PACKAGE in the environment names another kernel (linux-image-6.12-cloud-amd64); it is kept in build/guest. JOBS guests run at a time.
set -euo pipefail
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
SNAPUSERD=$ROOT/build/snapuserd
JOBS=${JOBS:-$(nproc)}
cache=$ROOT/build/guest
results=$ROOT/build/test-results/Guest
# The results of an earlier run must not pass for those of this one.
rm -rf "$results"

"$ROOT/build.sh" guest-deps
[ -x "$SNAPUSERD" ] || { echo "run.sh: there is no build/snapuserd; run make build" >&2; exit 1; }
KERNEL=$("$HERE/fetch-kernel.sh" "$cache" "${KERNEL_PACKAGE:-linux-image-6.12-cloud-amd64}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
echo "kernel: $(basename "$KERNEL")"

if [ $# -eq 0 ]; then
    for file in "$HERE"/*/host.sh; do set -- "$@" "$(basename "$(dirname "$file")")"; done
fi
modules=(virtio_pci virtio_blk)
for test in "$@"; do
    [ -e "$HERE/$test/host.sh" ] || { echo "run.sh: there is no test $test" >&2; exit 1; }
    if [ -e "$HERE/$test/modules" ]; then mapfile -t -O "${#modules[@]}" modules <"$HERE/$test/modules"; fi
done
INITRAMFS=$work/initramfs.cpio
"$HERE/initramfs.sh" "$KERNEL" "$INITRAMFS" "$SNAPUSERD" "${modules[@]}"
export ROOT SNAPUSERD KERNEL INITRAMFS JOBS

passed=0
failed=0
mkdir -p "$cache/log"
for test in "$@"; do
    rm -rf "${cache:?}/log/$test"
    mkdir "$work/$test" "$cache/log/$test"
    began=$SECONDS
    if (cd "$work/$test" && FOLDER=$work/$test HERE=$HERE/$test bash "$HERE/$test/host.sh") >"$cache/log/$test/output" 2>&1; then
        passed=$((passed + 1))
        sed 's/^/    /' "$cache/log/$test/output"
        echo "passed: $test, $((SECONDS - began)) s"
    else
        failed=$((failed + 1))
        cat "$cache/log/$test/output"
        cp "$work/$test"/console* "$cache/log/$test/" 2>/dev/null || true
        tail -n 20 "$cache/log/$test"/console* 2>/dev/null || true
        echo "FAILED: $test, $((SECONDS - began)) s; see build/guest/log/$test"
    fi
    rm -rf "${work:?}/$test"
done
# In the words of the other test results, so that tests/sum.sh adds them up.
mkdir -p "$results"
echo "<Counters total=\"$((passed + failed))\" executed=\"$((passed + failed))\" passed=\"$passed\" failed=\"$failed\" />" >"$results/Guest.trx"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
