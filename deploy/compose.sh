#!/bin/bash
# Compose on the cluster, with the plugin or the older program, whichever is there. For example: compose.sh ps
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    compose=(docker-compose)
fi
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-nezha}
# More files than one: those that a test adds.
exec "${compose[@]}" --file "$here/compose.yaml" ${COMPOSE_MORE:+--file "$COMPOSE_MORE"} "$@"
