# Runs commands that must be refused because another process uses their storage. The script that includes this file sets $fresh, the path of
# a copy of the initial COW, and defines a command `say`. The commands run in parallel, because each of them waits two seconds for the
# locks.
rivals=0
pending=

# rival CODE PATTERN WHAT COMMAND …: the command must end with CODE ("no": with any but 0) and print PATTERN. An argument `@` becomes
# the path of a copy of the COW for this command alone.
rival() {
    (
        wanted=$1
        pattern=$2
        what=$3
        shift 3
        cow=$fresh.$rivals
        for word in "$@"; do
            shift
            [ "$word" != @ ] || { cp "$fresh" "$cow"; word=$cow; }
            set -- "$@" "$word"
        done
        "$@" >"/tmp/rival.$rivals" 2>&1
        code=$?
        rm -f "$cow"
        if [ "$wanted" = no ]; then [ "$code" -ne 0 ]; else [ "$code" -eq "$wanted" ]; fi && grep -q "$pattern" "/tmp/rival.$rivals" && exit
        say "FAILED: $what: $code: $(head -n 1 "/tmp/rival.$rivals")"
        : >/tmp/rivals.failed
    ) &
    pending="$pending $!"
    rivals=$((rivals + 1))
}

# refused: waits for all these commands, and records failures.
refused() {
    # shellcheck disable=SC2086 # a list
    wait $pending
    pending=
    [ ! -e /tmp/rivals.failed ] || failed=1
}

# node PATH: creates another node of the same device and prints its path.
node() {
    name=/tmp/node.$(basename "$1")
    # shellcheck disable=SC2046 # two words
    [ -e "$name" ] || mknod "$name" b $(tr ':' ' ' <"/sys/class/block/$(basename "$(readlink -f "$1")")/dev")
    echo "$name"
}

# loop OFFSET PATH: creates a loop device and prints its path.
loop() {
    loop=$(losetup -f)
    losetup -o "$1" "$loop" "$2"
    echo "$loop"
}
