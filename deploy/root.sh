#!/bin/bash
# Lays out what the image holds: the two programs, and each library that they load at its own path. Runs in the build
# stage. Usage: root.sh ROOT VOLUME; VOLUME gets an empty directory `data`, with the mode that volumes start with.
#
# With a Rust toolchain there, it compiles; else it takes the binaries that deploy/image.sh left in target/image.
set -euo pipefail
cd "$(dirname "$0")/.."

root=${1:?the directory to fill} volume=${2:?where to make the empty directory for the data}
if command -v cargo >/dev/null; then
    scripts/deps.sh build
    cargo build --release --workspace --locked --bin kvd --bin kvctl
    binaries=target/release
else
    binaries=target/image
fi

mkdir -p "$root/usr/local/bin" "$root/etc"
install -m 0755 "$binaries/kvd" "$binaries/kvctl" "$root/usr/local/bin/"
# Half of their bytes tell lines of code; functions keep their names, for backtraces.
strip --strip-debug "$root/usr/local/bin/"*

# `ldd` runs the loader of this release on them: what is missing here would be missing there.
loaded=$(ldd "$root/usr/local/bin/"*)
if grep "not found" <<<"$loaded" >&2; then
    echo "root.sh: a library is missing" >&2
    exit 1
fi
# Lines: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and of the loader: `/lib64/ld-linux-x86-64.so.2 (0x...)`.
for library in $(awk '$2 == "=>" { print $3 } $1 ~ /^\// && NF == 2 { print $1 }' <<<"$loaded" | sort -u); do
    install -D -m 0755 "$(readlink -f "$library")" "$root/$library"
done
# Names of members are resolved by the C library: /etc/hosts first, then DNS.
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
# So that tools can name the user.
echo "nezha:x:65532:65532:Nezha:/data:/nologin" >"$root/etc/passwd"
echo "nezha:x:65532:" >"$root/etc/group"
install -d -m 0700 "$volume/data"
find "$root" -type f -exec ls -l {} +
