# snapuserd-cs. Every target works as the first command in a clean clone.

PREFIX ?= /usr/local
DESTDIR ?=
# Where initramfs-tools and dracut look for the administrator's additions; packages use /usr/share/initramfs-tools.
INITRAMFS_TOOLS ?= /etc/initramfs-tools
DRACUT ?= /usr/lib/dracut
SYSTEMD ?= /etc/systemd/system
UDEV_RULES ?= /usr/lib/udev/rules.d
# `make TFM=…` builds for another framework, `make ARCH=arm64` (or amd64) for an architecture other than this machine's.
TFM ?= net10.0
debian = $(subst aarch64,arm64,$(subst x86_64,amd64,$(1)))
HOST := $(call debian,$(shell uname -m))
override ARCH := $(call debian,$(or $(ARCH),$(HOST)))
export TFM ARCH
# The page size of the kernel in a virtual machine: `make guest-test ARCH=arm64 PAGES=16k`. The host's own program makes and inspects the
# COWs there.
PAGES ?= 4k
export PAGES
# build.sh writes the program of another architecture to a separate folder.
OUTPUT = build$(if $(filter $(HOST),$(ARCH)),,/$(ARCH))
# Fails for a target that runs the program on this machine if ARCH is another architecture.
native = $(if $(filter $(HOST),$(ARCH)),,$(error `make $(MAKECMDGOALS)` runs the program on this machine, which is $(HOST)))

# `make simulate SECONDS=600 SEED=7`; a failure prints the command that repeats it.
SECONDS ?= 60
SEED ?= 1

.PHONY: build host-build check check-native check-pages help test simulate mutants soak fuzz guest-test boot-test demo lint bench \
	reproducible fresh-test install install-man install-completion install-initramfs-tools install-dracut install-systemd \
	install-examples clean
.NOTPARALLEL:

build: ## compile build/snapuserd (the default); [ARCH=arm64] build/arm64/snapuserd
	./build.sh build

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 16

check: check-native ## unit tests and a short simulation, a minute; the last line is a command to debug a case; [SEED=1]
	@./build.sh check $(SEED)

test: build ## run every test and print how many passed
	./build.sh test

simulate: ## crash merges in every way for SECONDS=60 from SEED=1; the last line has the counts; SABOTAGE=name|all breaks the engine first
	@./build.sh simulate $(if $(SABOTAGE),sabotage $(SABOTAGE),all --seconds $(SECONDS) --seed $(SEED))

# Only a SEED from the command line or the environment: soak and mutants have other defaults than SEED above.
given_seed = $(if $(filter command environment,$(firstword $(origin SEED))),$(SEED))

# `make mutants SEED=…` takes hexadecimal digits; without it, the first eight of HEAD. Results stay in build/mutants (docs/mutants.md).
mutants: check-native ## change the product in N=200 random places; the tests must notice: [SEED=hex] [JOBS=2] [ONLY=src/Merge]
	@./build.sh mutants --count $(or $(N),200) --jobs $(or $(JOBS),2) $(if $(given_seed),--seed $(given_seed)) $(if $(ONLY),--only '$(ONLY)')

soak_minutes = $(or $(MINUTES),$(if $(HOURS),$$(($(HOURS) * 60)),$(if $(ROUNDS),,60)))
soak: check-native build ## update one machine repeatedly, with kills and power cuts: [HOURS=1] [MINUTES=n] [ROUNDS=n] [SEED=n]
	@./build.sh soak $(if $(soak_minutes),--minutes $(soak_minutes)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(given_seed),--seed $(given_seed))

host-build: build
	$(if $(filter build,$(OUTPUT)),,ARCH=$(HOST) ./build.sh build)

# Checked first, so that a wrong ARCH or PAGES fails before minutes of building.
kernels = ARCH=amd64 with PAGES=4k and for ARCH=arm64 with PAGES=4k or 16k
pages = $(if $(filter amd64-4k arm64-4k arm64-16k,$(ARCH)-$(PAGES)),,$(error \
	Debian has kernels for $(kernels), not for ARCH=$(ARCH) with PAGES=$(PAGES)))

check-native:
	@: $(native)

check-pages:
	@: $(pages)

guest-test: check-pages host-build ## tests on a stock kernel in QEMU, power cuts included; [ARCH=arm64] [PAGES=16k] [TESTS="ublk nbd"]
	./tests/Guest/run.sh $(TESTS)

boot-test: check-pages host-build ## boots through an update in QEMU: power cuts, rollback, bad cases; options as for guest-test
	./tests/BootGuest/run.sh $(TESTS)

demo: check-native build ## two updates, one created here, each killed half-way and resumed
	./build.sh demo-deps
	./tests/demo.sh

lint: ## formatting, style, and the rules of this code base
	./tests/lint.sh
	./build.sh format-check

fuzz: ## read hostile COWs, and compare with a second reader: [SECONDS=60] [SEED=n] [FILE=…]
	@./build.sh simulate fuzz --seconds $(SECONDS) --seed $(SEED) $(FILE)

# `make bench ONLY=merge,v3-lz4,tmpfs` runs part of it; ARGS="--runs 3" passes options on (tests/Benchmarks/README.md).
bench: check-native build ## speed, each number beside its ceiling
	./build.sh bench-tool
	./$(OUTPUT)/bench/benchmarks --snapuserd $(OUTPUT)/snapuserd $(if $(ONLY),--only '$(ONLY)') $(ARGS)

reproducible: ## build in three folders; fails unless the three programs are identical
	./build.sh reproducible

fresh-test: check-native ## make targets on minimal Debians from a clean clone: [DEBIAN="12 13"] [TARGETS="demo test lint reproducible"]
	@DEBIAN='$(DEBIAN)' TARGETS='$(TARGETS)' ./tests/fresh.sh

install: build ## copy to $(DESTDIR)$(PREFIX)/bin
	install -D -m 0755 $(OUTPUT)/snapuserd $(DESTDIR)$(PREFIX)/bin/snapuserd

install-man: ## man pages to $(DESTDIR)$(PREFIX)/share/man
	install -D -m 0644 docs/man/snapuserd.8 $(DESTDIR)$(PREFIX)/share/man/man8/snapuserd.8
	install -D -m 0644 docs/man/snapuserd-cow.5 $(DESTDIR)$(PREFIX)/share/man/man5/snapuserd-cow.5

install-completion: ## completion for bash to $(DESTDIR)$(PREFIX)/share/bash-completion
	install -D -m 0644 src/packaging/bash-completion/snapuserd $(DESTDIR)$(PREFIX)/share/bash-completion/completions/snapuserd

# Fills in the path of the program in the files that name it. An existing table is never replaced.
placed = sed 's|@SNAPUSERD@|$(PREFIX)/bin/snapuserd|g; s|@UDEV_RULES@|$(UDEV_RULES)|g'
table = test -e $(DESTDIR)/etc/snapuserd/table || install -D -m 0644 src/packaging/table $(DESTDIR)/etc/snapuserd/table

install-initramfs-tools: install ## and the hook and boot scripts of initramfs-tools, and an empty table
	install -d $(DESTDIR)$(INITRAMFS_TOOLS)/hooks $(DESTDIR)$(INITRAMFS_TOOLS)/scripts/local-top
	$(placed) src/packaging/initramfs-tools/hooks/snapuserd >$(DESTDIR)$(INITRAMFS_TOOLS)/hooks/snapuserd
	chmod 0755 $(DESTDIR)$(INITRAMFS_TOOLS)/hooks/snapuserd
	install -m 0755 src/packaging/initramfs-tools/scripts/local-top/* $(DESTDIR)$(INITRAMFS_TOOLS)/scripts/local-top/
	install -d $(DESTDIR)$(UDEV_RULES)
	install -m 0644 src/packaging/udev/*.rules $(DESTDIR)$(UDEV_RULES)/
	$(table)

install-dracut: install ## and the module of dracut, with its systemd unit, and an empty table
	install -d $(DESTDIR)$(DRACUT)/modules.d/90snapuserd
	cp -f src/packaging/dracut/90snapuserd/* src/packaging/systemd/snapuserd-boot.service src/packaging/udev/*.rules \
		$(DESTDIR)$(DRACUT)/modules.d/90snapuserd/
	$(placed) src/packaging/dracut/90snapuserd/module-setup.sh >$(DESTDIR)$(DRACUT)/modules.d/90snapuserd/module-setup.sh
	$(table)

install-systemd: install ## and the unit that begins to merge when the new system has proved to work
	install -d $(DESTDIR)$(SYSTEMD)
	$(placed) src/packaging/systemd/snapuserd-merge.service >$(DESTDIR)$(SYSTEMD)/snapuserd-merge.service

install-examples: ## a busybox init, a recovery ramdisk's script, Android's .rc, the initrd unit, to $(DESTDIR)$(PREFIX)/share/doc/snapuserd
	install -D -m 0755 src/packaging/busybox/init $(DESTDIR)$(PREFIX)/share/doc/snapuserd/busybox/init
	install -D -m 0755 src/packaging/recovery/finish-updates $(DESTDIR)$(PREFIX)/share/doc/snapuserd/recovery/finish-updates
	install -D -m 0755 src/packaging/recovery/finish-android-update $(DESTDIR)$(PREFIX)/share/doc/snapuserd/recovery/finish-android-update
	install -D -m 0644 src/packaging/android/snapuserd.rc $(DESTDIR)$(PREFIX)/share/doc/snapuserd/android/snapuserd.rc
	install -D -m 0644 src/packaging/systemd/snapuserd-boot.service $(DESTDIR)$(PREFIX)/share/doc/snapuserd/systemd/snapuserd-boot.service
	install -D -m 0644 src/packaging/table $(DESTDIR)$(PREFIX)/share/doc/snapuserd/table

clean: ## remove everything that was built
	./build.sh clean
