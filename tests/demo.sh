#!/bin/sh
# Runs two updates with the built binary: one COW made by Android's own writer, and one that `create` makes from two file systems filled
# with this machine's own files. Each update is merged into its base, killed half-way by SIGKILL, resumed by the same command, and compared.
# As root the base is a loop device, otherwise a file.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
snapuserd=$root/build/snapuserd

folder=$(mktemp -d)
loop=
server=
cleanup() {
    if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
    if [ -n "$loop" ]; then losetup --detach "$loop" || true; fi
    rm -rf "$folder"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$folder"

# hash FILE: prints its SHA-256.
hash() {
    sha256sum <"$1" | cut -d ' ' -f 1
}

# merged: prints how many ops of the COW are merged and how many there are, as in "510 of 800".
merged() {
    "$snapuserd" inspect cow | sed -n 's/^Merge ops: *//p'
}

# killed COW OLD: serves the merged view and merges at a rate that would take minutes. Sends SIGKILL once the COW counts some ops as merged.
killed() {
    cp "$1" cow
    dd if="$2" of="$base" bs=1M conv=notrunc status=none
    rm -f ready view control
    mkfifo ready
    "$snapuserd" serve --cow cow --base "$base" --device nbd --socket view --control control --merge-on-request --progress never >ready &
    server=$!
    read -r _ <ready
    "$snapuserd" ctl rate 64k --socket control >/dev/null
    "$snapuserd" ctl merge --socket control >/dev/null
    count=$(merged)
    while [ "${count%% *}" -eq 0 ]; do
        kill -0 "$server"
        count=$(merged)
    done
    kill -KILL "$server"
    wait "$server" 2>/dev/null || true
    server=
    count=$(merged)
    [ "${count%% *}" -lt "${count##* }" ] || { echo "demo: the merge was complete before SIGKILL" >&2; exit 1; }
    echo "killed: SIGKILL, $count ops merged"
}

# update COW OLD NEW: runs one complete update.
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
    [ "$result" = "$target" ] || { echo "demo: the base differs from the target" >&2; exit 1; }
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
