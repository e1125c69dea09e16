# Tests merges that return memory while they run. On a kernel whose pages are larger than a block, this must not discard bytes of an
# adjacent buffer.
. "$HERE/../lib.sh"
SEED=${SEED:-3}
RANDOM=$SEED
echo "seed $SEED"
mkdir files
cd files

# Short pieces stay, come from elsewhere or are new, so that the merge journals a little and uses many large buffers.
head -c 48M </dev/urandom >old.img
head -c 6M </dev/urandom | od -An -v -t x1 -w64 >new.txt
cp old.img new.img
for ((at = 0; at < 12280; at += 1 + RANDOM % 4)); do
    count=$((RANDOM % 4 + 1))
    case $((RANDOM % 3)) in
        0) dd if=old.img of=new.img bs=4096 skip=$((RANDOM % 12280)) seek="$at" count="$count" conv=notrunc status=none ;;
        1) dd if=new.txt of=new.img bs=4096 skip=$((RANDOM % 4000)) seek="$at" count="$count" conv=notrunc status=none ;;
    esac
done
rm new.txt
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --block-factor 64k --progress never
cd ..
compile "$HERE/ask.c" ask
mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d files disk 240M
cp "$HERE/guest.sh" test.sh
archive guest test.sh ask
code=0
boot file=disk,format=raw || code=$?
grep -E '^memory: | differ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
