# Starts the program repeatedly, because the kernel chooses another memory layout each time.
left=30
while [ "$left" -gt 0 ]; do
    snapuserd --version >/tmp/said 2>&1
    code=$?
    if [ "$code" -ne 0 ] || ! grep -q '^snapuserd ' /tmp/said; then
        echo "start: FAILED: ended with $code: $(head -n 1 /tmp/said)"
        exit 1
    fi
    left=$((left - 1))
done
# Run a command that also uses op tables and buffers.
snapuserd verify --cow /dev/vda --base /dev/vdb --progress never || exit 1
echo "start: 30 starts"
