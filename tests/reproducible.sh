#!/bin/sh
# Builds the current sources three times, for this machine or for ARCH in the environment, and compares the binaries. One build is in a
# clone with its .git, as users build it; two are in folders without .git, whose names differ in length. Results of earlier builds are not
# copied.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for copy in one another-place-for-the-same clone; do
    mkdir "$folder/$copy"
    tar -c --exclude=./.git --exclude=./build --exclude=bin --exclude=obj --exclude=TestResults . | tar -x -C "$folder/$copy"
    # Copies the downloaded libraries of another architecture, so that they need not be fetched three times.
    if [ -d build/cache ]; then
        mkdir "$folder/$copy/build"
        cp -R build/cache "$folder/$copy/build/"
    fi
done
# A clone as a user has it: a commit, a remote, and no uncommitted files.
(
    cd "$folder/clone"
    git init -q
    git remote add origin https://example.org/snapuserd-cs.git
    git add -A
    git -c user.name=builder -c user.email=builder@example.org commit -q -m 'The sources as they are'
)
for copy in one another-place-for-the-same clone; do
    (cd "$folder/$copy" && ./build.sh publish "$folder/$copy.out")
done
sums=$(sha256sum "$folder"/*.out/snapuserd)
echo "$sums" | sed "s|$folder/||"
[ "$(echo "$sums" | cut -d ' ' -f 1 | sort -u | wc -l)" -eq 1 ] || { echo "reproducible.sh: the builds differ" >&2; exit 1; }
echo "reproducible: one sha256"
