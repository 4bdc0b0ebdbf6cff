#!/bin/bash
# Runs of five minutes with all faults and workloads, each from a seed of its own, until so many hours are over. Stops at
# the first that does not pass, with its exit code. Usage: jepsen.sh HOURS
set -euo pipefail
cd "$(dirname "$0")/.."

until=$((SECONDS + $(awk -v hours="${1:?hours}" 'BEGIN { printf "%d", hours * 3600 }')))
while [ "$SECONDS" -lt "$until" ]; do
    target/release/nezha-jepsen run --seconds 300 --dir target/jepsen
done
