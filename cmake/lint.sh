#!/usr/bin/env bash
# Protos by buf's STANDARD and COMMENTS rules, formatting by clang-format, shell scripts by bash -n, links between documents.
# usage: cmake/lint.sh WHEELS_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

(cd proto && "$1/bin/buf" lint) || failed=1

mapfile -t sources < <(git ls-files '*.cc' '*.h' '*.cu' '*.cuh')
clang-format --dry-run -Werror "${sources[@]}" || failed=1

while read -r script; do bash -n "$script" || failed=1; done < <(git ls-files '*.sh' dev .ci/run)

# Relative links of Markdown files must lead to files.
while read -r document; do
  { grep -oE '\]\([^)#: ]+' "$document" || true; } | sed 's/^](//' | while read -r target; do
    [ -e "$(dirname "$document")/$target" ] || echo "$document: dead link: $target"
  done
done < <(git ls-files '*.md') >"/tmp/sab-lint.$$"
[ -s "/tmp/sab-lint.$$" ] && { cat "/tmp/sab-lint.$$"; failed=1; }
rm -f "/tmp/sab-lint.$$"

[ $failed = 0 ] && echo "lint: clean"
exit $failed
