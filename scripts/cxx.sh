#!/bin/bash
# The C++ compiler of this workspace (.cargo/config.toml), used by librocksdb-sys alone: clang++ with one precompiled
# header for RocksDB's larger sources, whose headers cost more than their code. Without clang++ it is plain c++.
set -euo pipefail

if ! command -v clang++ >/dev/null; then exec c++ "$@"; fi

source= object= flags=()
arguments=("$@")
for ((i = 0; i < $#; i++)); do
    case "${arguments[i]}" in
    -o) object=${arguments[++i]} ;;
    -c) ;;
    *.cc | *.cpp | *.c) source=${arguments[i]} ;;
    *) flags+=("${arguments[i]}") ;;
    esac
done

# Only where the header's own includes are wanted anyway; sources that configure a header by macros stay out.
case "$source" in
rocksdb/db/* | rocksdb/table/* | rocksdb/utilities/* | rocksdb/cache/* | rocksdb/options/* | rocksdb/memtable/* | rocksdb/file/*) ;;
*) exec clang++ "$@" ;;
esac

key=$(printf '%s\n' "$PWD" "${flags[@]}" | cksum | cut -d' ' -f1)
header=${OUT_DIR:-$(dirname "$object")}/common-$key
(
    flock 9
    if ! [ -e "$header.pch" ]; then
        echo '#include "db/db_impl/db_impl.h"' >"$header.h"
        clang++ "${flags[@]}" -x c++-header "$header.h" -o "$header.tmp"
        mv "$header.tmp" "$header.pch"
    fi
) 9>"$header.lock"
# A header that went stale under an old target directory costs time, never the build.
clang++ "${flags[@]}" -include-pch "$header.pch" -c "$source" -o "$object" 2>/dev/null || exec clang++ "$@"
