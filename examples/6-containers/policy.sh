#!/bin/sh
# Publishes a policy under the name that the sidecars follow: ./policy.sh weighted
set -eu
. "$(dirname "$0")/lib.sh"
[ $# -eq 1 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
"$OUTRIGGER" policy push "$1" --name mine --registry "$FOLDER/etc/shop.yaml" -m "by hand"
