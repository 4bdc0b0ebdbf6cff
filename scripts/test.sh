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

header "tests of every crate's front: clients, commands, files, checkers, simulation"
# Always the whole workspace: another selection would unify other features and compile the dependencies again.
run cargo test --release --workspace --locked --bins \
    --test client --test pipeline --test scan --test cluster --test data --test exits --test gc --test check \
    --test histories --test report --test mechanisms --test replay
run cargo test --release --workspace --locked --doc

header "planted bugs of the log, caught by its own crash tests"
# With what they print: how often each recovery case was hit.
run cargo test --release --locked -p nezha-vlog --features planted-bugs -- --show-output

header "unit and crash tests of every crate"
# With the switch for planted bugs compiled in and off, so that they compile once for both. Libraries alone:
# target/release/kvd stays the real one.
run cargo test --release --workspace --locked --features nezha/planted-bugs --lib -- --skip planted_test::

header "planted bugs of the store and of purging, caught by their own tests"
run cargo test --release --workspace --locked --features nezha/planted-bugs --lib -- --show-output planted_test::

# The simulation has its own clock and disk, so it may have what the processes leave of this machine.
nice -n 19 target/release/nezha-sim --seeds 150 --jobs 2 >target/sim.log 2>&1 &
simulation=$!
trap 'kill "$simulation" 2>/dev/null || true' EXIT

header "process tests: real kvd processes, namespaces, power cuts, traces"
run cargo test --release --workspace --locked --test process -- --test-threads=1

header "simulation, beside them: 150 seeds of 30 s, from one by chance on; a failing one says how to replay it"
simulated=0
wait "$simulation" || simulated=$?
trap - EXIT
cat target/sim.log
if [ "$simulated" -ne 0 ]; then
    echo "the simulation failed: exit code $simulated" >&2
    exit 1
fi

header "jepsen: five minutes of all faults on a real cluster, then every answer is checked"
# With a new seed each time; the folder of the run, with the seed, stays in target/jepsen.
run target/release/nezha-jepsen run --seconds 300 --quiet --dir target/jepsen

header "jepsen: two of the planted bugs, other ones each time, are caught"
run target/release/nezha-jepsen bugs --pick 2 --kvd target/planted/kvd --dir target/jepsen-bugs

header "containers: image, three nodes in Compose, Docker's faults, and every command of the documentation"
run deploy/test/run.sh

awk -v seconds="$((SECONDS - started))" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "\ntotal: %d passed, %d failed, %d ignored, in %d s\n", passed, failed, ignored, seconds
          if (passed == 0 || failed > 0) exit 1 }' "$log"
