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

# Of benches/paper.py and report.py: what is run in how many minutes, for example BENCH_OPTIONS="--minutes 60".
BENCH_OPTIONS ?=
BENCH_DIR := $(CURDIR)/target/bench

# Of make up, also for deploy/compose.yaml.
export NEZHA_IMAGE ?= nezha:dev

.PHONY: help run up down test cluster-test verify fix build planted jepsen jepsen-bugs sim sim-bugs bench paper report \
    deps-build deps-test deps-bench deps-docker

help:
	@echo "make run     build, then serve a three-node cluster on 127.0.0.1 (DATA_DIR, CLIENT_PORT, PEER_PORT)"
	@echo "make up      the same in three containers, built as docs/quickstart.md says; make down removes them, not the data"
	@echo "make test    verify, then every unit, crash and process test (as root; not quite an hour cold on two cores)"
	@echo "make cluster-test  break that cluster while clients work, and run every command of the documentation; as root"
	@echo "make verify  formatting, lints, licences, arrows between crates; never writes a source file"
	@echo "make fix     formats, and applies what clippy can fix"
	@echo "make jepsen  break clusters on purpose for HOURS=n (1), and check what clients were told; as root"
	@echo "make jepsen-bugs   the same with each planted bug: all must be caught"
	@echo "make sim     the production node in a simulation, SEEDS=n (10000) runs from seeds by chance; each can be replayed"
	@echo "make sim-bugs      the same with planted bugs: how many seeds each needs"
	@echo "make bench   compare with etcd and with plain RocksDB below the same Raft, and make a page of it; 15 minutes"
	@echo "make paper   the paper's comparison with all baselines, and a page of it; three hours, goes on when run again"
	@echo "make report  the page again, from what make bench and make paper have measured so far"

run: deps-build build
	scripts/run-local.sh "$(DATA_DIR)" "$(CLIENT_PORT)" "$(PEER_PORT)"

up:
	deploy/up.sh

down:
	deploy/compose.sh --profile spare --profile ycsb --profile tools down

test: deps-test deps-docker
	scripts/test.sh

cluster-test: deps-build deps-test deps-docker
	deploy/test/run.sh

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

# Runs of five minutes each, with a folder and a page for each in target/jepsen, until the hours are over or one is red.
HOURS ?= 1
jepsen: deps-build deps-test build
	scripts/jepsen.sh "$(HOURS)"

jepsen-bugs: deps-build deps-test build planted
	target/release/nezha-jepsen bugs --kvd target/planted/kvd --dir target/jepsen-bugs

# About a second and a half for each of two at a time.
SEEDS ?= 10000
sim: deps-build build
	target/release/nezha-sim --seeds "$(SEEDS)"

sim-bugs: deps-build
	scripts/build-planted.sh nezha-sim
	scripts/sim-bugs.sh

# Goes on where an earlier one was; remove target/bench/bench.jsonl or paper.jsonl to begin anew.
bench paper: deps-build deps-bench build
	benches/paper.py $@ --output "$(BENCH_DIR)/$@.jsonl" $(BENCH_OPTIONS)
	$(MAKE) report

# The plots need a Python with matplotlib: the one in PATH, or else Debian's.
report: deps-bench
	python=$$(for each in python3 /usr/bin/python3; do "$$each" -c "import matplotlib" 2>/dev/null && echo "$$each" && break; done || echo python3); \
	for results in bench paper; do \
	    if [ -e "$(BENCH_DIR)/$$results.jsonl" ]; then "$$python" -B benches/report.py "$(BENCH_DIR)/$$results.jsonl"; fi; \
	done

deps-build:
	scripts/deps.sh build

deps-test:
	scripts/deps.sh build test

deps-docker:
	scripts/deps.sh docker

deps-bench:
	scripts/deps.sh build bench
