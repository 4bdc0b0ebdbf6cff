# Two commands for everyone: `make run` starts a local three-node cluster, `make test` proves it.
#
# One cargo profile everywhere (release), always the whole workspace: so RocksDB's C++ compiles once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO_SELECT := --release --workspace --locked
DATA_DIR ?= $(CURDIR)/target/local-cluster
CLIENT_PORT ?= 7379
PEER_PORT ?= 7479

.PHONY: help run test verify fix build planted deps-build deps-test

help:
	@echo "make run     build, then serve a three-node cluster on 127.0.0.1 (DATA_DIR, CLIENT_PORT, PEER_PORT)"
	@echo "make test    verify, then every unit, crash and process test (as root; about 25 minutes cold on two cores)"
	@echo "make verify  formatting, lints, licences, arrows between crates; never writes a source file"
	@echo "make fix     formats, and applies what clippy can fix"

run: deps-build build
	scripts/run-local.sh "$(DATA_DIR)" "$(CLIENT_PORT)" "$(PEER_PORT)"

test: deps-test
	scripts/test.sh

verify: deps-build
	scripts/verify.sh

fix: deps-build
	cargo fmt --all
	cargo clippy $(CARGO_SELECT) --all-targets --fix --allow-dirty --allow-staged

build:
	cargo build $(CARGO_SELECT) --bins

# kvd with the test-only bugs compiled in. Built first and copied away, so that target/release/kvd is the real one.
planted:
	scripts/build-planted.sh

deps-build:
	scripts/deps.sh build

deps-test:
	scripts/deps.sh build test
