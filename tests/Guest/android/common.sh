# Common code of guest.sh and mapped.sh.
failed=0
say() {
    echo "android: $*"
}

# expect CODE WHAT WORDS…: runs a command, which must end with CODE.
expect() {
    expected=$1 what=$2
    shift 2
    "$@" >/tmp/out 2>/tmp/err
    code=$?
    if [ "$code" -eq "$expected" ]; then say "$what: $code"; else
        say "FAILED: $what: $code, not $expected"
        cat /tmp/out /tmp/err
        failed=1
    fi
}

# tells WORDS WHAT: what the last command said must contain the words.
tells() {
    grep -qF "$1" /tmp/out /tmp/err || { say "FAILED: $2: it does not say \"$1\""; cat /tmp/out /tmp/err; failed=1; }
}
