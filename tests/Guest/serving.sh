# What guests that serve a merged view share. Who includes it sets $kind, what `--device` takes; $options, what goes with it; $device, the path that comes of
# that; $files, the folder with the files of files.sum; and has a command `gone`: nothing is left of the device.
failed=0

# say WORD …: a line that the host shows.
say() {
    echo "$kind: $*"
}

# check WHAT COMMAND …
check() {
    what=$1
    shift
    if "$@" >/tmp/output 2>&1; then return 0; fi
    say "FAILED: $what"
    head -n 5 /tmp/output
    head -n 5 /tmp/serve.err
    failed=1
}

# expect CODE WHAT COMMAND …
expect() {
    wanted=$1
    what=$2
    shift 2
    "$@" >/tmp/output 2>&1
    code=$?
    say "$what: $code: $(head -n 1 /tmp/output)"
    [ "$code" -eq "$wanted" ] || { say "FAILED: expected $wanted"; failed=1; }
}

# serve OPTION …: starts the server, $server, and waits until it says that its device is usable.
serve() {
    rm -f /tmp/ready
    mkfifo /tmp/ready
    # shellcheck disable=SC2086 # some words or none
    snapuserd serve --cow /dev/vda --base /dev/vdb --device "$kind" $options --progress never "$@" >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    read -r said </tmp/ready || said=nothing
    [ "$said" = "$device" ] || { say "FAILED: the server said $said"; cat /tmp/serve.err; exit 1; }
}

# serve_slowly OPTION …: starts it and has it merge so slowly that a kill comes in the midst of that, however fast or slow this machine is; `faster` is the end of that.
serve_slowly() {
    serve --merge-on-request --control /tmp/control "$@"
    check "a rate" snapuserd ctl rate 20k --socket /tmp/control
    check "a merge on request" snapuserd ctl merge --socket /tmp/control
}

# faster: a server that is about to come again has no socket for a moment.
faster() {
    until snapuserd ctl rate off --socket /tmp/control >/tmp/output 2>&1; do usleep 100000; done
}

# stop: ends the server; it leaves no device behind.
stop() {
    kill "$server"
    wait "$server"
    ended=$?
    [ "$ended" -eq 0 ] || { say "FAILED: the server ended with $ended"; cat /tmp/serve.err; failed=1; }
    gone || { say "FAILED: $device is still there"; failed=1; }
}

# files: all files are what they are to be.
files() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd "$files" && sha256sum -c /files.sum)
}

# image: so is the device.
image() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$device" bs=1M 2>/dev/null | sha256sum | cmp - /image.sum
}

# merged: "N of M", as the COW says it.
merged() {
    snapuserd inspect --cow /dev/vda 2>&1 | sed -n 's/^Merge ops: *//p'
}

# await: waits until something is merged.
await() {
    tries=0
    while [ "$tries" -lt 6000 ] && [ "$(merged | cut -d ' ' -f 1)" = 0 ]; do
        tries=$((tries + 1))
        usleep 50000
    done
}

# midway COUNT: a COUNT of merged is one in the middle.
midway() {
    [ "${1%% *}" -gt 0 ] && [ "${1%% *}" -lt "${1##* }" ]
}

# read_on: reads the files and the image over and over, $reader, until enough was read.
read_on() {
    (
        while [ ! -e /tmp/enough ]; do
            files >/dev/null 2>&1 || echo files >>/tmp/lost
            image || echo image >>/tmp/lost
            echo >>/tmp/rounds
        done
    ) &
    reader=$!
}

# enough: ends that, and says what it saw.
enough() {
    : >/tmp/enough
    wait "$reader"
    say "$(wc -l </tmp/rounds) rounds of all files and the image, through the kills"
    [ ! -e /tmp/lost ] || { say "FAILED: readers saw errors or other bytes: $(sort /tmp/lost | uniq -c | tr '\n' ' ')"; failed=1; }
}

# to_the_end: waits until all is merged; the view is still the image.
to_the_end() {
    tries=0
    while [ "$tries" -lt 1500 ]; do
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
}
