#!/usr/bin/env bash
# What `sabctl submit --dry-run` predicts beside what a trainer then takes: peak of resident memory above a trainer with next to nothing to
# do, and seconds of a training step, on one thread. footprint.sh BUILD_DIR [NAME ...]     names: those of the table
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: footprint.sh BUILD_DIR [NAME ...]" >&2; exit 2; }
sabctl=$1/bin/sabctl
shift
state=$(mktemp -d "${TMPDIR:-/tmp}/sab-footprint-XXXXXX")
up=

finish() {
  local code=$?
  trap - EXIT
  [ -z "$up" ] || { kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; }
  rm -rf "$state"
  exit $code
}
trap finish EXIT

# As many workers as cores: a thread for each trainer, as the prediction assumes.
"$sabctl" up --workers "$(nproc)" --state-dir "$state/state" --listen 127.0.0.1:0 --address-file "$state/address" >"$state/up.log" 2>&1 &
up=$!
while [ ! -e "$state/address" ]; do
  kill -0 "$up" 2>/dev/null || { cat "$state/up.log" >&2; exit 1; }
  sleep 0.1
done
SAB_ADDRESS=$(cat "$state/address")
export SAB_ADDRESS
workers=$(pgrep -P "$up" -x sab-worker | paste -sd,)

cat >"$state/job.yaml" <<'JOB'
name: footprint
task: {kind: copy, length: 100}
train: {steps: 3}
resources: {device: cpu}
JOB

# Largest resident memory, in bytes, that the trainer has had when it ends; only the last look counts.
peak_of() {
  local job=$1 trainer="" kib peak=0
  while [ -z "$trainer" ]; do trainer=$(pgrep -P "$workers" -x sab-trainer || true); done
  while kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$trainer/status" 2>/dev/null) && [ -n "$kib" ]; do
    peak=$kib
    sleep 0.02
  done
  "$sabctl" wait "$job" --quiet >/dev/null
  echo $((peak * 1024))
}

# NAME SETTING=VALUE ... Prints predicted and measured bytes, then predicted and measured seconds of a step.
measure() {
  local name=$1 options=() predicted seconds steps job
  shift
  for setting in "$@"; do options+=(--set "$setting"); done
  predicted=$("$sabctl" submit "$state/job.yaml" "${options[@]}" --dry-run -o json |
    python3 -c 'import json, sys; cost = json.load(sys.stdin)["cost"]; print(cost["peak_bytes"], cost["seconds_per_step"])')
  # Three seconds of training, so that rates are reported; an evaluation and a checkpoint halfway, so that each peak comes well before the end.
  seconds=${predicted#* }
  steps=$(awk -v one="$seconds" 'BEGIN { n = int(3 / one); if (n < 4) n = 4; if (n > 5000) n = 5000; print n }')
  options+=(--set "train.steps=$steps" --set "eval.every=$((steps / 2))" --set "checkpoint.every=$((steps / 2))")
  job=$("$sabctl" submit "$state/job.yaml" "${options[@]}" -o name)
  peak_of "$job" >"$state/peak"
  "$sabctl" metrics "$job" --split system --name seconds_per_step -o jsonl |
    sed 's/.*"value": *\([^,}]*\).*/\1/' | sort -g | head -n 1 >"$state/seconds"
  echo "$name ${predicted% *} $(cat "$state/peak") $seconds $(cat "$state/seconds")"
}

wanted=" $* "
row() {
  [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]] || return 0
  measure "$@" >"$state/row"
  awk -v own="$own" '{
    measured = $3 - own
    printf "%-24s %10.1f %10.1f %6.2f   %10.1f %10.1f %6.2f\n", $1, $2 / 1048576, measured / 1048576, $2 / measured, $4 * 1e3, $5 * 1e3, ($5 > 0 ? $4 / $5 : 0)
  }' "$state/row"
}

# A trainer's own: what it takes with next to nothing to do, less what was predicted for that.
measure nothing model.hidden_size=8 task.length=5 train.batch_size=1 eval.sequences=1 >"$state/row"
own=$(awk '{ print $3 - $2 }' "$state/row")

awk -v own="$own" 'BEGIN { printf "A trainer has %.0f MiB of its own.\n%-24s %28s   %28s\n%-24s %10s %10s %6s   %10s %10s %6s\n", own / 1048576,
  "", "peak memory above it (MiB)", "a step (ms)", "setting", "predicted", "measured", "ratio", "predicted", "measured", "ratio" }'
row sab-60x64x16 model.hidden_size=64 task.length=40 train.batch_size=16 eval.sequences=16
row sab-120x128x64 task.length=100 eval.sequences=64
row sab-eval-2000 task.length=100 eval.sequences=8 'eval.lengths=[100,2000]' train.batch_size=8
row sab-5000x64x8 model.hidden_size=64 'task={kind: adding, length: 5000}' train.batch_size=8 eval.sequences=8
# The same input for 5,000 steps: memories become nearly equal.
row sab-5000-alike model.hidden_size=64 task.length=4980 train.batch_size=8 eval.sequences=8
row sab-320x512x16 model.hidden_size=512 task.length=300 train.batch_size=16 eval.sequences=16
row sab-2000-keep model.recompute=off task.length=1980 train.batch_size=16 eval.sequences=16
row sab-2000-recompute model.recompute=on task.length=1980 train.batch_size=16 eval.sequences=16
row sab-5000-bounded model.memory.capacity=64 model.hidden_size=64 'task={kind: adding, length: 5000}' train.batch_size=8 eval.sequences=8
row separable-2000x128x64 model.score=separable task.length=1980 eval.sequences=64
row separable-5000x256x8 model.score=separable model.hidden_size=256 task.length=4980 train.batch_size=8 eval.sequences=8
row lstm-1000x512x32 model.kind=lstm model.hidden_size=512 task.length=980 train.batch_size=32 eval.sequences=32
row attention-800x128x16 model.kind=attention task.length=780 train.batch_size=16 eval.sequences=16
