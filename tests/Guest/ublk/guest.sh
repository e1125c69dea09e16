. /common.sh
mkdir /mnt

# Serves without a merge: nothing is written, another server cannot use the device number, and writes are refused.
before=$(cat /dev/vda /dev/vdb | sha256sum)
serve
check "the image before the merge" image
expect 76 "a number that is in use" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --progress never
expect 1 "a write" dd if=/dev/zero of="$device" bs=4096 count=1 conv=fsync
check "mount" mount -t ext4 -o ro "$device" /mnt
check "the files before the merge" files
umount /mnt
stop
[ "$before" = "$(cat /dev/vda /dev/vdb | sha256sum)" ] || { say "FAILED: something was written"; failed=1; }

# Serves and merges, with readers all the time, and kills the server three times.
serve_slowly
check "mount" mount -t ext4 -o ro "$device" /mnt
read_on
for kill in 1 2 3; do
    # The first kill comes at the beginning, the others between the first checkpoint and the last.
    if [ "$kill" -gt 1 ]; then await; fi
    kill -KILL "$server"
    wait "$server"
    count=$(merged)
    say "killed at $count ops merged, the device $([ -e "$device" ] && echo exists || echo "is gone")"
    if [ "$kill" -gt 1 ] && ! midway "$count"; then say "FAILED: the kill was not in the middle of the merge"; failed=1; fi
    if [ "$kill" -lt 3 ]; then serve_slowly; else serve --merge; fi
done
enough
grep -c 'taken over' /tmp/serve.err | sed 's/^/ublk: times taken over: /'
[ "$(grep -c 'taken over' /tmp/serve.err)" -eq 3 ] || failed=1

to_the_end

# With --supervise, the parent forwards a signal to the server, and ends with the server's exit code.
mkfifo /tmp/told
cat /tmp/told >/tmp/told.path &
told=$!
serve --supervise --ready-fd 7 7>/tmp/told
check "the image, supervised" image
# The path must be written and the descriptor closed, also in the parent.
[ "$(cat /tmp/told.path)" = "$device" ] || { say "FAILED: --ready-fd got '$(cat /tmp/told.path)'"; failed=1; }
if kill -0 "$told" 2>/dev/null; then say "FAILED: --ready-fd is still open"; failed=1; fi
stop
# After a kill, the next server knows the settings made through ctl.
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

control=/tmp/ctl
status() {
    snapuserd ctl status --socket "$control"
}
# waits: true if the supervisor reports that it waits, at least ten seconds, which is enough for the following checks.
waits() {
    status 2>/dev/null | grep -q 'is not removed, because .* the next try is in [1-9][0-9] seconds'
}
# kill_until COMMAND …: kills every server of the supervisor $server as soon as it exists, until the command succeeds.
kill_until() {
    last=
    until "$@"; do
        next=$(cat "/proc/$server/task/$server/children" 2>/dev/null | cut -d ' ' -f 1)
        if [ -n "$next" ] && [ "$next" != "$last" ] && kill -KILL "$next"; then last=$next; fi
    done
}
# ended_now: true if the supervisor has ended.
ended_now() {
    ! kill -0 "$server" 2>/dev/null
}
until_true() {
    until "$@"; do usleep 20000; done
}

# Ten servers in a row fail. The device is mounted, so it must not be removed. The pause must grow, and status and the kernel's log must
# report it.
serve --supervise --control "$control"
check "mount under failing servers" mount -t ext4 -o ro "$device" /mnt
kill_until waits
say "waiting: $(status)"
check "the next try" sh -c "snapuserd ctl status --json --socket $control | grep -q '\"state\":\"opening\".*the next try is in'"
check "the kernel's log" sh -c "dmesg | grep -q 'snapuserd.*ublkb0 is not removed, because'"
check "a mounted device still exists" [ -e "$device" ]
expect 69 "a rate for no server" snapuserd ctl rate 1M --socket "$control"
check "the files after failing servers" files
check "the image after failing servers" image
# Now ctl stop must end the pause.
kill_until waits
umount /mnt
check "stop in a pause" snapuserd ctl stop --socket "$control"
wait "$server"
code=$?
[ "$code" -eq 0 ] || { say "FAILED: stopped in a pause, the supervisor ended with $code"; failed=1; }
gone || { say "FAILED: stopped in a pause, $device is still there"; failed=1; }

# A device that is only open, with a waiting read, must not be removed either.
serve --supervise --control "$control"
(exec 9<"$device"; usleep 100000; until [ -e /tmp/go ]; do usleep 20000; done; dd bs=1M <&9 2>/dev/null | sha256sum | cmp -s - /image.sum; echo $? >/tmp/opened) &
opened=$!
kill_until waits
say "waiting: $(status)"
: >/tmp/go
wait "$opened"
[ "$(cat /tmp/opened)" = 0 ] || { say "FAILED: a reader that had the device open saw errors or wrong data"; failed=1; }
stop

# A device that is not in use must be removed, and the supervisor must end.
serve --supervise --control "$control"
kill_until ended_now
wait "$server"
code=$?
say "unused, the supervisor ended with $code: $(tail -n 1 /tmp/serve.err)"
[ "$code" -eq 70 ] || { say "FAILED: expected 70"; failed=1; }
gone || { say "FAILED: unused, $device is still there"; failed=1; }

# Kills the server during ctl stop: before it receives the request, and before its reply reaches ctl. ctl must end with 0 after the
# supervisor has ended and the device is gone.
for moment in before after; do
    rm -f "$control"
    serve --supervise --control "$control"
    /killstop "$moment" "$control" /tmp/between "$(cat "/proc/$server/task/$server/children" | cut -d ' ' -f 1)" 2>/tmp/killstop &
    between=$!
    until_true [ -e /tmp/between ]
    check "stop, killed $moment the request" snapuserd ctl stop --socket /tmp/between
    check "killed $moment the request" grep -q "killed $moment" /tmp/killstop
    wait "$server"
    code=$?
    [ "$code" -eq 0 ] || { say "FAILED: killed $moment the request, the supervisor ended with $code"; failed=1; }
    gone || { say "FAILED: killed $moment the request, $device is still there"; failed=1; }
    kill "$between" 2>/dev/null
    wait "$between"
    rm -f /tmp/between
done

check "nothing holds the driver" rmmod ublk_drv
expect 69 "no driver" snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --progress never
[ "$failed" -eq 0 ] || cat /tmp/serve.err
exit $failed
