# Tests a file system that is mounted from the merged view over ublk: before and during the merge, while the server is killed, and after a
# power cut.
. "$HERE/../lib.sh"
RANDOM=${SEED:-6}
# Disk speed in bytes per second, so that the merge takes some seconds.
slow=throttling.bps-total=4000000

# Two states of a root file system: files that stay, that change in place, that move, and that are new.
mkdir -p old/files old/bin old/dev old/proc old/tmp
cp "$GUEST_BUSYBOX" old/bin/busybox
for applet in $(busybox --list); do [ -e "old/bin/$applet" ] || ln -s busybox "old/bin/$applet"; done
install -m 755 "$HERE/second.sh" old/second
for number in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c $((RANDOM * 24 + 4096)) </dev/urandom >"old/files/$number"; done
cp -a old new
for number in 2 5 8; do
    dd if=/dev/urandom of="new/files/$number" bs=4096 seek=7 count=20 conv=notrunc status=none
    seq $((RANDOM % 1000)) 60000 >>"new/files/$number"
done
mv new/files/3 new/files/moved
seq 1 200000 >new/files/text
head -c 3000000 </dev/zero >new/files/zeroes
(cd new/files && sha256sum -- *) >files.sum
cp files.sum new/files.sum
for state in old new; do mke2fs -q -F -t ext4 -O ^has_journal -b 4096 -d "$state" "$state.img" 20M >/dev/null; done
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --block-factor 64k --xor --progress never
truncate -s %4096 cow
sha256sum <new.img >image.sum

cp "$HERE/guest.sh" test.sh
cp "$HERE/common.sh" "$HERE/../serving.sh" .
compile "$HERE/killstop.c" killstop
archive guest test.sh common.sh serving.sh image.sum files.sum killstop
cp "$HERE/cut.sh" test.sh
archive cut test.sh common.sh serving.sh image.sum files.sum
install -m 755 "$HERE/root.sh" root-init
archive root root-init image.sum cow

export SMP=2
fresh cow raw cow.0
fresh old.img raw base.0
code=0
boot "file=cow.0,format=qcow2,$slow" "file=base.0,format=qcow2,$slow" || code=$?
grep -E '^ublk: ' console || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
same base.0 qcow2 new.img || fail "the base is not the target"

# Another guest loses its power while it serves and merges. The next boot must serve, and merge the rest.
fresh cow raw cow.1
fresh old.img raw base.1
code=0
boot -a cut -l console.cut -c 100 "file=cow.1,format=qcow2,$slow" "file=base.1,format=qcow2,$slow" || code=$?
[ "$code" -eq 137 ] || fail "status $code instead of a power cut"
fresh cow.1 qcow2 cow.2
fresh base.1 qcow2 base.2
code=0
boot -a cut -l console.again "file=cow.2,format=qcow2" "file=base.2,format=qcow2" || code=$?
grep -hE '^ublk: ' console.cut console.again || true
[ "$code" -eq 0 ] || fail "the guest ended with $code after the power cut"
# A cut before the first checkpoint or after the last would not have interrupted the merge.
before=$(sed -n 's/^ublk: before: \([0-9]*\) of \([0-9]*\) ops.*/\1 \2/p' console.again)
[ "${before%% *}" -gt 0 ] && [ "${before%% *}" -lt "${before##* }" ] || fail "the cut was not in the middle: $before"
same base.2 qcow2 new.img || fail "after the power cut the base is not the target"

# A third guest has its root file system on the device, and the device's server is killed.
fresh cow raw cow.3
fresh old.img raw base.3
code=0
boot -a root -i /root-init -l console.root "file=cow.3,format=qcow2,$slow" "file=base.3,format=qcow2,$slow" || code=$?
grep -E '^ublk: ' console.root || true
[ "$code" -eq 0 ] || fail "the guest ended with $code"
same base.3 qcow2 new.img || fail "the base under the root file system is not the target"
