#!/bin/bash
# Makes the base of the build stage from Debian packages, where no registry is reachable: of the release that runs here,
# since binaries that were built here load its C library. Prints its name; does nothing when it is there.
set -euo pipefail

# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if ! [ -e /etc/debian_version ] || [ -z "$release" ]; then
    echo "base.sh: not a Debian release; name a Rust image as BASE" >&2
    exit 1
fi
base=nezha-base:$release
if ! docker image inspect "$base" >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "base.sh: debootstrap needs root" >&2
        exit 1
    fi
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    echo "making $base from Debian's packages (a minute)" >&2
    # binutils for strip.
    if ! debootstrap --variant=minbase --include=binutils,libstdc++6 "$release" "$root" >"$root.log" 2>&1; then
        tail -20 "$root.log" >&2
        exit 1
    fi
    rm "$root.log"
    tar -C "$root" -c . | docker import --message "debootstrap $release" - "$base" >/dev/null
fi
echo "$base"
