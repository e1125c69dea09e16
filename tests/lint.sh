#!/bin/sh
# Checks the rules of this code base that neither the compiler nor `dotnet format` checks. Prints every offence; exits 1 if there is one.
set -eu
cd "$(dirname "$0")/.."

echo "lint: checking the rules of this code base: up to a minute" >&2
offences=$(mktemp)
trap 'rm -f "$offences"' EXIT INT TERM

offend() {
    echo "$1" >>"$offences"
}

# sources FOLDER …: the C# files below, without build output.
sources() {
    find "$@" \( -name bin -o -name obj \) -prune -o -name '*.cs' -print | sort
}

# code FILE: its lines with their numbers, without comments and string literals, which are not checked.
code() {
    sed -e "s/'\"'/' '/g" -e 's/\\"//g' -e 's/"[^"]*"/""/g' -e 's|//.*||' "$1" | grep -n '' || true
}

# ban PATTERN REASON FILE …: reports every line of code that matches.
ban() {
    pattern=$1
    reason=$2
    shift 2
    for file in "$@"; do
        code "$file" | grep -E "$pattern" | while IFS= read -r line; do offend "$file:$line: $reason"; done
    done
}

product=$(sources src interop)

# Only one place starts threads. It names them, sets the sizes of their stacks, and throws one error if a thread cannot be started.
started='new Thread\(|Thread [A-Za-z_]+ = new\('
started_why='threads are started by src/Block/WorkerThread.cs'
# Checks the rule: it finds both spellings, and neither a new array of threads nor a call of that place.
[ "$(printf '%s\n' 'x = new Thread(Run);' 'Thread x = new(Run, 1);' 'x = new Thread[2];' 'Thread x = WorkerThread.Start(n, s, Run);' \
    | grep -cE "$started")" = 2 ] || offend 'tests/lint.sh: the rule for threads misses an offence, or reports a line that is fine'

# A list of errnos that are temporary may name EINTR; a loop that repeats an interrupted call uses the one place for it.
interrupted='[!=]= *-?Errno\.EINTR'
[ "$(printf '%s\n' 'while (x == -Errno.EINTR);' 'if (x != -Errno.EINTR) y();' 'if (x is -Errno.EINTR or -Errno.EAGAIN) y();' \
    'x = -Errno.EINTR;' | grep -cE "$interrupted")" = 2 ] || offend 'tests/lint.sh: the rule for EINTR misses an offence, or refuses a list'

# shellcheck disable=SC2046,SC2086 # file names here have no blanks
{
    ban '(^|[^A-Za-z_])unsafe([^A-Za-z_]|$)' 'unsafe code belongs into interop and src/Block/Kernels' \
        $(sources src | grep -v '^src/Block/Kernels/')

    ban 'System\.Console|(^|[^A-Za-z_.])Console\.' 'no System.Console: it needs terminfo and a thread; use src/Cli/Output' $product
    ban 'System\.Threading\.Tasks|(^|[^A-Za-z_])Task\.Run|ThreadPool' 'no thread pool: own threads with small stacks' $product
    ban "$started" "$started_why" $(echo "$product" | grep -v '^src/Block/WorkerThread\.cs$')
    ban 'Libc\.EventFd' 'eventfds are src/Block/EventFd.cs; a closed standard descriptor may be filled with one' \
        $(echo "$product" | grep -v -e '^src/Block/EventFd\.cs$' -e '^src/Host/StandardDescriptors\.cs$')
    ban 'Libc\.Poll\(default' 'a sleep is Libc.Sleep' $product
    ban "$interrupted" 'an interrupted call is found by Retry.Interrupted (src/Block/Failures/Retry.cs)' \
        $(echo "$product" | grep -v '^src/Block/Failures/Retry\.cs$')
    ban '(^|[^A-Za-z_])FileStream|(^|[^A-Za-z_.])File\.[A-Z]|SafeHandle|SafeFileHandle' 'raw descriptors only (interop/Libc)' $product
    ban 'DateTime(Offset)?\.(Now|Today)|TimeZoneInfo' 'times are arguments, and in UTC' $product
    ban 'Environment\.SystemPageSize' 'the page of the system is Sizes.SystemPage (interop/Sizes.cs)' $product
    ban 'System\.Net(\.|;)' 'sockets are raw calls' $product
    ban 'System\.IO\.Compression|(^|[^A-Za-z_])(BrotliStream|GZipStream|DeflateStream|ZLibStream)' \
        'the codecs are statically linked C libraries' $product
    ban 'System\.Security\.Cryptography|(^|[^A-Za-z_])SHA256(\.|Managed)' \
        'the framework loads OpenSSL at run time; interop/Codecs/Sodium' $product
    ban 'Encoding\.(UTF8|Default)|PtrToString|GetCommandLineArgs|GetEnvironmentVariable' \
        'names are bytes, not UTF-8: interop/Libc/ByteText and OwnProcess' \
        $(echo "$product" | grep -v -e '^interop/Libc/ByteText\.cs$' -e '^interop/Entry/RawArguments\.cs$')
    ban 'Environment\.(Exit|FailFast)' 'an abort of process 1 is a panic: throw; Main gives the exit code' $product
}

# Private words that must not be names in code, because the field has its own word (docs/glossary.md). Words of the first list are also
# banned within names; words of the second list only as whole names.
within='(CowHead|OpHomes|LeftWindow|MergePace|MemoryShare|PlainCall|RingRefusal|TransferGroup|MergingMark|StandingRequests|Resumptions'
within="$within|HeldMagic|CowPart|PartName)([^a-z]|\$)"
whole='(^|[^A-Za-z0-9_])(Reason|Transfers|Trouble|Took|Readiness|_?bell)([^A-Za-z0-9_]|$)|(void |\.)Ring\('
private="$within|$whole"
coded=$(sources src interop tests)
# shellcheck disable=SC2086 # file names here have no blanks
for file in $(grep -lE "$private" $coded); do ban "$private" 'a private word for something that has a name: docs/glossary.md' "$file"; done
echo "$coded" | grep -E "/[A-Za-z.]*($within|(Reason|Transfers|Trouble|Readiness)(Tests)?\.cs)" | while IFS= read -r file; do
    offend "$file: a private word for something that has a name: docs/glossary.md"
done
found=$(printf '%s\n' 'CowHeader h;' 'new CowHeadTests();' 'Reason.Of(1)' 'string Reasons' '_bell.Set()' 'new Ring(4)' 's.Ring()' |
    grep -nE "$private" | cut -d : -f 1 | tr '\n' ' ')
[ "$found" = '2 3 5 7 ' ] || offend 'tests/lint.sh: the rule for private words misses an offence, or refuses another word'

# A block, a page of the system, a sector and a granule are 4096 bytes on most machines and are four different units: interop/Sizes.cs names
# them.
# In "FILE DECLARATION", the line that begins with DECLARATION may contain the number, because there it is something else:
#   a flag's bit, a limit or an encoding that a header defines under that name, or a count of things other than bytes.
numbers='
interop/DeviceMapper/DeviceMapperAbi.cs public const uint DM_QUERY_INACTIVE_TABLE_FLAG = 1 << 12;
interop/IoUring/IoUringAbi.cs public const uint IORING_SETUP_SINGLE_ISSUER = 1u << 12;
interop/Libc/Libc.Limits.cs public const int PATH_MAX = 4096;
interop/Libc/Libc.Limits.cs public const int PIPE_BUF = 4096;
interop/Libc/Libc.Loop.cs ((uint)((device & 0xfff00) >> 8),
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
# is_number FILE LINE: true if the list above allows the number in the line. LINE is its number, a colon and its text.
is_number() {
    text=$(echo "${2#*:}" | sed 's/^[[:blank:]]*//')
    echo "$numbers" | while read -r place declaration; do
        if [ "$place" = "$1" ]; then case $text in "$declaration"*) echo yes ;; esac; fi
    done | grep -q yes
}
# plain_numbers: reduces blanks to one and removes _ within numbers, so that each has one spelling.
plain_numbers() {
    sed -E -e 's/[[:blank:]]+/ /g' -e ':again' -e 's/(^|[^A-Za-z0-9_])([0-9][0-9a-fA-FxXbB]*)_+([0-9a-fA-F])/\1\2\3/' -e 't again'
}
# either A B OPERATOR: a pattern for the two numbers, with suffixes and parentheses, joined by the operator.
either() {
    echo "|\\(*$1[uUlL]*\\)* ?$3 ?\\(*$2"
}
twelve='(12|0[xX]0*[cC]|0[bB]0*1100)'
size='0*409[56]|0[xX]0*(1000|[fF]{3}|[fF]+000)|0[bB]0*(10{12}|1{12})'
shift=0
for factor in 4096 2048 1024 512 256 128 64 32 16 8 4 2; do
    if [ $shift -gt 0 ]; then
        size="$size$(either $factor $((4096 / factor)) '\*')$(either $factor $shift '<<')"
        size="$size$(either $((4096 * 4096 / factor)) $((4096 / factor)) '\/')"
    fi
    shift=$((shift + 1))
done
end='([^A-Za-z0-9_]|$)'
size="(^|[^A-Za-z0-9_.])($size)[uUlL]*$end|(<<|>>>?)=? ?\\(*$twelve[uUlL]*$end|(Shift|Bits) = $twelve$end"
for file in $product; do
    if [ "$file" = interop/Sizes.cs ]; then continue; fi
    code "$file" | plain_numbers | grep -E "$size" | while IFS= read -r line; do
        is_number "$file" "$line" || offend "$file:$line: a block, a page, a sector and a granule have names: interop/Sizes.cs"
    done
done
# Checks the pattern itself: it finds every spelling of the first list and none of the second.
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
# The list allows only the declaration: another use of its name does not allow the number in a line.
if is_number src/Block/RingQueue.cs '1:        int depth = MaximumDepth > 0 ? 4096 : 0;'; then
    offend 'tests/lint.sh: MaximumDepth hides a 4096 beside it'
fi
is_number src/Block/RingQueue.cs '1:    public const int MaximumDepth = 4096;' || offend 'tests/lint.sh: MaximumDepth may not be declared'

# Packages: only those that passed the design and licence review.
allowed=' Microsoft.DotNet.ILCompiler Microsoft.NET.ILLink.Tasks xunit xunit.runner.visualstudio Microsoft.NET.Test.Sdk coverlet.collector '
projects=$(find . \( -name bin -o -name obj -o -name build -o -name .git \) -prune \
    -o \( -name '*.csproj' -o -name '*.props' -o -name '*.targets' \) -print | sort)
for file in $projects; do
    packages=$(sed -n 's/.*<Package\(Reference\|Version\|Download\)[^>]*\(Include\|Update\)="\([^"]*\)".*/\3/p' "$file")
    for package in $packages; do
        case $allowed in *" $package "*) ;; *) offend "$file: package $package is not on the list" ;; esac
    done
done
for file in $projects; do
    case $file in ./interop/* | ./src/Block/* | ./tests/*) continue ;; esac
    if grep -q 'AllowUnsafeBlocks>true' "$file"; then offend "$file: unsafe code belongs into interop and src/Block/Kernels"; fi
done

# rank PROJECT: its layer; references only go to lower layers (docs/design.md lists them).
rank() {
    case $1 in
        Interop) echo 0 ;;
        Block | Text) echo 1 ;;
        Cow) echo 2 ;;
        Merge | Create | AndroidDevice) echo 3 ;;
        Serve | Images | Recovery) echo 4 ;;
        Control) echo 5 ;;
        Host) echo 6 ;;
        Boot | AndroidDaemon) echo 7 ;;
        Cli) echo 8 ;;
        *) echo unknown ;;
    esac
}
# refers_up OWN OTHER: true if a reference from project OWN to OTHER goes up or sideways, or if one of them has no layer.
refers_up() {
    own=$(rank "$1")
    other=$(rank "$2")
    [ "$own" = unknown ] || [ "$other" = unknown ] || [ "$other" -ge "$own" ]
}
for file in interop/*.csproj src/*/*.csproj; do
    name=$(basename "$file" .csproj)
    if [ "$(rank "$name")" = unknown ]; then offend "$file: has no layer in tests/lint.sh"; continue; fi
    for reference in $(sed -n 's/.*<ProjectReference Include="\([^"]*\)".*/\1/p' "$file"); do
        if refers_up "$name" "$(basename "$reference" .csproj)"; then offend "$file: refers upwards, to $reference"; fi
    done
done
# Checks the rule: it reports references upwards and sideways, and projects that it does not know.
for planted in 'Boot Cli' 'Merge Create' 'Cow Cow' 'Cow Unheard' 'Unheard Interop'; do
    # shellcheck disable=SC2086 # two words
    refers_up $planted || offend "tests/lint.sh: the rule for references lets '$planted' through"
done
if refers_up Cli Boot; then offend "tests/lint.sh: the rule for references refuses 'Cli Boot'"; fi

# Text files: no machine-specific path; shell scripts parse.
texts=$(find . \( -name bin -o -name obj -o -name build -o -name .git -o -name TestResults \) -prune \
    -o -type f ! -name '*.br' ! -name '*.bin' -print | sort)
for file in $texts; do
    if grep -nIE '(^|[^A-Za-z0-9_.$)}-])/(work|root|Users|home/[a-z]+|tmp/w-[a-z]+)/' "$file" >/dev/null; then
        offend "$file: contains a path of one machine"
    fi
    case $(head -n 1 "$file" | tr -d '\0') in
        '#!/bin/sh'*) sh -n "$file" || offend "$file: does not parse" ;;
        '#!/bin/bash'* | '#!/usr/bin/env bash'*) bash -n "$file" || offend "$file: does not parse" ;;
    esac
done

# Words that hide the actor (a sentence says which process, thread or user it is about), and `behind`, which is "after" for time and for
# order. In "FILE TEXT", a line of FILE that has TEXT may have such a word: the rule itself, or a position in a file.
words='whoever|somebody|nobody|behind'
kept='
tests/lint.sh behind
tests/lint.sh nobody
'
# spoken FILE …: the lines that have one of the words. A test's name is a sentence, so _ separates words.
spoken() {
    grep -HniE "(^|[^A-Za-z])($words)([^A-Za-z]|\$)" "$@" || true
}
# is_kept FILE LINE: true if the list above allows the line.
is_kept() {
    echo "$kept" | while read -r place text; do
        if [ "$place" = "$1" ]; then case $2 in *"$text"*) echo yes ;; esac; fi
    done | grep -q yes
}
# shellcheck disable=SC2046 # file names here have no blanks
spoken $(echo "$texts" | grep -vE '\.svg$|/LICENSE$') | sed 's|^\./||' | cut -c 1-160 | while IFS= read -r line; do
    is_kept "${line%%:*}" "$line" || offend "$line: name the actor (another process, a reader, the user); say after or past, not behind"
done
found=$(printf 'Nobody reads it.\nsomebodys\nof WHOEVER waits\nOp_behind_a_label\nbehindhand\n' | spoken | cut -d : -f 2 | tr '\n' ' ')
[ "$found" = '1 3 4 ' ] ||
    offend 'tests/lint.sh: the rule for words misses an offence, or reports a part of another word'
[ "$(echo "$kept" | grep -c .)" -le 20 ] || offend 'tests/lint.sh: more than 20 exceptions of the rule for words'

# Sentences of comments have 35 words at most.
scripts=$(for file in $texts; do case $(head -n 1 "$file" | tr -d '\0') in '#!/bin/sh'* | '#!/bin/bash'*) echo "$file" ;; esac; done)
# long_sentences MARK FILE …: prints the places of longer sentences in comments that begin with MARK.
long_sentences() {
    mark=$1
    shift
    awk -v mark="$mark" -f tests/long-sentences.awk "$@"
}
# shellcheck disable=SC2046,SC2086 # file names here have no blanks
{
    long_sentences // $(sources src interop tests)
    long_sentences '#' $scripts ./Makefile
} | while IFS= read -r line; do offend "$line: more than 35 words in a sentence"; done
thirty_five=$(seq -s ' ' 35)
planted=$(printf '%s\n' "/// <summary>$thirty_five: one.</summary>" "/// $thirty_five" '/// <see cref="A b"/>.' 'int x;' \
    "// $thirty_five" '// - x')
[ "$(echo "$planted" | long_sentences // | cut -d : -f 2 | tr '\n' ' ')" = '2 ' ] ||
    offend 'tests/lint.sh: the rule for long sentences misses an offence, or refuses 35 words'

# Commit subjects after this commit have 72 characters at most. Not checked without git or that commit, as in an archive or a shallow clone.
since=35e9854
# long_subjects: prints the lines of standard input ("HASH SUBJECT") whose subject is longer.
long_subjects() {
    LC_ALL=C.UTF-8 grep -E '^[0-9a-f]+ .{73,}$' || true
}
if git rev-parse --quiet --verify "$since^{commit}" >/dev/null 2>&1; then
    git log --format='%h %s' "$since.." | long_subjects | while IFS= read -r line; do offend "commit $line: more than 72 characters"; done
else
    echo "lint: commit $since is not here, so commit subjects are not checked" >&2
fi
seventy=0123456789012345678901234567890123456789012345678901234567890123456789
[ "$(printf '%s\n' "1a ${seventy}xx" "2b ${seventy}éé" "3c ${seventy}xxx" | long_subjects | cut -d ' ' -f 1)" = 3c ] ||
    offend 'tests/lint.sh: the rule for commit subjects misses an offence, or refuses 72 characters'

# Lines of code and scripts have 140 columns at most. In "FILE TEXT", a line of FILE that has TEXT may be longer: it is the output of a
# program, in a raw string.
printed='
tests/Merge/ImageTests.cs read payload 101+4096 bytes
tests/Merge/ImageTests.cs 65 cow: source too small
tests/Merge/TrafficTests.cs read payload 95+4096 bytes
tests/Serve/ViewTrafficTests.cs 1+39: base
tests/Serve/ViewTrafficTests.cs 0+40: base
'
# long_lines FILE …: prints the lines that are longer.
long_lines() {
    LC_ALL=C.UTF-8 grep -HnE '^.{141,}$' "$@" || true
}
# shellcheck disable=SC2046,SC2086 # file names here have no blanks
long_lines $(sources src interop tests) $scripts ./Makefile | sed 's|^\./||' | while IFS= read -r line; do
    echo "$printed" | while read -r place text; do
        if [ "$place" = "${line%%:*}" ]; then case $line in *"$text"*) echo yes ;; esac; fi
    done | grep -q yes || offend "$(printf '%s\n' "$line" | cut -d : -f 1,2): more than 140 columns"
done
[ "$(printf '%s\n' "$seventy$seventy" "$seventy${seventy}x" "$seventy${seventy%?}é" | long_lines | cut -d : -f 2)" = 2 ] ||
    offend 'tests/lint.sh: the rule for long lines misses an offence, or refuses 140 columns'

# The README has a size limit: more detail belongs on a page of docs.
readme_limit=8000
# is_long FILE: true if it has more bytes than the README may have.
is_long() {
    [ "$(wc -c <"$1")" -gt $readme_limit ]
}
if is_long README.md; then offend "README.md: $(wc -c <README.md) bytes, $readme_limit at most; the rest belongs on a page of docs"; fi

# wide_lines: prints the lines of more than 100 columns, with their numbers, of Markdown on standard input. Table rows and link targets do
# not count.
wide_lines() {
    sed -e 's/](\([^)]*\))/]/g' -e 's|https\{0,1\}://[^ )]*||g' | LC_ALL=C.UTF-8 grep -nE '^.{101,}$' |
        grep -vE '^[0-9]+:[[:blank:]]*\|' || true
}
pages=$(find . \( -name bin -o -name obj -o -name build -o -name .git \) -prune -o -name '*.md' -print | sed 's|^\./||' | sort)
for file in $pages; do
    wide_lines <"$file" | while IFS= read -r line; do offend "$file:${line%%:*}: more than 100 columns"; done
done
# Both rules report what they forbid and accept everything else.
ten=0123456789
hundred=$ten$ten$ten$ten$ten$ten$ten$ten$ten$ten
planted=$(mktemp)
head -c $readme_limit /dev/zero >"$planted"
if is_long "$planted"; then offend "tests/lint.sh: the rule for the README's size refuses $readme_limit bytes"; fi
echo >>"$planted"
is_long "$planted" || offend "tests/lint.sh: the rule for the README's size lets $((readme_limit + 1)) bytes through"
rm -f "$planted"
[ "$(printf '%s\n' "${hundred}x" "$hundred" "    ${hundred}" "é$hundred" | wide_lines | cut -d : -f 1 | tr '\n' ' ')" = '1 3 4 ' ] ||
    offend 'tests/lint.sh: the rule for wide lines of Markdown misses an offence, or refuses 100 columns'
narrow=$(printf '%s\n' "| ${hundred}x |" "see [this](docs/$hundred.md)" "https://example.org/$hundred" "ééé${hundred#???}")
[ -z "$(echo "$narrow" | wide_lines)" ] ||
    offend 'tests/lint.sh: the rule for wide lines of Markdown counts tables, targets of links, or bytes'

if [ -s "$offences" ]; then
    cat "$offences"
    echo "lint: $(wc -l <"$offences") offences"
    exit 1
fi
echo "lint: the rules hold"
