#!/usr/bin/env bash
# Shows the service at work on this machine: run.sh BIN_DIR [text FILE]. State goes to a temporary folder; KEEP=1 keeps it.
# Every number printed comes from the service. Ends with 1 when what should be learned was not, or the reverse.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { echo "usage: run.sh BIN_DIR [text FILE]" >&2; exit 2; }
bin=$1
shift
sabctl=$bin/sabctl
state=$(mktemp -d "${TMPDIR:-/tmp}/sab-demo-XXXXXX")
up=

say() { printf '\n==> %s\n' "$*"; }
die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }

finish() {
  local code=$?
  trap - EXIT INT TERM
  if [ -n "$up" ]; then
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
  fi
  if [ "${KEEP:-}" = 1 ]; then
    echo "state, checkpoints and logs are in $state"
  else
    rm -rf "$state"
  fi
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_service() {
  say "starting a coordinator and two workers (sabctl up --workers 2)"
  "$sabctl" up --workers 2 --state-dir "$state/state" --listen 127.0.0.1:0 --address-file "$state/address" >"$state/up.log" 2>&1 &
  up=$!
  # The file appears when all workers are ready; `up` ends by itself when they cannot be.
  while [ ! -e "$state/address" ]; do
    kill -0 "$up" 2>/dev/null || { cat "$state/up.log" >&2; die "the service did not start"; }
    sleep 0.1
  done
  SAB_ADDRESS=$(cat "$state/address")
  export SAB_ADDRESS
  cat "$state/up.log"
}

# figure JOB NAME LENGTH: the last value of an evaluation.
figure() {
  "$sabctl" metrics "$1" --split eval --name "$2" -o jsonl |
    sed -n "s/.*\"length\": $3, \"value\": \([^}]*\)}.*/\1/p" | tail -1
}

# bits JOB: bits per character of every evaluation, in order of step.
bits() { "$sabctl" metrics "$1" --split eval --name bits -o jsonl | sed -n 's/.*"value": \([^}]*\)}.*/\1/p'; }

# field JOB NAME: a number of the job's JSON.
field() { "$sabctl" get "$1" -o json | sed -n "s/^  \"$2\": \"\([0-9]*\)\".*/\1/p"; }

above() { awk -v value="$1" -v bound="$2" 'BEGIN { exit !(value + 0 > bound + 0) }'; }

fetch_checkpoint() {
  say "downloading the checkpoint of $1 and verifying it"
  "$sabctl" checkpoint download "$1" --to "$state/checkpoint"
  "$sabctl" checkpoint verify "$state/checkpoint"
}

demo_copy() {
  say "SAB on the copy task in two data-parallel processes (deploy/demo/copy.yaml)"
  local sab tbptt updates accuracy other
  sab=$("$sabctl" submit "$here/copy.yaml" -o name)
  "$sabctl" watch "$sab" || die "the SAB job did not succeed; see above"
  updates=$(field "$sab" step)

  say "an LSTM with truncated back-propagation, the same task and as many updates ($updates)"
  tbptt=$("$sabctl" submit "$here/tbptt.yaml" --set "train.steps=$updates" -o name)
  "$sabctl" watch "$tbptt" || die "the LSTM job did not succeed; see above"

  say "accuracy on the ten symbols, trained at length 20 and evaluated at each length (chance: 0.125)"
  "$sabctl" compare "$sab" "$tbptt" --metric accuracy
  fetch_checkpoint "$sab"

  accuracy=$(figure "$sab" accuracy 20)
  other=$(figure "$tbptt" accuracy 20)
  above "${accuracy:-0}" 0.99 || die "SAB reached an accuracy of ${accuracy:-none} and not above 0.99 within $updates updates"
  above "${other:-1}" 0.5 && die "the truncated LSTM reached an accuracy of ${other:-none}: it should not be able to"
  say "SAB learned the task ($accuracy at length 20); the truncated LSTM did not ($other)"
}

demo_text() {
  local file job first best
  [ -r "$1" ] || die "$1 cannot be read"
  file=$(readlink -f "$1")
  say "a byte-level language model of $file (deploy/demo/text.yaml)"
  job=$("$sabctl" submit "$here/text.yaml" --set "task.path=$file" -o name)
  "$sabctl" watch "$job" || die "the job did not succeed; see above"
  say "bits per character on held-out text"
  "$sabctl" metrics "$job" --split eval --plot bits
  first=$(bits "$job" | head -1)
  best=$(bits "$job" | sort -g | head -1)
  fetch_checkpoint "$job"
  above "${first:-0}" "${best:-9}" || die "bits per character did not fall: ${first:-none} at the first evaluation, ${best:-none} at the best"
  say "from $(printf %.3f "$first") to $(printf %.3f "$best") bits per character (a short file is soon learned by heart and rises again)"
}

case ${1:-copy} in
  copy) start_service; demo_copy ;;
  text) [ $# -eq 2 ] || die "name a file: ./dev demo text FILE"; [ -r "$2" ] || die "$2 cannot be read"; start_service; demo_text "$2" ;;
  *) die "unknown demonstration: $1 (there are: text FILE, or nothing for the copy task)" ;;
esac
