#!/bin/sh
# Hook of dracut without systemd, run once when the first devices exist: makes /dev/mapper/NAME for every row of the table.
# shellcheck disable=SC2154 # $job is dracut's variable: the path of this hook
command -v emergency_shell >/dev/null || . /lib/dracut-lib.sh

sh /usr/lib/snapuserd/drivers
sh /usr/lib/snapuserd/resume

# A wrong device must not become the root: start a shell instead, and try again when it ends.
until snapuserd_rows=$(snapuserd boot); do
    emergency_shell -n snapuserd "snapuserd: a device of the table cannot be used; the reason is above. \
'snapuserd boot' tries again, and so does leaving this shell."
done
# shellcheck disable=SC2154 # $root is dracut's
echo "$snapuserd_rows" | while read -r _ state path; do
    info "snapuserd: $path is $state"
    # fsck cannot open a read-only device.
    case $state in
        served | old) [ "block:$path" != "$root" ] || echo rd.skipfsck >/etc/cmdline.d/90-snapuserd.conf ;;
    esac
done
: >/run/snapuserd-boot.done
# dracut runs the hooks of this queue repeatedly; this one must not run again.
rm -f -- "$job"
