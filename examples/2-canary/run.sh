#!/bin/sh
# Runs what README.md describes, and fails where something is not so.
set -eu
program=${OUTRIGGER:-}
case $program in '' | /*) ;; *) OUTRIGGER=$(pwd)/$program ;; esac
cd "$(dirname "$0")"
. ../lib.sh

# share_of NAME ANSWERS
share_of() { echo "$2" | tr ' ' '\n' | awk -F= -v name="$1" '$1 == name { print $2; found = 1 } END { if (!found) print 0 }'; }

backend v1
backend v2
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/'
take services.yaml -e "s/:9001/:$(port v1)/" -e "s/:9002/:$(port v2)/"
start

say "the share: 20 % of new users"
answers=$(count 300)
canary=$(share_of v2 "$answers")
# 60 are expected; 25 and 95 are five standard deviations away.
if [ "$canary" -le 25 ] || [ "$canary" -ge 95 ]; then fail "a share of 20 %: $answers"; fi
say "$answers"

say "the header decides first"
expect "x-canary: always" "v2=20" "$(count 20 -H 'x-canary: always')"
expect "x-canary: never" "v1=20" "$(count 20 -H 'x-canary: never')"

say "the cookie keeps users where they are"
expect "lane=always" "v2=20" "$(count 20 -b lane=always)"
first=$(get -c "$work/jar")
expect "a user who began at $first" "$first=20" "$(count 20 -b "$work/jar")"

say "the share grows to 100 %, without a restart: new users all go to v2, others stay"
take outrigger.yaml -e 's/:15001/:0/' -e 's/:15020/:0/' -e 's/percent: 20/percent: 100/'
grown() { ask /config | grep -q 'percent[": \\]*100'; }
wait_for "the new configuration" grown
expect "new users" "v2=40" "$(count 40)"
expect "a user of v1" "v1=20" "$(count 20 -b lane=never)"
stop
