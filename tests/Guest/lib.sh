# Functions for the host's side of every guest test; run.sh sets the variables:
#   ROOT       the root of the repository          SNAPUSERD  the built program, for this machine
#   KERNEL     the folder of the kernel            INITRAMFS  the archive that all guests start from
#   FOLDER     a folder for this test, empty       HERE       the folder of the test's own files
# and the variables of target.sh about the guest's machine.
set -euo pipefail

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

# vector NAME: unpacks a golden COW and its images: NAME.cow, old.img and new.img. A disk has whole sectors, so the COW grows to whole pages.
vector() {
    "$ROOT/build.sh" tool unpack "$ROOT/tests/vectors/old.img.br" "$ROOT/tests/vectors/new.img.br" "$ROOT/tests/vectors/$1.cow.br"
    truncate -s %4096 "$1.cow"
}

# ramdisk_loop: prints the script that docs/ramdisk.md gives for a ramdisk, unchanged.
ramdisk_loop() {
    sed -n '/^    tries=0$/,/^    done$/s/^    //p' "$ROOT/docs/ramdisk.md" >merge-loop.sh
    grep -q '^done$' merge-loop.sh || fail "docs/ramdisk.md has no loop for ramdisks"
}

# compile SOURCE OUT: compiles a C program for the guest, static.
compile() {
    if [ "$FOREIGN" = yes ]; then
        local triple=x86_64-linux-gnu
        [ "$ARCH" = amd64 ] || triple=aarch64-linux-gnu
        clang --target=$triple "--sysroot=$("$ROOT/build.sh" sysroot)" -fuse-ld=lld -static -O1 -Wall -Werror -o "$2" "$1"
    else
        gcc -static -O1 -Wall -Werror -o "$2" "$1"
    fi
}

# archive NAME FILE…: creates NAME.cpio, the archive of one guest's own files; the files are in the guest's root.
archive() {
    local name=$1
    shift
    rm -rf "$name.root"
    mkdir "$name.root"
    cp -R "$@" "$name.root/"
    (cd "$name.root" && find . | cpio --quiet -o -H newc -R 0:0) >"$name.own"
    cat "$INITRAMFS" "$name.own" >"$name.cpio"
    rm -rf "$name.root" "$name.own"
}

# boot [-a ARCHIVE] [-i INIT] [-k WORDS] [-l LOG] [-c MS] [-t SECONDS] DRIVE…: boots a guest with ARCHIVE.cpio (default: guest) and returns
# the status of its /test.sh. After SECONDS (default: 600, which is many times the duration of any test) the guest is killed. A DRIVE is the
# text after "-drive if=virtio,"; the first is /dev/vda. INIT is the first process (default: /init). WORDS are appended to the kernel
# command line. The console goes to LOG. With -c, QEMU gets SIGKILL that many milliseconds after the guest's line "CUT". Other results: 137
# after a SIGKILL by -c, 124 after SECONDS, and 125 if the guest ended without a status.
boot() {
    local name=guest init=/init words='' log=console cut='' limit=600 other='' drives=() drive option line status='' code=0 OPTIND=1
    while getopts a:i:k:l:c:t: option; do
        case $option in
            a) name=$OPTARG ;; i) init=$OPTARG ;; k) words=$OPTARG ;; l) log=$OPTARG ;; c) cut=$OPTARG ;; t) limit=$OPTARG ;;
            *) fail "boot: unknown option" ;;
        esac
    done
    shift $((OPTIND - 1))
    for drive in "$@"; do drives+=(-drive "if=virtio,$drive"); done

    # Use TCG emulation, because hardware virtualisation does not work everywhere, and these tests do not measure speed.
    rm -f "$log.fifo"
    mkfifo "$log.fifo"
    # no_timer_check: otherwise a kernel panics if the host is so busy that no timer interrupt arrives during the kernel's check.
    # thread=single: with a thread for each processor, kernels that patch code while another processor runs it have crashed. pauth-impdef:
    # the architecture's own algorithm for signing pointers takes half of an emulated processor's time.
    local machine console=ttyS0
    case $ARCH in
        amd64) machine=(qemu-system-x86_64 -cpu max) ;;
        arm64) machine=(qemu-system-aarch64 -M "virt,gic-version=3" -cpu "max,pauth-impdef=on") console=ttyAMA0 ;;
    esac
    "${machine[@]}" -accel "tcg${SMP:+,thread=single}" -smp "${SMP:-1}" -m 256 -nodefaults -no-reboot -display none -serial stdio \
        -kernel "$KERNEL/vmlinux" -initrd "$name.cpio" -append "console=$console quiet panic=-1 no_timer_check rdinit=$init $words" \
        "${drives[@]}" </dev/null >"$log.fifo" 2>&1 &
    local qemu=$! watchdog killer=''
    rm -f "$log.late"
    after "$limit" "$qemu" "$log.late"
    watchdog=$!
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%$'\r'}
        printf '%s\n' "$line" >>"$log"
        case $line in
            "GUEST status "*) status=${line##* } ;;
            "GUEST up "*) case $line in *" ${PAGES%k} kB pages") ;; *) other=$line; kill -KILL "$qemu" ;; esac ;;
            CUT) if [ -n "$cut" ]; then
                after "$((cut / 1000)).$(printf %03d $((cut % 1000)))" "$qemu" /dev/null
                killer=$!
            fi ;;
        esac
    done <"$log.fifo"
    wait "$qemu" 2>/dev/null || code=$?
    kill "$watchdog" ${killer:+"$killer"} 2>/dev/null || true
    wait "$watchdog" ${killer:+"$killer"} 2>/dev/null || true
    rm -f "$log.fifo"
    [ -z "$other" ] || fail "this kernel's pages are not $PAGES: $other"
    [ ! -e "$log.late" ] || return 124
    [ "$code" -ne 137 ] || return 137
    return "${status:-125}"
}

# after SECONDS PROCESS FILE: in the background, sends SIGKILL to PROCESS after SECONDS and records that in FILE. A SIGTERM to this
# background process cancels it.
after() {
    (
        trap 'kill "$nap"; exit' TERM
        sleep "$1" &
        nap=$!
        wait "$nap"
        : >"$3"
        kill -KILL "$2"
    ) >/dev/null 2>&1 </dev/null &
}

# fresh BACKING FORMAT OVERLAY: creates an empty qcow2 overlay. Until the guest flushes, only QEMU's own memory records which clusters of a
# fresh overlay are in use. So a SIGKILL of QEMU loses exactly the unflushed data. (With a raw image it would lose nothing.)
fresh() {
    qemu-img create -q -f qcow2 -F "$2" -b "$(realpath "$1")" "$3"
}

# same IMAGE FORMAT RAW: true if both hold the same bytes.
same() {
    qemu-img compare -q -f "$2" -F raw "$1" "$3"
}
