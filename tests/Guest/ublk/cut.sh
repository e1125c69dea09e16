. /common.sh
mkdir /mnt
say "before: $(merged) ops merged"
serve_slowly
check "mount" mount -t ext4 -o ro "$device" /mnt
# The power cut must come after the merge's first checkpoint and before its last. The boot after the cut prints how many ops were merged,
# and the host checks that number.
await
[ "$failed" -ne 0 ] || echo CUT
check "the files" files
faster
to_the_end
exit $failed
