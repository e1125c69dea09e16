# The same with dracut: systemd's unit, after which our unit is ordered, and dracut's own job without systemd.
. "$HERE/hibernate-lib.sh"
hibernate
for tool in dracut-systemd dracut; do
    "$HERE/initramfs.sh" "$KERNEL" "$tool.cpio" table "$tool"
    ARCHIVE=$tool resumes "$tool" resume=/dev/vdc
    ARCHIVE=$tool again "$tool.absent" "boottest=look $before rd.shell=0 rd.emergency=poweroff"
    [ "$tool" = dracut ] || [ "$code" -eq 125 ] || fail "$tool: it booted beside an image: $code"
    [ "$tool" = dracut ] || shows "console.$tool.absent" 'a hibernation image is there \(S1SUSPEND on /dev/vdc\)' "$tool: the refusal"
    # Without systemd dracut resumes from any disk with an image.
    [ "$tool" != dracut ] || { ended 0 "$tool: resuming"; shows "console.$tool.absent" 'boot: resumed' "$tool: the memory image"; }
    untouched "$tool.absent"
    ARCHIVE=$tool again "$tool.stale" "boottest=plain $before noresume"
    ended 0 "$tool: noresume"
    same "base.$tool.stale" qcow2 new.img || fail "$tool: the base is not the new image"
done
