#!/bin/sh
# Merges a golden pair with the built binary: once it is killed half-way by SIGKILL, then the same command goes on, and the result is
# compared with the target's SHA-256. As root the base is a loop device, else a file.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
snapuserd=$root/build/snapuserd
vector=v3-zstd-256k-xor

folder=$(mktemp -d)
loop=
cleanup() {
    if [ -n "$loop" ]; then losetup --detach "$loop" || true; fi
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$folder"

"$root/build.sh" tool unpack "$root/tests/vectors/old.img.br" "$root/tests/vectors/new.img.br" "$root/tests/vectors/$vector.cow.br"
target=$(sha256sum <new.img | cut -d ' ' -f 1)
cp old.img base
base=$folder/base
if [ "$(id -u)" -eq 0 ] && loop=$(losetup --find --show base 2>/dev/null); then base=$loop; else loop=; fi
echo "cow:    $vector.cow, written by Android's own writer"
echo "base:   $base, $(wc -c <old.img) bytes"
echo "target: sha256 $target"
"$snapuserd" inspect "$vector.cow" | sed -n -e 's/^Data ops:/ops:   /p' -e 's/^Android/        Android/p'

# merged: how many ops the COW says are merged, and how many there are, as in "510 of 800".
merged() {
    "$snapuserd" inspect cow | sed -n 's/^Merge ops: *//p'
}

# The whole merge takes some hundredths of a second; the kill comes a little later with every try until it falls into the middle.
hit=
for hundredths in 01 02 03 04 05 06 07 08 09 10 12 14 16 18 20 25 30 40 50 70 90; do
    for milli in 0 3 6; do
        cp "$vector.cow" cow
        dd if=old.img of="$base" bs=1M conv=notrunc status=none
        "$snapuserd" merge --cow cow --base "$base" --progress never >/dev/null &
        process=$!
        sleep "0.$hundredths$milli"
        kill -KILL "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
        count=$(merged)
        if [ "${count%% *}" -gt 0 ] && [ "${count%% *}" -lt "${count##* }" ]; then hit=1; break 2; fi
    done
done
[ -n "$hit" ] || { echo "demo: the merge was never caught half-way" >&2; exit 1; }
echo "killed: SIGKILL after 0.$hundredths$milli s, $count ops merged"

printf 'resume: '
"$snapuserd" merge --cow cow --base "$base" --progress never
printf 'again:  '
"$snapuserd" merge --cow cow --base "$base" --progress never
result=$(sha256sum <"$base" | cut -d ' ' -f 1)
echo "result: sha256 $result"
[ "$result" = "$target" ] || { echo "demo: that is not the target" >&2; exit 1; }
echo "demo: the base is the target, byte for byte"
