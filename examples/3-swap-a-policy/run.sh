#!/bin/sh
# Runs what README.md describes, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program ;; esac
cd "$(dirname "$0")"
. ../lib.sh

say "two policies, built from policies/"
for policy in round-robin weighted; do
    "$OUTRIGGER" policy build "$examples/../policies/$policy" -o "$work/$policy.wasm" 2> "$work/build.log" ||
        { cat "$work/build.log" >&2; fail "policy build $policy"; }
done
digest_of() { "$OUTRIGGER" policy show "$1" | awk '$1 == "digest" { print $2 }'; }
round_robin=$(digest_of "$work/round-robin.wasm")
weighted=$(digest_of "$work/weighted.wasm")
in_force() { ask /policies/mine | sed -n 's/^  "digest": "\(.*\)",$/\1/p'; }

backend big
backend small
cp "$work/round-robin.wasm" "$work/mine.wasm"
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/'
take services.yaml -e "s/:9001/:$(port big)/" -e "s/:9002/:$(port small)/"
start

# Requests without pause, one after the other, until $work/enough is there; answers are kept and failures counted.
: > "$work/load"
(
    failures=0
    while [ ! -e "$work/enough" ]; do
        get >> "$work/load" 2>> "$work/load.log" || failures=$((failures + 1))
    done
    echo "$failures" > "$work/failures"
) &
load_pid=$!
pids="$load_pid $pids"

# Shares are of the load's own next answers: a second client could take every other turn, and would see one endpoint.
# Each worker takes turns by itself, so of 40 `small` has about 20 by round robin, and about 4 by weight.
answered() { wc -l < "$work/load"; }
small_share() {
    seen=$(answered)
    forty_more() { [ "$(answered)" -ge $((seen + 40)) ]; }
    wait_for "40 answers" forty_more
    tail -n +$((seen + 1)) "$work/load" | head -n 40 | grep -c '^small$' || true
}
is_round_robin() { n=$(small_share); say "$1: small has $n of 40"; [ "$n" -ge 15 ] || fail "$1: not round robin"; }
is_weighted() { n=$(small_share); say "$1: small has $n of 40"; [ "$n" -le 9 ] || fail "$1: not weighted"; }

expect "in force" "$round_robin" "$(in_force)"
is_round_robin "at the start"

say "the watched file is replaced"
cp "$work/weighted.wasm" "$work/next.wasm" && mv "$work/next.wasm" "$work/mine.wasm"
swapped() { [ "$(in_force)" = "$weighted" ]; }
wait_for "the new version" swapped
is_weighted "after the file changed"

say "a component is put through the admin interface"
curl -sS --fail --max-time 60 -X PUT --data-binary "@$work/round-robin.wasm" "http://$admin/policies/mine"
expect "in force" "$round_robin" "$(in_force)"
is_round_robin "after PUT"

say "and rolled back"
curl -sS --fail --max-time 60 -X POST "http://$admin/policies/mine/rollback"
expect "in force" "$weighted" "$(in_force)"
is_weighted "after the rollback"

say "what is not a policy is refused, with a reason, and nothing changes"
echo "not Wasm at all" > "$work/nonsense"
expect "status" 422 "$(curl -sS -o "$work/refusal" -w '%{http_code}' --max-time 60 -X PUT \
    --data-binary "@$work/nonsense" "http://$admin/policies/mine")"
cat "$work/refusal"
expect "in force" "$weighted" "$(in_force)"

touch "$work/enough"
wait "$load_pid" || fail "the load"
expect "requests that failed meanwhile" 0 "$(cat "$work/failures")"
ask /metrics | grep '^outrigger_policy_swaps_total{policy="mine"}' || fail "swaps are not counted"
stop
