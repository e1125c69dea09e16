#!/bin/sh
# sum.sh DIRECTORY STATUS [MORE [SKIPPED]]: adds up the .trx files below DIRECTORY and prints "N passed, N failed[, N skipped]".
# STATUS is the exit code of `dotnet test`. If it is not 0 although no test failed (a build error, a crashed test host), or if there are no
# results at all, that counts as one failure. MORE failures and SKIPPED steps are added. The exit code is 0 only if
# nothing failed and a test passed.
# Before that line, prints each failed test with the first lines of its message: a long log is often cut in the middle, but not at its end.
set -eu

directory=$1
status=$2
more=${3:-0}
also_skipped=${4:-0}
mkdir -p "$directory"
echo "$status" >"$directory/status"
find "$directory" -name '*.trx' -exec awk '
    /<UnitTestResult .* outcome="Failed"/ {
        name = $0
        sub(/.* testName="/, "", name)
        sub(/".*/, "", name)
        print "failed: " name
        lines = 0
        within = 1
    }
    /<Message>/ { message = within }
    message && lines < 12 { line = $0; gsub(/<[^>]*>/, "", line); print "    " substr(line, 1, 300); lines++ }
    /<\/Message>/ { message = 0; within = 0 }
    ' {} +
counters='s/.*<Counters total="\([0-9]*\)".* passed="\([0-9]*\)" failed="\([0-9]*\)".*/\1 \2 \3/p'
find "$directory" -name '*.trx' -exec sed -n "$counters" {} + |
    awk -v status="$status" -v more="$more" -v also_skipped="$also_skipped" '
        { total += $1; passed += $2; failed += $3 }
        END {
            skipped = total - passed - failed + also_skipped
            if ((status != 0 || total == 0) && failed == 0) failed = 1
            failed += more
            printf "%d passed, %d failed%s\n", passed, failed, (skipped > 0 ? sprintf(", %d skipped", skipped) : "")
            exit (failed > 0 || passed == 0)
        }'
