# Kills a server while it starts, takes over or hands over. After each kill the next server must take the device over, waiting reads must
# return the right data, no process may be stuck, and the kernel must not log a fault. The host's file "points" has one line for each kill.
# If its only line is "count", this script instead prints the number of calls and tests a hand-over that fails.
. /settings
failed=0
done=0
device=/dev/ublkb0
cow=/tmp/cow
base=/dev/loop0
# The limit in seconds for each wait. It is large, because the processor is emulated on a possibly busy machine, and a stuck process stays
# stuck for ever. The longest wait is printed.
limit=60
longest=0
mkdir -p /mnt /mnt2 /tmp/readers

say() {
    echo "kills: $*"
}

now() {
    cut -d . -f 1 /proc/uptime
}

# wrong WHAT: reports a failure at the current point.
wrong() {
    say "FAILED: $point: $*"
    tail -n 3 /tmp/serve.err
    failed=1
}

# within COMMAND …: repeats the command until it succeeds; false after the limit.
within() {
    began=$(now)
    until "$@"; do
        [ "$(now)" -lt $((began + limit)) ] || return 1
        usleep 20000
    done
    took=$(($(now) - began))
    [ "$took" -le "$longest" ] || longest=$took
}

# restore: resets COW and base to their initial state.
restore() {
    cp /cow "$cow"
    dd if=/old.img of=/tmp/base bs=1M conv=notrunc 2>/dev/null
    blockdev --flushbufs "$base"
}

# server OPTION …: stores the command line in the variable command.
server() {
    command="/bin/snapuserd serve --cow $cow --base $base --device ublk --name ublkb0 $queue_option --io sync --progress never $*"
}

is_ready() {
    grep -q . /tmp/ready || ! kill -0 "$server" 2>/dev/null
}

# serve: starts a server and waits until it reports that the device can be used.
serve() {
    : >/tmp/ready
    $command >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    within is_ready || { wrong "the next server is not ready after $limit s"; return 1; }
    grep -q . /tmp/ready && return 0
    wait "$server"
    wrong "the next server ended with $?"
    return 1
}

# die: sends SIGKILL to the running server.
die() {
    kill -KILL "$server"
    wait "$server"
}

stop() {
    kill "$server"
    wait "$server" || wrong "the server ended with $? when it was stopped"
    [ ! -e "$device" ] || wrong "$device is still there"
}

# killed [CODE]: runs the server until the kill of this point. The server may also end by itself with CODE.
killed() {
    /killpoint "$call" "$delay" $command >/tmp/killed.out 2>/tmp/killed.err
    code=$?
    [ "$code" -eq 137 ] || [ "$code" -eq "${1:-137}" ] || { wrong "the server to be killed ended with $code"; tail -n 3 /tmp/killed.err; }
}

image() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$1" bs=64k 2>/dev/null | sha256sum | cmp -s - /image.sum
}

# readers: starts two readers while there is no server: one of the whole device, one of the files of the mounted file system.
readers() {
    echo 3 >/proc/sys/vm/drop_caches
    rm -f /tmp/readers/*
    (dd if="$device" bs=64k 2>/dev/null | sha256sum | cmp -s - /image.sum; echo $? >/tmp/readers/device) &
    (cd /mnt/files && sha256sum -c /files.sum >/dev/null 2>&1; echo $? >/tmp/readers/files) &
}

have_read() {
    [ -s /tmp/readers/device ] && [ -s /tmp/readers/files ]
}

none_stuck() {
    ! cat /proc/[0-9]*/stat 2>/dev/null | grep -q ') D '
}

# sound: checks that no process is stuck, and that the kernel has logged no fault since the last check.
sound() {
    within none_stuck || { wrong "a process is in state D"; ps -o pid,stat,comm | grep ' D'; for one in /proc/[0-9]*; do grep -q ') D ' "$one/stat" && cat "$one/stack"; done; }
    if dmesg -c | grep -E 'BUG|Oops|WARNING|protection fault|NULL pointer|blocked for more' >/tmp/faults; then
        wrong "the kernel says: $(head -n 3 /tmp/faults)"
    fi
}

# start: kills a server while it starts; the next one must serve.
start() {
    server
    killed
    serve || return
    image "$device" || wrong "wrong data on the device"
    stop
}

# up: starts a server whose device is mounted, to be killed and taken over repeatedly.
up() {
    server
    serve || return 1
    mount -t ext4 -o ro "$device" /mnt || wrong "no mount"
}

down() {
    umount /mnt
    stop
}

# takeover: kills a server while it takes over a device with readers and a mounted file system; the next one must take it over.
takeover() {
    die
    readers
    killed
    serve || return
    within have_read || { wrong "readers still wait after $limit s"; return; }
    [ "$(cat /tmp/readers/device /tmp/readers/files | tr '\n' ' ')" = "0 0 " ] || wrong "readers saw errors or wrong data: device $(cat /tmp/readers/device), files $(cat /tmp/readers/files)"
}

is_gone() {
    ! kill -0 "$server" 2>/dev/null
}

# handover: kills a server in the middle of the hand-over to a mapped device, and the next one while it takes over; the third server must
# complete the hand-over.
handover() {
    restore
    server --mapper root --merge
    /dm kill "$step" $command >/dev/null 2>>/tmp/serve.err
    reader=
    if [ -e /dev/mapper/root ]; then
        (mount -t ext4 -o ro,noload /dev/mapper/root /mnt && (cd /mnt/files && sha256sum -c /files.sum) >/dev/null 2>&1; echo $? >/tmp/mapped; umount /mnt) &
        reader=$!
    fi
    killed 0
    $command >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    within is_gone || { wrong "the hand-over is not done after $limit s"; return; }
    wait "$server" || wrong "the last server ended with $?"
    if [ -n "$reader" ]; then
        wait "$reader"
        [ "$(cat /tmp/mapped)" = 0 ] || wrong "the reader of the mapped device saw errors or wrong data"
    fi
    [ "$(/dm table root)" = "$on_base" ] || wrong "the table is $(/dm table root)"
    image /dev/mapper/root || wrong "wrong data on the mapped device"
    /dm remove root
    rm -f /dev/mapper/root
}

handover_failed() {
    snapuserd ctl status --socket /tmp/ctl 2>/dev/null | grep -q 'handover: failed, retried at next start' &&
        snapuserd ctl status --json --socket /tmp/ctl | grep -q '"handover":"failed, retried at next start"'
}

# failed_handover: another program mounts the base after the server has released it and before the table is loaded. Status must report the
# failure, and the next start must complete the hand-over.
failed_handover() {
    restore
    queue_option="--queues 1"
    server --mapper root --merge-on-request --control /tmp/ctl --supervise
    serve || return
    child=$(cut -d ' ' -f 1 "/proc/$server/task/$server/children")
    # The merge begins after the tool has attached to the server.
    /dm at "$child" "mount -t ext4 -o ro,noload $base /mnt2" >/tmp/at 2>&1 &
    at=$!
    within grep -q 'TracerPid:[^0-9]*[1-9]' "/proc/$child/status" || wrong "the server is not traced"
    snapuserd ctl merge --socket /tmp/ctl || wrong "no merge"
    wait "$at" || wrong "the base was not mounted: $(cat /tmp/at)"
    # The wait is long, because the server tries 500 times before it gives up.
    limit=300
    within handover_failed || wrong "status does not say that the hand-over failed: $(snapuserd ctl status --socket /tmp/ctl 2>&1)"
    limit=60
    longest=0
    umount /mnt2
    kill -KILL "$child"
    within is_gone || { wrong "the hand-over is not done after $limit s"; return; }
    wait "$server" || wrong "the supervisor ended with $?"
    [ "$(/dm table root)" = "$on_base" ] || wrong "the table is $(/dm table root)"
    /dm remove root
    rm -f /dev/mapper/root
    restore
    say "a hand-over that failed was completed by the next server"
}

truncate -s "$(stat -c %s /old.img)" /tmp/base
restore
losetup "$base" /tmp/base
on_base="$(($(stat -c %s /image) / 512)) linear $(cat /sys/block/loop0/dev) 0 rw"
point="the first server"
# Prints the number of calls from opening the driver until the server is ready, for each kind of kill and number of queues.
if [ "$(cat /points)" = count ]; then
    point="a hand-over that fails"
    failed_handover
    point="the first server"
    for queues in 1 2; do
        queue_option="--queues $queues"
        server
        call=0 delay=0
        killed
        started=$(tail -n 1 /tmp/killed.err)
        up
        die
        server
        killed
        say "calls $queues $started $(tail -n 1 /tmp/killed.err)"
        serve
        down
    done
fi
before=
while read -r kind queues call delay step; do
    [ "$kind" != count ] || continue
    queue_option="--queues $queues"
    point="$kind with $queues queues at call $call, $delay us later${step:+, after step $step}"
    if [ "$before" != "$kind $queues" ]; then
        [ "${before% *}" != takeover ] || down
        [ "$kind" = handover ] || restore
        before="$kind $queues"
        [ "$kind" != takeover ] || up || break
    fi
    $kind
    sound
    done=$((done + 1))
    [ "$failed" -eq 0 ] || break
    [ $((done % 100)) -ne 0 ] || say "$done kills so far, $(now) s"
done </points
[ "${before% *}" != takeover ] || [ "$failed" -ne 0 ] || down
say "$done kills; the longest wait for a server or a reader took $longest s"
[ "$failed" -eq 0 ] || dmesg | tail -n 30
exit "$failed"
