failed=0
say() {
    echo "storage: $*"
}
. /rivals.sh
fresh=/cow
one=$(cat /sys/block/vda/dev)
two=$(cat /sys/block/vdb/dev)
three=$(cat /sys/block/vdc/dev)

# map NAME LINE…: creates a mapped device with these lines and prints its path.
map() {
    name=$1
    shift
    printf '%s\n' "$@" | /dm make "$name"
}

# put DEVICE…: writes the old image to each.
put() {
    for device in "$@"; do dd if=/old.img of="$device" bs=1M conv=notrunc,fsync 2>/dev/null; done
}

# holds IMAGE DEVICE…: each device must hold that image. Drops the page cache first, because every device has its own.
holds() {
    image=$1
    shift
    sync
    echo 3 >/proc/sys/vm/drop_caches
    for device in "$@"; do
        dd if="$device" bs=1M count=4 2>/dev/null | cmp -s - "/$image.img" && continue
        say "FAILED: $part: $device does not hold the $image image"
        failed=1
    done
}

# hold BASE [OPTION…]: starts a server with that base.
hold() {
    rm -f /tmp/ready /tmp/held.cow
    mkfifo /tmp/ready
    cp /cow /tmp/held.cow
    snapuserd serve --cow /tmp/held.cow --base "$@" --device nbd --socket /tmp/socket --progress never >/tmp/ready 2>/tmp/serve.err &
    holder=$!
    read -r said </tmp/ready || { say "FAILED: $part: no server"; cat /tmp/serve.err; exit 1; }
}

# drop: ends the server.
drop() {
    kill "$holder"
    wait "$holder" || { say "FAILED: $part: the server ended with $?"; cat /tmp/serve.err; failed=1; }
}

# merge CODE PATTERN BASE [OPTION…]: a merge into BASE must end with CODE (see rival).
merge() {
    code=$1
    pattern=$2
    shift 2
    rival "$code" "$pattern" "$part: merge --base $*" snapuserd merge --cow @ --base "$@" --progress never
}

# reading CODE PATTERN BASE [OPTION…]: `verify` and `extract` with BASE must end with CODE (see rival).
reading() {
    code=$1
    pattern=$2
    shift 2
    rival "$code" "$pattern" "$part: verify --base $*" snapuserd verify --cow @ --base "$@" --progress never
    rival "$code" "$pattern" "$part: extract --base $*" \
        snapuserd extract --cow @ --base "$@" --output "/tmp/extracted.$rivals" --progress never
}

part="pieces of two disks"
# Two devices of the same pieces, in different lines (pieces, again); a device that shares their last sector (sector); one on top of the
# first (above); and two that begin where a piece ends (beside, after).
pieces=$(map pieces "0 4096 linear $one 2048" "4096 4096 linear $two 0")
again=$(map again "0 1024 linear $one 2048" "1024 3072 linear $one 3072" "4096 4096 linear $two 0")
sector=$(map sector "0 8192 linear $two 4095")
above=$(map above "0 8192 linear $(cat "/sys/block/$(basename "$pieces")/dev") 0")
beside=$(map beside "0 8192 linear $one 6144")
after=$(map after "0 8192 linear $two 4096")
put "$pieces" "$beside" "$after"
hold "$pieces"
merge 76 "$again" "$again"
merge 76 "$sector" "$sector"
merge 76 "$above" "$above"
merge 76 loop "$(loop 0 "$pieces")"
merge 76 loop "$(loop 512 "$again")"
merge 76 /tmp/node "$(node "$pieces")"
merge 76 /dev/vda /dev/vda
reading 0 '' "$again"
merge 0 '' "$beside"
# Test a node created by mknod, without /dev, /sys and /proc.
mkdir /bare
cp /bin/snapuserd /cow /bare
cp -a "$(node "$again")" /bare/node
rival 76 /node "$part: merge without /dev and /sys" chroot /bare /snapuserd merge --cow /cow --base /node --progress never
refused
holds old "$pieces"
holds new "$beside"
drop
/dm remove above

hold "$pieces" --merge-on-request --control /tmp/control
merge 76 "$again" "$again"
merge 76 loop "$(loop 512 "$again")"
reading 76 "$again" "$again"
reading 76 "$sector" "$sector"
merge 0 '' "$after"
refused
holds old "$pieces"
holds new "$after"
snapuserd ctl merge --socket /tmp/control >/dev/null
until snapuserd ctl status --json --socket /tmp/control | grep -q '"state":"merged"'; do usleep 50000; done
drop
holds new "$pieces" "$again"
for number in /sys/block/loop*/loop; do losetup -d "/dev/$(basename "$(dirname "$number")")"; done
say "$part: one storage under any name"

part="two names of one base"
put "$pieces"
merge 0 '' "$pieces" --source "$again"
refused
holds new "$pieces"
put "$pieces"
merge 64 'is the base itself' "$pieces" --source "$again" --source-separate
refused
holds old "$pieces"

part="mounted by another name"
mke2fs "$again" >/dev/null 2>&1
mkdir /mnt
mount -t ext4 -o ro "$again" /mnt || { say "FAILED: $part: no mount"; failed=1; }
before=$(dd if="$pieces" bs=1M 2>/dev/null | sha256sum)
merge 76 "in use through $again" "$pieces"
refused
merge 76 "in use through" "$sector"
refused
[ "$before" = "$(dd if="$pieces" bs=1M 2>/dev/null | sha256sum)" ] || { say "FAILED: $part: the base was written to"; failed=1; }
umount /mnt

part="a COW on its own base"
size=$(($(wc -c </cow) / 512))
window=$(map window "0 $size linear $two 40000")
before=$(map before "0 8192 linear $two 31809")
crypt=$(map crypt "0 $size crypt cipher_null-ecb - 0 $two 40000")
dd if=/cow of="$window" bs=4096 conv=fsync 2>/dev/null
rival 64 'share storage' "$part: merge" snapuserd merge --cow "$window" --base "$before" --progress never
rival 64 'share storage' "$part: verify" snapuserd verify --cow "$window" --base "$before" --progress never
rival 64 'share storage' "$part: extract" \
    snapuserd extract --cow "$window" --base "$pieces" --source "$before" --output /tmp/no --progress never
rival 64 'dm-crypt' "$part: merge through a layer" snapuserd merge --cow "$crypt" --base "$before" --progress never
refused
for name in crypt before window; do /dm remove "$name"; done

part="partitions"
put /dev/vdc1 /dev/vdc2
hold /dev/vdc1
merge 76 /dev/vdc /dev/vdc
merge 76 loop "$(loop 1048576 /dev/vdc)"
merge 76 loop "$(loop 0 /dev/vdc1)"
merge 76 loop "$(loop 4096 /dev/vdc1)"
inside=$(map inside "0 8192 linear $(cat /sys/class/block/vdc1/dev) 2000")
merge 76 "$inside" "$inside"
merge 0 '' /dev/vdc2
refused
/dm remove inside
holds old /dev/vdc1
holds new /dev/vdc2
drop
put /dev/vdc2
hold "$(loop 0 /dev/vdc1)" --merge-on-request --control /tmp/control
merge 76 /dev/vdc1 /dev/vdc1
merge 76 /dev/vdc /dev/vdc
reading 76 /dev/vdc1 /dev/vdc1
rival no busy "$part: a mount" mount -t ext4 -o ro /dev/vdc1 /mnt
merge 0 '' /dev/vdc2
refused
holds old /dev/vdc1
holds new /dev/vdc2
snapuserd ctl merge --socket /tmp/control >/dev/null
until snapuserd ctl status --json --socket /tmp/control | grep -q '"state":"merged"'; do usleep 50000; done
drop
holds new /dev/vdc1
for number in /sys/block/loop*/loop; do losetup -d "/dev/$(basename "$(dirname "$number")")"; done
put /dev/vdc1
hold /dev/vdc1
# A device that begins with the last 48 sectors of the partition.
tail=$(map tail "0 8192 linear $three 12240")
merge 76 "$tail" "$tail"
refused
holds old /dev/vdc1
drop
/dm remove tail
say "$part: whole, by loop devices, and by a mapped device"

part="crypt"
crypt=$(map crypt "0 8192 crypt cipher_null-ecb - 0 $one 32768")
below=$(map below "0 8192 linear $one 32768")
elsewhere=$(map elsewhere "0 8192 linear $one 49152")
put "$crypt" "$elsewhere"
merge 64 'dm-crypt' "$crypt" --source "$below"
merge 64 'dm-crypt' "$crypt" --source "$elsewhere"
reading 0 '' "$crypt" --source "$elsewhere"
refused
holds old "$crypt" "$elsewhere"
merge 0 '' "$crypt" --source "$elsewhere" --source-separate
refused
holds new "$crypt"
put "$crypt"
hold "$crypt" --merge-on-request --control /tmp/control
merge 76 "$below" "$below"
refused
drop
hold "$crypt"
merge 76 "$below" "$below"
refused
drop
holds old "$crypt"
hold "$below" --merge-on-request --control /tmp/control
reading 76 "$crypt" "$crypt"
refused
drop
# A merge's lock on the storage below its source must not conflict with its own lock on the base.
put "$elsewhere"
merge 0 '' "$elsewhere" --source "$crypt" --source-separate
refused
holds new "$elsewhere"
say "$part: a layer whose storage cannot be resolved"

part="md"
echo md_test >/sys/module/md_mod/parameters/new_array
cd /sys/block/md_test/md || exit 1
echo none >metadata_version
echo raid1 >level
echo 2 >raid_disks
cat /sys/block/vdd/dev >new_dev
echo 0 >dev-vdd/slot
echo 16384 >component_size
echo active >array_state
cd /
md=/dev/md_test
put "$md"
looped=$(loop 0 /dev/vdd)
merge 64 'md raid1' "$md" --source "$looped"
reading 0 '' "$md" --source "$looped"
refused
hold "$md"
merge 76 "$looped" "$looped"
refused
drop
holds old "$md"
merge 0 '' "$md"
refused
holds new "$md"
say "$part: $(cat /sys/block/md_test/md/level)"

part="overlayfs"
mkdir /tmp/lower /tmp/upper /tmp/work /tmp/merged
mount -t overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work overlay /tmp/merged || exit 1
cp /old.img /tmp/merged/base
hold /tmp/merged/base
merge 76 upper /tmp/upper/base
refused
drop
hold /tmp/upper/base
merge 76 merged /tmp/merged/base
refused
drop
holds old /tmp/upper/base

part="udev"
# udev probes a disk only while it holds a shared lock on the node, so the server must permit that lock.
echo clear >/sys/block/md_test/md/array_state
losetup -d "$looped"
put /dev/vdd
hold /dev/vdd --merge-on-request --control /tmp/control
/flock sh /dev/vdd || { say "FAILED: $part: a shared lock is refused"; failed=1; }
if /flock ex /dev/vdd 2>/dev/null; then say "FAILED: $part: an exclusive lock is given"; failed=1; fi
merge 76 /dev/vdd /dev/vdd
refused
drop
/flock ex /dev/vdd || { say "FAILED: $part: the lock is still held"; failed=1; }
exit "$failed"
