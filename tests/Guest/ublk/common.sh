# What the guests of this test share.
device=/dev/ublkb0
failed=0

# say WORD …: a line that the host shows.
say() {
    echo "ublk: $*"
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
    snapuserd serve --cow /dev/vda --base /dev/vdb --device ublk --name ublkb0 --progress never "$@" >/tmp/ready 2>>/tmp/serve.err &
    server=$!
    read -r said </tmp/ready || said=nothing
    [ "$said" = "$device" ] || { say "FAILED: the server said $said"; cat /tmp/serve.err; exit 1; }
}

# stop: ends the server; it leaves no device behind.
stop() {
    kill "$server"
    wait "$server"
    ended=$?
    [ ! -e "$device" ] || { say "FAILED: $device is still there"; failed=1; }
}

files() {
    echo 3 >/proc/sys/vm/drop_caches
    (cd /mnt/files && sha256sum -c /files.sum)
}

image() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$device" bs=1M 2>/dev/null | sha256sum | cmp - /image.sum
}

merged() {
    snapuserd inspect --cow /dev/vda | sed -n 's/^Merge ops: *//p'
}

# await: waits until something is merged.
await() {
    tries=0
    while [ "$tries" -lt 200 ] && [ "$(merged | cut -d ' ' -f 1)" = 0 ]; do
        tries=$((tries + 1))
        usleep 50000
    done
}

# midway COUNT: a COUNT of merged is one in the middle.
midway() {
    [ "${1%% *}" -gt 0 ] && [ "${1%% *}" -lt "${1##* }" ]
}
