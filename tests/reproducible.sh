#!/bin/sh
# Builds the sources as they are now three times, for this machine or for ARCH in the environment, and compares the binaries: in a clone with its .git, as users build it, and in two
# folders without, whose names differ in length. What git ignores is not copied.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for copy in one another-place-for-the-same clone; do
    mkdir "$folder/$copy"
    tar -c --exclude=./.git --exclude=./build --exclude=bin --exclude=obj --exclude=TestResults . | tar -x -C "$folder/$copy"
    # The libraries of another architecture lie inside each folder too; they need not be fetched three times.
    if [ -d build/cache ]; then
        mkdir "$folder/$copy/build"
        cp -R build/cache "$folder/$copy/build/"
    fi
done
# A clone as it comes from somewhere: a commit, a remote, and nothing that is not committed.
(
    cd "$folder/clone"
    git init -q
    git remote add origin https://example.org/snapuserd-cs.git
    git add -A
    git -c user.name=nobody -c user.email=nobody@example.org commit -q -m 'The sources as they are'
)
for copy in one another-place-for-the-same clone; do
    (cd "$folder/$copy" && ./build.sh publish "$folder/$copy.out")
done
sums=$(sha256sum "$folder"/*.out/snapuserd)
echo "$sums" | sed "s|$folder/||"
[ "$(echo "$sums" | cut -d ' ' -f 1 | sort -u | wc -l)" -eq 1 ] || { echo "reproducible.sh: the builds differ" >&2; exit 1; }
echo "reproducible: one sha256"
