#!/usr/bin/env bash
# How long a user waits: from `sabctl submit` to the first training step, 20 times on an idle service of one worker, and the resident memory
# of the idle coordinator. startup.sh BUILD_DIR [RUNS]
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: startup.sh BUILD_DIR [RUNS]" >&2; exit 2; }
sabctl=$1/bin/sabctl
runs=${2:-20}
state=$(mktemp -d "${TMPDIR:-/tmp}/sab-startup-XXXXXX")
up=

finish() {
  local code=$?
  trap - EXIT
  [ -z "$up" ] || { kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; }
  rm -rf "$state"
  exit $code
}
trap finish EXIT

"$sabctl" up --workers 1 --state-dir "$state/state" --listen 127.0.0.1:0 --address-file "$state/address" >"$state/up.log" 2>&1 &
up=$!
while [ ! -e "$state/address" ]; do
  kill -0 "$up" 2>/dev/null || { cat "$state/up.log" >&2; exit 1; }
  sleep 0.1
done
SAB_ADDRESS=$(cat "$state/address")
export SAB_ADDRESS

coordinator=$(pgrep -P "$up" -x sab-coordinator)
resident() { awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$coordinator/status"; }
idle=$(resident)

cat >"$state/job.yaml" <<'JOB'
name: startup
model: {kind: sab, hidden_size: 32}
task: {kind: copy, length: 10}
train: {batch_size: 8, steps: 1}
eval: {sequences: 8}
JOB

# Seconds from the call of submit to the time at which the first training step was reported, by the same clock.
one_run() {
  local before job
  before=$(date +%s.%N)
  job=$("$sabctl" submit "$state/job.yaml" -o name)
  "$sabctl" wait "$job" --quiet
  "$sabctl" get "$job" -o json | python3 -c '
import datetime, json, re, sys
stamp = json.load(sys.stdin)["attempts"][0]["first_step_time"]
whole, fraction = re.match(r"([^.Z]*)(\.\d+)?Z", stamp).groups()
moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp() + float(fraction or 0)
print(moment - float(sys.argv[1]))' "$before"
}

for _ in $(seq "$runs"); do one_run; done | sort -n >"$state/seconds"
awk -v runs="$runs" -v idle="$idle" -v after="$(resident)" '
  { value[NR] = $1 }
  END {
    middle = runs % 2 ? value[(runs + 1) / 2] : (value[runs / 2] + value[runs / 2 + 1]) / 2
    rank = int(runs * 0.95); if (rank < runs * 0.95) ++rank
    printf "%-46s %8s\n", "measure", "value"
    printf "%-46s %8.3f\n", "submit to first step, median of " runs " (s)", middle
    printf "%-46s %8.3f\n", "submit to first step, 95th percentile (s)", value[rank]
    printf "%-46s %8.3f\n", "submit to first step, least (s)", value[1]
    printf "%-46s %8.1f\n", "idle coordinator, resident (MiB)", idle
    printf "%-46s %8.1f\n", "coordinator after the jobs, resident (MiB)", after
  }' "$state/seconds"
