#!/bin/bash
# Builds kvd with the test-only feature `planted-bugs` into target/planted/kvd, then the real binaries into
# target/release. Same target directory and profile for both: only our own crates compile twice, never RocksDB.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace --locked --features nezha/planted-bugs --bin kvd
mkdir -p target/planted
cp --remove-destination target/release/kvd target/planted/kvd
cargo build --release --workspace --locked --bins
if cmp -s target/release/kvd target/planted/kvd; then
    echo "target/release/kvd is still the planted build" >&2
    exit 1
fi
