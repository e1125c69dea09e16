# Cuts the power right after the mapped device was put on a merged base. The base and the count must be on the disks, because the hand-over
# flushes both first. Without a hand-over the same writes must be lost.
. "$HERE/../lib.sh"
vector v3-lz4-64k-xor
mv v3-lz4-64k-xor.cow old.cow
cp old.cow merged.cow
cp old.img merged.img
"$SNAPUSERD" merge --cow merged.cow --base merged.img --progress never
cmp merged.img new.img
cp "$HERE/guest.sh" test.sh
cp "$HERE/../serving.sh" .
archive guest test.sh serving.sh merged.cow new.img

for way in none served booted; do
    fresh old.cow raw "cow.$way"
    fresh old.img raw "base.$way"
    code=0
    boot -l "console.$way" -k "way=$way" -c 0 "file=cow.$way,format=qcow2" "file=base.$way,format=qcow2" || code=$?
    [ "$code" -eq 137 ] || fail "$way: the guest ended with $code instead of a power cut"
    if [ "$way" = none ]; then
        ! same "base.$way" qcow2 new.img || fail "the disks do not lose unflushed data"
        continue
    fi
    same "base.$way" qcow2 new.img || fail "$way: the base is not on the disk"
    same "cow.$way" qcow2 merged.cow || fail "$way: the count is not on the disk"
    echo "$way: base and count were on the disks before the device was mapped to the base"
done
