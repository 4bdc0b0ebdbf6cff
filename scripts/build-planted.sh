#!/bin/bash
# Builds kvd with the test-only feature `planted-bugs` into target/planted/kvd, and further binaries that are named, then
# the real ones into target/release. Same target directory and profile for all: only our own crates compile twice, never
# RocksDB. Usage: build-planted.sh [BINARY...]
set -euo pipefail
cd "$(dirname "$0")/.."

binaries=(kvd "$@")
cargo build --release --workspace --locked --features nezha/planted-bugs "${binaries[@]/#/--bin=}"
mkdir -p target/planted
for binary in "${binaries[@]}"; do
    cp --remove-destination "target/release/$binary" "target/planted/$binary"
done
cargo build --release --workspace --locked --bins
if cmp -s target/release/kvd target/planted/kvd; then
    echo "target/release/kvd is still the planted build" >&2
    exit 1
fi
