#!/usr/bin/env bash
# The table of docs/TUNING.md: the authors' form of SAB, our defaults, and each with one choice exchanged, on the copy task.
#   ./dev bench stability [key=value ...]     keys: head of bench/stability_bench.cc
set -euo pipefail
build=$1
shift
cmake --build "$build" --target bench_stability >&2
exec env OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$build/bin/bench_stability" "$@"
