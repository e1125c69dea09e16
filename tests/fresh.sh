#!/bin/sh
# fresh.sh: runs make targets from a clean clone of HEAD on minimal Debians, as a new user meets them. `make fresh-test` calls it.
#
# debootstrap creates each Debian in build/fresh. It becomes the root of a separate mount namespace with private propagation, so that no
# mount of this machine changes. It sees this machine's /dev, its .NET SDK (read-only) and its NuGet packages (read-only, to avoid repeated
# downloads). Its packages come from this machine's mirror. Everything is removed at the end, also after a failure or Ctrl-C.
#
# In the environment:
#   DEBIAN="12 13"     which Debians
#   TARGETS="demo test lint reproducible"   which targets, in this order
#   MINUTES=40         time limit of one Debian
#   HOST_RESULTS=build/test-results   results of `make test` on this machine, with which those of the fresh one are compared
#   DEBIAN_MIRROR      where packages come from; unless given, where this machine's apt gets its own
# Logs and results stay in build/fresh/debian-N.log and build/fresh/debian-N.
set -eu

# ---------------------------------------------------------------- in the fresh Debian

# within TARGETS SECONDS: runs the targets in the new root; writes each result to /out/targets.
within() {
    cd /snapuserd-cs
    end=$(($(date +%s) + $2))
    status=0
    : >/out/targets
    for target in $1; do
        begin=$(date +%s)
        echo "fresh: make $target"
        code=0
        if [ $((end - begin)) -gt 0 ]; then
            timeout --kill-after=30 $((end - begin)) make "$target" </dev/null || code=$?
        else
            code=124
        fi
        case $code in
            0) how=passed ;;
            124 | 137) how="not done within the limit" status=1 ;;
            *) how="failed ($code)" status=1 ;;
        esac
        echo "fresh: make $target: $how after $(($(date +%s) - begin)) s" | tee -a /out/targets
        if [ -d build/test-results ]; then
            rm -rf /out/results
            cp -R build/test-results /out/results
        fi
    done
    return $status
}

# ---------------------------------------------------------------- in the new mount namespace

# bound FROM TO: mounts FROM read-only at TO.
bound() {
    mkdir -p "$2"
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}

# inside FOLDER SUITE MIRROR TARGETS SECONDS: creates the Debian in FOLDER/root, enters it, and runs the targets.
inside() {
    folder=$1 suite=$2 mirror=$3 targets=$4 seconds=$5
    # The id of this process in the outer script's namespace, because /proc is still mounted for that namespace.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$folder/process"
    new=$folder/root
    begin=$(date +%s)
    debs=$(dirname "$folder")/packages-$suite
    mkdir -p "$debs/partial" "$new"
    echo "fresh: debootstrap of $suite from $mirror"
    # Packages besides the minimal ones: make, and those that the SDK's own packages depend on: libssl, and certificates for downloads.
    debootstrap --variant=minbase --cache-dir="$debs" --include=make,ca-certificates,openssl "$suite" "$new" "$mirror/debian"

    cat >"$new/etc/apt/sources.list" <<END
deb $mirror/debian $suite main
deb $mirror/debian $suite-updates main
deb $mirror/debian-security $suite-security main
END
    # The settings with which this machine's apt reaches its mirrors, without the sources.
    apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-Valid-Until|Check-Date)' >"$new/etc/apt/apt.conf.d/90machine" || true
    printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
    chmod 0755 "$new/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf /etc/hosts "$new/etc/"
    # Certificates that the administrator of this machine trusts.
    if ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1; then
        mkdir -p "$new/usr/local/share/ca-certificates"
        cp -L /usr/local/share/ca-certificates/*.crt "$new/usr/local/share/ca-certificates/"
        chroot "$new" update-ca-certificates >/dev/null 2>&1
    fi

    mv "$folder/clone" "$new/snapuserd-cs"
    cp "$0" "$new/fresh.sh"
    # pivot_root requires a mount point.
    mount --bind "$new" "$new"

    sdk=$(dirname "$(readlink -f "$(command -v dotnet)")")
    bound "$sdk" "$new$sdk"
    ln -s "$sdk/dotnet" "$new/usr/local/bin/dotnet"
    fallback=
    packages=$(DOTNET_NOLOGO=1 dotnet nuget locals global-packages --list | sed -n 's/^global-packages: *//p')
    if [ -d "$packages" ]; then
        bound "$packages" "$new/opt/nuget-packages"
        fallback=NUGET_FALLBACK_PACKAGES=/opt/nuget-packages
    fi
    for config in "${HOME:-/nonexistent}/.nuget/NuGet/NuGet.Config" "${HOME:-/nonexistent}/.config/NuGet/NuGet.Config"; do
        if [ -f "$config" ]; then
            mkdir -p "$new/root/.nuget/NuGet"
            cp "$config" "$new/root/.nuget/NuGet/NuGet.Config"
            break
        fi
    done
    mkdir -p "$new/out" "$new/var/cache/apt/archives" "$debs-fetched"
    mount --bind "$folder/out" "$new/out"
    mount --bind "$debs" "$new/var/cache/apt/archives"
    # The cache of interop/Sysroot/fetch.sh.
    mkdir -p "$new/var/cache/snapuserd-cs"
    mount --bind "$debs-fetched" "$new/var/cache/snapuserd-cs"
    mount -t proc proc "$new/proc"
    mount --rbind /sys "$new/sys"
    mount --rbind /dev "$new/dev"
    mount -t tmpfs -o mode=0755 tmpfs "$new/run"
    cd "$new"
    mkdir -p .before
    pivot_root . .before
    # Takes only the variables for access to the registries from the environment.
    set --
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY NUGET_CERT_REVOCATION_MODE; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- "$@" "$name=$value"
    done
    seconds=$((seconds - $(date +%s) + begin))
    # shellcheck disable=SC2086 # a word or none
    exec .before/usr/bin/env -i "$@" $fallback PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
        DEBIAN_MIRROR="$mirror" FETCH_CACHE=/var/cache/snapuserd-cs chroot . /bin/sh -c \
        'umount -l /.before && rmdir /.before && exec /bin/sh /fresh.sh --within "$1" "$2"' sh "$targets" "$seconds"
}

case ${1:-} in
    --within) within "$2" "$3"; exit ;;
    --inside) shift; inside "$@"; exit ;;
esac

# ---------------------------------------------------------------- on this machine

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
script=$root/tests/fresh.sh
cd "$root"
debians=${DEBIAN:-12 13}
targets=${TARGETS:-demo test lint reproducible}
minutes=${MINUTES:-40}

fail() {
    echo "fresh.sh: $1" >&2
    exit 1
}

suite_of() {
    case $1 in
        12) echo bookworm ;;
        13) echo trixie ;;
        *) fail "DEBIAN must be 12, 13 or both, not '$1'" ;;
    esac
}
for debian in $debians; do suite_of "$debian" >/dev/null; done
for target in $targets; do
    case $target in
        build | demo | test | lint | reproducible | simulate | fuzz) ;;
        *) fail "'$target' cannot run in a fresh Debian; TARGETS are of build, demo, test, lint, reproducible, simulate and fuzz" ;;
    esac
done
[ "$(id -u)" -eq 0 ] || fail "only root can make mount namespaces and a Debian in them"
./build.sh fresh-deps

# The mirror from which this machine's apt gets Debian's packages.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null \
    | sed -n 's|^Debian \(.*\)/debian/*$|\1|p' | head -n 1)}
mirror=${mirror:-http://deb.debian.org}
# debootstrap's wget reads the proxy only from the environment.
if [ -z "${http_proxy:-}" ]; then
    proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy 2>/dev/null | head -n 1)
    if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then export http_proxy="$proxy"; fi
fi

[ -z "$(git status --porcelain)" ] || echo "fresh: uncommitted changes are not tested" >&2
mkdir -p build/fresh
free=$(df -Pk build/fresh | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge 6 ] || fail "build/fresh has $free GiB free, and a Debian with all that the tests need takes 6"

# lives FOLDER: true if the first process of the Debian in FOLDER is alive. A zombie does not count as alive.
lives() {
    [ -s "$1/process" ] && case $(sed 's/.*) //' "/proc/$(cat "$1/process")/stat" 2>/dev/null) in '' | Z* | X*) false ;; *) true ;; esac
}

# Removes the folders of earlier runs that were killed by SIGKILL.
for old in build/fresh/root-*; do
    if [ -s "$old/process" ] && ! lives "$old"; then rm -rf --one-file-system "$old"; fi
done

folder=
child=
follower=
mounts=$(mktemp)
cat /proc/self/mountinfo >"$mounts"

# gone: kills the processes of the fresh Debian, waits for the last one to end, and removes its folder.
gone() {
    if [ -n "$child" ]; then kill -KILL "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; child=; fi
    tries=0
    while [ -n "$folder" ] && lives "$folder" && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    if [ -n "$follower" ]; then kill "$follower" 2>/dev/null || true; wait "$follower" 2>/dev/null || true; follower=; fi
    if [ -n "$folder" ]; then
        echo "fresh: removing $folder"
        # A killed test leaves its loop devices attached.
        losetup --list --noheadings --raw --output NAME,BACK-FILE | while read -r name file; do
            case $file in "$folder"/*) losetup --detach "$name" || true ;; esac
        done
        if grep -qF "$folder" /proc/self/mountinfo; then
            echo "fresh: mounts are left below $folder; it is not removed" >&2
        else
            rm -rf --one-file-system "$folder"
        fi
        folder=
    fi
}
cleanup() {
    gone
    rm -f "$mounts"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# outcomes FOLDER: prints "NAME<tab>OUTCOME" for each test with a result below it. For a test that was not executed, the reason follows.
outcomes() {
    find "$1" -name '*.Tests.trx' -exec awk '
        /<UnitTestResult / {
            name = $0; sub(/.* testName="/, "", name); sub(/".*/, "", name)
            outcome = $0; sub(/.* outcome="/, "", outcome); sub(/".*/, "", outcome)
            if (outcome != "NotExecuted") print name "\t" outcome
        }
        outcome == "NotExecuted" && /<Message>|<StdOut>/ {
            reason = $0; gsub(/<[^>]*>/, "", reason); sub(/^[[:blank:]]*/, "", reason)
            print name "\t" outcome "\t" reason
            outcome = ""
        }' {} + | LC_ALL=C sort
}

# sum NAME FILE: prints how many outcomes the file has of each kind.
sum() {
    awk -F '\t' -v name="$1" '
        { n[$2]++ }
        END { printf "fresh: %s: %d passed, %d failed, %d skipped\n", name, n["Passed"], n["Failed"], n["NotExecuted"] }' "$2"
}

# compare DEBIAN: compares its results with those of this machine. Returns 1 if a test that passed here failed there or has no result there.
compare() {
    there=build/fresh/debian-$1
    here=${HOST_RESULTS:-build/test-results}
    [ -d "$there/results" ] || { echo "fresh: Debian $1: make test left no results"; return 1; }
    outcomes "$there/results" >"$there/outcomes"
    sum "Debian $1" "$there/outcomes"
    awk -F '\t' '$2 == "NotExecuted" { print "fresh: cannot run there: " $1 ": " $3 }' "$there/outcomes"
    if [ -z "$(find "$here" -name '*.Tests.trx' 2>/dev/null | head -n 1)" ]; then
        echo "fresh: Debian $1: nothing to compare with: run make test on this machine first, or name its results in HOST_RESULTS"
        return 1
    fi
    outcomes "$here" >"$there/outcomes-here"
    sum "this machine" "$there/outcomes-here"
    awk -F '\t' -v debian="$1" '
        function offend(what, name) {
            bad++
            if (bad <= 40) print "fresh: " what ": " name
        }
        NR == FNR { there[$1] = $2; next }
        $2 == "Passed" && there[$1] == "" { offend("passes here, left no result there", $1) }
        $2 == "Passed" && there[$1] == "Failed" { offend("passes here, fails there", $1) }
        { here[$1] = 1 }
        END {
            for (name in there) if (!(name in here)) offend("has a result there only", name)
            if (bad) print "fresh: Debian " debian ": " bad " tests differ"
            else print "fresh: Debian " debian ": the same tests as here; each passes there too, or says why it cannot run"
            exit bad > 0
        }' "$there/outcomes" "$there/outcomes-here"
}

result=0
for debian in $debians; do
    suite=$(suite_of "$debian")
    log=$root/build/fresh/debian-$debian.log
    out=$root/build/fresh/debian-$debian
    rm -rf "$out"
    mkdir -p "$out"
    folder=$(mktemp -d "$root/build/fresh/root-$debian.XXXXXX")
    # The root directory of a system is readable for all its users.
    chmod 0755 "$folder"
    mkdir "$folder/out"
    git clone -q --no-hardlinks "file://$root" "$folder/clone"
    : >"$log"
    tail -n +1 -f "$log" &
    follower=$!
    # Each of the three processes dies with its parent.
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child -- \
        /bin/sh "$script" --inside "$folder" "$suite" "$mirror" "$targets" $((minutes * 60)) </dev/null >"$log" 2>&1 &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    cp -R "$folder/out/." "$out/"
    gone
    if [ $status -ne 0 ]; then result=1; fi
    echo
    echo "fresh: Debian $debian ($suite):"
    cat "$out/targets" 2>/dev/null || echo "fresh: no target was reached"
    case " $targets " in *" test "*) compare "$debian" || result=1 ;; esac
    echo "fresh: not run there, because they start a kernel or measure this machine: guest-test, boot-test, bench"
done
# Other programs may mount and unmount in the meantime. Only mounts whose path has our folder are from this script.
if grep -vxFf "$mounts" /proc/self/mountinfo | grep -F "$root/build/fresh"; then
    echo "fresh: these mounts were left on this machine" >&2
    result=1
fi
cmp -s "$mounts" /proc/self/mountinfo && echo "fresh: the mounts of this machine are unchanged"
exit $result
