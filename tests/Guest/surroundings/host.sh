# Tests the program in special environments: signals at certain calls, locks, the kernel's log, and an otherwise empty root.
. "$HERE/../lib.sh"
vector v3-zstd-4k-xor
mv v3-zstd-4k-xor.cow cow
# The numbers of the system calls that guest.sh names to killat. arm64 has no rename(2); the C library calls renameat(2) there.
case $ARCH in
    amd64) echo "pread64=17 pwrite64=18 fsync=74 fdatasync=75 rename=82 io_uring_enter=426" >calls.sh ;;
    arm64) echo "pread64=67 pwrite64=68 fsync=82 fdatasync=83 rename=38 io_uring_enter=426" >calls.sh ;;
esac
compile "$ROOT/tests/Support/killat.c" killat
cp "$HERE/guest.sh" test.sh
archive guest test.sh killat calls.sh old.img new.img cow
code=0
boot || code=$?
grep '^surroundings: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
