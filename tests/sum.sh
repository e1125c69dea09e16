#!/bin/sh
# sum.sh DIRECTORY STATUS [MORE]: adds up the .trx files below DIRECTORY and prints "N passed, N failed[, N skipped]".
# STATUS is what `dotnet test` ended with: if it is not 0 although no test failed (a build error, a crashed test host), or if there are no
# results at all, that is one failure. MORE failures are added. The exit code is 0 only if nothing failed.
set -eu

directory=$1
status=$2
more=${3:-0}
mkdir -p "$directory"
echo "$status" >"$directory/status"
find "$directory" -name '*.trx' -exec sed -n 's/.*<Counters total="\([0-9]*\)".* passed="\([0-9]*\)" failed="\([0-9]*\)".*/\1 \2 \3/p' {} + |
    awk -v status="$status" -v more="$more" '
        { total += $1; passed += $2; failed += $3 }
        END {
            skipped = total - passed - failed
            if ((status != 0 || total == 0) && failed == 0) failed = 1
            failed += more
            printf "%d passed, %d failed%s\n", passed, failed, (skipped > 0 ? sprintf(", %d skipped", skipped) : "")
            exit (failed > 0 || passed == 0)
        }'
