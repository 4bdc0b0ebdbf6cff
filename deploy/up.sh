#!/bin/bash
# Builds the image, starts the three nodes, and waits until each of them serves linearizable reads.
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/image.sh "${NEZHA_IMAGE:-nezha:dev}"
deploy/compose.sh up --detach n1 n2 n3
# The first write or read is answered once there is a leader; then the others need a moment to follow it.
deploy/compose.sh run --rm --no-deps kvctl --timeout 60s get greeting --allow-missing >/dev/null
for ((attempt = 1; ; attempt++)); do
    if deploy/compose.sh run --rm --no-deps kvctl health --cluster; then break; fi
    if [ "$attempt" -eq 10 ]; then
        echo "not all nodes serve; see  deploy/compose.sh logs" >&2
        exit 1
    fi
    sleep 1
done
deploy/compose.sh run --rm --no-deps kvctl status
