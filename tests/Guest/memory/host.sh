# Merges that give memory back while they run. A kernel whose pages are larger than a block must not take a neighbouring buffer's bytes with it.
. "$HERE/../lib.sh"
SEED=${SEED:-3}
RANDOM=$SEED
echo "seed $SEED"
mkdir files
head -c 24M </dev/urandom >files/old.img
cp files/old.img files/new.img
# Blocks that move, in pieces of all sizes, and new ones: what was decompressed waits in buffers.
for ((piece = 0; piece < 90; piece++)); do
    dd if=files/old.img of=files/new.img bs=4096 skip=$((RANDOM % 6000)) seek=$((RANDOM % 6000)) count=$((RANDOM % 60 + 1)) conv=notrunc status=none
    head -c "$((RANDOM * 8))" /dev/urandom | od -An -v -t x1 | dd of=files/new.img bs=4096 seek=$((RANDOM % 5800)) conv=notrunc status=none
done
"$SNAPUSERD" create --source files/old.img --target files/new.img --output files/cow --compression zstd --block-factor 64k --progress never
compile "$HERE/ask.c" ask
mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d files disk 160M
cp "$HERE/guest.sh" test.sh
archive guest test.sh ask
code=0
boot file=disk,format=raw || code=$?
grep -E '^memory: | differ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
