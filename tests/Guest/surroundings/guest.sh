failed=0
. /calls.sh
mkdir /tmp/work
cd /tmp/work || exit 1

# lost WHAT: reports a failure.
lost() {
    echo "surroundings: FAILED: $*"
    head -n 5 /tmp/output
    failed=1
}

# fresh: resets the folder to the base and the COW in their initial state.
fresh() {
    rm -rf ./*
    cp /old.img base
    cp /cow cow
}

# expect CODE WHAT COMMAND …: the command must end with CODE. Writes standard error to /tmp/errors, and all output to /tmp/output.
expect() {
    wanted=$1
    what=$2
    shift 2
    "$@" >/tmp/output 2>/tmp/errors
    code=$?
    cat /tmp/errors >>/tmp/output
    [ "$code" -eq "$wanted" ] || lost "$what: ended with $code instead of $wanted"
}

# holds FILE WHAT [OTHER]: OTHER (default: base) must equal FILE.
holds() {
    cmp "$1" "${3:-base}" >/tmp/output 2>&1 || lost "$2: ${3:-base} is not $1"
}

# only WHAT FILE …: the folder must have exactly these files.
only() {
    what=$1
    shift
    found=$(ls | tr '\n' ' ')
    [ "$found" = "$* " ] || lost "$what: the folder has $found"
}

# records PATTERN: prints how many records of the program in the kernel's log match.
records() {
    dmesg | grep 'snapuserd\[[0-9]*\]: ' | grep -c "$1"
}

merge="merge --cow cow --base base --progress never"

# Signals: killat sends them at a certain system call, and the handler runs when that call ends.
for signal in 1 2 15; do
    for at in "sync 3@$fdatasync" "uring 3@$io_uring_enter"; do
        fresh
        io=${at% *}
        # shellcheck disable=SC2086 # some words
        expect 75 "merge, signal $signal, $io" /killat "signal=$signal:${at#* }" /bin/snapuserd $merge --io "$io"
        # shellcheck disable=SC2086
        expect 0 "the same merge again, $io" snapuserd $merge --io "$io"
        holds /new.img "merge after signal $signal, $io"
    done
done
# ignored: runs a merge that begins with SIGHUP ignored.
ignored() {
    (
        trap '' HUP
        # shellcheck disable=SC2086
        exec /killat "signal=1:3@$fdatasync" /bin/snapuserd $merge --io sync
    )
}
fresh
expect 0 "merge, SIGHUP ignored" ignored
holds /new.img "merge, SIGHUP ignored"
for call in 1 4 12 40; do
    fresh
    expect 75 "verify, SIGTERM at read $call" /killat "signal=15:$call@$pread64" \
        /bin/snapuserd verify --cow cow --base base --io sync --progress never
done
fresh
expect 75 "create, SIGTERM" /killat "signal=15:1@$pwrite64" \
    /bin/snapuserd create --source /old.img --target /new.img --output out --progress never
only "create, SIGTERM" base cow
expect 75 "extract, SIGTERM" /killat "signal=15:1@$fsync" \
    /bin/snapuserd extract --cow cow --base base --output out --progress never
only "extract, SIGTERM" base cow
echo "surroundings: signals stop merge, verify, create and extract"

# Locks: the file that create and extract replace must stay locked until it is replaced.
for verb in "create --source /old.img --target /new.img" "extract --cow /cow --base /old.img"; do
    fresh
    mkfifo go
    # shellcheck disable=SC2086
    /killat "hold:1@$rename" /bin/snapuserd $verb --output cow --progress never <go >/tmp/held 2>&1 &
    holder=$!
    exec 3>go
    until grep -q '^held' /tmp/held; do
        kill -0 "$holder" 2>/dev/null || { lost "${verb%% *}: no rename"; cat /tmp/held; break; }
        usleep 20000
    done
    # shellcheck disable=SC2086
    expect 76 "a merge while ${verb%% *} replaces its COW" snapuserd $merge
    exec 3>&-
    wait "$holder"
    code=$?
    [ "$code" -eq 0 ] || lost "${verb%% *}: ended with $code"
    holds /old.img "a merge while ${verb%% *} replaces its COW"
done
echo "surroundings: a file is locked until it is replaced"

# The kernel's log.
fresh
# shellcheck disable=SC2086
expect 0 "merge, log to the kernel" snapuserd $merge --log kmsg
[ ! -s /tmp/errors ] || lost "merge, log to the kernel: standard error is not empty"
[ "$(records 'merge of cow begins at op 0 of ')" -eq 1 ] && [ "$(records ': merged: ')" -eq 1 ] ||
    lost "merge, log to the kernel: $(dmesg | tail -n 3)"
expect 64 "an unknown option" snapuserd merge --bsae base --log=kmsg
[ ! -s /tmp/errors ] || lost "an unknown option: standard error is not empty"
[ "$(records "unknown option '--bsae'")" -eq 1 ] || lost "an unknown option: $(dmesg | tail -n 3)"
echo "surroundings: the kernel's log has beginning, summary and error"

# An empty root: no library, /dev, /proc or /sys.
fresh
cp /bin/snapuserd .
expect 0 "merge in an empty root" chroot . /snapuserd merge --cow /cow --base /base
holds /new.img "merge in an empty root"
only "merge in an empty root" base cow snapuserd
# closed: runs a merge without standard streams.
closed() {
    chroot . /snapuserd merge --cow /cow --base /base <&- >&- 2>&-
}
fresh
cp /bin/snapuserd .
expect 0 "merge without standard streams" closed
holds /new.img "merge without standard streams"
fresh
cp /bin/snapuserd .
expect 0 "merge without a kernel's log" chroot . /snapuserd merge --cow /cow --base /base --log kmsg
grep -q '^snapuserd: /dev/kmsg cannot be written, .*ENOENT' /tmp/errors || lost "merge without a kernel's log: no message"
holds /new.img "merge without a kernel's log"
# The log is /dev/full, so a write fails with ENOSPC.
mkdir dev
mknod dev/kmsg c 1 7
expect 66 "a full kernel's log" chroot . /snapuserd merge --cow /none --base /base --log kmsg
grep -q '^snapuserd: /dev/kmsg cannot be written' /tmp/errors && grep -q '^snapuserd: cannot open /none: ' /tmp/errors ||
    lost "a full kernel's log: not both messages"
echo "surroundings: an empty root is enough"
exit "$failed"
