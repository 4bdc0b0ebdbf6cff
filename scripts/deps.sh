#!/bin/bash
# Installs with apt what is missing. Usage: deps.sh build|test|docker|bench... Does nothing, without network, when all is there.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: deps.sh build|test|docker|bench..." >&2
    exit 2
fi
missing=()
need_command() { # command, Debian package
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; then missing+=("$2"); fi
}

for group in "$@"; do
    case "$group" in
    build)
        need_command cc gcc
        need_command c++ g++
        need_command make make
        # scripts/verify.sh runs the tests of the benchmark's scripts.
        need_command python3 python3
        # scripts/cxx.sh compiles RocksDB with it, in half of g++'s time.
        need_command clang++ clang
        # etcd-client (the benchmark's driver for etcd) compiles its own .proto files with protoc; ours need none.
        need_command protoc protobuf-compiler
        if ! [ -e /usr/include/google/protobuf/descriptor.proto ]; then missing+=(libprotobuf-dev); fi
        # bindgen (librocksdb-sys) loads libclang at build time and wants clang's own headers.
        if ! compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null || ! compgen -G "/usr/lib/llvm-*/lib/clang/*/include" >/dev/null; then
            missing+=(libclang-dev)
        fi
        ;;
    test)
        need_command strace strace
        need_command ip iproute2
        need_command nft nftables
        need_command mkfs.ext4 e2fsprogs
        need_command losetup mount
        ;;
    docker)
        # Debian's own engine, unless there is one.
        need_command docker docker.io
        if ! docker compose version >/dev/null 2>&1; then need_command docker-compose docker-compose; fi
        # deploy/base.sh makes the image's base with it, where no registry is reachable.
        need_command debootstrap debootstrap
        need_command mkfs.ext4 e2fsprogs
        need_command losetup mount
        need_command python3 python3
        ;;
    bench)
        # benches/report.py draws with it; any Python that has it will do.
        if ! python3 -c "import matplotlib" 2>/dev/null && ! /usr/bin/python3 -c "import matplotlib" 2>/dev/null; then
            missing+=(python3-matplotlib)
        fi
        # benches/paper.py gets etcd from PyPI.
        if ! python3 -m pip --version >/dev/null 2>&1; then missing+=(python3-pip); fi
        ;;
    *)
        echo "deps.sh: unknown group $group" >&2
        exit 2
        ;;
    esac
done

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust 1.90 or newer (https://rustup.rs), then run this again" >&2
    exit 1
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root: run  apt-get install ${missing[*]}  and try again" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
