#!/bin/sh
# The only script that builds snapuserd; the Makefile, the tests and CI call it.
# `./build.sh help` lists the commands.
set -eu

caller=$PWD
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$root"

# The target framework; MSBuild reads it from the environment.
TFM=${TFM:-net10.0}
export TFM

fail() {
    echo "build.sh: $1" >&2
    exit 1
}

# The target architecture in Debian's spelling: this machine's unless ARCH says otherwise.
case $(uname -m) in
    x86_64) host=amd64 ;;
    aarch64) host=arm64 ;;
    *) host=$(uname -m) ;;
esac
ARCH=${ARCH:-$host}
# The kernel's names are accepted as well.
case $ARCH in x86_64) ARCH=amd64 ;; aarch64) ARCH=arm64 ;; esac
case $ARCH in
    amd64) rid=linux-x64 triple=x86_64-linux-gnu emulator=qemu-x86_64-static other=arm64 ;;
    arm64) rid=linux-arm64 triple=aarch64-linux-gnu emulator=qemu-aarch64-static other=amd64 ;;
    *) fail "ARCH must be amd64 (x86_64) or arm64 (aarch64), not '$ARCH'" ;;
esac
export ARCH
# The folder for the program and its companions: build for this machine's architecture, build/ARCH for another one.
if [ "$ARCH" = "$host" ]; then output=build; else output=build/$ARCH; fi

case $root in
    *[[:space:]]*)
        fail "the linker does not support blanks in paths: build in a folder without blanks in its path, not in '$root'"
        ;;
esac

# No telemetry, and no process that outlives the build: no MSBuild node, no MSBuild server, no compiler server.
# On a machine without libicu the SDK does not start unless globalization is invariant.
export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1 DOTNET_GENERATE_ASPNET_CERTIFICATE=false
export DOTNET_CLI_USE_MSBUILD_SERVER=0 MSBUILDDISABLENODEREUSE=1 UseSharedCompilation=false
# An SDK that is not writable, such as a packaged one, complains about its workloads. The build uses none.
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_SKIP_WORKLOAD_INTEGRITY_CHECK=1

# Without a writable HOME, as under cron or a build daemon, the SDK cannot store packages. Then use the home folder of the user database, or
# else a folder here.
if [ -z "${DOTNET_CLI_HOME:-}" ] && ! { [ -n "${HOME:-}" ] && [ -d "$HOME" ] && [ -w "$HOME" ]; }; then
    DOTNET_CLI_HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)
    if [ -z "$DOTNET_CLI_HOME" ] || ! [ -d "$DOTNET_CLI_HOME" ] || ! [ -w "$DOTNET_CLI_HOME" ]; then DOTNET_CLI_HOME=$root/build/home; fi
    export DOTNET_CLI_HOME
    # Programs outside the SDK, such as NuGet, read HOME too.
    export HOME="$DOTNET_CLI_HOME"
    mkdir -p "$HOME"
fi

# say SENTENCE: announces a step that takes more than a few seconds.
say() {
    echo "build.sh: $1" >&2
}

# has_package ID: true if one of NuGet's folders has a version of the package. Names there are in lower case.
has_package() {
    for folder in "${NUGET_PACKAGES:-${DOTNET_CLI_HOME:-$HOME}/.nuget/packages}" $(echo "${NUGET_FALLBACK_PACKAGES:-}" | tr ';' ' '); do
        if [ -d "$folder/$1" ]; then return 0; fi
    done
    return 1
}

# say_downloads: announces what the next step downloads from nuget.org, if anything. Sizes measured with .NET 10.0.12.
say_downloads() {
    if ! has_package "microsoft.netcore.app.runtime.nativeaot.$rid"; then
        say "the first build for $ARCH downloads the native compiler from nuget.org: 95 MB, 405 MB unpacked; that takes minutes"
    fi
}

# say_test_downloads: announces what the tests download from nuget.org, if anything.
say_test_downloads() {
    has_package xunit || say "the first run of the tests downloads xunit and the test host from nuget.org: 22 MB, 100 MB unpacked"
}

# compiler: prints the C compiler that NativeAOT links with. Prefers clang; otherwise gcc, which can only build for this machine.
compiler() {
    command -v clang || { [ "$ARCH" = "$host" ] && command -v gcc; }
}

# has_file NAME: true if the linker finds a file such as libz.a or rcrt1.o.
has_file() {
    cc=$(compiler) || return 1
    [ -f "$("$cc" -print-file-name="$1")" ]
}

# sysroot: prints the folder with the libraries and headers of ARCH. Creates it from Debian's packages if it is missing; they are only
# unpacked, not installed, and this needs no root.
sysroot() {
    packages='libc6 libc6-dev linux-libc-dev libgcc-12-dev zlib1g-dev libbrotli-dev liblz4-dev libzstd-dev libsodium-dev libdevmapper-dev'
    # shellcheck disable=SC2086 # one word per package
    interop/Sysroot/fetch.sh "$ARCH" bookworm $packages
}

# Each function missing_…packages prints the Debian packages that a command needs and that are not installed.

# missing_packages: for the build.
missing_packages() {
    compiler >/dev/null || echo clang
    command -v ld.lld >/dev/null || echo lld
    if [ "$ARCH" != "$host" ]; then
        command -v llvm-objcopy >/dev/null || echo llvm
        return
    fi
    command -v objcopy >/dev/null || echo binutils
    has_file rcrt1.o || echo libc6-dev
    has_file libz.a || echo zlib1g-dev
    has_file libbrotlidec.a || echo libbrotli-dev
    has_file liblz4.a || echo liblz4-dev
    has_file libzstd.a || echo libzstd-dev
    has_file libsodium.a || echo libsodium-dev
}

# missing_demo_packages: for the demo, which fills two file systems and, as root, attaches loop devices.
missing_demo_packages() {
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs
    command -v losetup >/dev/null || echo mount
}

# missing_bench_packages: for the benchmarks, which attach loop devices as root and read through other projects' NBD clients.
missing_bench_packages() {
    command -v losetup >/dev/null || echo mount
    command -v nbdcopy >/dev/null || echo libnbd-bin
    command -v fio >/dev/null || echo fio
}

# missing_soak_packages: for the soak test, which mounts file systems and cuts the power of disks.
missing_soak_packages() {
    command -v strace >/dev/null || echo strace
    command -v nbdkit >/dev/null || echo nbdkit
    command -v nbdfuse >/dev/null || echo libnbd-bin
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs
    command -v mkfs.xfs >/dev/null || echo xfsprogs
    command -v losetup >/dev/null || echo mount
    command -v perl >/dev/null || echo perl
}

# missing_reproducible_packages: for the comparison of builds, one of which is in a clone.
missing_reproducible_packages() {
    command -v git >/dev/null || echo git
}

# missing_fresh_packages: for the tests on minimal Debians.
missing_fresh_packages() {
    command -v debootstrap >/dev/null || echo debootstrap
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    command -v git >/dev/null || echo git
    command -v losetup >/dev/null || echo mount
}

# missing_test_packages: for the tests, which also trace system calls, cut the power of disks and compile the kernel's headers.
missing_test_packages() {
    command -v strace >/dev/null || echo strace
    # A block device whose power can be cut (tests/Support/CutDisk.cs).
    command -v nbdkit >/dev/null || echo nbdkit
    command -v nbdfuse >/dev/null || echo libnbd-bin
    # Other projects' NBD clients, besides nbdinfo and nbdcopy.
    command -v qemu-img >/dev/null || echo qemu-utils
    command -v fio >/dev/null || echo fio
    # File systems with missing features (tests/Support/lackingfs.c), and a small one to fill up.
    [ -f /usr/include/fuse3/fuse.h ] || echo libfuse3-dev
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs
    # Another block device whose power the tests cut (tests/Support/ShutdownFileSystem.cs).
    command -v mkfs.xfs >/dev/null || echo xfsprogs
    # Tests of the conventions between libdevmapper and udev's rules.
    [ -f /usr/include/libdevmapper.h ] || echo libdevmapper-dev
    # Compiles constants and structs against the headers of every architecture; gcc only supports its own.
    command -v clang >/dev/null || echo clang
    # Renders the man pages as users read them.
    command -v mandoc >/dev/null || echo mandoc
    # The kernel's own headers: those of the distribution's libc may be older than the interfaces used here.
    if ! ls -d /usr/src/linux-headers-6.12.*-common >/dev/null 2>&1 && command -v apt-cache >/dev/null; then
        apt-cache pkgnames linux-headers-6.12. | grep -E '^linux-headers-6\.12\.[0-9]+[^-]*-common$' | sort -V | tail -n 1
    fi
}

# missing_debug_packages: for running a simulation in a debugger.
missing_debug_packages() {
    command -v gdb >/dev/null || echo gdb
}

# missing_mutants_packages: for mutants, which run in separate namespaces; git gives the seed from HEAD.
missing_mutants_packages() {
    missing_test_packages
    command -v git >/dev/null || echo git
    command -v unshare >/dev/null || echo util-linux
}

# missing_emulation_packages: for the tests of a program for another architecture, which run in a user-mode emulator.
missing_emulation_packages() {
    missing_test_packages
    command -v "$emulator" >/dev/null || echo qemu-user-static
}

# missing_guest_packages: for the tests in a virtual machine.
missing_guest_packages() {
    case $ARCH in
        amd64) command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86 ;;
        arm64) command -v qemu-system-aarch64 >/dev/null || echo qemu-system-arm ;;
    esac
    # Compiles test programs for another architecture.
    if [ "$ARCH" != "$host" ]; then missing_packages; fi
    command -v qemu-img >/dev/null || echo qemu-utils
    busybox --help 2>/dev/null | grep -q insmod || echo busybox-static
    command -v cpio >/dev/null || echo cpio
    command -v mke2fs >/dev/null || echo e2fsprogs
    command -v sfdisk >/dev/null || echo fdisk
    command -v modprobe >/dev/null || echo kmod
    command -v xz >/dev/null || echo xz-utils
    command -v zstd >/dev/null || echo zstd
}

# missing_boot_packages: for the tests that boot through an update, including the tools that make a Debian initramfs.
missing_boot_packages() {
    missing_guest_packages
    command -v mkinitramfs >/dev/null || echo initramfs-tools-core
    command -v udevadm >/dev/null || echo udev
    command -v dmsetup >/dev/null || echo dmsetup
    command -v dracut >/dev/null || echo dracut-core
    [ -x /lib/systemd/systemd ] || echo systemd
    # Lists the libraries that Debian's programs need (tests/BootGuest/udev.sh).
    command -v readelf >/dev/null || echo binutils
}

# require FUNCTION: installs the packages that FUNCTION prints if it can (as root on Debian). Otherwise prints the command and fails.
require() {
    packages=$("$1" | tr '\n' ' ')
    case $1 in
        missing_test_packages | missing_emulation_packages) ;;
        *) [ -n "$packages" ] || return 0 ;;
    esac
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        # First the package lists: a fresh machine has none, and without them the name of its kernel headers is unknown.
        if [ -n "$packages" ] || ! ls -d /usr/src/linux-headers-6.12.*-common >/dev/null 2>&1; then
            say "fetching the lists of Debian's packages"
            DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
            packages=$("$1" | tr '\n' ' ')
        fi
        [ -n "$packages" ] || return 0
        say "installing $packages"
        # shellcheck disable=SC2086 # one word per package
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    elif [ -n "$packages" ]; then
        fail "missing packages; on Debian, run as root: apt-get install --no-install-recommends $packages"
    fi
}

sdk() {
    command -v dotnet >/dev/null ||
        fail "the .NET SDK is missing; install version ${TFM#net} or newer from https://dotnet.microsoft.com/download"
    wanted=${TFM#net}
    wanted=${wanted%%.*}
    found=$(dotnet --version)
    [ "${found%%.*}" -ge "$wanted" ] ||
        fail "the .NET SDK is version $found; $TFM needs $wanted or newer (https://dotnet.microsoft.com/download)"
}

deps() {
    sdk
    require missing_packages
}

# publish PROJECT DIRECTORY: compiles a project to native code for ARCH. Intermediate files go to build/artifacts/ARCH, so that this does
# not conflict with a concurrent `dotnet test` or a build for another architecture.
publish() {
    artifacts=build/artifacts/$ARCH
    mkdir -p "$artifacts"
    cross=
    target=
    if [ "$ARCH" != "$host" ]; then
        root_of_target=$(sysroot)
        target="--target=$triple --sysroot=$root_of_target"
        cross="-p:SysRoot=$root_of_target -p:ObjCopyName=llvm-objcopy"
    fi
    # gcc accepts this flag on every architecture. clang for arm64 has no stack clash protection and warns that the flag is unused.
    quiet=
    case $(compiler) in *clang) quiet=-Wno-unused-command-line-argument ;; esac
    say_downloads
    say "compiling $1 to native code for $ARCH: about 30 seconds"
    # Maps the folder's name away, so that every folder gives the same object file.
    for part in entry sandbox signals relocated; do
        # shellcheck disable=SC2086 # no word or two
        "$(compiler)" $target -c -O2 -fPIE -std=gnu11 -Wall -Wextra -Werror $quiet \
            -fno-stack-clash-protection -ffile-prefix-map="$root"=/snapuserd-cs \
            -o "$artifacts/$part.o" "interop/Entry/$part.c"
    done
    ld.lld -r -o "$artifacts/start.o" "$artifacts/entry.o" "$artifacts/sandbox.o" "$artifacts/signals.o" "$artifacts/relocated.o"
    # shellcheck disable=SC2086 # no word or two
    dotnet publish "$1" -c Release -p:RuntimeIdentifier=$rid -p:EntryObject="$root/$artifacts/start.o" $cross \
        --artifacts-path "$artifacts" -o "$artifacts/out/$1" -v quiet --nologo
    mkdir -p "$2" "$output/symbols"
    for file in "$artifacts/out/$1"/*; do
        case $file in
            *.dbg) cp -f "$file" "$output/symbols/" ;;
            *.pdb) ;;
            # Replaces the file by rename, so that a running copy is not changed.
            *) cp -f "$file" "$2/.new" && mv -f "$2/.new" "$2/${file##*/}" ;;
        esac
    done
}

test_deps() {
    deps
    require missing_test_packages
    say_test_downloads
    # The headers of the other architecture, for the tests of constants and structs.
    (ARCH=$other; sysroot >/dev/null) ||
        echo "build.sh: without the headers of $other its constants cannot be checked: those tests will fail" >&2
}

# test_emulated: runs the tests that can run on the built program of another architecture.
test_emulated() {
    ARCH=$host ./build.sh build
    publish tests/Kernels "$output/checks"
    private_mounts tests/Emulated/run.sh "$ARCH" "$emulator" build/snapuserd "$output/snapuserd" "$output/checks/kernels"
}

test_all() {
    # Removes the results of an earlier run, so that they are not counted.
    rm -rf build/test-results
    publish tests/Kernels build/checks
    SNAPUSERD="$root/build/snapuserd" SNAPUSERD_CHECKS="$root/build/checks/kernels"
    export SNAPUSERD SNAPUSERD_CHECKS
    status=0
    say "compiling and running the tests: about 14 minutes on two cores; each project prints a line when it is done"
    # Tests have their own time limits. If a test hangs nevertheless, the run fails after 15 minutes without a result, before CI's limit.
    private_mounts dotnet test snapuserd-cs.sln -c Release --nologo --blame-hang-timeout 15m --blame-hang-dump-type none "$@" || status=$?
    tests/sum.sh build/test-results "$status"
}

# private_mounts COMMAND [ARG …]: runs it in its own mount namespace, so that what a killed test leaves mounted ends with it. Without the
# right to make one, the tests that mount something cannot run anyway.
private_mounts() {
    if unshare --mount true 2>/dev/null; then
        unshare --mount --propagation private -- "$@"
    else
        "$@"
    fi
}

# unit_tests: the test projects that `check` runs. The others start the built program or take minutes.
unit_tests() {
    for project in tests/*/*.Tests.csproj; do
        case ${project##*/} in EndToEnd.* | Simulation.* | Conformance.* | Mutants.*) ;; *) echo "$project" ;; esac
    done
}

# The unit test classes that take most of the time, five seconds and more each: `check` leaves them to `make test`.
slow_tests='BlockDeviceTests BootTests StorageLocksTests UnitTests DifferTests WriterRoundTripTests LeakTests ProgramTests LifecycleTests
    WriterCrashTests ReaderV3Tests WriterV2Tests LimitsTests GraphTests SparseImageTests DigestTests ViewCaseTests ViewTests
    GoldenDeviceTests DamageTests MergeOrderTests MergeMarkerCallTests NbdProtocolTests WriterGoldenTests WriterV3Tests NbdForeignTests
    MemoryBudgetTests OrderTests'

# check SEED: runs unit tests, then the simulator from SEED. The last line is the command that repeats one of its cases under a debugger:
# the failed one, if one failed.
check() {
    mkdir -p build/check
    # A solution filter, so that one build compiles each project once.
    {
        printf '{ "solution": { "path": "../../snapuserd-cs.sln", "projects": [ "tests\\\\Simulator\\\\Simulator.csproj"'
        for project in $(unit_tests); do printf ', "%s"' "$project" | sed 's|/|\\\\|g'; done
        printf ' ] } }\n'
    } >build/check/check.slnf
    say "compiling the unit tests and the simulator: a few seconds, two minutes the first time"
    built=$(dotnet build build/check/check.slnf -c Release -v quiet --nologo) || fail "$built"
    filter=
    for class in $slow_tests; do filter="$filter${filter:+&}FullyQualifiedName!~.$class."; done
    set -- "$1"
    for project in $(unit_tests); do
        name=$(basename "$project" .csproj)
        set -- "$@" "${project%/*}/bin/Release/$TFM/Snapuserd.$name.dll"
    done
    seed=$1
    shift
    rm -rf build/check/results
    status=0
    say "running the unit tests: about 20 seconds"
    private_mounts dotnet vstest "$@" --Parallel --TestCaseFilter:"$filter" --ResultsDirectory:build/check/results \
        "--logger:trx;LogFileName=check.trx" >build/check/tests.log 2>&1 || status=1
    tests/sum.sh build/check/results "$status" || status=1
    say "running the simulator from seed $seed: 9 seconds"
    # All simulations except `faults`, whose duration is not limited.
    for name in programs overlaps random cases android devices; do
        seconds=1
        case $name in programs | random) seconds=2 ;; esac
        dotnet "tests/Simulator/bin/Release/$TFM/simulator.dll" $name --seconds $seconds --seed "$seed" || status=1
    done >build/check/simulator.log 2>&1
    grep ', lost [0-9]*$' build/check/simulator.log || status=1
    again=$(sed -n 's|^again with: ./build.sh simulate ||p' build/check/simulator.log | head -n 1)
    failed=$(sed -n 's/.*<UnitTestResult .*testName="\([^"(]*\).*outcome="Failed".*/\1/p' build/check/results/check.trx 2>/dev/null |
        head -n 1)
    if [ -z "$again" ] && [ -n "$failed" ]; then
        # The test host prints its process id and waits until a debugger attaches to it.
        project=${failed#Snapuserd.Tests.}
        echo "under a debugger: VSTEST_HOST_DEBUG=1 dotnet test tests/${project%%.*} -c Release --filter FullyQualifiedName=$failed"
    else
        echo "under a debugger: ./build.sh debug ${again:-random --seed $seed once}"
    fi
    return $status
}

help() {
    cat <<'END'
usage: ./build.sh [COMMAND]
  build            compile build/snapuserd: static-pie, stripped; symbols in build/symbols (the default).
                   For another machine's architecture: build/ARCH/snapuserd
  publish DIR      compile DIR/snapuserd in the same way
  checks           compile build/checks/kernels, which tests of compiled code run
  bench-tool       compile build/bench/benchmarks
  tool ARG …       run tests/Tools in the caller's folder
  simulate [NAME ARG …]  run a simulation, or all of them: power cuts and deaths of merges; --seconds N, --seed N
  check [SEED]     unit tests and a short run of the simulator, in less than a minute
  debug NAME ARG … the same simulation as `simulate NAME ARG …`, in gdb
  mutants [ARG …]  change the product in random places and let the tests judge; --count N, --seed HEX, --jobs 1|2, --only PATH,…,
                   --judges PROJECT,…, --list, --reach
  soak [ARG …]     update one machine repeatedly, with kills and power cuts; --minutes N, --rounds N, --seed N
  sysroot          print the folder with the libraries of another ARCH; fetch them if they are not there
  deps             check that what the build needs is installed; as root on a Debian, install it
  test-deps        the same for the tests
  demo-deps        the same for tests/demo.sh
  fresh-deps       the same for tests/fresh.sh
  guest-deps       the same for the tests in a virtual machine
  boot-deps        the same for the tests that boot through an update
  reproducible     build in three folders and compare
  test [ARG …]     run the tests against build/snapuserd; ARGs go to `dotnet test`.
                   For another machine's architecture: the tests that can run in an emulator, against build/ARCH/snapuserd
  docs             bring man page and bash completion up to date with the command line
  format-check     fail unless whitespace and style are as .editorconfig says
  clean            remove everything that was built
In the environment: ARCH=amd64 or arm64, for another architecture than this machine's; TFM=net10.0, the framework;
FETCH_CACHE=build/cache and DEBIAN_MIRROR=http://deb.debian.org, for what another architecture needs (interop/Sysroot/fetch.sh).
END
}

case ${1:-build} in
    build) deps; publish src/Cli "$output" ;;
    publish) [ $# -eq 2 ] || fail "publish needs a directory"; deps
        case $2 in /*) publish src/Cli "$2" ;; *) publish src/Cli "$caller/$2" ;; esac ;;
    checks) deps; publish tests/Kernels "$output/checks" ;;
    bench-tool) deps; require missing_bench_packages; publish tests/Benchmarks "$output/bench" ;;
    sysroot) sysroot ;;
    tool)
        shift
        sdk
        say "compiling tests/Tools: a few seconds, a minute the first time"
        built=$(dotnet build tests/Tools -c Release -v quiet --nologo) || fail "$built"
        cd "$caller"
        dotnet "$root/tests/Tools/bin/Release/$TFM/tools.dll" "$@"
        ;;
    simulate)
        shift
        deps
        say "compiling the simulator: about 20 seconds"
        built=$(dotnet build tests/Simulator -c Release -v quiet --nologo) || fail "$built"
        # Unit tests detect the sabotages of code that the simulator does not run.
        if [ "${1:-}" = sabotage ]; then
            for project in Merge Images Control Boot Cli; do
                built=$(dotnet build "tests/$project" -c Release -v quiet --nologo) || fail "$built"
            done
        fi
        [ $# -gt 0 ] || set -- all
        # Objects of one simulated run are garbage only at its end. Collecting every 64 MiB, not every few MiB, saves a tenth of the time.
        DOTNET_GCgen0size=0x4000000 dotnet "tests/Simulator/bin/Release/$TFM/simulator.dll" "$@"
        ;;
    check) test_deps; check "${2:-1}" ;;
    debug)
        shift
        deps
        require missing_debug_packages
        say_downloads
        say "compiling the simulator to native code without optimization: about a minute"
        built=$(dotnet publish tests/Simulator -c Debug -p:RuntimeIdentifier=$rid -p:NativeSimulator=true \
            --artifacts-path build/artifacts/debug -o build/debug -v quiet --nologo) || fail "$built"
        exec gdb -q -ex "set substitute-path /snapuserd-cs $root" -ex 'tbreak Snapuserd_Merge_Snapuserd_Merge_MergeEngine__Run' -ex run \
            --args build/debug/simulator "$@"
        ;;
    mutants)
        shift
        require missing_mutants_packages
        say_test_downloads
        say "compiling tests/Mutants and the tests: a minute or two"
        built=$(dotnet build tests/Mutants -c Release -v quiet --nologo) || fail "$built"
        # A run lasts an hour. It uses a copy, so that a build during the run does not change the program.
        mkdir -p build/mutants
        rm -rf "build/mutants/$TFM"
        cp -r "tests/Mutants/bin/Release/$TFM" build/mutants/
        case " $* " in *" --seed "*) ;; *) set -- --seed "$(git rev-parse --short=8 HEAD | cut -c 1-8)" "$@" ;; esac
        dotnet "build/mutants/$TFM/mutants.dll" "$@"
        ;;
    soak)
        shift
        deps
        require missing_soak_packages
        [ -x "$output/snapuserd" ] || publish src/Cli "$output"
        say "compiling the soak: about 20 seconds"
        built=$(dotnet build tests/Soak -c Release -v quiet --nologo) || fail "$built"
        # Runs in separate mount and process namespaces, so that no mount or process is left however it ends. The shell is process 1 there
        # and reaps orphans. It passes Ctrl-C on to the soak test alone, which then ends its disks and servers in order.
        SNAPUSERD=$root/$output/snapuserd unshare --mount --propagation private --pid --fork --kill-child --mount-proc sh -c '
            trap "kill -TERM \$soak" INT TERM
            setsid dotnet "$@" &
            soak=$!
            while :; do
                wait "$soak" && code=0 || code=$?
                kill -0 "$soak" 2>/dev/null || exit "$code"
            done' sh "tests/Soak/bin/Release/$TFM/soak.dll" "$@"
        ;;
    deps) deps ;;
    test-deps) if [ "$ARCH" = "$host" ]; then test_deps; else deps; require missing_emulation_packages; fi ;;
    demo-deps) require missing_demo_packages ;;
    fresh-deps) sdk; require missing_fresh_packages ;;
    reproducible) deps; require missing_reproducible_packages; exec tests/reproducible.sh ;;
    guest-deps) require missing_guest_packages ;;
    boot-deps) require missing_boot_packages ;;
    test)
        shift
        if [ "$ARCH" = "$host" ]; then
            test_deps
            test_all "$@"
        else
            deps
            require missing_emulation_packages
            test_emulated
        fi
        ;;
    docs)
        sdk
        SNAPUSERD_WRITE_DOCS=1 dotnet test tests/Cli -c Release -v quiet --nologo --filter FullyQualifiedName~Man_page_and_completion_have
        ;;
    format-check)
        sdk
        say_test_downloads
        say "checking whitespace and style: about a minute"
        dotnet restore snapuserd-cs.sln -v quiet --nologo
        dotnet format whitespace snapuserd-cs.sln --no-restore --verify-no-changes
        dotnet format style snapuserd-cs.sln --no-restore --verify-no-changes
        ;;
    clean)
        rm -rf build TestResults
        find . -path ./.git -prune -o -type d \( -name bin -o -name obj -o -name TestResults \) -prune -exec rm -rf {} +
        ;;
    help | -h | --help) help ;;
    *) help >&2; fail "unknown command '$1'" ;;
esac
