# Writes the merged state to the disks without a flush, so that it is only in the disks' caches. "way=" on the kernel command line selects
# the process that then maps the device to the base: a server (served), `snapuserd boot` (booted), or none. The line "CUT" tells the host to
# cut the power.
kind=ublk
options="--name ublkb0 --mapper root"
device=/dev/mapper/root
files=/none
gone() {
    [ ! -e /dev/ublkb0 ]
}
. /serving.sh
way=$(sed 's/.*way=\([a-z]*\).*/\1/' /proc/cmdline)
dd if=/merged.cow of=/dev/vda bs=1M 2>/dev/null || exit 1
dd if=/new.img of=/dev/vdb bs=1M 2>/dev/null || exit 1
case $way in
    served)
        serve --merge-on-request --control /tmp/control
        wait "$server" || { say "FAILED: the server ended with $?"; cat /tmp/serve.err; exit 1; }
        ;;
    booted)
        echo "root /dev/vda /dev/vdb" >/tmp/table
        : >/tmp/cmdline
        snapuserd boot --table /tmp/table --cmdline /tmp/cmdline --control-folder /tmp/run --wait 0 || exit 1
        ;;
esac
[ "$way" = none ] || [ -b "$device" ] || { say "FAILED: there is no $device"; exit 1; }
echo CUT
sleep 60
exit 1
