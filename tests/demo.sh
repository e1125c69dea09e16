#!/bin/sh
# Two updates with the built binary, each merged into its base, killed once half-way by SIGKILL, resumed by the same command, and compared:
# a COW that Android's own writer made, and one that `create` makes from two file systems filled with this machine's own files.
# As root the base is a loop device, else a file.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
snapuserd=$root/build/snapuserd

folder=$(mktemp -d)
loop=
cleanup() {
    if [ -n "$loop" ]; then losetup --detach "$loop" || true; fi
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$folder"

# hash FILE
hash() {
    sha256sum <"$1" | cut -d ' ' -f 1
}

# merged: how many ops the COW says are merged, and how many there are, as in "510 of 800".
merged() {
    "$snapuserd" inspect cow | sed -n 's/^Merge ops: *//p'
}

# killed COW OLD: merges until a SIGKILL comes a little later with every try and falls into the middle.
killed() {
    for hundredths in 00 01 02 03 04 05 06 07 08 09 10 12 14 16 18 20 25 30 40 50 70 90; do
        for milli in 0 3 6; do
            cp "$1" cow
            dd if="$2" of="$base" bs=1M conv=notrunc status=none
            "$snapuserd" merge --cow cow --base "$base" --progress never >/dev/null &
            process=$!
            sleep "0.$hundredths$milli"
            kill -KILL "$process" 2>/dev/null || true
            wait "$process" 2>/dev/null || true
            count=$(merged)
            if [ "${count%% *}" -gt 0 ] && [ "${count%% *}" -lt "${count##* }" ]; then
                echo "killed: SIGKILL after 0.$hundredths$milli s, $count ops merged"
                return
            fi
        done
    done
    echo "demo: the merge was never caught half-way" >&2
    exit 1
}

# update COW OLD NEW: the whole story of one update.
update() {
    cp "$2" base
    base=$folder/base
    if [ "$(id -u)" -eq 0 ] && loop=$(losetup --find --show base 2>/dev/null); then base=$loop; else loop=; fi
    echo "base:   $base, $(wc -c <"$2") bytes"
    target=$(hash "$3")
    echo "target: sha256 $target"
    "$snapuserd" inspect "$1" | sed -n -e 's/^Data ops:/ops:   /p' -e 's/^Android/        Android/p'
    printf 'verify: '
    "$snapuserd" verify --cow "$1" --base "$base" --sha256 "$target" --progress never
    killed "$1" "$2"
    printf 'resume: '
    "$snapuserd" merge --cow cow --base "$base" --progress never
    printf 'again:  '
    "$snapuserd" merge --cow cow --base "$base" --progress never
    result=$(hash "$base")
    echo "result: sha256 $result"
    if [ -n "$loop" ]; then losetup --detach "$loop"; loop=; fi
    [ "$result" = "$target" ] || { echo "demo: that is not the target" >&2; exit 1; }
    echo "demo: the base is the target, byte for byte"
}

vector=v3-zstd-256k-xor
"$root/build.sh" tool unpack "$root/tests/vectors/old.img.br" "$root/tests/vectors/new.img.br" "$root/tests/vectors/$vector.cow.br"
echo "cow:    $vector.cow, written by Android's own writer"
update "$vector.cow" old.img new.img

echo
rm -f ./*.img ./*.cow
"$root/tests/demo-images.sh" "$folder" >/dev/null
printf 'create: '
"$snapuserd" create --source old.img --target new.img --output update.cow --compression lz4 --block-factor 64k --xor --progress never
update update.cow old.img new.img
