#!/bin/bash
# Module of dracut: puts snapuserd, its table and the modules it may need into the initramfs. It comes with every initramfs once it is installed.

check() {
    require_binaries @SNAPUSERD@ dmsetup || return 1
    return 0
}

depends() {
    # For the rules that make /dev/disk/by-…, which the table may name, and those of device mapper: systemd waits for a device that udev calls /dev/mapper/NAME.
    echo udev-rules dm
}

installkernel() {
    instmods ublk_drv nbd dm-mod loop
}

install() {
    inst @SNAPUSERD@ /usr/bin/snapuserd
    if [ -e /etc/snapuserd/table ]; then
        inst_simple /etc/snapuserd/table
    else
        dwarn "snapuserd: there is no /etc/snapuserd/table; only what the kernel command line names will be served"
    fi
    if dracut_module_included systemd; then
        inst_simple "$moddir/snapuserd-boot.service" "$systemdsystemunitdir/snapuserd-boot.service"
        $SYSTEMCTL -q --root "$initdir" enable snapuserd-boot.service
    else
        inst_multiple modprobe
        inst_hook pre-mount 10 "$moddir/snapuserd-boot.sh"
        # Nobody waits for a device that this very hook makes.
        inst_hook initqueue/settled 10 "$moddir/snapuserd-boot.sh"
    fi
}
