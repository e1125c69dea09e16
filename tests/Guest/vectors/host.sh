# Tests merges of all vectors, including those that another program began, with io_uring and synchronous calls, on disks and in files.
. "$HERE/../lib.sh"
vectors=$ROOT/tests/vectors
mkdir files
"$ROOT/build.sh" tool unpack "$vectors"/*.br
mv old.img new.img files/
for cow in *.cow; do
    # A disk has whole sectors.
    truncate -s %4096 "$cow"
    mv "$cow" files/
done
mv -- *.base files/
mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d files disk 160M
truncate -s "$(stat -c %s files/old.img)" base
truncate -s 8M cow
cp "$HERE/guest.sh" test.sh
archive guest test.sh
code=0
boot file=disk,format=raw file=cow,format=raw file=base,format=raw || code=$?
grep '^vectors: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
