#!/bin/sh
# The rules of this code base that neither the compiler nor `dotnet format` knows. Prints every offence; exits 1 if there is one.
set -eu
cd "$(dirname "$0")/.."

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
    ban 'System\.Net(\.|;)' 'sockets are raw calls' $product
    ban 'System\.IO\.Compression|(^|[^A-Za-z_])(BrotliStream|GZipStream|DeflateStream|ZLibStream)' 'the codecs are statically linked C libraries' $product
    ban 'System\.Security\.Cryptography|(^|[^A-Za-z_])SHA256(\.|Managed)' 'the framework loads OpenSSL at run time; interop/Codecs/Sodium' $product
    ban 'Encoding\.(UTF8|Default)|PtrToString|GetCommandLineArgs|GetEnvironmentVariable' 'names are bytes, not UTF-8: interop/Libc/ByteText and OwnProcess' \
        $(echo "$product" | grep -v -e '^interop/Libc/ByteText\.cs$' -e '^interop/Entry/RawArguments\.cs$')
    ban 'Environment\.(Exit|FailFast)' 'an abort under PID 1 is a panic: throw, and let Main answer' $product
}

# A block, a page of the system, a sector and a granule are 4096 bytes on most machines and are four things: interop/Sizes.cs names them.
# In "FILE NAME", NAME is on the line that may have the number, because there it is something else:
#   a flag's bit, a limit or an encoding that a header defines under that name, or a count of things that are no bytes.
numbers='
interop/DeviceMapper/DeviceMapperAbi.cs DM_QUERY_INACTIVE_TABLE_FLAG
interop/IoUring/IoUringAbi.cs IORING_SETUP_SINGLE_ISSUER
interop/Libc/Libc.Limits.cs PATH_MAX
interop/Libc/Libc.Limits.cs PIPE_BUF
interop/Libc/Libc.Loop.cs DecodeDevice
interop/Libc/Libc.Loop.cs EncodeDevice
interop/Libc/Libc.MkNod.cs device
interop/Libc/Libc.Mount.cs MS_BIND
interop/Libc/Libc.Statx.cs AT_EMPTY_PATH
interop/Libc/Libc.Statx.cs S_IFIFO
interop/Nbd/NbdWire.cs LongestString
interop/Ublk/UblkAbi.cs UBLK_MAX_QUEUE_DEPTH
interop/Ublk/UblkAbi.cs UBLK_MAX_NR_QUEUES
src/Block/RingQueue.cs MaximumDepth
src/Create/StopPoll.cs Every
src/Merge/Batch.cs IndexBits
src/Serve/Nbd/NbdControl.cs MessageBytes
src/Serve/Nbd/NbdSocket.cs AheadBytes
'
# is_number FILE LINE: whether the list above lets the line have it.
is_number() {
    echo "$numbers" | while read -r place name; do
        if [ "$place" = "$1" ]; then case $2 in *"$name"*) echo yes ;; esac; fi
    done | grep -q yes
}
size='(^|[^A-Za-z0-9_.])(4_?09[56]|0x(1000|[fF][fF][fF])|4 ?<< ?10|4 ?\* ?1024|1024 ?\* ?4)([uUlL]*)([^A-Za-z0-9_]|$)|(<<|>>) ?12([^0-9]|$)|(Shift|Bits) = 12([^0-9]|$)'
for file in $product; do
    if [ "$file" = interop/Sizes.cs ]; then continue; fi
    code "$file" | grep -E "$size" | while IFS= read -r line; do
        is_number "$file" "$line" || offend "$file:$line: a block, a page, a sector and a granule have names: interop/Sizes.cs"
    done
done

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
