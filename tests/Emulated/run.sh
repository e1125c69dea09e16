#!/bin/sh
# run.sh ARCH EMULATOR NATIVE PROGRAM KERNELS: runs the tests of the program with PROGRAM, which is built for another architecture, in the
# EMULATOR of user programs. NATIVE is this machine's own program, with whose answers the results are compared. Prints the names of the
# tests that cannot run: those that a guest test covers (in-the-guest beside this file), and those that nothing covers (native-only). Then
# prints the count of each group, and at the end "N passed, N failed".
# In the environment: ONLY="usage hostile" runs only these groups.
set -eu
cd "$(dirname "$0")/../.."
arch=$1 emulator=$2 native=$PWD/$3 program=$PWD/$4 kernels=$PWD/$5
here=tests/Emulated
folder=build/$arch/emulated
# Next to the results of this machine's own program, so that CI's sum counts them.
results=build/test-results/$arch
rm -rf "$results"
mkdir -p "$folder" "$results"
status=0

# wrap NAME FILE ARG…: writes a script to the folder that runs FILE in the emulator with ARGs.
wrap() {
    name=$1 file=$2
    shift 2
    sed -e "s|@EMULATOR@|$emulator $*|" -e "s|@PROGRAM@|$file|" "$here/snapuserd.in" >"$folder/$name.new"
    chmod +x "$folder/$name.new"
    mv -f "$folder/$name.new" "$folder/$name"
}

# built PROJECT: prints the library with a project's tests.
built() {
    echo "tests/$1/bin/Release/$TFM/Snapuserd.$1.Tests.dll"
}

# group NAME PROJECT FILTER: runs the tests of a project that the filter selects, and prints how many passed.
group() {
    case " ${ONLY:-$1} " in *" $1 "*) ;; *) return 0 ;; esac
    echo "== $1"
    code=0
    dotnet test "$(built "$2")" --nologo --filter "$3" --logger "trx;LogFileName=$1.trx" --results-directory "$results/$1" \
        --blame-hang-timeout 10m --blame-hang-dump-type none >"$results/$1.log" 2>&1 || code=$?
    if [ "$code" -ne 0 ]; then
        status=$code
        cat "$results/$1.log"
    fi
    echo "$1: $(tests/sum.sh "$results/$1" "$code" | tail -n 1)" | tee -a "$results/counts"
}

# entries LIST: prints its lines that name tests.
entries() {
    grep -v -e '^#' -e '^\[' -e '^$' "$here/$1"
}

# sections LIST: prints its section names, without the brackets.
sections() {
    sed -n 's/^\[\(.*\)\]$/\1/p' "$here/$1"
}

# section LIST NAME: prints the entries of a section.
section() {
    awk -v name="[$2]" '/^\[/ { within = $0 == name; next } within && !/^#/ && !/^$/' "$here/$1"
}

# matching ENTRIES TESTS: prints the lines of TESTS that an entry of the file ENTRIES matches. " & " in an entry: all of its parts must be
# in the name.
matching() {
    awk 'FILENAME == ARGV[1] { entries[++count] = $0; next }
        {
            for (i = 1; i <= count; i++) {
                parts = split(entries[i], part, " & ")
                found = 0
                for (j = 1; j <= parts; j++) found += index($0, part[j]) > 0
                if (found == parts) { print; next }
            }
        }' "$1" "$2"
}

# show LIST FILE: prints the tests of FILE under their sections.
show() {
    sections "$1" | while IFS= read -r name; do
        section "$1" "$name" >"$results/section"
        echo "    $name" && matching "$results/section" "$2" | sed 's/^/        /'
    done
}

for project in Conformance EndToEnd AndroidDaemon; do
    dotnet build "tests/$project" -c Release -v quiet --nologo
done
for project in Conformance EndToEnd AndroidDaemon; do
    dotnet test "$(built "$project")" --nologo --list-tests | sed -n 's/^    Snapuserd\.Tests\.//p'
done >"$results/all"

# An entry without a test would hide that a test was renamed, and so would a missing guest test; both are reported.
for list in in-the-guest native-only; do
    entries "$list" | while IFS= read -r entry; do
        echo "$entry" >"$results/entries"
        matching "$results/entries" "$results/all" | grep -q '' || echo "in $here/$list, but no test: $entry"
    done
    # An entry outside a section has neither a guest test nor a reason.
    awk -v list="$here/$list" '
        /^\[.*\]$/ { within = 1 }
        !within && !/^#/ && !/^$/ { print "in " list ", but in no section: " $0 }
        ' "$here/$list"
done >"$results/stale"
sections in-the-guest | while IFS= read -r name; do
    [ -e "tests/Guest/$name/host.sh" ] || echo "in $here/in-the-guest, but no test in tests/Guest: $name"
done >>"$results/stale"
if [ -s "$results/stale" ]; then
    cat "$results/stale"
    status=1
fi
entries in-the-guest >"$results/entries"
matching "$results/entries" "$results/all" | sort >"$results/guest"
entries native-only >"$results/entries"
matching "$results/entries" "$results/all" | grep -vxF -f "$results/guest" | sort >"$results/native"
in_guest="in the guest: $(grep -c '' "$results/guest") tests"
native_only="on this machine's architecture only: $(grep -c '' "$results/native") tests, not run"
echo "$in_guest" && show in-the-guest "$results/guest"
echo "$native_only" && show native-only "$results/native"

# Characters in an entry that have a meaning in a filter are escaped.
runs=$({ entries in-the-guest && entries native-only; } | sed -e 's/[()\\]/\\&/g' -e 's/ & /|DisplayName!~/g' -e 's/.*/(DisplayName!~&)/' |
    paste -s -d '&')

wrap snapuserd "$program"
wrap kernels "$kernels"
export SNAPUSERD="$PWD/$folder/snapuserd" SNAPUSERD_NATIVE="$native" SNAPUSERD_FILE="$program" SNAPUSERD_CHECKS="$PWD/$folder/kernels"
group vectors Conformance "$runs&FullyQualifiedName~GoldenTests"
group create Conformance "$runs&FullyQualifiedName!~GoldenTests"
group usage EndToEnd "$runs&(FullyQualifiedName~UsageTests|FullyQualifiedName~OptionTests)"
group hostile EndToEnd "$runs&FullyQualifiedName~HostileTests"
group verbs EndToEnd "$runs&FullyQualifiedName!~UsageTests&FullyQualifiedName!~OptionTests&FullyQualifiedName!~HostileTests"
group daemon AndroidDaemon "$runs&FullyQualifiedName~ProgramTests"
# The smallest processor of the architecture, whose only atomic instructions are exclusive loads and stores.
if [ "$arch" = arm64 ]; then
    wrap cortex-a53 "$program" -cpu cortex-a53
    SNAPUSERD=$PWD/$folder/cortex-a53
    group cortex-a53 Conformance "$runs&FullyQualifiedName~GoldenTests"
fi

cat "$results/counts"
echo "$in_guest"
echo "$native_only"
tests/sum.sh "$results" "$status"
