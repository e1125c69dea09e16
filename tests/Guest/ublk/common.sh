# Common code of guest.sh and cut.sh.
kind=ublk
options="--name ublkb0"
device=/dev/ublkb0
files=/mnt/files
gone() {
    [ ! -e "$device" ]
}
. /serving.sh
