#!/bin/sh
# Runs what README.md describes, in a network namespace of its own, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program && export OUTRIGGER ;; esac
if [ "${1:-}" != inside ]; then
    [ "$(id -u)" -eq 0 ] || { echo "this needs root: containers and their network" >&2; exit 1; }
    work=$(mktemp -d)
    ended=0
    WORK=$work unshare --net --mount --propagation private "$0" inside || ended=$?
    rm -rf "$work"
    exit $ended
fi

# What podman keeps is laid over with memory, so that nothing of this machine's is touched. crun refuses hosts with both
# versions of cgroups, and limits cannot be raised everywhere.
ip link set lo up
mount -t tmpfs tmpfs /run
for folder in /var/lib/containers /var/lib/cni; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
done
cat > "$WORK/containers.conf" <<END
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
log_driver = "k8s-file"
END
export CONTAINERS_CONF="$WORK/containers.conf" FOLDER="$WORK/six"
. "$(dirname "$0")/lib.sh"
cd "$here"

say() { echo "--- $*"; }
fail() {
    echo "FAILED: $*" >&2
    echo "the shop's last answers:" >&2
    podman logs --tail 5 $NAME-shop >&2 || true
    for workload in shop web-1 web-2; do
        echo "the log of $workload's sidecar ends with:" >&2
        podman logs --tail 12 "$NAME-$workload-sidecar" >&2 || true
    done
    exit 1
}
trap 'ended=$?; trap - EXIT; ./down.sh || ended=1; exit $ended' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

./up.sh || fail "it does not come up"
answers() { podman logs $NAME-shop 2>&1; }
count() { answers | wc -l; }
# share: how many of the shop's next 40 answers came from web-2.
share() {
    seen=$(count)
    forty_more() { [ "$(count)" -ge $((seen + 40)) ]; }
    wait_for "40 answers" forty_more || fail "the shop is not answered"
    answers | tail -n +$((seen + 1)) | head -n 40 | grep -c '^web-2$' || true
}
shop=http://10.76.0.10:15020
runs() { curl -sS --max-time 10 "$shop/policies/mine" | grep -q "\"version\": $1\b"; }

n=$(share)
say "by round robin, web-2 has $n of 40"
{ [ "$n" -ge 15 ] && [ "$n" -le 25 ]; } || fail "not round robin"

say "another policy, while requests flow"
./policy.sh weighted
wait_for "version 2" runs 2 || fail "the new policy does not come"
n=$(share)
say "by weight, web-2 has $n of 40"
{ [ "$n" -ge 5 ] && [ "$n" -le 13 ]; } || fail "not by weight"

addresses() { podman exec $NAME-shop /bin/busybox nslookup web.mesh.internal | sed -n '4,$s/^Address: //p' | tr '\n' ' '; }
say "the name, asked for at any resolver, has the sidecar's answer: $(addresses)"

say "Prometheus sees all three"
prometheus() { curl -sS --max-time 10 --get "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1"; }
three_up() { prometheus 'count(up{job="outrigger"} == 1)' | grep -q '"3"'; }
wait_for "three targets" three_up || fail "Prometheus: $(prometheus up)"
counted() { prometheus 'sum(outrigger_requests_total{service="web"}) > 80' | grep -q '"value"'; }
wait_for "the requests" counted || fail "Prometheus: $(prometheus outrigger_requests_total)"

say "a web server stops: the name is the other one's alone"
podman stop -t 2 $NAME-web-2 > /dev/null
alone() { [ "$(share)" -eq 0 ]; }
wait_for "web-1 alone" alone || fail "web-2 is still asked"
say "and comes back"
podman start $NAME-web-2 > /dev/null
back() { [ "$(share)" -gt 0 ]; }
wait_for "web-2" back || fail "web-2 is not asked again"

failed=$(answers | grep -vc '^web-[12]$' || true)
say "requests that failed meanwhile: $failed of $(count)"
[ "$failed" -eq 0 ] || { answers | grep -v '^web-[12]$' | sort | uniq -c >&2; fail "requests were lost"; }

say "everything goes"
./down.sh
trap - EXIT
links=$(ip -o link | grep -v ': lo:' || true)
[ -z "$links" ] || { echo "FAILED: left behind: $links" >&2; exit 1; }
tables=$(nft list ruleset)
[ -z "$tables" ] || { echo "FAILED: left behind: $tables" >&2; exit 1; }
[ -z "$(podman ps -aq)" ] || { echo "FAILED: containers are left" >&2; exit 1; }
[ ! -e "$FOLDER" ] || { echo "FAILED: $FOLDER is left" >&2; exit 1; }
say "no trace is left"
