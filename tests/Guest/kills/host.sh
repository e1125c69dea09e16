# Tests SIGKILL at each call of a merge and of its resume, on this architecture and page size, with and without io_uring.
. "$HERE/../lib.sh"
head -c 512K </dev/urandom >old.img
cp old.img new.img
# Move blocks by a few positions, so that most of them need the journal, and add new blocks.
for piece in 1 2 3 4 5 6; do
    dd if=old.img of=new.img bs=4096 skip=$((piece * 17)) seek=$((piece * 15)) count=$((piece * 3)) conv=notrunc status=none
done
dd if=/dev/urandom of=new.img bs=4096 seek=100 count=6 conv=notrunc status=none
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression lz4 --block-factor 16k --progress never
compile "$ROOT/tests/Support/killat.c" killat
cp "$HERE/guest.sh" test.sh
archive guest test.sh killat old.img new.img cow
code=0
boot || code=$?
grep '^kills: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
