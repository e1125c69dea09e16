# Tests the hand-over: a mounted, mapped device shows the merged view first, and the base after everything is merged. Servers are killed at
# every step, and the power is cut afterwards.
. "$HERE/../lib.sh"
RANDOM=${SEED:-8}
# Disk speed in bytes per second, so that the merge takes some seconds.
slow=throttling.bps-total=6000000

mkdir -p old/files
for number in 1 2 3 4 5 6; do head -c $((RANDOM * 24 + 4096)) </dev/urandom >"old/files/$number"; done
cp -a old new
for number in 2 5; do
    dd if=/dev/urandom of="new/files/$number" bs=4096 seek=7 count=20 conv=notrunc status=none
    seq $((RANDOM % 1000)) 60000 >>"new/files/$number"
done
mv new/files/3 new/files/moved
seq 1 200000 >new/files/text
(cd new/files && sha256sum -- *) >files.sum
# The file systems have a journal, like a root file system.
for state in old new; do mke2fs -q -F -t ext4 -b 4096 -d "$state" "$state.img" 16M >/dev/null; done
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --block-factor 64k --xor --progress never
truncate -s %4096 cow
sha256sum <new.img >image.sum
compile "$HERE/dm.c" dm

cp "$HERE/guest.sh" test.sh
cp "$HERE/common.sh" "$HERE/table.sh" "$HERE/../serving.sh" "$HERE/../rivals.sh" .
# Each line is for one supervisor: the microseconds after which its ready servers are killed.
for supervisor in 1 2 3 4; do
    for kill in 1 2 3 4 5; do printf '%s ' $((RANDOM * 10)); done
    echo
done >moments
archive guest test.sh common.sh table.sh serving.sh rivals.sh image.sum files.sum moments dm
export SMP=2
fresh cow raw cow.0
fresh old.img raw base.0
code=0
boot -c 0 "file=cow.0,format=qcow2,$slow" "file=base.0,format=qcow2,$slow" || code=$?
grep -E '^mapper: ' console || true
[ "$code" -eq 137 ] || fail "the guest ended with $code instead of a power cut"
# The data written through the mapped device is on the base, and a merge finds nothing to do that would undo it.
for disk in cow base; do qemu-img convert -f qcow2 -O raw "$disk.0" "$disk.end"; done
"$SNAPUSERD" merge --cow cow.end --base base.end --progress never
e2fsck -fp base.end >/dev/null || [ $? -eq 1 ] || fail "e2fsck cannot repair the file system on the base"
[ "$(debugfs -R 'cat /written' base.end 2>/dev/null)" = "written after the hand-over" ] || fail "the base lacks the data written through the mapped device"
