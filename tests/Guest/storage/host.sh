# Tests that a process that uses storage under one name locks it under all its names: mapped devices, partitions, md, dm-crypt and
# overlayfs.
. "$HERE/../lib.sh"
head -c 4M </dev/urandom >old.img
cp old.img new.img
# Blocks move in both directions, and some are new, so a read from a wrong place or at a wrong time yields a wrong image.
dd if=old.img of=new.img bs=4096 skip=100 seek=130 count=300 conv=notrunc status=none
dd if=old.img of=new.img bs=4096 skip=700 seek=650 count=200 conv=notrunc status=none
dd if=/dev/urandom of=new.img bs=4096 seek=1000 count=8 conv=notrunc status=none
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --progress never
truncate -s %4096 cow
compile "$HERE/../mapper/dm.c" dm
compile "$HERE/flock.c" flock

for disk in one two three four; do truncate -s 32M "$disk"; done
# A DOS table with two partitions of 5 MiB, from 1 MiB on. An entry has the type at 4, the first sector at 8 and the number of sectors at 12.
printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\050\0\0''\0\0\0\0\203\0\0\0\0\060\0\0\0\050\0\0' | dd of=three bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of=three bs=1 seek=510 conv=notrunc status=none

cp "$HERE/guest.sh" test.sh
cp "$HERE/../rivals.sh" .
archive guest test.sh rivals.sh old.img new.img cow dm flock
code=0
boot file=one,format=raw file=two,format=raw file=three,format=raw file=four,format=raw || code=$?
grep -E '^storage: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
