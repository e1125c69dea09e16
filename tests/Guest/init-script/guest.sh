# Runs under busybox init, from an inittab, as in a ramdisk. First runs the loop of docs/ramdisk.md with a base that another merge uses.
# Then a merge shows its progress on the console, receives a stop signal, and is run again.
cow=/dev/vda
base=/dev/vdb
[ "$(cat /proc/1/comm)" = init ] || { echo "the first process is not init"; exit 1; }

# holds PROCESS DEVICE: waits until the process has opened the device. By then it has installed its signal handlers.
holds() {
    until ls -l "/proc/$1/fd" 2>/dev/null | grep -q "$2"; do
        kill -0 "$1" || exit 1
        usleep 20000
    done
}

# The disks are slow, so the first merge is far from its end when it is suspended. It has locked the devices before it prints that its check
# begins. It is killed after the loop has failed once.
snapuserd merge --cow "$cow" --base "$base" --progress plain >/tmp/holder 2>&1 &
holder=$!
until grep -q '^check ' /tmp/holder; do
    kill -0 "$holder" || exit 1
    usleep 20000
done
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
