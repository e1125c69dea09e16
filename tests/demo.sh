#!/bin/sh
# The demo comes with the merge command; until then there is nothing to show, and saying so is not success.
echo "demo.sh: merge is not built yet" >&2
exit 1
