#!/bin/sh
# Loads what `snapuserd boot` may need. Quiet: a driver may be part of the kernel, or none may be needed. NBD only where it is asked for or there is
# no ublk: it brings sixteen devices.
modprobe -q dm_mod
modprobe -q loop
modprobe -q ublk_drv || modprobe -q nbd
case " $(cat /proc/cmdline) " in
    *" snapuserd.device=nbd "*) modprobe -q nbd ;;
esac
exit 0
