#!/usr/bin/env python3
"""Names, side by side with unbound and dnsmasq: what an answer costs the server, and whether changes hold answers up.

Core 0 runs the load (dnsperf) and the resolver upstream, core 1 the server under test. Each round starts every server
anew, in another order. CPU is that of the server's process, user and system, per answered question; `x ours` is the
median of a peer's figure over outrigger's in the same round, with its quartiles: above 1, outrigger is cheaper.

  local    1,000 names, each with one address of its own: from the registry, local-data or host-record
  cached   1,000 names of others, asked for once before: from each server's cache
  changes  outrigger alone: 10,000 questions a second while the catalogue takes 100 changes a second, and while etcd
           takes as many that are not of the catalogue

Usage: dns.py [--seconds 5] [--rounds 3] [--only outrigger,unbound,dnsmasq] [--scenario local,cached,changes] [--smoke]
Needs Debian's dnsperf, unbound and dnsmasq-base, etcd-server for `changes`; peers that are not installed are left out
with a line.
"""
import argparse, base64, json, os, re, shutil, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request

import peers  # beside this file

NAMES = 1000
RATE = 10_000
CHANGES_PER_SECOND = 100


def address(n):
    return f"10.9.{n // 250}.{n % 250 + 1}"


def local_names():
    return [f"s{n}.mesh.internal" for n in range(NAMES)]


def other_names():
    return [f"n{n}.example" for n in range(NAMES)]


def questions(bench, names):
    return bench.write(f"{names[0]}.questions", "".join(f"{name} A\n" for name in names))


# --- the servers: each is started with local names and a resolver for others, and answers (process, port)

def unbound_config(port, data, forward):
    local = "\n".join(f' local-data: "{name}. 60 IN A {ip}"' for name, ip in data)
    zones = {name.split(".", 1)[1] for name, _ in data}
    static = "\n".join(f' local-zone: "{zone}." static' for zone in zones)
    others = f'forward-zone:\n name: "."\n forward-addr: 127.0.0.1@{forward}\n' if forward else ""
    return (f"server:\n interface: 127.0.0.1\n port: {port}\n num-threads: 1\n do-daemonize: no\n username: \"\"\n"
            f" chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n do-ip6: no\n"
            f" do-not-query-localhost: no\n access-control: 127.0.0.0/8 allow\n{static}\n{local}\n"
            f"remote-control:\n control-enable: no\n{others}")


def unbound(bench, which, data, forward, name="unbound"):
    port = peers.free_port()
    config = bench.write(f"{name}.conf", unbound_config(port, data, forward))
    return bench.start(which, name, ["unbound", "-d", "-c", config]), port


def dnsmasq(bench, which, data, forward):
    port = peers.free_port()
    hosts = [f"host-record={name},{ip},60" for name, ip in data]
    lines = [f"port={port}", "listen-address=127.0.0.1", "bind-interfaces", "no-resolv", "no-hosts", "cache-size=10000",
             "pid-file", f"user={os.environ.get('USER', 'root')}", f"server=127.0.0.1#{forward}"] + hosts
    config = bench.write("dnsmasq.conf", "\n".join(lines) + "\n")
    return bench.start(which, "dnsmasq", ["dnsmasq", "-k", "-C", config]), port


def sidecar(bench, which, registry, forward):
    folder = tempfile.mkdtemp(dir=bench.folder)
    with open(f"{folder}/outrigger.yaml", "w") as file:
        file.write("outbound: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\nworkers: 1\nstate_dir: none\n"
                   f"registry: {registry}\n"
                   f"dns: {{listen: 127.0.0.1:0, forward: {{servers: ['127.0.0.1:{forward}']}}}}\n")
    ready = f"{folder}/ready.json"
    process = bench.start(which, "outrigger", [peers.BINARY, "run", f"{folder}/outrigger.yaml", "--ready-file", ready])
    deadline = time.time() + 30
    while not os.path.exists(ready):
        if process.poll() is not None or time.time() > deadline:
            raise RuntimeError(f"outrigger did not start: {open(process.log).read()[-800:]}")
        time.sleep(0.01)
    return process, int(json.load(open(ready))["names"][0].rsplit(":", 1)[1])


def outrigger(bench, which, data, forward):
    services = "".join(f"  {name.split('.')[0]}: {{endpoints: ['{ip}:80']}}\n" for name, ip in data)
    path = bench.write("names.yaml", "services:\n" + services)
    return sidecar(bench, which, f"{{file: {path}}}", forward)


SERVERS = {"outrigger": (outrigger, peers.BINARY), "unbound": (unbound, "unbound"), "dnsmasq": (dnsmasq, "dnsmasq")}


# --- the load

def wait_answer(port, process, name):
    """Until the server answers a question; without a library, so that nothing else is needed."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    deadline = time.time() + 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        while time.time() < deadline and process.poll() is None:
            try:
                client.sendto(question, ("127.0.0.1", port))
                if client.recv(512)[7] > 0:
                    return
            except OSError:
                time.sleep(0.05)
    raise RuntimeError(f"no answer about {name}: {open(process.log).read()[-800:]}")


def dnsperf(bench, port, path, seconds, extra=()):
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", path, "-l", str(seconds), "-t", "2", *extra]
    said = subprocess.run(bench.pinned(0, command), capture_output=True, text=True)
    count = lambda what: int(re.search(rf"{what}:\s+(\d+)", said.stdout)[1])
    if "Queries completed" not in said.stdout:
        raise RuntimeError(f"dnsperf: {said.stdout[-400:]}{said.stderr[-400:]}")
    sent, completed = count("Queries sent"), count("Queries completed")
    good = re.search(r"NOERROR (\d+)", said.stdout)
    return dict(completed=completed, lost=sent - completed, bad=completed - (int(good[1]) if good else 0),
                qps=completed / seconds, out=said.stdout)


def one(bench, name, scenario, seconds, forward):
    names = local_names() if scenario == "local" else other_names()
    local = [(name, address(n)) for n, name in enumerate(local_names())]
    process, port = SERVERS[name][0](bench, 1, local, forward)
    try:
        wait_answer(port, process, names[0])
        path = questions(bench, names)
        # Everything is asked for once, in time for all answers to come.
        dnsperf(bench, port, path, max(1, seconds / 4), ["-c", "1", "-q", "20", "-Q", str(NAMES * 2)])
        before = peers.cpu_seconds(process.pid)
        figures = dnsperf(bench, port, path, seconds, ["-c", "8", "-q", "200"])
        figures["cpu_us"] = (peers.cpu_seconds(process.pid) - before) * 1e6 / max(figures["completed"], 1)
        figures["pss_mib"] = peers.pss_mib(process.pid)
        return figures
    finally:
        bench.stop(process)


def table(scenario, results, names):
    print(f"\n{scenario}\n  {'server':10} {'cpu us/q':>9} {'x ours':>18} {'q/s':>8} {'lost':>6} {'bad':>5} {'MiB':>6}  cpu spread")
    ours = results.get("outrigger", [])
    for name in names:
        rows = results.get(name)
        if not rows:
            continue
        median = lambda key: statistics.median(row[key] for row in rows)
        cpus = [row["cpu_us"] for row in rows]
        paired = sorted(row["cpu_us"] / own["cpu_us"] for row, own in zip(rows, ours))
        quartile = lambda q: paired[round(q * (len(paired) - 1) / 4)]
        against = f"{quartile(2):.2f} ({quartile(1):.2f}-{quartile(3):.2f})" if paired else "-"
        print(f"  {name:10} {median('cpu_us'):9.2f} {against:>18} {median('qps'):8.0f} {sum(r['lost'] for r in rows):6} "
              f"{sum(r['bad'] for r in rows):5} {median('pss_mib'):6.1f}  {min(cpus):.2f}-{max(cpus):.2f}", flush=True)


# --- while the catalogue changes

def put(client, key, n):
    coded = lambda text: base64.b64encode(text.encode()).decode()
    value = coded(json.dumps({"address": f"{address(n % NAMES)}:80"}))
    body = json.dumps({"key": coded(key), "value": value})
    request = urllib.request.Request(f"{client}/v3/kv/put", data=body.encode(), method="POST")
    urllib.request.urlopen(request, timeout=30).read()


def followed(number):
    return f"/outrigger/services/s{number % NAMES}/one"


def changing(bench, seconds, forward, key):
    """Each change moves one service to another address, in etcd; the times are dnsperf's, question by question.

    etcd shares dnsperf's core and would hold it up for its slices of more than a millisecond, so it runs when that is
    idle. `key` says where a change goes: what it takes when nobody follows it is the benchmark's own part.
    """
    client, peer = (f"http://127.0.0.1:{peers.free_port()}" for _ in range(2))
    data = os.path.join(bench.folder, f"etcd-{time.monotonic_ns()}")
    etcd = bench.start(0, "etcd", ["chrt", "--idle", "0", "etcd", "--data-dir", data, "--listen-client-urls", client,
                                   "--advertise-client-urls", client, "--listen-peer-urls", peer,
                                   "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"])
    peers.wait_port(int(client.rsplit(":", 1)[1]), etcd)
    for n in range(NAMES):
        put(client, followed(n), n)
    process, port = sidecar(bench, 1, f"{{etcd: {{endpoints: '{client}'}}}}", forward)
    made, over = [0], threading.Event()

    def change():
        began = time.monotonic()
        while not over.is_set():
            put(client, key(made[0]), made[0] + 1 + made[0] // NAMES)
            made[0] += 1
            over.wait(max(0, began + made[0] / CHANGES_PER_SECOND - time.monotonic()))

    try:
        wait_answer(port, process, f"s{NAMES - 1}.mesh.internal")
        changer = threading.Thread(target=change)
        changer.start()
        path = questions(bench, local_names())
        figures = dnsperf(bench, port, path, seconds, ["-c", "4", "-q", "200", "-Q", str(RATE), "-v"])
        over.set()
        changer.join()
    finally:
        over.set()
        bench.stop(process)
        bench.stop(etcd)
    took = sorted(float(line.rsplit(" ", 1)[1]) * 1e3 for line in figures["out"].splitlines() if line.startswith("> "))
    at = lambda share: took[min(int(len(took) * share), len(took) - 1)]
    what = "changes" if key is followed else "changes that nobody follows"
    print(f"\n{figures['qps']:.0f} questions/s, {made[0] / seconds:.0f} {what}/s: p50 {at(.5):.3f} ms, p99 {at(.99):.3f}, "
          f"p99.9 {at(.999):.3f}, most {took[-1]:.1f}; lost {figures['lost']}, bad {figures['bad']}", flush=True)
    # UDP may lose some on a busy machine, and says so above; a wrong answer is another matter.
    return figures["bad"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SERVERS))
    parser.add_argument("--scenario", default="local,cached,changes")
    parser.add_argument("--smoke", action="store_true", help="a second each, once: proves that the benchmark works")
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.rounds = 1, 1
    names = [name for name in args.only.split(",") if shutil.which(SERVERS[name][1]) or print(f"{name}: not installed")]
    bench, failed = peers.Bench(), 0
    print(peers.machine())
    try:
        upstream, forward = unbound(bench, 0, [(name, address(n)) for n, name in enumerate(other_names())], None, "upstream")
        wait_answer(forward, upstream, other_names()[0])
        for scenario in args.scenario.split(","):
            if scenario == "changes":
                for key in (followed, lambda number: f"/elsewhere/{number % NAMES}"):
                    failed += changing(bench, args.seconds, forward, key)
                continue
            results = {}
            for turn in range(args.rounds):
                for name in names[turn % len(names):] + names[:turn % len(names)]:
                    results.setdefault(name, []).append(one(bench, name, scenario, args.seconds, forward))
            table(scenario, results, names)
            failed += sum(row["bad"] for row in results.get("outrigger", []))
    finally:
        bench.close()
    sys.exit(f"{failed} questions got a wrong answer" if failed else 0)


if __name__ == "__main__":
    main()
