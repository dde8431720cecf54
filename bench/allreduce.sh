#!/usr/bin/env bash
# The all-reduce of CPU ranks over shared memory and over Gloo, in turns, and what it and train.deterministic cost a training step.
#   ./dev bench allreduce [--busy N] [--turns N] [--only calls|steps]
set -euo pipefail
build=$1
shift
cmake --build "$build" --target bench_allreduce >&2
exec env OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" "$build/bin/bench_allreduce" "$@"
