#!/bin/sh
# Runs every numbered example and prints `N passed, M failed`; exit code 1 if any failed.
# OUTRIGGER names the program, by default ../target/release/outrigger.
set -u
case ${OUTRIGGER:-} in
    '' | /*) ;;
    *) OUTRIGGER=$(pwd)/$OUTRIGGER && export OUTRIGGER ;;
esac
cd "$(dirname "$0")" || exit 1
passed=0
failed=0
for example in [0-9]*/; do
    echo "=== ${example%/}"
    if "./${example}run.sh"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "=== ${example%/} failed" >&2
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
