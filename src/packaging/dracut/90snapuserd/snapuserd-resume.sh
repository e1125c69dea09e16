#!/bin/sh
# Lets the system resume from hibernation before anything is written, in an initramfs without systemd-hibernate-resume. dracut's own resume
# (module resume) is a job of its queue that runs whenever the device appears, so nothing can be ordered after it. A memory image that is
# resumed after a merge would overwrite the merged data. So this script does the job here, once. It does not return if the kernel accepts an
# image. Without dracut's module nothing is resumed, and `snapuserd boot` refuses to run while there is an image.
command -v getarg >/dev/null || . /lib/dracut-lib.sh
# shellcheck disable=SC2154 # $hookdir is dracut's
# dracut 104 has moved its hooks.
[ -n "${hookdir:-}" ] || hookdir=/var/lib/dracut/hooks
[ -d "$hookdir" ] || hookdir=/lib/dracut/hooks
set -- "$hookdir"/cmdline/*parse-resume.sh /lib/dracut/parse-resume.sh
[ -e "$1" ] || [ -e "$2" ] || exit 0

# The dry run waits for the device of resume=, and for those of the table. Without a row it prints nothing, and dracut resumes as usual.
rows=$(snapuserd boot --dry-run 2>/dev/null)
code=$?
[ -n "$rows" ] || [ "$code" -ne 0 ] || exit 0

rm -f /etc/udev/rules.d/99-resume.rules /etc/udev/rules.d/99-resume-link.rules
udevadm control --reload
rm -f "$hookdir"/pre-mount/*-resume.sh "$hookdir"/initqueue/settled/resume.sh "$hookdir"/initqueue/timeout/resume.sh \
    "$hookdir"/initqueue/finished/00resume.sh
cancel_wait_for_dev /dev/resume

# resume NODE
resume() {
    [ ! -x /usr/sbin/resume ] || /usr/sbin/resume "$1"
    readlink -fn "$1" >/sys/power/resume
}

# 78: there is an image.
[ "$code" -eq 78 ] || exit 0
if device=$(getarg resume=); then
    resume "$(label_uuid_to_dev "$device")"
else
    for device in /sys/class/block/*; do
        case $(udevadm info --query=property --path="$device") in
            *ID_FS_TYPE=suspend* | *ID_FS_TYPE=swsuspend* | *ID_FS_TYPE=swsupend*) resume "/dev/${device##*/}" ;;
        esac
    done
fi
exit 0
