# Writes one block with a flush, and then others without a flush. Then the host cuts the power.
dd if=/dev/zero of=/dev/vda bs=4096 count=1 seek=7 oflag=direct conv=notrunc,fsync 2>/dev/null || exit 1
dd if=/dev/zero of=/dev/vda bs=4096 count=64 seek=100 oflag=direct conv=notrunc 2>/dev/null || exit 1
echo CUT
sleep 60
