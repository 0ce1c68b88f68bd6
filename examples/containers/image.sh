#!/bin/sh
# Makes the folder from which `podman build` or `docker build` makes the sidecar's image.
# Usage: image.sh PROGRAM FOLDER
# A program for x86_64-unknown-linux-musl needs nothing beside it; of another, the libraries come along.
set -eu
[ $# -eq 2 ] || { sed -n '2,/^set/s/^# //p' "$0" >&2; exit 2; }
program=$1 folder=$2
mkdir -p "$folder/rootfs"
cp "$(dirname "$0")/Containerfile" "$folder/"
cp "$program" "$folder/rootfs/outrigger"
chmod 755 "$folder/rootfs/outrigger"
# It fails for a program that has none.
ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$folder/rootfs$(dirname "$library")"
    cp -L "$library" "$folder/rootfs$library"
done
