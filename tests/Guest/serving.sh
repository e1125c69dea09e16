# Common code of guests that serve a merged view. The script that includes this file sets these variables: $kind, the value of `--device`;
# $options, its further options; $device, the path of the resulting device; $files, the folder with the files of files.sum. It also defines
# a command `gone`, which is true if the device does not exist any more.
failed=0

# say WORD …: prints a line that the host shows.
say() {
    echo "$kind: $*"
}

# check WHAT COMMAND …: the command must succeed.
check() {
    what=$1
    shift
    if "$@" >/tmp/output 2>&1; then return 0; fi
    say "FAILED: $what"
    head -n 5 /tmp/output
    head -n 5 /tmp/serve.err
    failed=1
}

# expect CODE WHAT COMMAND …: the command must end with CODE.
expect() {
    wanted=$1
    what=$2
    shift 2
    "$@" >/tmp/output 2>&1
    code=$?
    say "$what: $code: $(head -n 1 /tmp/output)"
    [ "$code" -eq "$wanted" ] || { say "FAILED: expected $wanted"; failed=1; }
}

# serve OPTION …: starts the server, $server, and waits until it reports its device as ready.
serve() {
    rm -f /tmp/ready
    mkfifo /tmp/ready
    # shellcheck disable=SC2086 # some words or none
    snapuserd serve --cow /dev/vda --base /dev/vdb --device "$kind" $options --progress never "$@" >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    read -r said </tmp/ready || said=nothing
    [ "$said" = "$device" ] || { say "FAILED: the server said $said"; cat /tmp/serve.err; exit 1; }
}

# serve_slowly OPTION …: starts the server and a merge so slow that a kill comes in the middle of it on any machine; `faster` removes the
# limit.
serve_slowly() {
    serve --merge-on-request --control /tmp/control "$@"
    check "a rate" snapuserd ctl rate 20k --socket /tmp/control
    check "a merge on request" snapuserd ctl merge --socket /tmp/control
}

# faster: removes the limit. Repeats the request, because there is no socket for a moment while a server restarts.
faster() {
    until snapuserd ctl rate off --socket /tmp/control >/tmp/output 2>&1; do usleep 100000; done
}

# stop: ends the server and checks that the device is gone.
stop() {
    kill "$server"
    wait "$server"
    ended=$?
    [ "$ended" -eq 0 ] || { say "FAILED: the server ended with $ended"; cat /tmp/serve.err; failed=1; }
    gone || { say "FAILED: $device is still there"; failed=1; }
}

# files: checks that all files have the expected contents.
files() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd "$files" && sha256sum -c /files.sum)
}

# image: checks that the device has the expected contents.
image() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$device" bs=1M 2>/dev/null | sha256sum | cmp - /image.sum
}

# merged: prints "N of M", as stored in the COW.
merged() {
    snapuserd inspect --cow /dev/vda 2>&1 | sed -n 's/^Merge ops: *//p'
}

# await: waits until at least one op is merged, but not for ever.
await() {
    tries=0
    while [ "$tries" -lt 6000 ] && [ "$(merged | cut -d ' ' -f 1)" = 0 ]; do
        tries=$((tries + 1))
        usleep 50000
    done
}

# midway COUNT: true if COUNT, the output of merged, is neither zero nor complete.
midway() {
    [ "${1%% *}" -gt 0 ] && [ "${1%% *}" -lt "${1##* }" ]
}

# read_on: starts $reader, which reads the files and the image repeatedly until the file /tmp/enough exists.
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

# enough: ends the reader and prints its results.
enough() {
    : >/tmp/enough
    wait "$reader"
    say "$(wc -l </tmp/rounds) rounds of all files and the image, through the kills"
    [ ! -e /tmp/lost ] || { say "FAILED: readers saw errors or wrong data: $(sort /tmp/lost | uniq -c | tr '\n' ' ')"; failed=1; }
}

# to_the_end: waits until everything is merged, and checks that the device still shows the image.
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
