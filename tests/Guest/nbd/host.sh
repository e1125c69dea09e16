# Tests a file system that is mounted from the merged view over the kernel's NBD client: before and during the merge, and while the server
# is killed and the next one takes the device over.
. "$HERE/../lib.sh"
RANDOM=${SEED:-7}
# The disk speed makes the merge take some seconds.
slow=throttling.bps-total=4000000

mkdir old new
for number in 1 2 3 4 5 6 7 8; do
    head -c $((RANDOM * 32 + 4096)) </dev/urandom >"old/$number"
    cp "old/$number" "new/$number"
done
dd if=/dev/urandom of=new/2 bs=4096 seek=7 count=20 conv=notrunc status=none
mv new/3 new/moved
seq 1 200000 >new/text
for state in old new; do
    mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d "$state" "$state.img" 16M
done
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --block-factor 64k --xor --progress never
truncate -s %4096 cow
sha256sum <new.img >image.sum
(cd new && sha256sum -- *) >files.sum
cp "$HERE/guest.sh" test.sh
cp "$HERE/../serving.sh" .
archive guest test.sh serving.sh image.sum files.sum

fresh cow raw cow.0
fresh old.img raw base.0
code=0
boot "file=cow.0,format=qcow2,$slow" "file=base.0,format=qcow2,$slow" || code=$?
grep -E '^nbd: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
same base.0 qcow2 new.img || fail "the base is not the target"
