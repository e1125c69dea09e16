# Tests that the program starts with any memory layout that the kernel chooses, with pages of this size.
. "$HERE/../lib.sh"
cp "$HERE/guest.sh" test.sh
archive guest test.sh
vector v3-zstd-256k-xor
code=0
boot file=v3-zstd-256k-xor.cow,format=raw file=old.img,format=raw || code=$?
grep '^start: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
