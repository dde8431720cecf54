#!/usr/bin/env bash
# How long a checkpoint keeps the training from going on. checkpoint.sh BUILD_DIR [MIB of parameters, default 100]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: checkpoint.sh BUILD_DIR [MIB]" >&2; exit 2; }
cmake --build "$1" --target bench_checkpoint >/dev/null
exec "$(find "$1" -name bench_checkpoint -type f -perm -u+x | head -1)" "${@:2}"
