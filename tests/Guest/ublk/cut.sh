. /common.sh
mkdir /mnt
say "before: $(merged) ops merged"
serve --merge
check "mount" mount -t ext4 -o ro "$device" /mnt
# The power goes behind the merge's first checkpoint and before its last; the boot behind the cut says which ops were merged, and the host looks.
await
[ "$failed" -ne 0 ] || echo CUT
check "the files" files
tries=0
while [ "$tries" -lt 300 ]; do
    count=$(merged)
    [ "${count%% *}" != "${count##* }" ] || break
    usleep 200000
    tries=$((tries + 1))
done
say "merged: $count"
check "the files when all is merged" files
check "the image when all is merged" image
umount /mnt
stop
[ "$ended" -eq 0 ] || failed=1
exit $failed
