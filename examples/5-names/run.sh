#!/bin/sh
# Runs what README.md describes, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program ;; esac
cd "$(dirname "$0")"
. ../lib.sh

backend red
backend blue
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/' -e 's/:15053/:0/'
take services.yaml -e "s/:9001/:$(port red)/" -e "s/:9002/:$(port blue)/"
start
names=$(sed 's/.*"names":\["127.0.0.1:\([0-9]*\)".*/\1/' "$work/ready")

# look NAME [TYPE]: the data of its records, in order.
look() { dig +short +time=10 +tries=1 @127.0.0.1 -p "$names" "$@" | sort; }

say "a name has its endpoints, or the service's own address"
expect "endpoints" 127.0.0.1 "$(look web.endpoints.mesh.internal)"
address=$(look web.mesh.internal)
case $address in 24*.*.*.* | 25*.*.*.*) say "virtual: $address" ;; *) fail "no virtual address: $address" ;; esac
expect "and back" web.mesh.internal. "$(look -x "$address")"
expect "one of two by its tag" "$(port blue)" "$(look _web._blue.service.consul SRV | cut -d' ' -f3)"
expect "a search list, in one round trip" "web.mesh.internal." "$(look web.apps.mesh.internal | grep mesh)"

say "requests to the virtual address go to the service"
answers=$(curl -sS --max-time 10 -x "http://$proxy" "http://$address/[1-20]" | sort -u | tr -d '\n')
case $answers in *blue*) say "$answers" ;; *) fail "nobody answered: $answers" ;; esac

say "the registry changes: the name follows"
echo "services: {web: {endpoints: ['127.0.0.2:$(port blue)']}}" > "$work/services.yaml"
moved() { [ "$(look web.endpoints.mesh.internal)" = 127.0.0.2 ]; }
wait_for "the new endpoint" moved
expect "the virtual address stays" "$address" "$(look web.mesh.internal)"
ask /metrics | grep '^outrigger_dns_queries_total.*local' || fail "the metrics are missing"
stop
