#!/bin/bash
# Serves a three-node cluster on loopback until Ctrl-C. Usage: run-local.sh DATA_DIR CLIENT_PORT PEER_PORT
# `kvd local` prints what to try as soon as the cluster serves.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "$1"
cat <<TEXT

Starting three nodes with their data in $1. In another terminal, first:

  export PATH="$PWD/target/release:\$PATH"

TEXT
exec target/release/kvd local --nodes 3 --data-dir "$1" --client-port "$2" --peer-port "$3"
