# Tests the exit codes for storage that is mounted or missing, and for io_uring if it is switched off.
. "$HERE/../lib.sh"
cp "$HERE/guest.sh" test.sh
archive guest test.sh
vector v3-zstd-256k-xor
cp old.img base
truncate -s 16M other
code=0
boot file=v3-zstd-256k-xor.cow,format=raw file=base,format=raw file=other,format=raw || code=$?
grep -E ': [0-9]+: |^(expected|this kernel|the |that )' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
same base raw new.img || fail "the base is not the target"
