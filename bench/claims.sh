#!/usr/bin/env bash
# The paper's claims, measured by jobs of the service; docs/CLAIMS.md is written from the results.
#   ./dev bench claims [--budget small|full] [--only PATTERN] [--data DIR] [--list] ...     --help says it all
set -euo pipefail
build=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wheels=${SAB_WHEELS_DIR:-$(sed -n 's/^SAB_WHEELS_DIR:PATH=//p' "$build/CMakeCache.txt")}
# The wheels' Python, for the peer needs PyTorch; the rest is the standard library.
exec "$wheels/bin/python" -B "$here/claims/main.py" --build "$build" "$@"
