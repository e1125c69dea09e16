#!/bin/sh
# fetch.sh [--depends] ARCH SUITE PACKAGE…: fetches packages of a Debian suite for an architecture (amd64, arm64), unpacks them below one
# folder, and prints that folder. A folder that is complete is not fetched again. Nothing is installed: apt runs with its own configuration,
# lists and cache, so this machine's packages and architectures do not change, and root is not needed. FOLDER/.complete lists the versions;
# `./build.sh clean` makes the next run fetch the newest.
# With --depends each PACKAGE is a metapackage of a kernel, such as linux-image-arm64. The script fetches the kernel that it depends on, or
# all of the kernel's packages if Debian splits it (from Linux 7 on).
# Environment: FETCH_CACHE, the folder for all of this (default build/cache); DEBIAN_MIRROR (default http://deb.debian.org).
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
depends=
if [ "${1:-}" = --depends ]; then
    depends=' depends'
    shift
fi
[ $# -ge 3 ] || { echo "usage: fetch.sh [--depends] ARCH SUITE PACKAGE…" >&2; exit 2; }
arch=$1
suite=$2
shift 2
cache=${FETCH_CACHE:-$root/build/cache}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org}
apt=$cache/apt-$arch-$suite
name=$(echo "$arch $suite $*$depends" | sha256sum | cut -c -12)
folder=$cache/$suite-$arch-$name

fail() {
    echo "fetch.sh: $1" >&2
    exit 1
}

if [ -e "$folder/.complete" ]; then
    echo "$folder"
    exit
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "apt-get and dpkg-deb are needed to fetch Debian's packages for $arch"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || fail "$keyring is missing (Debian package debian-archive-keyring)"

mkdir -p "$cache"
# One run at a time: apt has one set of lists here, and two builds need the same folder. After the wait the folder may be complete.
exec 9>"$cache/.lock"
flock 9
if [ -e "$folder/.complete" ]; then
    echo "$folder"
    exit
fi
echo "fetch.sh: fetching packages of Debian $suite for $arch, which takes up to a minute: $*" >&2
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/etc"
: >"$apt/state/status"
cat >"$apt/etc/sources.list" <<END
deb [signed-by=$keyring] $mirror/debian $suite main
END
# Backports have no security updates of their own.
case $suite in
    *-backports) ;;
    *) echo "deb [signed-by=$keyring] $mirror/debian-security $suite-security main" >>"$apt/etc/sources.list" ;;
esac
cat >"$apt/etc/apt.conf" <<END
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Dir::State "$apt/state/";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache/";
Dir::Etc::SourceList "$apt/etc/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
END
export APT_CONFIG="$apt/etc/apt.conf"

# depends_of PACKAGE: prints its dependencies, one name per line.
depends_of() {
    apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *|\{0,1\}Depends: \([^<].*\)$/\1/p'
}

# download PACKAGE…: downloads them into the current folder. With --depends, downloads their dependencies instead.
download() {
    if [ -n "$depends" ]; then
        for package in "$@"; do
            shift
            found=$(depends_of "$package" | grep -E '^linux-image-[0-9]' | head -n 1)
            [ -n "$found" ] || return 1
            # shellcheck disable=SC2046 # none or some words
            set -- "$@" "$found" $(depends_of "$found" | grep -E '^linux-(base|binary|modules)-[0-9]')
        done
    fi
    apt-get download -qq "$@" >&2
}

rm -rf "$folder.new"
mkdir -p "$folder.new/.debs"
cd "$folder.new/.debs"
# Outdated lists name packages that the mirror no longer has: then the lists are fetched again.
if ! [ -e "$apt/listed" ] || ! download "$@"; then
    apt-get update -qq -o APT::Update::Error-Mode=any >&2 || fail "the package lists of $suite for $arch cannot be fetched from $mirror"
    : >"$apt/listed"
    download "$@" || fail "not all of these can be fetched for $arch from $suite: $*"
fi
cd ..
for package in .debs/*.deb; do
    dpkg-deb -x "$package" .
    dpkg-deb --show --showformat='${Package} ${Version}\n' "$package"
done >.versions
rm -rf .debs
mv .versions .complete
rm -rf "$folder"
mv "$folder.new" "$folder"
echo "$folder"
