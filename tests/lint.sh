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
