# The recovery of a phone: a disk with the partitions super, userdata, misc and metadata, found by their names. A power cut in the midst of
# the merge, a journal of /metadata that has to be recovered first, partitions that another program has mapped, and `map` at the end.
. "$HERE/../lib.sh"
# Disk speed in bytes per second, so that the merge takes some seconds.
slow=throttling.bps-total=2000000
states=$ROOT/tests/vectors/android-device
sector=512 mib=$((1 << 20))

# sectors NAME PARTITION: "START LENGTH" in super of a partition of slot b, in sectors; its first extent.
sectors() {
    awk -F '\t' -v name="$1" -v partition="$2" '$1 == name && $2 == 1 && $3 == partition {
        split($7, extent, "[:+;]"); print extent[2], extent[3] }' "$states/partitions.tsv"
}

# device NAME DISK: writes the disk of the golden state NAME. The partition odm_b, which the update does not touch, has a file system.
device() {
    local image name=$1 disk=$2 at=1 start
    mkdir "$name.files"
    (cd "$name.files" && "$ROOT/build.sh" tool unpack "$states/$name"/*.img.br)
    read -r start _ <<<"$(sectors "$name" odm_b)"
    dd if=odm.img of="$name.files/super.img" bs=$sector seek="$start" conv=notrunc status=none
    mke2fs -q -F -t ext4 -d "$states/$name/metadata" "$name.files/metadata.img" 16M >/dev/null
    truncate -s $((96 * mib)) "$disk"
    for image in super userdata misc metadata; do
        [ -e "$name.files/$image.img" ] || truncate -s $mib "$name.files/$image.img"
        echo "start=${at}MiB, size=$((($(stat -c %s "$name.files/$image.img") + mib - 1) / mib))MiB, name=$image"
        dd if="$name.files/$image.img" of="$disk" bs=1M seek=$at conv=notrunc status=none
        at=$((at + ($(stat -c %s "$name.files/$image.img") + mib - 1) / mib))
    done >table
    { echo 'label: gpt'; cat table; } | sfdisk -q "$disk" >/dev/null
    # The partitions of the new slot after the merge, without those of COWs.
    awk -F '\t' -v name="$name" '$1 == name && $2 == 1 && $6 > 0 && $9 != "-" && $3 != "odm_b" { print $9 "  /dev/mapper/" $3 }' \
        "$states/partitions.tsv" >"$name.sums"
}

mkdir -p odm/etc
head -c 20000 </dev/urandom >odm/etc/first
seq 1 3000 >odm/etc/second
(cd odm/etc && sha256sum first second) >odm.sums
mke2fs -q -F -t ext4 -b 1024 -O ^has_journal -d odm odm.img 256k >/dev/null
compile "$HERE/../mapper/dm.c" dm
device cow-on-data disk
device first-phase-begin mapped
sectors cow-on-data system_b-cow >system.cow
sectors first-phase-begin vendor_b >vendor.sectors
sectors first-phase-begin odm_b >odm.sectors
cp "$states/unverified-target/metadata/ota/state" state.unverified
cp "$states/cow-on-data/metadata/ota/state" state.merging
cp "$HERE/common.sh" "$HERE/guest.sh" "$HERE/mapped.sh" "$ROOT/src/packaging/recovery/finish-android-update" .
echo '. /guest.sh' >test.sh
archive guest test.sh common.sh guest.sh finish-android-update system.cow odm.sums cow-on-data.sums state.unverified state.merging
echo '. /mapped.sh' >test.sh
archive foreign test.sh common.sh mapped.sh odm.sums first-phase-begin.sums vendor.sectors odm.sectors dm

# step NUMBER STATUS [OPTION…]: boots with the disk of this step, and continues on a copy of what it leaves.
fresh disk raw disk.0
step() {
    local number=$1 expected=$2 code=0
    shift 2
    boot -l "console.$number" -k "androidboot.slot_suffix=_b step=$number" "$@" "file=disk.$number,format=qcow2,$slow" || code=$?
    grep -E '^android: ' "console.$number" || true
    [ "$code" -eq "$expected" ] || fail "step $number ended with $code, not $expected"
    fresh "disk.$number" qcow2 "disk.$((number + 1))"
}
step 0 137 -c 0
step 1 137 -c 0
step 2 0
step 3 0

code=0
fresh mapped raw mapped.0
boot -a foreign -l console.mapped -k androidboot.slot_suffix=_b file=mapped.0,format=qcow2 || code=$?
grep -E '^android: ' console.mapped || true
[ "$code" -eq 0 ] || fail "the recovery with mapped partitions ended with $code"
