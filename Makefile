# make            the server and its tools, optimised, in target/release
# make run        a server for trials, in the foreground
# make cluster    a cluster of three such servers on this machine, in the foreground
# make test       all tests, including their set-up
# make check      the quick tests: format, lints, house rules
# make bench      measures a running server: HOST=… PORT=…; TABLES=… for some of: load latency neighbour query protection
# make simulate   the cluster under faults, SEEDS runs from FIRST on; SEED=… repeats one and prints what happens
# make soak       kill -9, power failures and damage, round after round for SOAK_SECONDS
# make fuzz       FUZZ_SECONDS for each fuzz target, or for those in FUZZ_TARGETS
# make install    programs, man pages, completions, service and configuration: PREFIX=… DESTDIR=… SYSCONFDIR=… OWN=…
# make deb        packages for Debian and its kin, in target/packages
# make rpm        packages for Fedora and its kin, in target/packages
# make source     the source as an archive, in target/packages
# make image      the container image ferrospike
# make test-deb   the life of the Debian packages in a system of its own, and of their service under systemd; needs root,
#                 debootstrap and network
# make test-rpm   the same for the RPM packages; needs rpmbuild too
# make test-image the container image, built and run without a daemon; needs buildah too
# make clean
#
# BINARIES=… takes the programs of install, deb, rpm and their tests from a folder, in which nothing is built then.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= /usr/local
override PREFIX := $(abspath $(patsubst ~/%,$(HOME)/%,$(PREFIX)))
DESTDIR ?=
# `yes` makes an installation of one's own, `no` one for the whole machine: see build/stage. Root and packagers install for
# the machine.
OWN ?= $(if $(DESTDIR)$(filter /usr /usr/local,$(PREFIX))$(filter 0,$(shell id -u)),no,yes)
# Where the configuration is.
SYSCONFDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)
MAINTAINER ?= Ferrospike maintainers <maintainers@ferrospike.invalid>
PACKAGE_RELEASE ?= 1
HOST ?= 127.0.0.1
PORT ?= 3000
TABLES ?= load latency neighbour query protection
BENCH_OPTIONS ?=
LATENCY_OPTIONS ?=
NEIGHBOUR_OPTIONS ?=
QUERY_OPTIONS ?=
PROTECTION_OPTIONS ?=
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Tests are optimised and have assertions on; one profile for all of them, so that nothing is built twice.
PROFILE := checked
LOGS := $(TARGET)/test-logs
VENV := $(TARGET)/venv
BESIDE_SERVER := $(TARGET)/$(PROFILE)/with_server

# The answers of the info commands `build_sha`, `build_time` and so on.
.PHONY: all build
all build: export FERROSPIKE_BUILD_SHA ?= $(or $(shell git rev-parse HEAD 2>/dev/null),unknown)
all build: export FERROSPIKE_BUILD_TIME ?= $(or $(shell TZ=UTC git log -1 --date=format-local:'%a %b %e %H:%M:%S UTC %Y' --format=%cd 2>/dev/null),unknown)
all build: export FERROSPIKE_BUILD_OS ?= $(shell . /etc/os-release 2>/dev/null && echo "$$ID$$VERSION_ID" || echo unknown)
all build:
	$(CARGO) build --release --package asd --package ferrospike-tools

.PHONY: run
run: build
	@exec $(TARGET)/release/asd --dev

.PHONY: cluster
cluster: build
	@exec build/cluster $(TARGET)/release/asd

.PHONY: check
check: format lint
	$(CARGO) test --profile $(PROFILE) --package ferrospike-tests --test tidy

# The client suite, the fuzz targets and the models are separate workspaces, which `--all` does not include.
.PHONY: format lint checked
format:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/rust-client/Cargo.toml --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) fmt --manifest-path tests/loom/Cargo.toml --check
lint:
	$(CARGO) clippy --profile $(PROFILE) --workspace --all-targets -- -D warnings
# The black-box tests update the server and its tools; building them here keeps the time out of the tests' time limits.
checked:
	$(CARGO) build --profile $(PROFILE) --workspace --all-targets

# If a part fails, no suite runs. A suite runs even if the previous one failed; `make test` fails if any of them
# failed.
PARTS := format lint checked
SUITES := rust-tests doc-tests loom miri python-client rust-client fuzz-targets
.PHONY: test
test: $(VENV)/ready
	@mkdir -p $(LOGS); rm -f $(LOGS)/*; failed=""; times=""; \
	for part in $(PARTS); do \
	    start=$$SECONDS; $(MAKE) --no-print-directory $$part; times="$$times$$part: $$((SECONDS - start)) s\n"; \
	done; \
	for suite in $(SUITES); do \
	    echo "== $$suite"; start=$$SECONDS; \
	    $(MAKE) --no-print-directory suite-$$suite 2>&1 | tee $(LOGS)/$$suite || failed="$$failed $$suite"; \
	    times="$$times$$suite: $$((SECONDS - start)) s\n"; \
	done; \
	echo; echo "== seconds"; printf "$$times"; echo "all suites: $$SECONDS s"; \
	echo; echo "== counts"; \
	for suite in $(SUITES); do \
	    { grep -hE '$(COUNTS)' $(LOGS)/$$suite || echo "no count"; } | sed "s/^ */$$suite: /"; \
	done; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; echo "all passed"
# Matches the closing lines of nextest, cargo test, pytest, the replays and the check of the fuzz targets, and skipped suites.
COUNTS := tests run:|^test result: .* ([1-9][0-9]* passed|[1-9][0-9]* failed)|[0-9]+ passed.* in |answers agree|fuzz targets|kept fuzz inputs|^SKIPPED 

.PHONY: $(SUITES:%=suite-%)
suite-rust-tests:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --cargo-profile $(PROFILE) --workspace --all-targets; \
	else \
	    $(CARGO) test --profile $(PROFILE) --workspace --all-targets --no-fail-fast; \
	fi
suite-doc-tests:
	@$(CARGO) test --profile $(PROFILE) --workspace --doc
# loom runs the lock-free parts of the server through all orders of their steps.
suite-loom:
	@RUSTFLAGS="--cfg loom" $(CARGO) test --lib --release --manifest-path tests/loom/Cargo.toml --target-dir $(TARGET)/loom
# Miri checks the memory accesses of unsafe code; it is an optional component of a nightly compiler.
MIRI := $(CARGO) +nightly miri
suite-miri:
	@if $(MIRI) --version >/dev/null 2>&1; then \
	    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" CARGO_TARGET_DIR=$(TARGET)/miri; \
	    $(MIRI) test --package cf --lib -- arena:: region:: zeroed:: doorbell:: && \
	    $(MIRI) test --package asd --lib -- index::element::tests::a_digest storage::stripe:: storage::buffer::; \
	else \
	    echo "SKIPPED miri: unsafe code was not checked, as '$(MIRI)' is missing: rustup component add --toolchain nightly miri"; \
	fi
PYTHON_ALLOWS = --allow "invalid ttl" --allow "no-such-command" --allow "bad filter" --allow "bad batch" --allow "aggregation of query"
PYTEST = $(VENV)/bin/python -m pytest --quiet -p no:cacheprovider -W ignore::DeprecationWarning tests/python
# The suite runs twice: plain, and as a user with a password over TLS with compressed messages. The second run includes the
# calls for users and roles.
suite-python-client:
	@$(BESIDE_SERVER) $(PYTHON_ALLOWS) -- $(PYTEST)
	@$(BESIDE_SERVER) --secured $(PYTHON_ALLOWS) --allow "TLS handshake with" -- $(PYTEST)
suite-rust-client:
	@$(BESIDE_SERVER) -- $(CARGO) test --manifest-path tests/rust-client/Cargo.toml --target-dir $(TARGET)/rust-client
suite-fuzz-targets:
	@$(CARGO) check --profile $(PROFILE) --manifest-path fuzz/Cargo.toml --target-dir $(TARGET)
	@echo "$(words $(FUZZ_TARGETS)) fuzz targets compile; make fuzz runs them"

# The official Python client in a virtual environment, separate from the packages of the machine.
$(VENV)/ready: tests/python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# The server at PORT, alone or beside others: OTHER_PORT=…, REDIS_PORT=…; their processes are found by their
# ports, or given as PID=…, OTHER_PID=…, REDIS_PID=…. The tables are those of throughput and cost (more by BENCH_OPTIONS),
# of latency by number of clients (LATENCY_OPTIONS), of hostile neighbours (NEIGHBOUR_OPTIONS), which needs servers that
# take records of 8 MiB, of queries and indexes (QUERY_OPTIONS), and of what access control, TLS and encryption cost
# (PROTECTION_OPTIONS), for which servers are started; see asd-bench --help.
BENCH_OF_load = $(BENCH_OPTIONS)
BENCH_OF_latency = latency $(LATENCY_OPTIONS)
BENCH_OF_neighbour = neighbour $(NEIGHBOUR_OPTIONS)
BENCH_OF_query = query $(QUERY_OPTIONS)
BENCH_OF_protection = protection $(PROTECTION_OPTIONS)
.PHONY: bench
bench: export HOST := $(HOST)
bench: export PORT := $(PORT)
bench: export SERVER := $(TARGET)/release/asd
bench:
	@$(CARGO) build --release --package asd --package ferrospike-tools
	@$(foreach table,$(TABLES),$(TARGET)/release/asd-bench $(BENCH_OF_$(table)); echo;)

# More runs of the cluster's simulator than `make test` does.
SEEDS ?= 20000
FIRST ?= 1
SEED ?=
.PHONY: simulate
simulate: export SIM_SEEDS := $(SEEDS)
simulate: export SIM_FIRST := $(FIRST)
ifneq ($(SEED),)
simulate: export SIM_SEED := $(SEED)
endif
simulate:
	@$(CARGO) test --profile $(PROFILE) --package cluster --test sim -- --nocapture

# More rounds of the tests that `make test` runs a few times: the server is killed under load, power fails on a device that
# writes back in any order, bytes of the file are damaged. Each round has another seed; a failure names its seed.
SOAK_SECONDS ?= 3600
SOAK_SEED ?= 1
.PHONY: soak
soak: checked
	@round=0; while ((round == 0 || SECONDS < $(SOAK_SECONDS))); do \
	    export FERROSPIKE_SOAK_SEED=$$(($(SOAK_SEED) + round)); round=$$((round + 1)); \
	    echo "== round $$round, seed $$FERROSPIKE_SOAK_SEED, after $$SECONDS s"; \
	    $(CARGO) test --quiet --profile $(PROFILE) --package asd --lib -- \
	        storage::crash_tests storage::headers_tests storage::damage_tests; \
	    $(CARGO) test --quiet --profile $(PROFILE) --package ferrospike-tests --test damage_rounds --test crash \
	        --test query_checker --test metadata_crash; \
	done; echo "$$round rounds of kill -9, power failures and damage held"

# New inputs are collected in target/fuzz; the permanent ones are in fuzz/corpus, which stays small.
# No sanitizer is used: safe code cannot have the errors that sanitizers find, and they need an unstable compiler.
.PHONY: fuzz
fuzz:
	@export PATH="$$PATH:$(abspath $(TARGET))/tools/bin"; \
	$(CARGO) fuzz --version >/dev/null 2>&1 \
	    || $(CARGO) install cargo-fuzz --locked --root $(TARGET)/tools --target-dir $(TARGET)/tools/build; \
	for target in $(FUZZ_TARGETS); do \
	    echo "== $$target, $(FUZZ_SECONDS) s"; mkdir -p $(TARGET)/fuzz/$$target; \
	    $(CARGO) fuzz run --sanitizer none --target-dir $(TARGET)/fuzz/build $$target \
	        $(TARGET)/fuzz/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=15 -rss_limit_mb=8192 -print_final_stats=1; \
	done

# With BINARIES set, the programs in that folder are used and nothing is built.
ifdef BINARIES
install deb rpm test-image:
else
BINARIES := $(TARGET)/release
install deb rpm test-image: build
endif
PACKAGES := $(TARGET)/packages
PACKAGE_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# The server's user and folders are created only if the installation is for this machine.
.PHONY: install
install: export BINARIES := $(BINARIES)
install: export PREFIX := $(PREFIX)
install: export SYSCONFDIR := $(SYSCONFDIR)
install: export OWN := $(OWN)
install:
	@build/stage server "$(DESTDIR)"
	@build/stage tools "$(DESTDIR)"
	@if [ -z "$(DESTDIR)" ] && [ "$(OWN)" != yes ] && [ "$$(id -u)" = 0 ]; then build/prepare; fi

.PHONY: deb rpm
deb rpm: export BINARIES := $(BINARIES)
deb rpm: export PACKAGE_VERSION := $(PACKAGE_VERSION)
deb rpm: export PACKAGE_RELEASE := $(PACKAGE_RELEASE)
deb rpm: export MAINTAINER := $(MAINTAINER)
deb rpm:
	@build/$@/package $(PACKAGES)

.PHONY: source
source:
	@mkdir -p $(PACKAGES)
	@git archive --format=tar.gz --prefix=ferrospike-$(PACKAGE_VERSION)/ \
	    --output=$(PACKAGES)/ferrospike-$(PACKAGE_VERSION).tar.gz HEAD
	@echo $(PACKAGES)/ferrospike-$(PACKAGE_VERSION).tar.gz

.PHONY: image
image:
	docker build --file build/docker/Dockerfile --tag ferrospike:$(PACKAGE_VERSION) --tag ferrospike \
	    --build-arg "FERROSPIKE_BUILD_SHA=$$(git rev-parse HEAD 2>/dev/null || echo unknown)" .

.PHONY: test-deb test-rpm
test-deb: deb
	@build/system $(TEST_SYSTEM) build/deb/test $(PACKAGES)/*_$(PACKAGE_VERSION)-$(PACKAGE_RELEASE)_*.deb
	@build/booted $(TEST_SYSTEM) build/deb/service $(PACKAGES)/*_$(PACKAGE_VERSION)-$(PACKAGE_RELEASE)_*.deb
test-rpm: rpm
	@build/system $(TEST_SYSTEM) build/rpm/test $(PACKAGES)/*-$(PACKAGE_VERSION)-$(PACKAGE_RELEASE).*.rpm \
	    build etc LICENSE README.md
.PHONY: test-image
test-image:
	@build/docker/test $(TEST_SYSTEM) $(BINARIES)
TEST_SYSTEM := $(TARGET)/test-system

.PHONY: clean
clean:
	$(CARGO) clean
