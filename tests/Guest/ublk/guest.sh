. /common.sh
mkdir /mnt

# Served and not merged: nothing is written, the number is taken, writes are refused.
before=$(cat /dev/vda /dev/vdb | sha256sum)
serve
check "the image before the merge" image
expect 76 "a number that is taken" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --progress never
expect 1 "a write" dd if=/dev/zero of="$device" bs=4096 count=1 conv=fsync
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files before the merge" files
umount /mnt
stop
[ "$before" = "$(cat /dev/vda /dev/vdb | sha256sum)" ] || { say "FAILED: something was written"; failed=1; }

# Served and merged, with readers all the time; the server is killed three times in their midst.
serve_slowly
check "mount" mount -t ext4 -o ro "$device" /mnt
read_on
for kill in 1 2 3; do
    # The first one at the beginning, the others between the first checkpoint and the last.
    if [ "$kill" -gt 1 ]; then await; fi
    kill -KILL "$server"
    wait "$server"
    count=$(merged)
    say "killed at $count ops merged, the device is $([ -e "$device" ] && echo there || echo gone)"
    if [ "$kill" -gt 1 ] && ! midway "$count"; then say "FAILED: that is not in the middle"; failed=1; fi
    if [ "$kill" -lt 3 ]; then serve_slowly; else serve --merge; fi
done
enough
grep -c 'taken over' /tmp/serve.err | sed 's/^/ublk: times taken over: /'
[ "$(grep -c 'taken over' /tmp/serve.err)" -eq 3 ] || failed=1

to_the_end

# Supervised: a signal to the parent is one to the server, and how that ends is how the parent ends.
mkfifo /tmp/told
cat /tmp/told >/tmp/told.path &
told=$!
serve --supervise --ready-fd 7 7>/tmp/told
check "the image, supervised" image
# Told, and told to the end: the parent does not hold on to the descriptor either.
[ "$(cat /tmp/told.path)" = "$device" ] || { say "FAILED: --ready-fd got '$(cat /tmp/told.path)'"; failed=1; }
if kill -0 "$told" 2>/dev/null; then say "FAILED: --ready-fd is still open"; failed=1; fi
stop
# Killed, it has a successor that knows what ctl has said.
serve --supervise --merge-on-request --control /tmp/ctl
check "a pause" snapuserd ctl pause --socket /tmp/ctl
check "a rate" snapuserd ctl rate 5M --socket /tmp/ctl
kill -KILL $(cat "/proc/$server/task/$server/children" 2>/dev/null || pgrep -P "$server")
until snapuserd ctl status --json --socket /tmp/ctl >/tmp/status 2>&1; do sleep 0.1; done
say "after a kill: $(cat /tmp/status)"
check "a pause after a kill" grep -q '"paused":true' /tmp/status
check "a rate after a kill" grep -q '"bytes_per_second_limit":5242880' /tmp/status
check "the image after a kill" image
stop
check "nothing holds the driver" rmmod ublk_drv
expect 69 "no driver" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --progress never
[ "$failed" -eq 0 ] || cat /tmp/serve.err
exit $failed
