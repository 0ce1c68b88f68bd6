# What the examples' run.sh have in common; sourced, with `set -eu` in force and the example as current directory.
#
# Everything runs on free ports and in a directory of its own, $work. Nothing waits for time: `wait_for` asks again
# until a condition holds, and gives up loudly. However the script ends, what it started ends with it.

examples=$(cd .. && pwd)
OUTRIGGER=${OUTRIGGER:-$examples/../target/release/outrigger}
WAIT_SECONDS=${WAIT_SECONDS:-30}

stop_all() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
}

work=$(mktemp -d)
pids=
trap 'ended=$?; trap - EXIT; stop_all; rm -rf "$work"; exit $ended' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -x "$OUTRIGGER" ]; then
    echo "no program at $OUTRIGGER: cargo build --release, or set OUTRIGGER" >&2
    exit 1
fi

say() { echo "--- $*"; }

fail() {
    echo "FAILED: $*" >&2
    if [ -s "$work/outrigger.log" ]; then
        echo "the proxy's log ends with:" >&2
        tail -n 20 "$work/outrigger.log" >&2
    fi
    exit 1
}

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
    what=$1
    shift
    until_seconds=$(($(date +%s) + WAIT_SECONDS))
    while ! "$@"; do
        [ "$(date +%s)" -lt "$until_seconds" ] || fail "gave up waiting for: $what"
        sleep 0.05
    done
}

# backend NAME: starts one; its port is then in $work/NAME.port, its process in $work/NAME.pid.
backend() {
    python3 "$examples/backend.py" "$1" 0 "$work/$1.port" &
    echo $! > "$work/$1.pid"
    pids="$pids $!"
    wait_for "backend $1" test -s "$work/$1.port"
}

port() { cat "$work/$1.port"; }

# take FILE SED...: the example's file goes to $work, with the ports that are in use.
take() {
    file=$1
    shift
    sed "$@" "$file" > "$work/$file.partial"
    mv "$work/$file.partial" "$work/$file"
}

# start: the proxy with $work/outrigger.yaml; sets $proxy and $admin to its addresses.
start() {
    "$OUTRIGGER" check "$work/outrigger.yaml"
    "$OUTRIGGER" run "$work/outrigger.yaml" --ready-file "$work/ready" > "$work/access.log" 2> "$work/outrigger.log" &
    proxy_pid=$!
    pids="$proxy_pid $pids"
    wait_for "the proxy" ready_or_dead
    proxy=$(sed 's/.*"outbound":\["\([^"]*\)".*/\1/' "$work/ready")
    admin=$(sed 's/.*"admin":"\([^"]*\)".*/\1/' "$work/ready")
    say "proxy on $proxy, admin on $admin"
}

ready_or_dead() {
    kill -0 "$proxy_pid" 2>/dev/null || fail "the proxy has ended"
    test -s "$work/ready"
}

# stop: SIGTERM, and the proxy must drain and end with 0.
stop() {
    kill -TERM "$proxy_pid"
    wait "$proxy_pid" || fail "the proxy ended with $?"
    say "drained"
}

# get [CURL ARGUMENTS...]: what service `web` answers through the proxy; fails on any status of 400 and above.
get() { curl -sS --fail --max-time 10 -H "Host: web" "$@" "http://$proxy/"; }

# ask PATH: the admin interface.
ask() { curl -sS --max-time 10 "http://$admin$1"; }

# count N [CURL ARGUMENTS...]: N requests, and how often each answer came, as `name=count` in order of name.
count() {
    requests=$1
    shift
    i=0
    : > "$work/answers"
    while [ "$i" -lt "$requests" ]; do
        get "$@" >> "$work/answers" || fail "request $i of $requests"
        i=$((i + 1))
    done
    sort "$work/answers" | uniq -c | awk '{ printf "%s%s=%s", (NR > 1 ? " " : ""), $2, $1 } END { print "" }'
}

# expect WHAT WANTED GOT
expect() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
    say "$1: $3"
}
