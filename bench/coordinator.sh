#!/usr/bin/env bash
# Kills the coordinator with SIGKILL at random moments, while jobs train and users submit, cancel, pause, resume and update, and starts it
# again: counts what was lost, and how long it was away. Then starts it on a store of many jobs. Ends with 0 when nothing was lost. Called by `./dev bench coordinator [ARGS]` with the build folder first.
# Arguments: --kills N (200; 0: none), --seed N, --stored N (10000; 0: none).
set -euo pipefail
build=$1
shift
cmake --build "$build" --target bench_coordinator fake_trainer sab-coordinator sab-worker sab-trainer >&2
exec "$build/bin/bench_coordinator" --bin-dir "$build/bin" --fake-trainer "$build/tests/fake_trainer" "$@"
