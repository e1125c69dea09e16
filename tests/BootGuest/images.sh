#!/bin/bash
# images.sh: creates the shared files of the scenarios in the current folder: old.img and new.img, two states of a root file system; cow,
# the update; table.
set -euo pipefail
RANDOM=12

# Files that stay, that change in place, that move, and that are new. Both images contain the program, so a booted system can run `ctl`.
mkdir -p old/files old/bin old/sbin old/dev old/proc old/sys old/run old/tmp old/root old/etc
# systemd accepts a root only if it has an os-release.
echo ID=test >old/etc/os-release
cp "$GUEST_BUSYBOX" old/bin/busybox
for applet in $(busybox --list); do [ -e "old/bin/$applet" ] || ln -s busybox "old/bin/$applet"; done
cp "$GUEST_SNAPUSERD" old/bin/snapuserd
install -m 0755 "$HERE/root-init" old/sbin/init
for number in 1 2 3 4 5 6 7 8; do head -c $((RANDOM * 16 + 300000)) </dev/urandom >"old/files/$number"; done
cp -a old new
echo old >old/version
echo new >new/version
for number in 2 5; do dd if=/dev/urandom of="new/files/$number" bs=4096 seek=7 count=50 conv=notrunc status=none; done
mv new/files/3 new/files/moved
seq 1 150000 >new/files/text
head -c 6000000 </dev/urandom >new/files/added
for state in old new; do
    (cd "$state" && find bin/busybox bin/snapuserd sbin/init version files -type f -exec sha256sum {} +) >"$state.sum"
    mv "$state.sum" "$state/files.sum"
    mke2fs -q -F -t ext4 -b 4096 -d "$state" "$state.img" 24M >/dev/null
done
rm -rf old new
"$SNAPUSERD" create --source old.img --target new.img --output cow --compression zstd --block-factor 4k --xor --progress never >create.out
# A disk has whole sectors.
truncate -s %4096 cow
sha256sum <new.img | cut -d ' ' -f 1 >image.sum
sha256sum <old.img | cut -d ' ' -f 1 >old.sum
echo "system /dev/vdb /dev/vda" >table
