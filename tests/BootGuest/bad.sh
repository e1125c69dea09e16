# Failures that must be handled: no COW, an unusable one, and one that disappears in the middle of its merge.
. "$HERE/lib.sh"
disks

# A disk that was never written is no update.
truncate -s 8M zeros
start console.absent boottest=look "file=base.0,format=qcow2" "file=zeros,format=raw,snapshot=on"
ended 0 "no update"
shows console.absent 'system is plain' "the plain device"
shows console.absent 'up .*: the old image, on vda, 0 servers' "the plain device"

# A payload is damaged, and nothing is merged: the old image, and a message. The payload is a compressed one: a COW has no checksums, so raw
# bytes are always valid.
cp --remove-destination "$(readlink -f cow)" damaged
offset=$("$SNAPUSERD" inspect damaged --ops --json | grep '"type":"replace"' | grep '"compression":"zstd"' | sed -n '1s/.*"data_offset":\([0-9]*\).*/\1/p')
[ -n "$offset" ] || fail "the COW has no compressed payload"
dd if=/dev/zero of=damaged bs=1 seek="$offset" count=8 conv=notrunc status=none
! "$SNAPUSERD" verify --cow damaged >verify.out 2>&1 || fail "that is no damage"
start console.damaged boottest=look "file=base.0,format=qcow2" "file=damaged,format=raw,snapshot=on"
ended 0 "a damaged update"
shows console.damaged 'system is old' "the old device"
shows console.damaged 'up .*: the old image, on vda, 0 servers' "the old device"
shows console.damaged 'snapuserd: .*OLD image' "a message"
same base.0 qcow2 old.img || fail "the base has changed"

# Half merged, and then without its COW: no root.
CUT=0 start console.cut "$on_request" "file=base.0,format=qcow2" "file=cow.0,format=qcow2"
ended 137 "the cut"
midway cow.0 || fail "that is not in the midst of the merge"
fresh base.0 qcow2 base.1
start console.gone "boottest=look snapuserd.wait=3" "file=base.1,format=qcow2"
[ "$code" -eq 125 ] || fail "it booted without its COW: $code"
shows console.gone 'vdb' "a message that names the COW"
shows console.gone 'a device of the table cannot be used' "the panic"
! grep -aq 'boot: up' console.gone || fail "it booted without its COW"
grep -aE 'snapuserd|panic' console.gone | cut -c -200
