#!/bin/sh
# Hook of dracut without systemd: the queue is not finished before the table was gone through, whatever the root file system is on.
[ -e /run/snapuserd-boot.done ]
