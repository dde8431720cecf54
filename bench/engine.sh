#!/usr/bin/env bash
# Training steps of our engine beside PyTorch's, in turns: called by `./dev bench engine [ARGS]` with the build folder first.
# Arguments are those of bench/engine.py: --quick, --only SYSTEM, --threads N, --turns N, --device cuda.
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cmake --build "$build" --target bench_engine >&2
wheels=${SAB_WHEELS_DIR:-$(sed -n 's/^SAB_WHEELS_DIR:PATH=//p' "$build/CMakeCache.txt")}
exec "$wheels/bin/python" "$here/engine.py" --program "$build/bin/bench_engine" "$@"
