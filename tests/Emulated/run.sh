#!/bin/sh
# run.sh ARCH EMULATOR NATIVE PROGRAM KERNELS: the tests that run the program, with the PROGRAM of another architecture in the EMULATOR
# of user programs. NATIVE is this machine's own program, whose answers are compared with its. Prints the tests that it cannot run
# (tests/Emulated/in-the-guest), the count of each group, and at the end "N passed, N failed".
# In the environment: ONLY="usage hostile", to run these groups.
set -eu
cd "$(dirname "$0")/../.."
arch=$1 emulator=$2 native=$PWD/$3 program=$PWD/$4 kernels=$PWD/$5
here=tests/Emulated
folder=build/$arch/emulated
# Beside those of this machine's own program, so that CI's sum counts them.
results=build/test-results/$arch
rm -rf "$results"
mkdir -p "$folder" "$results"
status=0

# wrap NAME FILE ARG…: a script in the folder that runs FILE in the emulator, which gets ARGs.
wrap() {
    name=$1 file=$2
    shift 2
    sed -e "s|@EMULATOR@|$emulator $*|" -e "s|@PROGRAM@|$file|" "$here/snapuserd.in" >"$folder/$name.new"
    chmod +x "$folder/$name.new"
    mv -f "$folder/$name.new" "$folder/$name"
}

# built PROJECT: the library with a project's tests.
built() {
    echo "tests/$1/bin/Release/$TFM/Snapuserd.$1.Tests.dll"
}

# group NAME PROJECT FILTER: runs the tests of a project that the filter lets through, and prints how many passed.
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

entries=$(grep -v -e '^#' -e '^$' "$here/in-the-guest")
# In a filter an entry must not look like a part of one.
runs=$(echo "$entries" | sed -e 's/[()\\]/\\&/g' -e 's/^/DisplayName!~/' | paste -s -d '&')
for project in Conformance EndToEnd Daemon; do
    dotnet build "tests/$project" -c Release -v quiet --nologo
done

# An entry that names no test any more would hide that its test has a new name.
for project in Conformance EndToEnd Daemon; do
    dotnet test "$(built "$project")" --nologo --list-tests | sed -n 's/^    Snapuserd\.Tests\.//p'
done >"$results/all"
echo "$entries" | while IFS= read -r entry; do grep -qF -e "$entry" "$results/all" || echo "$entry"; done >"$results/stale"
if [ -s "$results/stale" ]; then
    echo "in $here/in-the-guest, but no test:" && cat "$results/stale"
    status=1
fi
echo "$entries" >"$results/entries"
grep -F -f "$results/entries" "$results/all" | sort >"$results/guest"
echo "in the guest, not here:"
sed 's/^/    /' "$results/guest"

wrap snapuserd "$program"
wrap kernels "$kernels"
export SNAPUSERD="$PWD/$folder/snapuserd" SNAPUSERD_NATIVE="$native" SNAPUSERD_FILE="$program" SNAPUSERD_CHECKS="$PWD/$folder/kernels"
group vectors Conformance "$runs&FullyQualifiedName~GoldenTests"
group create Conformance "$runs&FullyQualifiedName!~GoldenTests"
group usage EndToEnd "$runs&(FullyQualifiedName~UsageTests|FullyQualifiedName~OptionTests)"
group hostile EndToEnd "$runs&FullyQualifiedName~HostileTests"
group verbs EndToEnd "$runs&FullyQualifiedName!~UsageTests&FullyQualifiedName!~OptionTests&FullyQualifiedName!~HostileTests"
group daemon Daemon "$runs&FullyQualifiedName~ProgramTests"
# The smallest of these processors, which has no atomic instructions beside exclusive loads and stores.
if [ "$arch" = arm64 ]; then
    wrap cortex-a53 "$program" -cpu cortex-a53
    SNAPUSERD=$PWD/$folder/cortex-a53
    group cortex-a53 Conformance "$runs&FullyQualifiedName~GoldenTests"
fi

cat "$results/counts"
echo "in the guest, not here: $(grep -c '' "$results/guest") tests"
tests/sum.sh "$results" "$status"
