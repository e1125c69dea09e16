# Under busybox init, from an inittab, as a ramdisk does it: the README's loop with a base that another merge has at first, and a merge that shows
# its progress on the console, is told to stop, and goes on.
cow=/dev/vda
base=/dev/vdb
[ "$(cat /proc/1/comm)" = init ] || { echo "the first process is not init"; exit 1; }

# holds PROCESS DEVICE: waits until the process has opened the device; it listens to signals by then.
holds() {
    until ls -l "/proc/$1/fd" 2>/dev/null | grep -q "$2"; do
        kill -0 "$1" || exit 1
        usleep 20000
    done
}

# On these slow disks the first merge is far from its end when the loop begins; it stands still then, until the loop has tried in vain.
snapuserd merge --cow "$cow" --base "$base" --progress never &
holder=$!
holds "$holder" "$base"
kill -STOP "$holder"
mkdir /tmp/bin
cat >/tmp/bin/snapuserd <<END
#!/bin/sh
$(command -v snapuserd) "\$@"
code=\$?
[ "\$code" -ne 76 ] || : >/tmp/in-vain
exit "\$code"
END
chmod 755 /tmp/bin/snapuserd
{
    until [ -e /tmp/in-vain ]; do usleep 20000; done
    kill -KILL "$holder"
} &
path=$PATH
PATH=/tmp/bin:$PATH
. /merge-loop.sh
PATH=$path
echo "the loop: tried $tries times in vain, then merged"

cow=/dev/vdc
base=/dev/vdd
snapuserd merge --cow "$cow" --base "$base" --progress plain >/dev/console 2>&1 &
process=$!
holds "$process" "$base"
kill -TERM "$process"
wait "$process"
code=$?
echo "told to stop: $code"
[ "$code" -eq 75 ] || [ "$code" -eq 0 ] || exit 1
snapuserd merge --cow "$cow" --base "$base" --progress plain >/dev/console 2>&1 || exit 1
