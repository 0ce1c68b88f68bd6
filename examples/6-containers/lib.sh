# What up.sh, down.sh, policy.sh and run.sh have in common; sourced, with `set -eu` in force.
here=$(cd "$(dirname "$0")" && pwd)
OUTRIGGER=${OUTRIGGER:-$here/../../target/release/outrigger}
FOLDER=${FOLDER:-/tmp/outrigger-6}
PROMETHEUS_PORT=${PROMETHEUS_PORT:-9090}
NAME=outrigger-six

if [ ! -x "$OUTRIGGER" ]; then
    echo "no program at $OUTRIGGER: cargo build --release, or set OUTRIGGER" >&2
    exit 1
fi

# wait_for WHAT COMMAND...: until the command succeeds, for a minute at most.
wait_for() {
    what=$1
    shift
    until_seconds=$(($(date +%s) + 60))
    while ! "$@"; do
        [ "$(date +%s)" -lt "$until_seconds" ] || { echo "gave up waiting for: $what" >&2; return 1; }
        sleep 0.1
    done
}

# background NAME COMMAND...: goes on after the script; down.sh ends it by $FOLDER/NAME.pid.
background() {
    name=$1
    shift
    "$@" < /dev/null > "$FOLDER/$name.log" 2>&1 &
    echo $! > "$FOLDER/$name.pid"
}
