#!/bin/bash
# The images, the cluster test, and every command of the documentation. As root, with a Docker engine that runs.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" -ne 0 ]; then
    echo "make cluster-test needs root: it makes loop devices, and reads what the kernel says about containers" >&2
    exit 1
fi
if ! docker info >/dev/null 2>&1; then
    echo "no Docker engine answers: start one (dockerd), then run this again" >&2
    exit 1
fi
# What builds leave behind without a name.
prune() {
    docker image prune --force --filter label=nezha.stage=build >/dev/null
    docker image prune --force --filter label=org.opencontainers.image.title=Nezha >/dev/null
}
trap prune EXIT
deploy/test/build.sh
deploy/test/cluster_test.py
deploy/test/docs_test.py
