# The same without systemd: dracut's own init calls hooks.
tool=dracut
. "$HERE/dracut.sh"
