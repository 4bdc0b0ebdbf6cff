#!/bin/bash
# The whole proof, in order of cost; stops at the first section that fails. The last line is the total.
set -euo pipefail
cd "$(dirname "$0")/.."

log=target/test.log
mkdir -p target
: >"$log"
started=$SECONDS
header() { printf '\n=== %s (at %d s)\n' "$*" "$((SECONDS - started))"; }
run() { "$@" 2>&1 | tee -a "$log"; }

if [ "$(id -u)" -ne 0 ]; then
    echo "make test needs root: it makes network namespaces, loop mounts and system-call traces" >&2
    exit 1
fi

scripts/verify.sh 2>&1 | tee -a "$log"

header "build: kvd with planted bugs, then the real binaries"
run scripts/build-planted.sh

header "unit and crash tests of every crate"
# Always the whole workspace: another selection would unify other features and compile the dependencies again.
run cargo test --release --workspace --locked --lib --bins \
    --test client --test pipeline --test scan --test cluster --test data --test exits --test gc --test check
run cargo test --release --workspace --locked --doc

header "planted bugs of the log, caught by its own crash tests"
# With what they print: how often each recovery case was hit.
run cargo test --release --locked -p nezha-vlog --features planted-bugs -- --show-output

header "planted bugs of the store and of purging, caught by their own tests"
# Library tests alone: target/release/kvd stays the real one.
run cargo test --release --workspace --locked --features nezha/planted-bugs --lib -- --show-output planted_test::

header "process tests: real kvd processes, namespaces, power cuts, traces"
run cargo test --release --workspace --locked --test process -- --test-threads=1

awk -v seconds="$((SECONDS - started))" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "\ntotal: %d passed, %d failed, %d ignored, in %d s\n", passed, failed, ignored, seconds
          if (passed == 0 || failed > 0) exit 1 }' "$log"
