# Commands that must not get what another process has. Who includes it has a command `say`, an untouched COW at $fresh, and says what $base is.
# They run beside each other, because each of them tries for two seconds.
rivals=0
pending=

# rival CODE PATTERN WHAT COMMAND …: the command is to end with CODE (no: with any but 0) and a sentence that has PATTERN. `@` in an argument is a COW that this command has for itself.
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

# refused: waits for them.
refused() {
    # shellcheck disable=SC2086 # a list
    wait $pending
    pending=
    [ ! -e /tmp/rivals.failed ] || failed=1
}

# node PATH: another node of the same number, whose path is printed.
node() {
    name=/tmp/node.$(basename "$1")
    # shellcheck disable=SC2046 # two words
    [ -e "$name" ] || mknod "$name" b $(tr ':' ' ' <"/sys/class/block/$(basename "$(readlink -f "$1")")/dev")
    echo "$name"
}

# loop OFFSET PATH: a loop device, whose path is printed.
loop() {
    loop=$(losetup -f)
    losetup -o "$1" "$loop" "$2"
    echo "$loop"
}
