#!/usr/bin/env bash
# The production scheduler under a virtual clock: called by `./dev bench scheduler [ARGS]` with the build folder first.
# Without arguments a cluster of 1,000 workers and 10,000 jobs, timed (--workers N, --jobs N, --seed N); with --seeds N so many
# small clusters with faults, every invariant checked.
set -euo pipefail
build=$1
shift
cmake --build "$build" --target bench_scheduler >&2
exec "$build/bin/bench_scheduler" "$@"
