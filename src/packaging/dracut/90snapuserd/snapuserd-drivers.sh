#!/bin/sh
# Loads the modules that `snapuserd boot` may need. Ignores errors, because a driver may be built into the kernel, or not be needed. Loads
# nbd only on request or without ublk, because it makes sixteen devices.
modprobe -q dm_mod
modprobe -q loop
modprobe -q ublk_drv || modprobe -q nbd
case " $(cat /proc/cmdline) " in
    *" snapuserd.device=nbd "*) modprobe -q nbd ;;
esac
exit 0
