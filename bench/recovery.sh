#!/usr/bin/env bash
# How long a killed rank costs: seconds from the SIGKILL of a random rank of a job of two to the next optimiser step, ours and torchrun's with the
# same kind of loop. recovery.sh BUILD_DIR [--kills N] [--seed S] [--torchrun-kills N]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: recovery.sh BUILD_DIR [--kills N] [--seed S] [--torchrun-kills N]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(sed -n 's/^SAB_WHEELS_DIR:PATH=//p' "$1/CMakeCache.txt")/bin/python
exec python3 -B "$here/recovery.py" "$1/bin" "$python" "${@:2}"
