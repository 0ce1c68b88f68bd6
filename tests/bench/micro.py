#!/usr/bin/env python3
"""What the parts cost: calls, updates, starts and compilation of each built-in policy, and a swap under load.

The first table is `outrigger policy bench` (thread CPU time, medians over rounds; a router's call is its `route`). The
second is what a route look-up costs (`outrigger check --request`, thread CPU time). The third swaps a policy back and
forth while requests flow (wrk, if it is installed) and shows how long it takes from the admin call until all workers
serve the other version, for how long of that a worker serves nobody, and what the requests noticed.

Usage: micro.py [--seconds 5] [--smoke]
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time, urllib.request

import peers  # beside this file

BALANCERS = ["round-robin", "weighted", "random", "least-request", "p2c", "peak-ewma", "maglev", "rendezvous"]
HEADER_MATCH = {"rules": [{"headers": [{"name": "x-team", "exact": "a"}], "backend": "canary"}]}
ROUTERS = {"canary": {"percent": 10, "header": "x-canary"}, "header-match": HEADER_MATCH}


def bench(policy, config, calls):
    command = [peers.BINARY, "policy", "bench", policy, "--json", "--config", json.dumps(config), "--calls", str(calls)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def calls_table(calls):
    print(f"{'policy':14} {'call ns, by endpoints':>31} {'update us':>10} {'start us':>9} {'compile ms':>10} {'KiB':>6}")
    print(f"{'':14} {'1':>7} {'10':>7} {'100':>7} {'1000':>7} {'at 100':>10} {'at 100':>9}")
    for policy, config in [(b, {}) for b in BALANCERS] + list(ROUTERS.items()):
        result = bench(policy, config, calls)
        rows = {row["endpoints"]: row for row in result["rows"]}
        at = rows.get(100) or next(iter(rows.values()))
        # A router has no endpoints: one figure, in the first column.
        call = lambda n: f"{rows[n]['call_ns']:7.0f}" if n in rows else f"{at['call_ns']:7.0f}" if n == 1 else f"{'-':>7}"
        update = f"{at['update_us']:10.1f}" if at.get("update_us") is not None else f"{'-':>10}"
        print(f"{policy:14} {call(1)} {call(10)} {call(100)} {call(1000)} {update} {at['start_us']:9.0f} "
              f"{result['compile_ms']:10.1f} {result['wasm_bytes'] / 1024:6.1f}")


def routes_table(counts):
    """Look-ups that end at the last of so many routes, and at the service by authority, with as many services."""
    print(f"\n{'routes':>8} {'by exact host ns':>17} {'by wild card ns':>16} {'no route, by service ns':>24}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            exact = [f"  - {{match: {{hosts: [h{n}.example]}}, service: s{n}}}" for n in range(count)]
            wild = [f"  - {{match: {{hosts: ['*.w{n}.example']}}, service: s{n}}}" for n in range(count)]
            services = "\n".join(f"  s{n}: {{endpoints: ['10.0.0.1:{n + 1}']}}" for n in range(count))
            with open(f"{folder}/services.yaml", "w") as file:
                file.write(f"services:\n{services}\n")

            def look_up(routes, url):
                with open(f"{folder}/o.yaml", "w") as file:
                    file.write("registry: {file: services.yaml}\nroutes:\n" + "\n".join(routes) + "\n")
                command = [peers.BINARY, "check", f"{folder}/o.yaml", "--request", url]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                return int(text.rsplit("takes ", 1)[1].split()[0])

            last = count - 1
            print(f"{count:8} {look_up(exact, f'http://h{last}.example/'):17} "
                  f"{look_up(wild, f'http://x.w{last}.example/'):16} {look_up(exact, f'http://s{last}/'):24}")


def worker_pause(admin):
    """Mean, and the least bound of the histogram below which 99 % of the swaps lie, in microseconds."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("outrigger_worker_swap_seconds")]
    value = lambda line: float(line.rsplit(" ", 1)[1])
    total = sum(value(line) for line in lines if "_sum" in line)
    count = sum(value(line) for line in lines if "_count" in line)
    buckets = [(float(line.split('le="')[1].split('"')[0]), value(line)) for line in lines if "_bucket" in line]
    bound = next((le for le, below in buckets if below >= count * .99), float("inf"))
    return total / count * 1e6, bound * 1e6


def ask(method, url, body=None):
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def swap_under_load(seconds):
    run = peers.Bench()
    try:
        peers.upstream(run)
        process, port = peers.outrigger(run)
        crate = os.path.join(peers.ROOT, "policies/round-robin")
        component = os.path.join(run.folder, "round-robin.wasm")
        subprocess.run([peers.BINARY, "policy", "build", crate, "-o", component], check=True, capture_output=True)
        with open(component, "rb") as file:
            began = time.monotonic()
            ask("PUT", f"http://{process.admin}/policies/p2c", file.read())
            first_ms = (time.monotonic() - began) * 1e3
        load = None
        if shutil.which("wrk"):
            command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
            load = run.start(0, "wrk", command)
        took, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            ask("POST", f"http://{process.admin}/policies/p2c/rollback")
            took.append((time.monotonic() - began) * 1e3)
        took.sort()
        print(f"\n{len(took)} swaps under load: {statistics.median(took):.2f} ms at the median, {took[int(len(took) * .99)]:.2f} ms "
              f"at p99, from the call until all workers serve the other version; the first, compiled, {first_ms:.0f} ms")
        mean, bound = worker_pause(process.admin)
        print(f"of that a worker serves nobody for {mean:.1f} us on average, and for less than {bound:g} us in 99 of 100 swaps")
        if load:
            load.wait(30)
            text = open(load.log).read()
            print("meanwhile: " + "; ".join(line.strip() for line in text.splitlines()
                                            if "requests in" in line or "99%" in line or "Non-2xx" in line or "Socket" in line))
            if "Non-2xx" in text or "Socket errors" in text:
                sys.exit("requests failed during the swaps")
    finally:
        run.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of swapping under load")
    parser.add_argument("--smoke", action="store_true", help="few calls, one second of swaps: proves that the benchmark works")
    args = parser.parse_args()
    print(peers.machine())
    calls_table(200 if args.smoke else 20000)
    routes_table([1, 10] if args.smoke else [1, 10, 100, 1000])
    if not shutil.which("nginx"):
        print("left out: swap under load (nginx not found)")
        return
    swap_under_load(1 if args.smoke else args.seconds)


if __name__ == "__main__":
    main()
