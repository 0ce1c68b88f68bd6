#!/bin/sh
# Starts everything that README.md shows. `./down.sh` removes it, also after a failure here.
set -eu
# The sidecars, which are not root, read what is written here.
umask 022
. "$(dirname "$0")/lib.sh"
cd "$here"
for tool in podman prometheus busybox curl; do
    command -v "$tool" > /dev/null || { echo "$tool is missing; Debian: podman, prometheus, busybox-static, curl" >&2; exit 1; }
done
[ ! -e "$FOLDER" ] || { echo "$FOLDER is there already: ./down.sh first" >&2; exit 1; }
mkdir -p "$FOLDER/etc"

echo "--- images, from scratch"
mkdir -p "$FOLDER/workload/rootfs/bin" "$FOLDER/workload/rootfs/www/cgi-bin"
cp "$(command -v busybox)" "$(command -v curl)" "$FOLDER/workload/rootfs/bin/"
cp index.cgi "$FOLDER/workload/rootfs/www/cgi-bin/"
# What curl is linked with.
ldd "$(command -v curl)" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$FOLDER/workload/rootfs$(dirname "$library")"
    cp -L "$library" "$FOLDER/workload/rootfs$library"
done
podman build -q -t localhost/$NAME-workload -f Containerfile.workload "$FOLDER/workload"
../containers/image.sh "$OUTRIGGER" "$FOLDER/sidecar"
podman build -q -t localhost/$NAME-sidecar "$FOLDER/sidecar"

echo "--- a network with nobody on it, and the registry at its first address"
sed '/^workloads:/,$d' network.yaml > "$FOLDER/network.yaml"
"$OUTRIGGER" net apply "$FOLDER/network.yaml" --state "$FOLDER/net"
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$FOLDER/etc/token"
cp ./*.yaml "$FOLDER/etc/"
printf 'nameserver 10.76.0.1\nsearch mesh.internal\n' > "$FOLDER/etc/resolv.conf"
background registry "$OUTRIGGER" registry "$FOLDER/etc/registry.yaml" --data "$FOLDER/data" \
    --ready-file "$FOLDER/registry.ready"
wait_for "the registry" test -s "$FOLDER/registry.ready" || { cat "$FOLDER/registry.log" >&2; exit 1; }
./policy.sh round-robin

echo "--- sidecars; a container that starts with one has its network from the first moment on"
for workload in shop web-1 web-2; do
    podman run -q -d --name $NAME-$workload-sidecar --network none --cap-drop all --read-only \
        --tmpfs /state:mode=1777 -v "$FOLDER/etc:/etc/outrigger:ro" \
        localhost/$NAME-sidecar run "/etc/outrigger/$workload.yaml"
done
pid() { podman inspect --format '{{.State.Pid}}' "$NAME-$1-sidecar"; }
sed -e "s/PID_SHOP/$(pid shop)/" -e "s/PID_WEB_1/$(pid web-1)/" -e "s/PID_WEB_2/$(pid web-2)/" \
    network.yaml > "$FOLDER/network.yaml"
"$OUTRIGGER" net apply "$FOLDER/network.yaml" --state "$FOLDER/net"

echo "--- workloads, each in its sidecar's network namespace"
workload() {
    name=$1
    shift
    # The first process of a container has no signals that end it by default, and busybox sets none.
    podman run -q -d --name "$NAME-$name" --stop-signal KILL --network "container:$NAME-$name-sidecar" -e "NAME=$name" \
        -v "$FOLDER/etc/resolv.conf:/etc/resolv.conf:ro" localhost/$NAME-workload "$@"
}
workload web-1 httpd -f -p 80 -h /www
workload web-2 httpd -f -p 80 -h /www
for address in 10.76.0.10 10.76.0.11 10.76.0.12; do
    "$OUTRIGGER" wait --admin "$address:15020"
done
both_known() { "$OUTRIGGER" status --admin 10.76.0.10:15020 | grep -q '^web  *2 '; }
wait_for "both web servers in shop's catalogue" both_known
workload shop sh -c 'while :; do /bin/curl -sS --max-time 5 http://web/ || echo FAILED; /bin/busybox sleep 0.02; done'

echo "--- Prometheus on port $PROMETHEUS_PORT"
background prometheus prometheus --config.file=prometheus.yml --storage.tsdb.path="$FOLDER/prometheus" \
    --web.listen-address="127.0.0.1:$PROMETHEUS_PORT"
echo "--- up; README.md says what to look at, ./down.sh removes it"
