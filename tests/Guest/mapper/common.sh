# Common code of guest.sh and table.sh.
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
# A copy of the initial COW, so that other merges of the same base can be tried.
fresh=/tmp/fresh.cow

# child [PROCESS]: waits for a server of the supervisor $server, other than PROCESS, and prints its process ID.
child() {
    child=
    while [ -z "$child" ] || [ "$child" = "${1:-}" ]; do
        usleep 20000
        child=$(cat "/proc/$server/task/$server/children" | cut -d ' ' -f 1)
    done
    echo "$child"
}

# ended_process PROCESS: waits until the process has ended, even if its parent has not reaped it.
ended_process() {
    until ! grep -qv ' Z ' "/proc/$1/stat" 2>/dev/null; do usleep 20000; done
}

# rivals WHEN [given-up]: checks that other commands of this program cannot use the COW and the base, under any name. A mount of the base
# must fail too, unless the server has released the base for the table (given-up).
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
