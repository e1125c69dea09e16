# The README's loop on the two disks. "CUT" tells the host that the merge begins.
cow=/dev/vda
base=/dev/vdb
echo CUT
. /merge-loop.sh
echo "merged"
