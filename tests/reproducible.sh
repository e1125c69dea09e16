#!/bin/sh
# Builds the sources as they are now in two folders with names of different length, and compares the two binaries.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for copy in one another-place-for-the-same; do
    mkdir "$folder/$copy"
    tar -c --exclude=./.git --exclude=./build --exclude=bin --exclude=obj --exclude=TestResults . | tar -x -C "$folder/$copy"
    (cd "$folder/$copy" && ./build.sh publish "$folder/$copy.out")
done
sums=$(sha256sum "$folder"/*.out/snapuserd)
echo "$sums" | sed "s|$folder/||"
[ "$(echo "$sums" | cut -d ' ' -f 1 | sort -u | wc -l)" -eq 1 ] || { echo "reproducible.sh: the two builds differ" >&2; exit 1; }
echo "reproducible: one sha256"
