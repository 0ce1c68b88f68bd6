#!/bin/sh
# Removes every trace of up.sh, however far that came.
set -eu
. "$(dirname "$0")/lib.sh"
for container in shop web-1 web-2 shop-sidecar web-1-sidecar web-2-sidecar; do
    podman rm -f -i -t 2 "$NAME-$container" > /dev/null
done
for image in workload sidecar; do
    if podman image exists localhost/$NAME-$image; then podman rmi -f localhost/$NAME-$image > /dev/null; fi
done
for process in registry prometheus; do
    if [ -s "$FOLDER/$process.pid" ]; then
        kill "$(cat "$FOLDER/$process.pid")" 2> /dev/null || true
        gone() { ! kill -0 "$(cat "$FOLDER/$process.pid")" 2> /dev/null; }
        wait_for "$process to end" gone
    fi
done
if [ -d "$FOLDER/net" ]; then "$OUTRIGGER" net undo --state "$FOLDER/net"; fi
rm -rf "$FOLDER"
