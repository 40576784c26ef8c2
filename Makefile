# What is done to this tree by hand.
#
#   make demo     builds a Debian image, installs it in a virtual machine, upgrades it, rolls back: with an account of each step
#   make test     everything that CI runs; OSUPDATE_FAULTS=1000 makes so many kills and cuts of pulls instead of some dozens
#   make test-long   a sealed machine through all of its life, and the sealed examples, built, installed, upgraded; an hour and 20 GB
#   make fuzz     looks for input that breaks a parser, 10000 inputs for each format or as many as FUZZ_SECONDS allow
#   make bench    times osupdate on a real Debian tree, beside cfsctl and mkcomposefs where these are installed; about half an
#                 hour. `make bench BENCH_ARGS=--quick` to try it out, BENCH_ARGS=--help for what else there is
#   make build    the two programs; `make install` puts them, units, dracut module, completions and manual pages below DESTDIR
#   make install-composefs-tools   names the program also mkcomposefs, composefs-info and mount.composefs
#   make deps     the Debian packages that all of this needs (as root)

CARGO ?= cargo
CARGO_TARGET_DIR ?= target
DESTDIR ?=
PREFIX ?= /usr
UNITDIR ?= $(PREFIX)/lib/systemd/system
DRACUTDIR ?= $(PREFIX)/lib/dracut/modules.d
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# Writes the manual pages; for an installation for another machine, one that runs here.
OSUPDATE ?= $(CARGO_TARGET_DIR)/release/osupdate

# osupdate-setup-root runs where there are no libraries, so it is linked statically: for a target named explicitly, or the
# flag would also hit the procedural macros.
STATIC_TARGET := $(shell rustc --version --verbose | sed -n 's/^host: //p')

.PHONY: bench build install install-composefs-tools deps demo fuzz test test-long

build:
	$(CARGO) build --release -p osupdate
	RUSTFLAGS='-C target-feature=+crt-static' \
	    $(CARGO) build --profile initramfs -p osupdate-initramfs --target $(STATIC_TARGET)

install:
	install -D -m 0755 $(CARGO_TARGET_DIR)/release/osupdate $(DESTDIR)$(PREFIX)/bin/osupdate
	install -D -m 0755 $(CARGO_TARGET_DIR)/$(STATIC_TARGET)/initramfs/osupdate-setup-root \
	    $(DESTDIR)$(PREFIX)/lib/osupdate/osupdate-setup-root
	install -D -m 0644 -t $(DESTDIR)$(UNITDIR) systemd/osupdate-setup-root.service \
	    systemd/osupdate-upgrade.service systemd/osupdate-upgrade.timer
	install -D -m 0755 -t $(DESTDIR)$(DRACUTDIR)/50osupdate dracut/50osupdate/module-setup.sh
	install -D -m 0644 update/src/completion/osupdate.bash $(DESTDIR)$(BASHDIR)/osupdate
	install -D -m 0644 -t $(DESTDIR)$(ZSHDIR) update/src/completion/_osupdate
	install -D -m 0644 -t $(DESTDIR)$(FISHDIR) update/src/completion/osupdate.fish
	install -d $(DESTDIR)$(MANDIR)/man1
	$(OSUPDATE) --quiet man-pages $(DESTDIR)$(MANDIR)/man1

# Not part of `install`: the package composefs of the distribution has files of these names.
install-composefs-tools:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin
	ln -sf osupdate $(DESTDIR)$(PREFIX)/bin/mkcomposefs
	ln -sf osupdate $(DESTDIR)$(PREFIX)/bin/composefs-info
	ln -sf ../bin/osupdate $(DESTDIR)$(PREFIX)/sbin/mount.composefs

deps:
	tests/install-deps

demo: deps
	$(CARGO) run --release -p osupdate-tests --bin demo

bench: deps
	$(CARGO) build --release -p osupdate
	$(CARGO) run --release -p osupdate-tests --bin bench -- $(BENCH_ARGS)

fuzz: deps
	fuzz/run

test: deps
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --features osupdate-tests/vm,osupdate-tests/long -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps
	OSUPDATE_REQUIRE_TOOLS=1 $(CARGO) test --workspace --features osupdate-tests/vm
	fuzz/run

test-long: deps
	OSUPDATE_REQUIRE_TOOLS=1 $(CARGO) test -p osupdate-tests --features osupdate-tests/vm,osupdate-tests/long --test sealed_machine --test examples
