#!/bin/sh
# Hook of dracut without systemd: keeps the queue running until the table was processed, whatever the root file system is on.
[ -e /run/snapuserd-boot.done ]
