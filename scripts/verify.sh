#!/bin/bash
# Everything that can be said about the sources without running the product. Writes nothing outside target/.
set -euo pipefail
cd "$(dirname "$0")/.."

header() { printf '\n=== %s\n' "$*"; }

header "verify: formatting"
cargo fmt --all --check

header "verify: clippy, warnings are errors"
cargo clippy --release --workspace --locked --all-targets -- -D warnings
cargo clippy --release --workspace --locked --all-targets --features nezha/planted-bugs -- -D warnings

header "verify: the scripts of the comparison"
for each in benches/*_test.py; do python3 -B "$each"; done

header "verify: arrows between crates; licences, bans and sources of deny.toml"
cargo test --release --workspace --locked --test architecture
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --offline check bans licenses sources
else
    echo "cargo-deny is not installed here: deny.toml was checked by tests/architecture/supply.rs alone"
fi
