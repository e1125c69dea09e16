# Runs the loop of docs/ramdisk.md on the two disks. "CUT" tells the host that the merge begins.
cow=/dev/vda
base=/dev/vdb

# milliseconds: the time since the boot; /proc/uptime has hundredths of a second.
milliseconds() {
    echo "$(cut -d ' ' -f 1 /proc/uptime | tr -d . | sed 's/^0*//')0"
}

began=$(milliseconds)
echo CUT
. /merge-loop.sh
echo "merged in $(($(milliseconds) - began)) ms"
