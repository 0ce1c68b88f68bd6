#!/usr/bin/env python3
"""What a sidecar costs as the catalogue grows: memory, time to ready, changes, idle CPU time, a scrape.

etcd holds so many services with ten endpoints each. A sidecar with two workers follows them all, and another follows one
of them. CPU times are of the sidecar's threads, workers and the rest (control) apart, less what idling takes. `picker`
is the time from etcd's acknowledgement to the first answer from an endpoint that has moved.

Usage: scale.py [--services 10,100,1000,10000] [--changes 200] [--idle 10] [--smoke]
Needs etcd (Debian's etcd-server), and nginx for the upstreams.
"""
import argparse, base64, http.client, json, os, shutil, statistics, sys, time, urllib.request

import peers, registry  # beside this file

ENDPOINTS = 10
PREFIX = "/outrigger/services/"
coded = lambda text: base64.b64encode(text.encode()).decode()


class Etcd:
    """Services under their keys, changed by its JSON gateway."""

    def __init__(self, bench):
        source, _ = registry.etcd(bench)
        self.url = source.split("'")[1]
        self.source = f"etcd: {{endpoints: '{self.url}'}}"

    def send(self, call, body):
        registry.send("POST", f"{self.url}/v3/{call}", json.dumps(body))

    def put(self, service, instance, address, weight=1):
        value = coded(json.dumps({"address": address, "weight": weight}))
        self.send("kv/put", {"key": coded(f"{PREFIX}{service}/{instance}"), "value": value})

    def delete(self, service):
        self.send("kv/deleterange", {"key": coded(f"{PREFIX}{service}/"), "range_end": coded(f"{PREFIX}{service}0")})

    def fill(self, first, last):
        """A few services in each transaction: etcd takes 128 operations."""
        keys = [(number, instance) for number in range(first, last) for instance in range(ENDPOINTS)]
        for at in range(0, len(keys), 120):
            puts = [{"request_put": {"key": coded(f"{PREFIX}s{number}/{instance}"),
                                     "value": coded(json.dumps({"address": address(number, instance)}))}}
                    for number, instance in keys[at:at + 120]]
            self.send("kv/txn", {"success": puts})


def address(service, instance):
    return f"10.{service >> 8 & 255}.{service & 255}.{instance + 1}:80"


class Sidecar:
    def __init__(self, bench, etcd, services=None):
        self.bench = bench
        folder = os.path.join(bench.folder, f"sidecar-{time.monotonic_ns()}")
        os.mkdir(folder)
        follow = f", services: [{services}]" if services else ""
        config = bench.write(f"{folder}/outrigger.yaml", f"""
workers: 2
outbound: 127.0.0.1:0
admin: {{listen: '127.0.0.1:0'}}
policy_host: {{cache_dir: {bench.folder}/cache}}
state_dir: {folder}/state
registry: {{{etcd.source}{follow}}}
""")
        ready = f"{folder}/ready.json"
        began = time.monotonic()
        self.process = bench.start(1, os.path.basename(folder), [peers.BINARY, "run", config, "--ready-file", ready])
        while not os.path.exists(ready):
            if self.process.poll() is not None or time.monotonic() > began + 60:
                raise RuntimeError(f"outrigger did not start: {open(self.process.log).read()[-800:]}")
            time.sleep(0.001)
        self.ready_ms = (time.monotonic() - began) * 1e3
        self.ready_cpu_ms = sum(self.cpu()) * 1e3
        ports = json.load(open(ready))
        self.port, self.admin = int(ports["outbound"][0].rsplit(":", 1)[1]), ports["admin"]

    def cpu(self):
        """Seconds of workers, and of all other threads, those included that have ended."""
        workers, tasks = 0.0, f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            try:
                if open(f"{tasks}/{task}/comm").read().startswith("worker-"):
                    workers += int(open(f"{tasks}/{task}/schedstat").read().split()[0]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                continue
        # The kernel's name for the CPU clock of a process.
        return workers, time.clock_gettime(~self.process.pid << 3 | 2) - workers

    def scrape(self):
        began = time.monotonic()
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30) as answer:
            text = answer.read()
        return text, (time.monotonic() - began) * 1e3

    def ask(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=60) as answer:
            return json.load(answer)

    def settle(self):
        """Until nothing has been published for a while, and all workers serve it."""
        last, since = None, time.monotonic()
        while time.monotonic() - since < 0.5:
            ready = self.ask("/ready")
            state = (ready["version"], ready["applied"])
            if state != last or state[0] != state[1]:
                last, since = state, time.monotonic()
            time.sleep(0.1)

    def stop(self):
        self.bench.stop(self.process)


def cost(sidecar, idle, changes, change):
    """Microseconds of CPU time for each change, less what idling takes: workers, the rest."""
    before, began = sidecar.cpu(), time.monotonic()
    for number in range(changes):
        change(number)
    time.sleep(0.3)
    after, took = sidecar.cpu(), time.monotonic() - began
    return [max(0.0, (a - b - share * took) / changes * 1e6) for a, b, share in zip(after, before, idle)]


def moves(bench, etcd, sidecar, count):
    """Milliseconds from the acknowledgement to the first answer from where the endpoint has moved; failed requests."""
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=30)
    took, failed = [], 0
    for turn in range(count + 1):
        wanted = bench.upstreams[turn % 2]
        etcd.put("web", "one", f"127.0.0.1:{wanted}")
        began = time.monotonic()
        while True:
            connection.request("GET", "/", headers={"Host": "web"})
            answer = connection.getresponse()
            body = answer.read().decode()
            if answer.status == 200 and body == str(wanted):
                break
            failed += answer.status != 200 and turn > 0  # the first makes the service known
            if time.monotonic() > began + 30:
                sys.exit("a change never arrived")
        took.append((time.monotonic() - began) * 1e3)
    connection.close()
    took = sorted(took[1:])
    return statistics.median(took), took[int(len(took) * .99)], failed


def measure(bench, etcd, count, args):
    row, failed = {}, 0
    sidecar = Sidecar(bench, etcd)
    sidecar.settle()
    if len(sidecar.ask("/endpoints")) < count:
        sys.exit(f"of {count} services not all are known")
    row["ready ms"], row["of CPU time"] = sidecar.ready_ms, sidecar.ready_cpu_ms
    row["PSS MiB, at first"] = peers.pss_mib(sidecar.process.pid)
    before = sidecar.cpu()
    time.sleep(args.idle)
    idle = [(after - start) / args.idle for after, start in zip(sidecar.cpu(), before)]
    row["idle %"] = sum(idle) * 100
    change = lambda n: etcd.put(f"s{n * 37 % count}", n % ENDPOINTS, address(n * 37 % count, n % ENDPOINTS), 2 + n % 5)
    row["endpoint us, workers"], row["control"] = cost(sidecar, idle, args.changes, change)
    come_and_go = lambda n: etcd.put(f"new{n // 2}", "0", "10.255.0.1:80") if n % 2 == 0 else etcd.delete(f"new{n // 2}")
    row["service us, workers"], row["control "] = cost(sidecar, idle, args.changes, come_and_go)
    sidecar.settle()
    row["picker ms"], row["p99"], failed = moves(bench, etcd, sidecar, max(10, args.changes // 2))
    text, _ = sidecar.scrape()
    row["scrape KiB"], row["ms"] = len(text) / 1024, statistics.median(sidecar.scrape()[1] for _ in range(5))
    row["PSS MiB, later"] = peers.pss_mib(sidecar.process.pid)
    sidecar.stop()
    one = Sidecar(bench, etcd, "s0")
    one.settle()
    row["one: ready ms"], row["one: PSS MiB"] = one.ready_ms, peers.pss_mib(one.process.pid)
    one.stop()
    etcd.delete("web")
    return row, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", default="10,100,1000,10000")
    parser.add_argument("--changes", type=int, default=200, help="of each kind")
    parser.add_argument("--idle", type=float, default=10, help="seconds of idling")
    parser.add_argument("--smoke", action="store_true", help="few services and changes: proves that the benchmark works")
    args = parser.parse_args()
    if args.smoke:
        args.services, args.changes, args.idle = "10,300", 20, 0.5
    print(peers.machine())
    missing = [tool for tool in ("etcd", "nginx") if not shutil.which(tool)]
    if missing:
        print(f"left out: {', '.join(missing)} not found")
        return
    bench, filled, failed, rows = peers.Bench(), 0, 0, {}
    try:
        registry.upstreams(bench)
        etcd = Etcd(bench)
        # Compiles the policies, which is another benchmark's affair.
        etcd.fill(0, 1)
        Sidecar(bench, etcd).stop()
        for count in map(int, args.services.split(",")):
            etcd.fill(filled, count)
            filled = count
            rows[count], more = measure(bench, etcd, count, args)
            failed += more
    finally:
        bench.close()
    print(f"{'services':22}" + "".join(f"{count:10}" for count in rows))
    for name in next(iter(rows.values())):
        if name == "endpoint us, workers":
            print("CPU time of one change")
        print(f"{name.strip():22}" + "".join(f"{row[name]:10.2f}" for row in rows.values()))
    if failed:
        sys.exit(f"{failed} requests failed")


if __name__ == "__main__":
    main()
