# Runs two merges at a time. When the second begins, the first has more than half of the memory, and returns buffers while adjacent buffers
# are in use. An Arena.Forget that returns partial pages makes the base wrong with 22512k on pages of 16 KiB.
failed=0
mkdir /mnt /sockets
mount -t ext4 /dev/vda /mnt || exit 1

# complete NAME: true if its merge is complete.
complete() {
    kill -0 "$daemon" || { cat /tmp/daemon.err; exit 1; }
    [ "$(/ask /tmp/socket "getstatus,$1")" = snapshot-merge-complete ]
}

# begin NAME: serves the copies with that name.
begin() {
    /ask /tmp/socket "init,$1,/mnt/$1.cow,/mnt/$1.base,/mnt/$1.base" "start,$1" >/tmp/answers
    [ "$(grep -c '^success' /tmp/answers)" -eq 2 ] || { echo "memory: FAILED: $1 does not start"; cat /tmp/daemon.err; exit 1; }
}

# writes NAME: waits until its merge has written at least one byte.
writes() {
    until snapuserd ctl status "$1" --json --socket /tmp/socket | grep -q '"bytes":[1-9]'; do
        kill -0 "$daemon" || { cat /tmp/daemon.err; exit 1; }
        usleep 20000
    done
}

# resident NAME: VmHWM or VmRSS of the daemon, in KiB.
resident() {
    sed -n "s/^$1:[^0-9]*\([0-9]*\) kB$/\1/p" "/proc/$daemon/status"
}

# round MEMORY OPTION…: runs both merges.
round() {
    memory=$1
    shift
    for name in first second; do
        cp /mnt/old.img "/mnt/$name.base"
        cp /mnt/cow "/mnt/$name.cow"
    done
    snapuserd daemon --socket /tmp/socket --device nbd --socket-folder /sockets --merges 2 --memory "$memory" "$@" 2>/tmp/daemon.err &
    daemon=$!
    until [ "$(/ask /tmp/socket query 2>/dev/null)" = active ]; do
        kill -0 "$daemon" || { cat /tmp/daemon.err; exit 1; }
        usleep 20000
    done
    idle=$(resident VmRSS)
    # Limits the rates so that both merges are active at the same time: the first reads ahead as far as its memory permits, and writes
    # slowly until the second has begun. Then runs both to the end.
    begin first
    snapuserd ctl rate 1M first --socket /tmp/socket || failed=1
    /ask /tmp/socket initiate_merge,first >/tmp/answers
    writes first
    begin second
    snapuserd ctl rate 64k second --socket /tmp/socket || failed=1
    /ask /tmp/socket initiate_merge,second >/tmp/answers
    writes second
    for name in first second; do
        snapuserd ctl rate off "$name" --socket /tmp/socket || failed=1
        until complete "$name"; do usleep 50000; done
    done
    # The measured peak is 8 MiB above the limit for buffers. If buffers are not returned, it is 14 MiB above.
    peak=$(resident VmHWM)
    [ "$peak" -lt $((${memory%k} + 11 * 1024)) ] || { echo "memory: FAILED: $memory $*: peak of $peak KiB"; failed=1; }
    /ask /tmp/socket stop
    wait "$daemon" || { echo "memory: FAILED: the daemon ended with $?"; cat /tmp/daemon.err; failed=1; }
    for name in first second; do
        cmp "/mnt/$name.base" /mnt/new.img || { echo "memory: FAILED: $memory $*: the $name base is not the target"; failed=1; }
    done
    echo "memory: $memory $*: two merges at a time; $idle KiB before, peak of $peak KiB"
}

# A buffer has a quarter of the memory that remains beside the op table, in whole blocks. So with 16 KiB less memory it is one block
# shorter, and its start and end move relative to a page.
round 22528k --io auto
round 22512k --io sync
round 22496k --io auto
round 22480k --io sync
exit "$failed"
