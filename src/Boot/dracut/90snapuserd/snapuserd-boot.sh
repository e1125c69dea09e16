#!/bin/sh
# Hook of dracut where there is no systemd in the initramfs: /dev/mapper/NAME for every row of the table, before the root file system is looked for.
# Sourced; it may be called several times, and `boot` leaves alone who is served.
[ ! -e /run/snapuserd.booted ] || return 0
getargbool 1 snapuserd || return 0
modprobe -q dm-mod
modprobe -q loop
modprobe -q ublk_drv || modprobe -q nbd
if snapuserd boot; then
    : >/run/snapuserd.booted
else
    die "snapuserd: an update can neither be served nor finished (see above)"
fi
