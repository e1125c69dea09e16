# What the guests of this test share.
kind=ublk
options="--name ublkb0"
device=/dev/ublkb0
files=/mnt/files
gone() {
    [ ! -e "$device" ]
}
. /serving.sh
