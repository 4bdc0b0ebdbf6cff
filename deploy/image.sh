#!/bin/bash
# Makes the image. Usage: image.sh [TAG], nezha:dev by default.
#
# BASE       the build stage's base: a Rust image, which compiles; or `debian`, a base made of this machine's Debian
#            release, into which binaries are copied that were built here. Unset: rust:1.90-bookworm if it is there or a
#            registry gives it, else debian.
# BINARIES   of `debian`: where kvd and kvctl are, target/release by default.
# VERSION    of a Rust image: compiled in, see Dockerfile. Binaries that are copied know theirs.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${1:-nezha:dev}
rust=rust:1.90-bookworm
base=${BASE:-}
if [ -z "$base" ]; then
    if docker image inspect "$rust" >/dev/null 2>&1 || docker pull --quiet "$rust" 2>/dev/null; then
        base=$rust
    else
        echo "no registry gives $rust: copying binaries that were built here"
        base=debian
    fi
fi

rm -rf target/image
mkdir -p target/image
version=${VERSION:-}
if [ "$base" = debian ]; then
    binaries=${BINARIES:-target/release}
    for each in kvd kvctl; do
        if ! [ -x "$binaries/$each" ]; then
            echo "$binaries/$each is missing: run  make build  first" >&2
            exit 1
        fi
    done
    cp "$binaries/kvd" "$binaries/kvctl" target/image/
    version=$(target/image/kvd --version | cut -d' ' -f2)
    base=$(deploy/base.sh)
fi
: "${version:=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}"

revision=$(git describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null || echo unknown)
# Of the commit, so that the same sources make the same image.
created=$(git show --no-patch --format=%cI 2>/dev/null || echo unknown)
docker build --file deploy/Dockerfile --tag "$tag" \
    --build-arg "BASE=$base" --build-arg "VERSION=$version" \
    --build-arg "REVISION=$revision" --build-arg "CREATED=$created" .
docker image inspect "$tag" --format "$tag: {{.Size}} bytes, version $version"
