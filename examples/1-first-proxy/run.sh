#!/bin/sh
# Runs what README.md describes, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program ;; esac
cd "$(dirname "$0")"
. ../lib.sh

backend red
backend blue
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/'
take services.yaml -e "s/:9001/:$(port red)/" -e "s/:9002/:$(port blue)/"
start

say "two endpoints share the requests"
answers=$(count 40)
case $answers in blue=*red=*) say "$answers" ;; *) fail "not both answered: $answers" ;; esac
expect "by domain" 200 "$(curl -sS -o /dev/null -w '%{http_code}' -H 'Host: web.mesh.internal' "http://$proxy/")"
expect "as a forward proxy" 200 "$(curl -sS -o /dev/null -w '%{http_code}' -x "http://$proxy" http://web/)"
expect "an unknown service" 404 "$(curl -sS -o "$work/reason" -w '%{http_code}' -H 'Host: nobody' "http://$proxy/")"
grep '"reason":"no-service"' "$work/reason" || fail "it does not say why"

say "one endpoint dies: the requests go to the other, and none fails"
kill -9 "$(cat "$work/red.pid")"
answers=$(count 40)
expect "without red" "blue=40" "$answers"

say "the registry changes: a third endpoint, without a restart"
backend green
take services.yaml -e "s/:9001/:$(port green)/" -e "s/:9002/:$(port blue)/"
seen_green() { [ "$(get)" = green ]; }
wait_for "an answer from green" seen_green

say "a broken registry file changes nothing but what /ready says"
echo "services: {web: {endpoints: [nonsense]}}" > "$work/services.yaml"
told() { ask /ready | grep -q '"registry_valid": false'; }
wait_for "/ready to say so" told
ask /ready | grep 'services.yaml:1:' || fail "/ready does not name the line"
expect "still serving" 20 "$(count 20 | tr ' ' '\n' | awk -F= '{ sum += $2 } END { print sum }')"

say "what happened, in numbers"
ask /metrics | grep -E '^outrigger_(requests_total|registry_valid|upstream_retries_total)' ||
    fail "the metrics are missing"
stop
