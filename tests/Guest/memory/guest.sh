# Two merges at a time whose memory is too small for both: the first gives a part of its buffers back, while neighbouring buffers are in use. On regular
# files, in a disk's file system and in memory.
failed=0
mkdir /mnt /sockets
mount -t ext4 /dev/vda /mnt || exit 1

# merge FOLDER OPTION…: one round in that folder.
merge() {
    folder=$1
    shift
    for number in 1 2; do
        cp /mnt/old.img "$folder/base$number"
        cp /mnt/cow "$folder/cow$number"
    done
    snapuserd daemon --socket /tmp/socket --device nbd --socket-folder /sockets --merges 2 --memory 22M "$@" 2>/tmp/daemon.err &
    daemon=$!
    until [ "$(/ask /tmp/socket query 2>/dev/null)" = active ]; do
        kill -0 "$daemon" || { cat /tmp/daemon.err; exit 1; }
        usleep 20000
    done
    for number in 1 2; do
        /ask /tmp/socket "init,$number,$folder/cow$number,$folder/base$number,$folder/base$number" "start,$number"
    done >/tmp/answers
    /ask /tmp/socket initiate_merge,1 initiate_merge,2 >>/tmp/answers
    ! grep -v '^success' /tmp/answers || failed=1
    for number in 1 2; do
        until [ "$(/ask /tmp/socket "getstatus,$number")" = snapshot-merge-complete ]; do
            kill -0 "$daemon" || { cat /tmp/daemon.err; exit 1; }
            usleep 50000
        done
    done
    /ask /tmp/socket stop
    wait "$daemon" || { echo "memory: FAILED: the daemon ended with $?"; cat /tmp/daemon.err; failed=1; }
    for number in 1 2; do
        cmp "$folder/base$number" /mnt/new.img || { echo "memory: FAILED: $folder $*: base $number is not the target"; failed=1; }
    done
    rm -f "$folder"/base? "$folder"/cow?
}

for round in 1 2 3; do
    merge /mnt --io auto
    merge /tmp --io auto
    merge /mnt --io sync
    echo "memory: round $round of 3: two merges at a time, three times"
done
exit "$failed"
