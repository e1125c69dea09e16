#!/bin/sh
# The rules of this code base that neither the compiler nor `dotnet format` knows. Prints every offence; exits 1 if there is one.
set -eu
cd "$(dirname "$0")/.."

echo "lint: checking the rules of this code base: up to a minute" >&2
offences=$(mktemp)
trap 'rm -f "$offences"' EXIT INT TERM

offend() {
    echo "$1" >>"$offences"
}

# sources FOLDER …: the C# files below, without what the build left there.
sources() {
    find "$@" \( -name bin -o -name obj \) -prune -o -name '*.cs' -print | sort
}

# code FILE: its lines with their numbers, without comments and string literals, so that neither can offend.
code() {
    sed -e "s/'\"'/' '/g" -e 's/\\"//g' -e 's/"[^"]*"/""/g' -e 's|//.*||' "$1" | grep -n '' || true
}

# ban PATTERN REASON FILE …
ban() {
    pattern=$1
    reason=$2
    shift 2
    for file in "$@"; do
        code "$file" | grep -E "$pattern" | while IFS= read -r line; do offend "$file:$line: $reason"; done
    done
}

product=$(sources src interop)

# shellcheck disable=SC2046,SC2086 # file names here have no blanks
{
    ban '(^|[^A-Za-z_])unsafe([^A-Za-z_]|$)' 'unsafe code belongs into interop and src/Block/Kernels' \
        $(sources src | grep -v '^src/Block/Kernels/')

    ban 'System\.Console|(^|[^A-Za-z_.])Console\.' 'no System.Console: it needs terminfo and a thread; use src/Cli/Output' $product
    ban 'System\.Threading\.Tasks|(^|[^A-Za-z_])Task\.Run|ThreadPool' 'no thread pool: own threads with small stacks' $product
    ban '(^|[^A-Za-z_])FileStream|(^|[^A-Za-z_.])File\.[A-Z]|SafeHandle|SafeFileHandle' 'raw descriptors only (interop/Libc)' $product
    ban 'DateTime(Offset)?\.(Now|Today)|TimeZoneInfo' 'time is an input, and UTC' $product
    ban 'Environment\.SystemPageSize' 'the page of the system is Sizes.SystemPage (interop/Sizes.cs)' $product
    ban 'System\.Net(\.|;)' 'sockets are raw calls' $product
    ban 'System\.IO\.Compression|(^|[^A-Za-z_])(BrotliStream|GZipStream|DeflateStream|ZLibStream)' 'the codecs are statically linked C libraries' $product
    ban 'System\.Security\.Cryptography|(^|[^A-Za-z_])SHA256(\.|Managed)' 'the framework loads OpenSSL at run time; interop/Codecs/Sodium' $product
    ban 'Encoding\.(UTF8|Default)|PtrToString|GetCommandLineArgs|GetEnvironmentVariable' 'names are bytes, not UTF-8: interop/Libc/ByteText and OwnProcess' \
        $(echo "$product" | grep -v -e '^interop/Libc/ByteText\.cs$' -e '^interop/Entry/RawArguments\.cs$')
    ban 'Environment\.(Exit|FailFast)' 'an abort under PID 1 is a panic: throw, and let Main answer' $product
}

# A block, a page of the system, a sector and a granule are 4096 bytes on most machines and are four things: interop/Sizes.cs names them.
# In "FILE DECLARATION", the line that begins with DECLARATION may have the number, because there it is something else:
#   a flag's bit, a limit or an encoding that a header defines under that name, or a count of things that are no bytes.
numbers='
interop/DeviceMapper/DeviceMapperAbi.cs public const uint DM_QUERY_INACTIVE_TABLE_FLAG = 1 << 12;
interop/IoUring/IoUringAbi.cs public const uint IORING_SETUP_SINGLE_ISSUER = 1u << 12;
interop/Libc/Libc.Limits.cs public const int PATH_MAX = 4096;
interop/Libc/Libc.Limits.cs public const int PIPE_BUF = 4096;
interop/Libc/Libc.Loop.cs public static (uint Major, uint Minor) DecodeDevice(ulong device) =>
interop/Libc/Libc.Loop.cs public static ulong EncodeDevice(uint major, uint minor) =>
interop/Libc/Libc.MkNod.cs ulong device = ((ulong)(major & 0xfffff000) << 32)
interop/Libc/Libc.Mount.cs public const uint MS_BIND = 4096;
interop/Libc/Libc.Statx.cs public const int AT_EMPTY_PATH = 0x1000;
interop/Libc/Libc.Statx.cs public const int S_IFIFO = 0x1000;
interop/Libc/Libc.Statx.cs public const int S_IFMT = 0xf000;
interop/Nbd/NbdWire.cs public const int LongestString = 4096;
interop/Ublk/UblkAbi.cs public const int UBLK_MAX_QUEUE_DEPTH = 4096;
interop/Ublk/UblkAbi.cs public const int UBLK_MAX_NR_QUEUES = 1 << 12;
src/Block/RingQueue.cs public const int MaximumDepth = 4096;
src/Create/StopPoll.cs private const uint Every = 4096;
src/Merge/Batch.cs private const int IndexBits = 12,
src/Serve/Nbd/NbdControl.cs private const int MessageBytes = 4096;
src/Serve/Nbd/NbdSocket.cs private const int AheadBytes = 4096;
'
# is_number FILE LINE: whether the list above lets the line have it. LINE is its number, a colon and its text.
is_number() {
    text=$(echo "${2#*:}" | sed 's/^[[:blank:]]*//')
    echo "$numbers" | while read -r place declaration; do
        if [ "$place" = "$1" ]; then case $text in "$declaration"*) echo yes ;; esac; fi
    done | grep -q yes
}
# plain_numbers: one blank for several, and no _ within a number, so that one spelling is left of each.
plain_numbers() {
    sed -E -e 's/[[:blank:]]+/ /g' -e ':again' -e 's/(^|[^A-Za-z0-9_])([0-9][0-9a-fA-FxXbB]*)_+([0-9a-fA-F])/\1\2\3/' -e 't again'
}
# either A B OPERATOR: the two numbers, with suffixes and parentheses, joined by it.
either() {
    echo "|\\(*$1[uUlL]*\\)* ?$3 ?\\(*$2"
}
twelve='(12|0[xX]0*[cC]|0[bB]0*1100)'
size='0*409[56]|0[xX]0*(1000|[fF]{3}|[fF]+000)|0[bB]0*(10{12}|1{12})'
shift=0
for factor in 4096 2048 1024 512 256 128 64 32 16 8 4 2; do
    if [ $shift -gt 0 ]; then
        size="$size$(either $factor $((4096 / factor)) '\*')$(either $factor $shift '<<')$(either $((4096 * 4096 / factor)) $((4096 / factor)) '\/')"
    fi
    shift=$((shift + 1))
done
size="(^|[^A-Za-z0-9_.])($size)[uUlL]*([^A-Za-z0-9_]|\$)|(<<|>>>?)=? ?\\(*$twelve[uUlL]*([^A-Za-z0-9_]|\$)|(Shift|Bits) = $twelve([^A-Za-z0-9_]|\$)"
for file in $product; do
    if [ "$file" = interop/Sizes.cs ]; then continue; fi
    code "$file" | plain_numbers | grep -E "$size" | while IFS= read -r line; do
        is_number "$file" "$line" || offend "$file:$line: a block, a page, a sector and a granule have names: interop/Sizes.cs"
    done
done
# The pattern itself: every spelling of the first list is found, none of the second.
plain_numbers <<'EOF' | grep -vE "$size" | while IFS= read -r line; do offend "tests/lint.sh: the rule for 4096 misses: $line"; done
x = 4096;
x = 4_096L;
x & ~4095
x = 0x1000;
x = 0X1000;
x = 0x1_000;
x = 0x01000u;
x & 0xFFF
x & 0xFFFFF000
x & 0xffff_ffff_ffff_f000UL
x = 0b1_0000_0000_0000;
x = 1 << 12;
x = 1 <<  12;
x = 1<<12;
x = 1 << 0xC;
x = 2 << 11;
x = 8 << 9;
x = 4L << 10;
x = 4 * 1024;
x = 4L * 1024;
x = 4u * 1024u;
x = (4) * 1024;
x = 1024 * 4;
x = 2048 * 2;
x = 512 * 8;
x = 8 * 512;
x = 64 * 64;
x = 8192 / 2;
x >>= 12;
x <<= 12;
x >> (12)
x >>> 12
x >> 12L
private const int BlockShift = 12;
EOF
plain_numbers <<'EOF' | grep -E "$size" | while IFS= read -r line; do offend "tests/lint.sh: the rule for 4096 takes for it: $line"; done
x = 14096;
x = 40960;
x = 0x10000;
x = 0x11000;
x = 1 << 120;
x = 1 << 2;
x = 14 * 1024;
x = 8 * 1024;
x = 4 * 10240;
x = y_4096;
x = A4_096;
x << places12
x = 12;
x = 2 << 10;
EOF
# That what is listed is the declaration: another use of its name does not let a line have the number.
if is_number src/Block/RingQueue.cs '1:        int depth = MaximumDepth > 0 ? 4096 : 0;'; then offend 'tests/lint.sh: MaximumDepth hides a 4096 beside it'; fi
is_number src/Block/RingQueue.cs '1:    public const int MaximumDepth = 4096;' || offend 'tests/lint.sh: MaximumDepth may not be declared'

# Packages: what design and licence review have let in, and nothing else.
allowed=' Microsoft.DotNet.ILCompiler Microsoft.NET.ILLink.Tasks xunit xunit.runner.visualstudio Microsoft.NET.Test.Sdk coverlet.collector '
projects=$(find . \( -name bin -o -name obj -o -name build -o -name .git \) -prune -o \( -name '*.csproj' -o -name '*.props' -o -name '*.targets' \) -print | sort)
for file in $projects; do
    sed -n 's/.*<Package\(Reference\|Version\|Download\)[^>]*\(Include\|Update\)="\([^"]*\)".*/\3/p' "$file" | while IFS= read -r package; do
        case $allowed in *" $package "*) ;; *) offend "$file: package $package is not on the list" ;; esac
    done
done
for file in $projects; do
    case $file in ./interop/* | ./src/Block/* | ./tests/*) continue ;; esac
    if grep -q 'AllowUnsafeBlocks>true' "$file"; then offend "$file: unsafe code belongs into interop and src/Block/Kernels"; fi
done

# rank PROJECT: its storey in the house; references go down only (design: interop, Block, Cow, Merge and Create, Serve, Daemon, Cli).
rank() {
    case $1 in
        Interop) echo 0 ;; Block) echo 1 ;; Cow) echo 2 ;; Merge | Create) echo 3 ;; Serve) echo 4 ;; Daemon) echo 5 ;; Cli) echo 6 ;;
        *) echo unknown ;;
    esac
}
for file in interop/*.csproj src/*/*.csproj; do
    own=$(rank "$(basename "$file" .csproj)")
    if [ "$own" = unknown ]; then offend "$file: has no storey in tests/lint.sh"; continue; fi
    for reference in $(sed -n 's/.*<ProjectReference Include="\([^"]*\)".*/\1/p' "$file"); do
        other=$(rank "$(basename "$reference" .csproj)")
        if [ "$other" = unknown ] || [ "$other" -ge "$own" ]; then offend "$file: refers upwards, to $reference"; fi
    done
done

# Text: no path of somebody's machine; shell scripts parse.
texts=$(find . \( -name bin -o -name obj -o -name build -o -name .git -o -name TestResults \) -prune -o -type f ! -name '*.br' ! -name '*.bin' -print | sort)
for file in $texts; do
    if grep -nIE '(^|[^A-Za-z0-9_.$)}-])/(work|root|Users|home/[a-z]+|tmp/w-[a-z]+)/' "$file" >/dev/null; then offend "$file: contains a path of somebody's machine"; fi
    case $(head -n 1 "$file" | tr -d '\0') in
        '#!/bin/sh'*) sh -n "$file" || offend "$file: does not parse" ;;
        '#!/bin/bash'* | '#!/usr/bin/env bash'*) bash -n "$file" || offend "$file: does not parse" ;;
    esac
done

if [ -s "$offences" ]; then
    cat "$offences"
    echo "lint: $(wc -l <"$offences") offences"
    exit 1
fi
echo "lint: the rules hold"
