#!/bin/bash
# Module of dracut: puts snapuserd, its table and the modules that it may need into the initramfs, and runs `snapuserd boot` before the
# search for the root file system: by snapuserd-boot.service if the initramfs has systemd, else by hooks.
#
#   make install-dracut [DRACUT=/usr/lib/dracut]     then `dracut --force`; the kernel command line has root=/dev/mapper/NAME
#
# shellcheck disable=SC2154 # dracut's variables
#
# `make install-dracut` writes the path of the program here.
snapuserd=@SNAPUSERD@

# called by dracut
check() {
    require_binaries "$snapuserd" || return 1
    return 0
}

# called by dracut
depends() {
    # For the rules that make /dev/disk/by-…, which the table may name. Not dm: it requires dmsetup, and our rules include the necessary
    # part.
    echo udev-rules rootfs-block
}

# called by dracut
installkernel() {
    # Independent of the modules that this machine has loaded now.
    hostonly='' instmods dm_mod ublk_drv nbd loop
}

# called by dracut
install() {
    inst_binary "$snapuserd" /usr/bin/snapuserd
    inst_multiple modprobe cat
    inst_script "$moddir/snapuserd-drivers.sh" /usr/lib/snapuserd/drivers
    # Needed only without systemd's own resume, which is a unit that our unit is ordered after.
    [[ -x $dracutsysrootdir$systemdutildir/systemd-hibernate-resume ]] && dracut_module_included "systemd" ||
        inst_script "$moddir/snapuserd-resume.sh" /usr/lib/snapuserd/resume
    if [[ -e $dracutsysrootdir/etc/snapuserd/table ]]; then
        inst_simple /etc/snapuserd/table
    else
        dwarning "snapuserd: there is no /etc/snapuserd/table; only what the kernel command line names will be served"
    fi
    inst_rules "$moddir/09-snapuserd.rules" "$moddir/61-snapuserd.rules"

    if dracut_module_included "systemd"; then
        inst_simple "$moddir/snapuserd-boot.service" "$systemdsystemunitdir/snapuserd-boot.service"
        # Mount only after our unit has succeeded: the row of the root may be usable when that of /usr is not.
        local unit
        for unit in initrd-root-device.target sysroot.mount sysusr-usr.mount; do
            mkdir -p "$initdir$systemdsystemunitdir/$unit.requires"
            ln_r "$systemdsystemunitdir/snapuserd-boot.service" "$systemdsystemunitdir/$unit.requires/snapuserd-boot.service"
        done
    else
        inst_hook initqueue/settled 05 "$moddir/snapuserd-boot.sh"
        inst_hook initqueue/finished 05 "$moddir/snapuserd-done.sh"
        dracut_need_initqueue
    fi
}
