failed=0
checks=0
mkdir /mnt
mount -t ext4 -o ro /dev/vda /mnt || exit 1

# merges COW BASE COPY-OF-COW FROM IO: merges COPY-OF-COW into BASE, which begins as FROM, and checks that BASE becomes the target.
merges() {
    checks=$((checks + 1))
    dd if="/mnt/$1" of="$3" bs=1M conv=notrunc,fsync 2>/dev/null
    dd if="$4" of="$2" bs=1M conv=notrunc,fsync 2>/dev/null
    snapuserd merge --cow "$3" --base "$2" --io "$5" --json --progress never >/tmp/output 2>&1
    code=$?
    # Without scratch space this COW cannot be merged in place, so the merge must be refused before the first write.
    if [ "$1" = v2-zstd-noscratch.cow ]; then
        [ "$code" -eq 64 ] && cmp -s "$2" "$4" || { echo "vectors: FAILED: $1 into $2, $5: $code"; failed=1; }
        return
    fi
    [ "$code" -eq 0 ] || { echo "vectors: FAILED: $1 into $2, $5: $code: $(head -n 1 /tmp/output)"; failed=1; return; }
    # Check that the requested kind of I/O was used.
    grep -q "\"io\":\"$5\"" /tmp/output || { echo "vectors: FAILED: $1 into $2: not by $5: $(head -n 1 /tmp/output)"; failed=1; }
    cmp "$2" /mnt/new.img >/tmp/output 2>&1 || { echo "vectors: FAILED: $1 into $2, $5: $(head -n 1 /tmp/output)"; failed=1; }
}

for io in uring sync; do
    for cow in /mnt/*.cow; do
        name=$(basename "$cow" .cow)
        from=/mnt/old.img
        [ ! -e "/mnt/$name.base" ] || from=/mnt/$name.base
        merges "$name.cow" /dev/vdc /dev/vdb "$from" "$io"
        merges "$name.cow" /tmp/base /tmp/cow "$from" "$io"
        rm -f /tmp/base /tmp/cow
    done
done
echo "vectors: $checks merges, with io_uring and synchronous calls, on disks and in files"
exit "$failed"
