# What the parts of this test share.
kind=ublk
options="--name ublkb0 --mapper root"
device=/dev/mapper/root
files=/mnt/files
gone() {
    [ ! -e /dev/ublkb0 ] && [ ! -e "$device" ] && [ ! -h "$device" ]
}
. /serving.sh
say() {
    echo "mapper: $*"
}
. /rivals.sh
# A COW of another update of the same base, as far as who may merge is concerned.
fresh=/tmp/fresh.cow

# child [PROCESS]: the server of the supervisor $server, waited for; another than PROCESS.
child() {
    child=
    while [ -z "$child" ] || [ "$child" = "${1:-}" ]; do
        usleep 20000
        child=$(cat "/proc/$server/task/$server/children" | cut -d ' ' -f 1)
    done
    echo "$child"
}

# nobody PROCESS: waits until it has ended, also if its parent has not heard of it.
nobody() {
    until ! grep -qv ' Z ' "/proc/$1/stat" 2>/dev/null; do usleep 20000; done
}

# rivals WHEN [given-up]: no other command of ours gets the COW or the base by any name; and no other program the base, unless the hold on it is given up for the table.
rivals() {
    rival 76 /dev/vdb "$1: another merge" snapuserd merge --cow @ --base /dev/vdb --progress never
    rival 76 "$looped" "$1: another merge through a loop device" snapuserd merge --cow @ --base "$looped" --progress never
    rival 76 /tmp/node "$1: another merge through another node" snapuserd merge --cow @ --base "$(node /dev/vdb)" --progress never
    rival 76 /dev/vda "$1: the same merge" snapuserd merge --cow /dev/vda --base /dev/vdb --progress never
    rival 76 /dev/vda "$1: create over the COW" snapuserd create --source "$fresh" --target /tmp/zeros --output /dev/vda --progress never
    rival 76 /dev/vd "$1: extract" snapuserd extract --cow /dev/vda --base /dev/vdb --output /tmp/extracted --progress never
    rival 76 /dev/vd "$1: verify" snapuserd verify --cow /dev/vda --base /dev/vdb --progress never
    [ "${2:-}" = given-up ] || rival no busy "$1: a mount" mount -t ext4 -o ro,noload /dev/vdb /mnt2
    refused
}
