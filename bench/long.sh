#!/usr/bin/env bash
# Very long sequences: what a step costs at T = 1,000 … 1,000,000, and `recall` learned at a million steps by the service.
#   ./dev bench long [--only cost|train] [--turns N] [--job FILE]
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cmake --build "$build" --target bench_engine >&2
wheels=${SAB_WHEELS_DIR:-$(sed -n 's/^SAB_WHEELS_DIR:PATH=//p' "$build/CMakeCache.txt")}
exec "$wheels/bin/python" "$here/long.py" --bin "$build/bin" "$@"
