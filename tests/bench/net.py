#!/usr/bin/env python3
"""A container's network, side by side with CNI's own plugins and netavark: what ADD and DEL cost.

Each is called as a runtime calls it: a process with its environment and JSON on standard input, for a workload with an
IPv4 address, masquerade and one published port, beside some others that are there already. Each round gives every
contestant a host of its own (a network namespace with a link to the outside), in another order, and a folder in memory
for what it remembers; making the workloads' namespaces is not counted. CPU is that of the process and of all that it
starts, user and system, to the end of the last of them; the wall's time ends with the process, when the runtime goes
on. What the kernel does afterwards by itself is nobody's. `x ours` is the median of a peer's figure over outrigger's in
the same round, with its quartiles: above 1, outrigger is cheaper.

  outrigger  the one plugin
  cni        bridge with host-local, portmap
  cni-list   those, firewall and tuning: podman's own list
  netavark   setup and teardown; addresses are its caller's business

Usage: net.py [--times 20] [--rounds 5] [--beside 1] [--only outrigger,cni,cni-list,netavark] [--ipv6] [--smoke]
Needs root, Debian's iproute2, containernetworking-plugins, netavark and iptables; what is missing is left out with a
line.
"""
import argparse, ctypes, hashlib, json, os, shutil, socket, statistics, subprocess, sys, tempfile, threading, time

import peers  # beside this file

PLUGINS = os.environ.get("CNI_PLUGINS", "/usr/lib/cni")
NETAVARK = os.environ.get("NETAVARK", "/usr/lib/podman/netavark")
NAME = f"outrigger-bench-{os.getpid()}"
PORT, SUBNET, SUBNET6, LINK = 80, "10.88.0.0/16", "fd88::/64", "bench0"
CLONE_NEWNET = 0x40000000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def enter(namespace):
    """This thread, and what it starts from now on."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}; this needs root")


def within(namespace, work):
    """What `work` answers there: on a thread of its own, which stays there."""
    result = []
    thread = threading.Thread(target=lambda: (enter(namespace), result.append(work())))
    thread.start()
    thread.join()
    if not result:
        raise RuntimeError(f"failed in {namespace}")
    return result[0]


PR_SET_CHILD_SUBREAPER = 36


def of_those_left_behind():
    """CPU of processes that a program started and did not wait for: they are ours now (see `main`)."""
    cpu = 0.0
    while True:
        try:
            _, _, used = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu
        cpu += used.ru_utime + used.ru_stime


class Cost:
    """Of some processes, one after the other."""

    def __init__(self):
        self.wall, self.cpu = 0.0, 0.0

    def call(self, command, environment, given):
        """Runs a program to a good end; what it wrote."""
        (there, to), (back, out) = os.pipe(), os.pipe()
        files = [(os.POSIX_SPAWN_DUP2, there, 0), (os.POSIX_SPAWN_DUP2, out, 1),
                 (os.POSIX_SPAWN_CLOSE, to), (os.POSIX_SPAWN_CLOSE, back)]
        began = time.perf_counter()
        pid = os.posix_spawn(command[0], command, {"PATH": PATH, **environment}, file_actions=files)
        os.close(there), os.close(out)
        os.write(to, given.encode())
        os.close(to)
        with open(back) as file:
            said = file.read()
        _, status, used = os.wait4(pid, 0)
        self.wall += time.perf_counter() - began
        self.cpu += used.ru_utime + used.ru_stime + of_those_left_behind()
        if status:
            raise RuntimeError(f"{command} {environment}: status {status}: {said}\n{given}")
        return said


class Cni:
    """A list of plugins, called as libcni does."""

    def __init__(self, plugins, folder):
        self.plugins = plugins(folder)
        self.cache = {}

    def one(self, cost, verb, container, namespace, plugin, previous):
        path, fields = plugin
        config = {"cniVersion": "1.0.0", "name": "bench", **fields}
        if "portMappings" in fields.get("capabilities", {}):
            mapping = {"hostPort": container[1], "containerPort": PORT, "protocol": "tcp"}
            config["runtimeConfig"] = {"portMappings": [mapping]}
        if previous:
            config["prevResult"] = previous
        environment = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container[0], "CNI_NETNS": f"/run/netns/{namespace}",
                       "CNI_IFNAME": "eth0", "CNI_PATH": PLUGINS, "CNI_ARGS": "IgnoreUnknown=1"}
        said = cost.call([path], environment, json.dumps(config))
        return json.loads(said) if said.strip() else previous

    def add(self, cost, container, namespace):
        result = None
        for plugin in self.plugins:
            result = self.one(cost, "ADD", container, namespace, plugin, result)
        self.cache[container] = result
        return result["ips"][0]["address"].split("/")[0]

    def delete(self, cost, container, namespace):
        result = self.cache.pop(container)
        for plugin in reversed(self.plugins):
            self.one(cost, "DEL", container, namespace, plugin, result)


class Netavark:
    def __init__(self, folder):
        self.folder, self.count = folder, 1

    def options(self, container, address):
        number = hashlib.sha256(b"bench").hexdigest()
        subnets = [{"subnet": SUBNET, "gateway": "10.88.0.1"}]
        network = {"name": "bench", "id": number, "driver": "bridge", "network_interface": LINK, "subnets": subnets,
                   "ipv6_enabled": False, "internal": False, "dns_enabled": False, "ipam_options": {"driver": "host-local"}}
        mapping = {"container_ip": "", "container_port": PORT, "host_ip": "", "host_port": container[1], "protocol": "tcp",
                   "range": 1}
        return json.dumps({"container_id": hashlib.sha256(container[0].encode()).hexdigest(), "container_name": container[0],
                           "networks": {"bench": {"static_ips": [address], "interface_name": "eth0"}},
                           "network_info": {"bench": network}, "port_mappings": [mapping]})

    def call(self, cost, verb, container, namespace, address):
        cost.call([NETAVARK, "--config", self.folder, verb, f"/run/netns/{namespace}"], {}, self.options(container, address))

    def add(self, cost, container, namespace):
        self.count += 1
        address = f"10.88.{self.count // 250}.{self.count % 250 + 1}"
        self.call(cost, "setup", container, namespace, address)
        container_addresses[container] = address
        return address

    def delete(self, cost, container, namespace):
        self.call(cost, "teardown", container, namespace, container_addresses.pop(container))


container_addresses = {}


def outrigger(folder):
    subnets = [SUBNET, SUBNET6] if WITH_IPV6 else [SUBNET]
    # A runtime executes it by its name, without arguments.
    return [(peers.BINARY, {"type": "outrigger", "subnets": subnets, "bridge": LINK, "state_dir": f"{folder}/state",
                            "capabilities": {"portMappings": True}})]


def bridge(folder):
    ranges = [[{"subnet": SUBNET}]] + ([[{"subnet": SUBNET6}]] if WITH_IPV6 else [])
    routes = [{"dst": "0.0.0.0/0"}] + ([{"dst": "::/0"}] if WITH_IPV6 else [])
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": f"{folder}/addresses"}
    return [(f"{PLUGINS}/bridge", {"type": "bridge", "bridge": LINK, "isGateway": True, "ipMasq": True, "hairpinMode": True,
                                   "ipam": ipam}),
            (f"{PLUGINS}/portmap", {"type": "portmap", "capabilities": {"portMappings": True}})]


def podmans_list(folder):
    return bridge(folder) + [(f"{PLUGINS}/firewall", {"type": "firewall"}), (f"{PLUGINS}/tuning", {"type": "tuning"})]


WITH_IPV6 = False
CONTESTANTS = {
    "outrigger": (lambda folder: Cni(outrigger, folder), peers.BINARY),
    "cni": (lambda folder: Cni(bridge, folder), f"{PLUGINS}/portmap"),
    "cni-list": (lambda folder: Cni(podmans_list, folder), f"{PLUGINS}/firewall"),
    "netavark": (Netavark, NETAVARK),
}


class Host:
    """A namespace with a link to another one outside, and the namespaces of workloads."""

    def __init__(self):
        self.name, self.outside, self.workloads = f"{NAME}-host", f"{NAME}-outside", 0
        for name in (self.name, self.outside):
            ip("netns", "add", name)
        ip("-n", self.name, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.outside)
        for name, link, address in ((self.name, "up0", "192.0.2.1/24"), (self.outside, "eth0", "192.0.2.2/24")):
            ip("-n", name, "address", "add", address, "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.name, "route", "add", "default", "via", "192.0.2.2")

    def workload(self):
        self.workloads += 1
        name = f"{NAME}-{self.workloads}"
        ip("netns", "add", name)
        return (f"bench{self.workloads}", 20000 + self.workloads), name


def remove_namespaces():
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        if name.startswith(f"{NAME}-"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def prove(host, container, namespace, address):
    """The published port leads to the workload, from outside."""
    listener = within(namespace, lambda: socket.create_server((address, PORT)))
    client = within(host.outside, lambda: socket.create_connection(("192.0.2.1", container[1]), timeout=5))
    listener.settimeout(5)
    server, _ = listener.accept()
    server.sendall(b"here")
    if client.recv(4) != b"here":
        raise RuntimeError("the published port leads elsewhere")
    for each in (client, server, listener):
        each.close()


def one_round(make, times, beside, folder):
    host = Host()
    contestant, adds, dels = make(tempfile.mkdtemp(dir=folder)), [], []
    try:
        enter(host.name)
        for _ in range(beside):
            contestant.add(Cost(), *host.workload())
        for turn in range(times):
            container, namespace = host.workload()
            add, delete = Cost(), Cost()
            address = contestant.add(add, container, namespace)
            if turn == 0:
                prove(host, container, namespace, address)
            contestant.delete(delete, container, namespace)
            ip("netns", "del", namespace)
            adds.append(add)
            dels.append(delete)
    finally:
        remove_namespaces()
    median = lambda costs, what: statistics.median(getattr(cost, what) for cost in costs) * 1e3
    return {(verb, what): median(costs, what) for verb, costs in (("ADD", adds), ("DEL", dels)) for what in ("cpu", "wall")}


def table(results, names):
    for verb in ("ADD", "DEL"):
        print(f"\n{verb}\n  {'':10} {'cpu ms':>8} {'x ours':>18} {'wall ms':>9} {'x ours':>18}  spread: cpu, wall")
        for name in names:
            cells, spreads = [], []
            for what in ("cpu", "wall"):
                figures = [row[verb, what] for row in results[name]]
                ours = [row[verb, what] for row in results.get("outrigger", [])]
                paired = sorted(peer / own for peer, own in zip(figures, ours))
                quartile = lambda q: paired[round(q * (len(paired) - 1) / 4)]
                against = f"{quartile(2):.2f} ({quartile(1):.2f}-{quartile(3):.2f})" if paired else "-"
                cells.append(f"{statistics.median(figures):{8 if what == 'cpu' else 9}.1f} {against:>18}")
                spreads.append(f"{min(figures):.1f}-{max(figures):.1f}")
            print(f"  {name:10} {' '.join(cells)}  {', '.join(spreads)}", flush=True)


def main():
    global WITH_IPV6
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="ADDs and DELs in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=int, default=1, help="workloads that are there already")
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    parser.add_argument("--ipv6", action="store_true", help="an IPv6 address as well; netavark is left out")
    parser.add_argument("--smoke", action="store_true", help="twice, in one round: proves that the benchmark works")
    args = parser.parse_args()
    if args.smoke:
        args.times, args.rounds = 2, 1
    WITH_IPV6 = args.ipv6
    names = [name for name in args.only.split(",") if os.access(CONTESTANTS[name][1], os.X_OK) or print(f"{name}: not installed")]
    names = [name for name in names if not (args.ipv6 and name == "netavark")]
    if any(name != "outrigger" for name in names) and not shutil.which("iptables", path=PATH):
        sys.exit("iptables is missing, which peers call")
    if os.geteuid():
        sys.exit("this needs root")
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    print(f"{peers.machine()}\n{args.rounds} rounds of {args.times}, beside {args.beside}")
    results = {name: [] for name in names}
    folder = tempfile.mkdtemp(prefix="outrigger-bench-", dir="/dev/shm")
    try:
        for turn in range(args.rounds):
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                results[name].append(one_round(CONTESTANTS[name][0], args.times, args.beside, folder))
    finally:
        remove_namespaces()
        shutil.rmtree(folder, ignore_errors=True)
    table(results, names)


if __name__ == "__main__":
    main()
