#!/bin/sh
# Runs what README.md describes, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program ;; esac
cd "$(dirname "$0")"
. ../lib.sh

say "a registry, and a service in it"
"$OUTRIGGER" registry --listen 127.0.0.1:0 --data "$work/data" --ready-file "$work/registry" 2> "$work/registry.log" &
pids="$! $pids"
wait_for "the registry" test -s "$work/registry"
registry=$(sed 's/.*"http":"\([^"]*\)".*/\1/' "$work/registry")
export OUTRIGGER_REGISTRY="consul=http://$registry"
# register NAME WEIGHT
register() {
    curl -sS --fail --max-time 10 -X PUT "http://$registry/v1/agent/service/register" -d \
        "{\"Name\": \"web\", \"ID\": \"$1\", \"Address\": \"127.0.0.1\", \"Port\": $(port "$1"), \"Weights\": {\"Passing\": $2}}"
}
backend big
backend small
register big 9
register small 1

say "a pair of keys, and the first version"
"$OUTRIGGER" policy keygen "$work/release"
"$OUTRIGGER" policy push round-robin --name mine --sign "$work/release.key" -m "take turns"

say "two sidecars that follow it"
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/' -e "s/127.0.0.1:8500/$registry/"
start
proxies=$proxy
admins=$admin
rm "$work/ready"
start
proxies="$proxies $proxy"
admins="$admins $admin"

# Requests to both without pause, until $work/enough is there; answers are kept for each, and failures counted.
for proxy in $proxies; do : > "$work/load-$proxy"; done
(
    failures=0
    while [ ! -e "$work/enough" ]; do
        for proxy in $proxies; do get >> "$work/load-$proxy" 2>> "$work/load.log" || failures=$((failures + 1)); done
    done
    echo "$failures" > "$work/failures"
) &
load_pid=$!
pids="$load_pid $pids"

# runs VERSION: both sidecars have it in force.
runs() {
    for admin in $admins; do
        ask /policies/mine | grep -q "\"version\": $1\b" || return 1
    done
}
# Shares are of the load's own next answers: a second client could take every other turn, and would see one endpoint.
answered() { wc -l < "$work/load-$proxy"; }
small_share() {
    seen=$(answered)
    forty_more() { [ "$(answered)" -ge $((seen + 40)) ]; }
    wait_for "40 answers" forty_more
    tail -n +$((seen + 1)) "$work/load-$proxy" | head -n 40 | grep -c '^small$' || true
}
is_round_robin() { for proxy in $proxies; do n=$(small_share); say "small has $n of 40"; [ "$n" -ge 15 ] || fail "not round robin"; done; }
is_weighted() { for proxy in $proxies; do n=$(small_share); say "small has $n of 40"; [ "$n" -le 9 ] || fail "not weighted"; done; }

wait_for "version 1 in both" runs 1
is_round_robin

say "the second version"
"$OUTRIGGER" policy push weighted --name mine --sign "$work/release.key" -m "by weight"
wait_for "version 2 in both" runs 2
is_weighted
reported() { "$OUTRIGGER" policy releases mine | grep -q "^2  *in force  *2 "; }
wait_for "both to report it" reported
"$OUTRIGGER" policy releases mine

say "and back"
"$OUTRIGGER" policy rollback mine -m "too early"
wait_for "version 1 in both" runs 1
is_round_robin

say "a version that nobody has signed is refused, with a reason, and nothing changes"
"$OUTRIGGER" policy push weighted --name mine
refused() { ask /ready | grep -q "version 3: it is not signed"; }
for admin in $admins; do wait_for "the refusal" refused; done
runs 1 || fail "another version is in force"
told() { [ "$("$OUTRIGGER" policy releases mine | grep -c "it is not signed")" -eq 2 ]; }
wait_for "both to report the refusal" told
"$OUTRIGGER" policy releases mine
"$OUTRIGGER" policy history mine

touch "$work/enough"
wait "$load_pid" || fail "the load"
expect "requests that failed meanwhile" 0 "$(cat "$work/failures")"
stop
