#!/usr/bin/env bash
# Runs all tests: installs what they need, builds the program once, and leaves the output to cargo.
# One profile for the program and the tests, so that the compiler inside wasmtime is built once.
set -euo pipefail
cd "$(dirname "$0")/.."

# Command, and the Debian package that has it.
needed=(curl:curl etcd:etcd-server promtool:prometheus clang:clang wasm-ld:lld)
# For hosts and partitions in network namespaces.
needed+=(ip:iproute2 nft:nftables ping:iputils-ping)
# For a wall clock that jumps; the package that has the command needs the library.
needed+=(faketime:faketime)
# For the short run of the benchmarks.
needed+=(python3:python3 nginx:nginx-light wrk:wrk h2load:nghttp2-client gcc:gcc)
# Clients of names, servers to ask and to compare with, and a second C library.
needed+=(dig:bind9-dnsutils delv:bind9-dnsutils dnsperf:dnsperf getent:libc-bin musl-gcc:musl-tools)
needed+=(unbound:unbound dnsmasq:dnsmasq-base)
# For a client of the embedded registry.
needed+=(node:nodejs npm:npm)
# For the network of a host: to kill a run at every step, to be another user, to hold a lock, to see a link's features and
# tracked flows.
needed+=(strace:strace setpriv:util-linux flock:util-linux ethtool:ethtool conntrack:conntrack)
# Container runtimes, and what they are compared with.
needed+=(podman:podman runc:runc conmon:conmon containerd:containerd nsenter:util-linux)
needed+=(iptables:iptables catatonit:catatonit)
# Debian's place for servers, which only root has on the path.
PATH=$PATH:/usr/sbin

missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# A library of Debian's own Python, whatever other one is in front of it.
/usr/bin/python3 -c 'import dns' 2>/dev/null || missing+=(python3-dnspython)
# What podman-compose needs, and a place of its own to be in.
/usr/bin/python3 -c 'import yaml' 2>/dev/null || missing+=(python3-yaml)
/usr/bin/python3 -c 'import dotenv' 2>/dev/null || missing+=(python3-dotenv)
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# Programs that are on no path.
[[ -x /usr/lib/cni/bridge ]] || missing+=(containernetworking-plugins)
[[ -x /usr/lib/podman/netavark ]] || missing+=(netavark)
# The one that needs no libraries.
if [[ ! -x /bin/busybox ]] || ldd /bin/busybox &>/dev/null; then missing+=(busybox-static); fi
if ((${#missing[@]})); then
    root=()
    if [[ $(id -u) -ne 0 ]]; then root=(sudo -n); fi
    if ! command -v apt-get >/dev/null || { ((${#root[@]})) && ! sudo -n true 2>/dev/null; }; then
        echo "tests/run.sh: please install these first (names of Debian): ${missing[*]}" >&2
        exit 1
    fi
    echo "tests/run.sh: installing ${missing[*]}" >&2
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
    echo "tests/run.sh: cargo is missing; see https://rustup.rs" >&2
    exit 1
fi
if command -v rustup >/dev/null; then
    # The toolchain file asks for it, too; this says so where an older rustup does not.
    rustup target add wasm32-unknown-unknown
fi

# Others' clients for Consul, against the embedded registry: into the target folder, from a locked list.
clients=${CARGO_TARGET_DIR:-target}/clients/node
mkdir -p "$clients"
cp tests/clients/node/package.json tests/clients/node/package-lock.json "$clients"
if ! cmp -s "$clients/package-lock.json" "$clients/installed.json"; then
    npm ci --prefix "$clients" --no-audit --no-fund --ignore-scripts
    cp "$clients/package-lock.json" "$clients/installed.json"
fi

# For the compose file, with podman.
clients=${CARGO_TARGET_DIR:-target}/clients/python
wanted=tests/clients/python/requirements.txt
if ! cmp -s "$wanted" "$clients/installed.txt"; then
    /usr/bin/python3 -m venv --clear --system-site-packages "$clients"
    "$clients/bin/pip" install --quiet --no-deps --require-hashes --requirement "$wanted"
    cp "$wanted" "$clients/installed.txt"
fi

# Docker, unpacked: installed, its daemon would start by itself and change the firewall of this machine.
docker=${CARGO_TARGET_DIR:-target}/clients/docker
if [[ ! -d $docker ]]; then
    if ! command -v apt-get >/dev/null; then
        echo "tests/run.sh: please unpack dockerd and docker below $docker/usr (Debian: docker.io)" >&2
        exit 1
    fi
    fresh=$(mktemp -d)
    # The list of packages may be empty, or older than what is to be had.
    (cd "$fresh" && { apt-get download -q docker.io || { apt-get update -q && apt-get download -q docker.io; }; })
    mkdir "$fresh/docker"
    dpkg-deb --extract "$fresh"/docker.io_*.deb "$fresh/docker"
    mv "$fresh/docker" "$docker"
    rm -r "$fresh"
fi

cargo build --release --locked -p outrigger
# The one that was just built: for what is tested below, crates are compiled for other uses as well, after which `cargo
# build` would begin again.
export OUTRIGGER_BIN=${OUTRIGGER_BIN:-$(realpath "${CARGO_TARGET_DIR:-target}")/release/outrigger}
cargo test --release --locked -p outrigger -p outrigger-tests "$@"
# Apart: what policies and their SDK share with wasmtime, they need in another form, and it would be compiled once more.
if (($# == 0)); then
    cargo test --release --locked --workspace --exclude outrigger --exclude outrigger-tests
fi

# What a reader tries first: the numbered examples, each a script that fails if it does not do what it says.
examples/run-all.sh
