#!/usr/bin/env bash
# Very long sequences: what a step costs at T = 1,000 … 1,000,000, `recall` learned at a million steps by the service,
# and what save points in the middle of such updates cost.
#   ./dev bench long [--only cost|train|saves] [--turns N] [--job FILE]
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cmake --build "$build" --target bench_engine >&2
wheels=${SAB_WHEELS_DIR:-$(sed -n 's/^SAB_WHEELS_DIR:PATH=//p' "$build/CMakeCache.txt")}
exec "$wheels/bin/python" "$here/long.py" --bin "$build/bin" "$@"
