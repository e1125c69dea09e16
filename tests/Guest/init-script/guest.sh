# Under busybox init, from an inittab, as a ramdisk does it: the README's loop with a base that somebody else merges at first, and a merge that shows
# its progress on the console, is told to stop, and goes on.
cow=/dev/vda
base=/dev/vdb
[ "$(cat /proc/1/comm)" = init ] || { echo "the first process is not init"; exit 1; }

# On these slow disks the first merge is far from its end when the loop begins and when it is killed.
snapuserd merge --cow "$cow" --base "$base" --progress never &
holder=$!
sleep 1
{ sleep 4; kill -KILL "$holder"; } &
. /merge-loop.sh
echo "the loop: tried $tries times in vain, then merged"

cow=/dev/vdc
base=/dev/vdd
snapuserd merge --cow "$cow" --base "$base" --progress plain >/dev/console 2>&1 &
process=$!
sleep 1
kill -TERM "$process"
wait "$process"
code=$?
echo "told to stop: $code"
[ "$code" -eq 75 ] || [ "$code" -eq 0 ] || exit 1
snapuserd merge --cow "$cow" --base "$base" --progress plain >/dev/console 2>&1 || exit 1
