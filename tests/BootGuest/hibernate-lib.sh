# Common code of the scenarios about hibernation: a system that runs from the plain device hibernates, and the update is on the COW's disk
# when the machine starts again. A merge at that point would write data of which the memory image knows nothing.
. "$HERE/lib.sh"
before=snapuserd.merge=before

# hibernate: creates swap.image, a swap disk with the memory image of a running system.
hibernate() {
    disks
    truncate -s 320M swap
    mkswap -q swap
    fresh swap raw swap.image
    truncate -s "$(stat -L -c %s cow)" zeros
    fresh zeros raw zeros.0
    start console.hibernate boottest=hibernate "file=base.0,format=qcow2" "file=zeros.0,format=qcow2" "file=swap.image,format=qcow2"
    [ "$code" -eq 125 ] || fail "hibernating ended with $code"
    shows console.hibernate 'boot: hibernates' "the system before it hibernates"
    hibernated swap.image || fail "there is no image on the swap disk"
}

# hibernated SWAP: whether its header has the signature of an image.
hibernated() {
    qemu-img convert -f qcow2 -O raw "$1" "$1.raw"
    local signature
    signature=$(tail -c +4087 "$1.raw" | head -c 9)
    rm -f "$1.raw"
    [ "$signature" = S1SUSPEND ]
}

# again NAME WORDS: boots with the image and the update, on fresh overlays of the disks: base.NAME, cow.NAME, swap.NAME.
again() {
    fresh old.img raw "base.$1"
    fresh cow raw "cow.$1"
    fresh swap.image qcow2 "swap.$1"
    start "console.$1" "$2" "file=base.$1,format=qcow2" "file=cow.$1,format=qcow2" "file=swap.$1,format=qcow2"
}

# untouched NAME: nothing was written to base and COW.
untouched() {
    same "base.$1" qcow2 old.img || fail "$1: the base has changed"
    same "cow.$1" qcow2 cow || fail "$1: the COW has changed"
}

# resumes NAME WORDS: the image is resumed, and base and COW are unchanged.
resumes() {
    again "$1" "boottest=look $before $2"
    ended 0 "$1: resuming"
    shows "console.$1" 'boot: resumed, vda below' "$1: the memory image"
    ! grep -aq 'boot: up' "console.$1" || fail "$1: a second system has booted"
    untouched "$1"
}
