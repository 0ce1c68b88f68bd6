#!/usr/bin/env python3
"""How long a change of the registry takes to reach the picker, for each registry: a file, etcd, the embedded one.

A service has one endpoint, which moves from one upstream to another and back. Each time is counted from the registry's
acknowledgement to the first answer from the new upstream, asked for without pause on one kept connection.

Usage: registry.py [--changes 1000] [--only file,etcd,embedded] [--smoke]
Needs nginx for the upstreams, and etcd (Debian's etcd-server) for `etcd`; what is not installed is left out with a line.
"""
import argparse, base64, http.client, json, os, shutil, statistics, sys, tempfile, time, urllib.request

import peers  # beside this file


def upstreams(bench):
    """Two, that answer with their own port."""
    servers = "\n".join(f'server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000; '
                        f'location / {{ return 200 "{port}"; }} }}' for port in bench.upstreams[:2])
    conf = bench.write("named.conf", f"""
daemon off; worker_processes 1; pid {bench.folder}/named.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_timeout 600s; default_type text/plain; {servers} }}""")
    peers.wait_port(bench.upstreams[0], bench.start(0, "named", ["nginx", "-c", conf]))


def send(method, url, body):
    request = urllib.request.Request(url, data=body.encode(), method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


# --- the registries: each is started and answers (what the sidecar is told, how to move the endpoint)

def file(bench):
    path = os.path.join(bench.folder, "services.yaml")

    def move(port):
        with open(path + ".new", "w") as text:
            text.write(f"services: {{web: {{endpoints: ['127.0.0.1:{port}']}}}}\n")
        os.rename(path + ".new", path)

    return f"{{file: {path}}}", move


def etcd(bench):
    client, peer = (f"http://127.0.0.1:{peers.free_port()}" for _ in range(2))
    process = bench.start(0, "etcd", ["etcd", "--data-dir", os.path.join(bench.folder, "etcd"), "--listen-client-urls", client,
                                      "--advertise-client-urls", client, "--listen-peer-urls", peer,
                                      "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"])
    peers.wait_port(int(client.rsplit(":", 1)[1]), process)
    coded = lambda text: base64.b64encode(text.encode()).decode()

    def move(port):
        value = coded(json.dumps({"address": f"127.0.0.1:{port}"}))
        send("POST", f"{client}/v3/kv/put", json.dumps({"key": coded("/outrigger/services/web/one"), "value": value}))

    return f"{{etcd: {{endpoints: '{client}'}}}}", move


def embedded(bench):
    ready = os.path.join(bench.folder, "registry.json")
    bench.start(0, "registry", [peers.BINARY, "registry", "--listen", "127.0.0.1:0", "--data",
                                os.path.join(bench.folder, "registry"), "--ready-file", ready])
    deadline = time.time() + 20
    while not os.path.exists(ready) and time.time() < deadline:
        time.sleep(0.01)
    url = f"http://{json.load(open(ready))['http']}"

    def move(port):
        send("PUT", f"{url}/v1/agent/service/register",
             json.dumps({"Name": "web", "ID": "one", "Address": "127.0.0.1", "Port": port}))

    return f"{{consul: {{endpoints: '{url}'}}}}", move


REGISTRIES = {"file": (file, []), "etcd": (etcd, ["etcd"]), "embedded": (embedded, [])}


def sidecar(bench, registry):
    folder = tempfile.mkdtemp(dir=bench.folder)
    with open(f"{folder}/outrigger.yaml", "w") as text:
        text.write(f"outbound: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0}}\nworkers: 1\nstate_dir: none\nregistry: {registry}\n")
    ready = f"{folder}/ready.json"
    process = bench.start(1, "sidecar", [peers.BINARY, "run", f"{folder}/outrigger.yaml", "--ready-file", ready])
    deadline = time.time() + 30
    while not os.path.exists(ready):
        if process.poll() is not None or time.time() > deadline:
            raise RuntimeError(f"outrigger did not start: {open(process.log).read()[-800:]}")
        time.sleep(0.01)
    return process, int(json.load(open(ready))["outbound"][0].rsplit(":", 1)[1])


def measure(bench, name, changes):
    registry, move = REGISTRIES[name][0](bench)
    move(bench.upstreams[0])
    process, port = sidecar(bench, registry)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    failed = 0

    def asked():
        nonlocal failed
        connection.request("GET", "/", headers={"Host": "web"})
        answer = connection.getresponse()
        body = answer.read().decode()
        failed += answer.status != 200
        return body if answer.status == 200 else None

    def until(wanted):
        deadline = time.monotonic() + 30
        while asked() != str(wanted):
            if time.monotonic() > deadline:
                sys.exit(f"{name}: a change never arrived")

    until(bench.upstreams[0])
    failed, took = 0, []
    for turn in range(changes):
        wanted = bench.upstreams[(turn + 1) % 2]
        move(wanted)
        began = time.monotonic()
        until(wanted)
        took.append((time.monotonic() - began) * 1e3)
    took.sort()
    print(f"{name:10} {len(took):8} {statistics.median(took):10.2f} {took[int(len(took) * .99)]:8.2f} {took[-1]:8.2f} {failed:8}",
          flush=True)
    connection.close()
    bench.stop(process)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--only", default=",".join(REGISTRIES))
    parser.add_argument("--smoke", action="store_true", help="ten changes each: proves that the benchmark works")
    args = parser.parse_args()
    print(peers.machine())
    print(f"{'registry':10} {'changes':>8} {'median ms':>10} {'p99 ms':>8} {'max ms':>8} {'failed':>8}")
    failed = 0
    for name in args.only.split(","):
        missing = [tool for tool in ["nginx"] + REGISTRIES[name][1] if not shutil.which(tool)]
        if missing:
            print(f"left out: {name} ({', '.join(missing)} not found)")
            continue
        bench = peers.Bench()
        try:
            upstreams(bench)
            failed += measure(bench, name, 10 if args.smoke else args.changes)
        finally:
            bench.close()
    if failed:
        sys.exit(f"{failed} requests failed")


if __name__ == "__main__":
    main()
