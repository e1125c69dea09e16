# The steps of one phone. Each one is a boot of its recovery.
step=$(sed 's/.*step=\([0-9]*\).*/\1/' /proc/cmdline)
. /common.sh

# part NAME: the node of a partition, by the name in its uevent.
part() {
    for entry in /sys/class/block/*; do
        if grep -qx "PARTNAME=$1" "$entry/uevent"; then echo "/dev/${entry##*/}"; fi
    done
}

case $step in
    # Android writes its state and is cut: the state is in the journal only.
    0)
        mkdir /metadata
        mount -t ext4 "$(part metadata)" /metadata
        cp /state.unverified /metadata/ota/state
        umount /metadata
        mount -t ext4 "$(part metadata)" /metadata
        cp /state.merging /metadata/ota/state.tmp
        sync
        mv /metadata/ota/state.tmp /metadata/ota/state
        sync
        echo CUT
        sleep 60
        ;;
    # The recovery finds all partitions, warns about the journal without recovering it, merges, and is cut.
    1)
        before=$(sha256sum <"$(part metadata)")
        snapuserd android status >/tmp/out 2>/tmp/err
        say "status before the journal is recovered: $?"
        tells "the journal of $(part metadata) needs recovery" "status"
        [ "$(sha256sum <"$(part metadata)")" = "$before" ] || { say "FAILED: status changes the metadata partition"; failed=1; }
        [ "$failed" -eq 0 ] || exit 1
        snapuserd android merge --progress never &
        merge=$!
        # The cut comes when the second phase has begun: the COW of system_b counts merged ops, from byte 26 on.
        read -r cow _ </system.cow
        while [ "$(dd if="$(part super)" bs=1 skip=$((cow * 512 + 26)) count=2 2>/dev/null | tr -d '\0' | wc -c)" -eq 0 ]; do
            kill -0 "$merge" || { say "FAILED: the merge ended before the power cut"; exit 1; }
            usleep 10000
        done
        echo CUT
        sleep 60
        ;;
    # The next boot goes on to the end.
    2)
        expect 75 "status after the power cut" snapuserd android status
        sed -n 's/^[a-z]*_b .*%/android: &/p' /tmp/out
        tells "vendor_b        phase 1 100%" "status after the power cut"
        expect 0 "the entry of the menu" sh /finish-android-update
        tells "merged 3 partitions" "the entry of the menu"
        expect 0 "the entry of the menu again" sh /finish-android-update
        expect 0 "status after the merge" snapuserd android status
        tells "All is merged" "status"
        ;;
    # The merged partitions are mapped and read, and the update is concluded.
    3)
        expect 0 "map" snapuserd android map
        cat /tmp/out
        expect 0 "content of the mapped partitions" sha256sum -c /cow-on-data.sums
        mkdir /odm
        expect 0 "mount of odm_b" mount -t ext4 -o ro /dev/mapper/odm_b /odm
        cd /odm/etc && expect 0 "files of odm_b" sha256sum -c /odm.sums
        cd /
        expect 76 "map again" snapuserd android map
        expect 76 "unmap while odm_b is mounted" snapuserd android unmap
        tells "/dev/mapper/odm_b is mounted" "unmap"
        umount /odm
        expect 0 "unmap" snapuserd android unmap
        [ ! -e /dev/mapper/odm_b ] || { say "FAILED: odm_b is still mapped"; failed=1; }
        expect 0 "merge --conclude" snapuserd android merge --conclude
        tells "the update is concluded" "merge --conclude"
        expect 0 "status after the conclusion" snapuserd android status
        tells "merged, Android cleans up at its next boot" "status"
        tells "bootloader      none" "status"
        ;;
esac
exit "$failed"
