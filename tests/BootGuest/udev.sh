# Mapped devices and udev: a ramdisk creates /dev/mapper/system, and a systemd of Debian 12 or 13 mounts it by fstab. Its links, readiness
# and mounts must survive replayed events and the swap. UDEV_CASES selects the cases, such as "trixie/bare", or all. Four kinds:
#   cookie  udev in the ramdisk; our rules masked, so that udev gets its flags only from the cookie. The database stays, as with initramfs-tools
#   clean   udev in the ramdisk; the database is cleaned before switch_root, as systemd does in a ramdisk
#   bare    no udev in the ramdisk
#   nodm    no dmsetup and none of its rules, neither in the ramdisk nor in the system
# (The scenarios busybox and ublk cover a system without any udev.)
. "$HERE/lib.sh"

# closure ROOT FILE…: prints the libraries of ROOT that the files need, including the loader.
closure() {
    local root=$1 queue=("${@:2}") file name path
    declare -A seen=()
    while [ ${#queue[@]} -gt 0 ]; do
        file=${queue[0]}
        queue=("${queue[@]:1}")
        for name in $(readelf -d "$root/$file" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
            [ -z "${seen[$name]:-}" ] || continue
            seen[$name]=yes
            path=$(cd "$root" && find usr/lib -name "$name" | head -n 1)
            [ -n "$path" ] || { echo "udev.sh: $file needs $name" >&2; return 1; }
            echo "$path"
            queue+=("$path")
        done
    done
}

# debian SUITE: unpacks the packages to boot into the folder "debian", with /bin, /sbin and /lib merged into /usr.
debian() {
    local openssl=libssl3 fetched folder
    [ "$1" = bookworm ] || openssl=libssl3t64
    fetched=$("$ROOT/interop/Sysroot/fetch.sh" "$ARCH" "$1" systemd udev dmsetup libdevmapper1.02.1 libc6 libsystemd-shared libsystemd0 libudev1 libblkid1 libmount1 \
        libuuid1 libselinux1 libpcre2-8-0 libcap2 libacl1 libkmod2 libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libzstd1 libaudit1 libcap-ng0 libapparmor1 libseccomp2 \
        libpam0g libcrypt1 libip4tc2 libfdisk1 libp11-kit0 libgcc-s1 zlib1g $openssl)
    rm -rf debian
    mkdir -p debian/usr/lib debian/usr/lib64 debian/usr/bin debian/usr/sbin
    for folder in lib lib64 bin sbin; do
        for source in "$fetched/usr/$folder" "$fetched/$folder"; do
            [ ! -d "$source" ] || [ -L "$source" ] || cp -a "$source/." "debian/usr/$folder/"
        done
        ln -s "usr/$folder" "debian/$folder"
    done
}

dm_files="usr/sbin/dmsetup usr/lib/udev/rules.d/55-dm.rules usr/lib/udev/rules.d/60-persistent-storage-dm.rules usr/lib/udev/rules.d/95-dm-notify.rules"
udev_files="usr/bin/udevadm usr/lib/systemd/systemd-udevd usr/lib/udev/rules.d/50-udev-default.rules usr/lib/udev/rules.d/60-block.rules usr/lib/udev/rules.d/60-persistent-storage.rules
    usr/lib/udev/rules.d/99-systemd.rules"
systemd_files="usr/lib/systemd/systemd usr/lib/systemd/systemd-executor usr/bin/systemctl usr/lib/systemd/system
    usr/lib/systemd/system-generators/systemd-fstab-generator"

# tree TO FILE…: copies files of "debian", with the libraries they need.
tree() {
    local to=$1 file target libraries files=()
    shift
    mkdir -p "$to"
    for file in lib lib64 bin sbin; do [ -e "$to/$file" ] || cp -a "debian/$file" "$to/"; mkdir -p "$to/usr/$file"; done
    for file in "$@"; do
        [ ! -e "debian/$file" ] || files+=("$file")
    done
    libraries=$(closure debian "${files[@]}")
    mapfile -t -O "${#files[@]}" files <<<"$libraries"
    for file in "${files[@]}"; do
        # Libraries are links to files in the same folder. (udevd is a link to udevadm, which is in the list.)
        target=$(readlink "debian/$file" || true)
        case $target in '' | */*) ;; *) files+=("$(dirname "$file")/$target") ;; esac
    done
    (cd debian && printf '%s\n' "${files[@]}" | sort -u | xargs cp -a --parents -t "$OLDPWD/$to/")
    # The loader, under the name that programs contain.
    cp -a debian/usr/lib64/. "$to/usr/lib64/"
    cp -a debian/usr/lib/ld-linux* "$to/usr/lib/" 2>/dev/null || true
}

# masked TO: masks all of our rules in that tree.
masked() {
    local rule
    mkdir -p "$1/etc/udev/rules.d"
    for rule in "$ROOT"/src/packaging/udev/*; do ln -s /dev/null "$1/etc/udev/rules.d/$(basename "$rule")"; done
}

# system KIND: creates root.img, the system, and KIND.cpio, the ramdisk.
system() {
    local kind=$1 dm=$dm_files
    [ "$kind" != nodm ] || dm=
    rm -rf root ramdisk root.img
    # shellcheck disable=SC2086 # lists of files
    tree root $systemd_files $udev_files $dm
    mkdir -p root/{dev,proc,sys,run,tmp,etc/systemd/system,by-name,by-uuid}
    cp "$GUEST_BUSYBOX" root/usr/bin/busybox
    cp "$GUEST_SNAPUSERD" root/usr/bin/snapuserd
    ln -sf busybox root/usr/bin/sh
    # systemd calls these by their paths.
    for name in mount umount; do ln -sf busybox "root/usr/bin/$name"; done
    install -m 0755 "$HERE/udev-test" root/udev-test
    echo ID=test >root/etc/os-release
    echo 0123456789abcdef0123456789abcdef >root/etc/machine-id
    # With default options: systemd waits 90 seconds for a device that is not ready.
    echo "/dev/mapper/system /by-name ext4 ro 0 0" >root/etc/fstab
    [ "$kind" = cookie ] || echo "UUID=$uuid /by-uuid ext4 ro 0 0" >>root/etc/fstab
    cat >root/etc/systemd/system/default.target <<'END'
[Unit]
DefaultDependencies=no
Wants=udev-test.service
END
    cat >root/etc/systemd/system/udev-test.service <<'END'
[Unit]
DefaultDependencies=no
Wants=local-fs.target systemd-udevd.service systemd-udev-trigger.service
After=local-fs.target systemd-udev-trigger.service

[Service]
Type=oneshot
ExecStart=/udev-test
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=infinity
END
    ln -s /dev/null root/etc/systemd/system/systemd-remount-fs.service
    # A shell on the console would wait for input.
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/busybox true\n' >emergency.conf
    install -D -m 0644 emergency.conf root/etc/systemd/system/emergency.service.d/own.conf

    mke2fs -q -F -t ext4 -d root root.img 160M >/dev/null

    mkdir -p ramdisk/etc/snapuserd ramdisk/run ramdisk/sysroot
    cp table ramdisk/etc/snapuserd/table
    install -m 0755 "$HERE/udev-init" ramdisk/init
    if [ "$kind" != bare ]; then
        # shellcheck disable=SC2086 # lists of files
        tree ramdisk $udev_files $dm
        # In the common archive these are folders.
        rm ramdisk/bin ramdisk/sbin
        mkdir ramdisk/bin ramdisk/sbin
        ln -s /usr/bin/udevadm ramdisk/bin/udevadm
        [ "$kind" = nodm ] || ln -s /usr/sbin/dmsetup ramdisk/sbin/dmsetup
    fi
    [ "$kind" != cookie ] || masked ramdisk
    archive "$kind" ramdisk/*
}

uuid=$(dumpe2fs -h new.img 2>/dev/null | sed -n 's/^Filesystem UUID: *//p')
cases=${UDEV_CASES:-bookworm/cookie trixie/clean bookworm/bare trixie/nodm}
[ "$cases" != all ] || cases=$(echo {bookworm,trixie}/{cookie,clean,bare,nodm})
unpacked=
for case in $cases; do
    suite=${case%/*}
    kind=${case#*/}
    began=$SECONDS
    [ "$unpacked" = "$suite" ] || debian "$suite"
    unpacked=$suite
    system "$kind"
    disks
    fresh root.img raw root.0
    log=console.$suite.$kind
    code=0
    boot -t 300 -a "$kind" -l "$log" -k "udevtest=$kind uuid=$uuid snapuserd.merge=manual systemd.show_status=0" \
        "file=base.0,format=qcow2" "file=cow.0,format=qcow2" "file=root.0,format=qcow2" || code=$?
    grep -aE '^udev: (boot|up|FAILED|as before|made)' "$log" | sed "s|^udev: |$case: |" | cut -c -220 || true
    ! grep -aq '^udev: FAILED' "$log" || fail "$log has a failure"
    ended 0 "$case"
    shows "$log" '^udev: as before, after the last replay$' "$case"
    [ "$kind" != cookie ] || shows "$log" '^udev: made beside a udev that hung$' "$case"
    same base.0 qcow2 new.img || fail "the base is not the new image"
    echo "$case: $((SECONDS - began)) s"
    rm -f root.0
done
