#!/bin/bash
# Builds what the cluster test needs: the real binaries and their image nezha:test, and kvd once more under another
# version, in nezha:test-next. The version is compiled into the program alone, so that the second build is a link.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
NEZHA_VERSION="$version+next" cargo build --release --workspace --locked --bin kvd
mkdir -p target/next
cp --remove-destination target/release/kvd target/next/kvd
cargo build --release --workspace --locked --bins
cp --remove-destination target/release/kvctl target/next/kvctl
if cmp -s target/release/kvd target/next/kvd; then
    echo "target/release/kvd is still the build with another version" >&2
    exit 1
fi
BASE=debian deploy/image.sh nezha:test
BASE=debian BINARIES=target/next deploy/image.sh nezha:test-next
