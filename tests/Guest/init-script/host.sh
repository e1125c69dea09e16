# Tests the loop of docs/ramdisk.md under busybox init, and progress on the console.
. "$HERE/../lib.sh"
ramdisk_loop
cp "$HERE/guest.sh" test.sh
mkdir etc
cp "$HERE/inittab" etc/
archive guest test.sh merge-loop.sh etc
vector v3-zstd-256k-xor
mv v3-zstd-256k-xor.cow cow1
vector v2-gz-xor
mv v2-gz-xor.cow cow2
cp old.img base1
cp old.img base2
slow=throttling.iops-total=50
code=0
boot -i /sbin/init "file=cow1,format=raw,$slow" "file=base1,format=raw,$slow" "file=cow2,format=raw,$slow" "file=base2,format=raw,$slow" || code=$?
[ "$code" -eq 0 ] || fail "the guest ended with $code"
same base1 raw new.img || fail "the base of the loop is not the target"
same base2 raw new.img || fail "the base of the merge that was told to stop is not the target"
grep -q '^merge   0% ' console || fail "no progress on the console"
grep -q '^merge 100% ' console || fail "no progress up to the end on the console"
grep -E '^(the loop|told to stop)' console
grep -q '^the loop: tried [1-9]' console || fail "the loop had nothing to wait for"
