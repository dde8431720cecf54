#!/bin/sh
# Checks configuration and rules and runs the rules' unit tests: test_rules.sh FOLDER_OF_PROMTOOL. Exits with 77 when there is no promtool.
promtool=$1/promtool
[ -x "$promtool" ] || { echo "skipped: there is no $promtool"; exit 77; }
cd "$(dirname "$0")" && "$promtool" check config prometheus.yml && "$promtool" test rules rules_test.yml
