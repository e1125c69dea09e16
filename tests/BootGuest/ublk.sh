# An update over ublk, from its first boot to the plain device. Five power cuts interrupt its merge, the server is killed once, and the
# mounted root is switched from the server to the base.
. "$HERE/lib.sh"
SEED=${SEED:-9}
RANDOM=$SEED
disks
middle=0
for cut in 0 1 2 3 4; do
    CUT=$((RANDOM % 900))
    # In the first boot the merge starts by itself, and the base disk is slow. In later boots `ctl` sets the rate and requests the merge.
    if [ "$cut" -eq 0 ]; then
        start "console.$cut" boottest=cut "file=base.$cut,format=qcow2,$slow" "file=cow.$cut,format=qcow2"
    else
        start "console.$cut" "$on_request" "file=base.$cut,format=qcow2" "file=cow.$cut,format=qcow2"
    fi
    ended 137 "cut $cut"
    shows "console.$cut" 'up .*: the new image, on ublkb0' "the root of boot $cut"
    count=$(state "cow.$cut")
    echo "cut $cut: plug pulled $CUT ms after $([ "$cut" -eq 0 ] && echo "the boot" || echo "a checkpoint"): $count ops merged"
    [ "${count%% *}" -le 0 ] || [ "${count%% *}" -ge "${count##* }" ] || middle=$((middle + 1))
    fresh "base.$cut" qcow2 "base.$((cut + 1))"
    fresh "cow.$cut" qcow2 "cow.$((cut + 1))"
done
[ "$middle" -ge 3 ] || fail "only $middle of 5 cuts were in the midst of the merge"
CUT=
start console.end "boottest=merge kill=yes rate=50k snapuserd.merge=manual" "file=base.5,format=qcow2" "file=cow.5,format=qcow2"
ended 0 "the end of the merge"
same base.5 qcow2 new.img || fail "the base is not the new image"
start console.plain boottest=plain "file=base.5,format=qcow2" "file=cow.5,format=qcow2"
ended 0 "the boot after the merge"
shows console.plain 'up .*: the new image, on vda, 0 servers' "the plain device"
