# A recovery that has mapped the partitions of super itself, so that no process can open super exclusively.
. /common.sh

for entry in /sys/class/block/*; do
    if grep -qx PARTNAME=super "$entry/uevent"; then super=$(cat "$entry/dev") node=/dev/${entry##*/}; fi
done
read -r start length </vendor.sectors
read -r odm odm_length </odm.sectors
vendor=$(echo "0 $length linear $super $start" | /dm make vendor_b)
other=$(echo "0 $odm_length linear $super $odm" | /dm make odm_b)
mkdir /odm /vendor
mount -t ext4 -o ro "$other" /odm || failed=1

expect 75 "status beside mapped partitions" snapuserd android status
expect 76 "map of a name that is taken" snapuserd android map
tells "there is a mapped device" "map"

# A partition that would be merged is mounted: its file system is made over the old content, which is put back afterwards.
dd if="$vendor" of=/tmp/vendor bs=1M 2>/dev/null
mke2fs "$vendor" >/dev/null 2>&1
mount -t ext4 -o ro "$vendor" /vendor || failed=1
expect 76 "merge of a mounted partition" snapuserd android merge
tells "vendor_b is mapped as vendor_b and mounted at /vendor" "merge"
tells "umount /vendor" "merge"
umount /vendor
dd if=/tmp/vendor of="$vendor" bs=1M conv=fsync 2>/dev/null

# Another mapped device lies on it, and then another program has it open.
above=$(echo "0 $length linear $(cat "/sys/class/block/${vendor##*/}/dev") 0" | /dm make above)
[ -n "$above" ] || failed=1
expect 76 "merge below a further device" snapuserd android merge
tells "in use" "merge"
/dm remove above
sleep 1000 <"$vendor" &
expect 76 "merge of a partition that is open" snapuserd android merge
tells "open in another program" "merge"
kill $!
wait

# The mapped device has old blocks in its cache; after the merge, reads through it show the new ones.
cat "$vendor" >/dev/null
expect 0 "merge beside mapped partitions" snapuserd android merge
new=$(sed -n 's|  /dev/mapper/vendor_b$||p' /first-phase-begin.sums)
[ "$(sha256sum <"$vendor" | cut -d ' ' -f 1)" = "$new" ] || { say "FAILED: the mapped device shows old blocks"; failed=1; }
(cd /odm/etc && sha256sum -c /odm.sums >/dev/null) || { say "FAILED: the mounted partition has changed"; failed=1; }
expect 0 "merge again, unmapping" snapuserd android merge --unmap
if /dm table vendor_b >/dev/null 2>&1; then say "FAILED: vendor_b is still mapped"; failed=1; fi
umount /odm
/dm remove odm_b
expect 0 "map" snapuserd android map
expect 0 "content of the mapped partitions" sha256sum -c /first-phase-begin.sums
expect 0 "unmap" snapuserd android unmap
exit "$failed"
