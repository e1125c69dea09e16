#!/bin/sh
# demo-images.sh FOLDER: makes FOLDER/old.img and FOLDER/new.img, two ext4 images of 96 MiB filled with this machine's own programs and
# libraries; in the second, files are added, removed, edited and moved.
set -eu
cd "$1"
mkdir old new

# files FROM TO: the paths of the machine's files from the FROM-th to the TO-th MiB.
files() {
    find /usr/bin /usr/lib /usr/share -xdev -type f -readable -size +16k -size -4096k -printf '%s %p\n' 2>/dev/null | LC_ALL=C sort -k 2 \
        | awk -v from="$1" -v to="$2" '{ sum += $1 / 1048576; if (sum > to) exit; if (sum > from) { sub(/^[0-9]+ /, ""); print } }'
}

number=0
files 0 44 | while IFS= read -r file; do
    number=$((number + 1))
    cp "$file" "old/$number-${file##*/}"
done
cp -R old/. new/
mkdir new/moved
number=0
for file in new/*-*; do
    number=$((number + 1))
    if [ $((number % 11)) -eq 0 ]; then
        rm "$file"
    elif [ $((number % 7)) -eq 0 ]; then
        printf 'edited in place' | dd of="$file" bs=1 seek=5000 conv=notrunc status=none
    elif [ $((number % 13)) -eq 0 ]; then
        # Moves everything after the new bytes by 37 bytes.
        { head -c 9000 "$file"; printf '%037d' 0; tail -c +9001 "$file"; } >"$file.new" && mv "$file.new" "$file"
    elif [ $((number % 5)) -eq 0 ]; then
        mv "$file" new/moved/
    fi
done
number=0
files 44 52 | while IFS= read -r file; do
    number=$((number + 1))
    cp "$file" "new/added-$number-${file##*/}"
done
for name in old new; do
    mkfs.ext4 -q -F -b 4096 -d "$name" -U 01234567-89ab-cdef-0123-456789abcdef "$name.img" 96M
    rm -rf "$name"
done
