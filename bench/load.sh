#!/usr/bin/env bash
# A real coordinator under 1,000 agents and 200 watchers: called by `./dev bench load [ARGS]` with the build folder first.
# Arguments: --agents N, --watchers N, --jobs N, --seconds N.
set -euo pipefail
build=$1
shift
cmake --build "$build" --target bench_load sab-coordinator >&2
ulimit -n "$(ulimit -Hn)"
state=$(mktemp -d)
"$build/bin/sab-coordinator" --state-dir "$state" --listen 127.0.0.1:0 --metrics-listen "" --address-file "$state/address" \
  2>"$state/log" >&2 &
coordinator=$!
trap 'kill "$coordinator" 2>/dev/null; wait "$coordinator" || true; rm -rf "$state"' EXIT
for _ in $(seq 100); do
  [ -s "$state/address" ] && break
  sleep 0.1
done
"$build/bin/bench_load" --address "$(cat "$state/address")" --pid "$coordinator" "$@"
