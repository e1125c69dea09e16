# Common code of the guests of this test.
kind=ublk
options="--name ublkb0"
device=/dev/ublkb0
files=/mnt/files
gone() {
    [ ! -e "$device" ]
}
. /serving.sh
