//! A workload whose traffic is captured by `outrigger net`, with its sidecar as user 1337 in the same namespace.
//!
//! Clients that run on `workload.host` know nothing of it. Services live outside, a router away.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::backend::{Backend, Exchange, Next};
use crate::metrics::Metrics;
use crate::netlab::{Lab, OUTSIDE6};
use crate::netns::Host;
use crate::program::{Said, say};
use crate::proxy::{Proxy, Scene};

pub const SIDECAR: u32 = 1337;
/// For what is expected to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The proxy goes first, and the namespaces last.
#[derive(Debug)]
pub struct Workload {
    pub proxy: Option<Proxy>,
    pub host: Host,
    pub lab: Lab,
}

/// A place for services: beyond the workload's router.
#[derive(Debug)]
pub struct Stage {
    pub lab: Lab,
    pub host: Host,
}

impl Stage {
    /// `None` without root. The workload's traffic is captured already, as `capture`, a part of the network file, says.
    pub fn new(capture: &str) -> Option<Self> {
        let mut lab = Lab::new()?;
        let host = lab.workload("workload");
        let stage = Self { lab, host };
        apply(&stage.lab, &stage.host, capture);
        stage.host.believe_resolvers("nameserver 10.77.0.2\n");
        Some(stage)
    }

    /// An HTTP server outside, with an address of either family.
    pub fn backend(&self, name: &str) -> (Backend, u16) {
        let name = name.to_owned();
        self.scripted(move |exchange| {
            let _ = exchange.body();
            exchange.reply(&name)
        })
    }

    pub fn scripted(
        &self,
        script: impl Fn(&mut Exchange<'_>) -> Next + Send + Sync + 'static,
    ) -> (Backend, u16) {
        let listener = self.lab.outside.enter(listen);
        let port = listener.local_addr().unwrap().port();
        (self.lab.outside.enter(|| Backend::on(listener, script)), port)
    }

    pub fn server(&self, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        Server::start(&self.lab.outside, script)
    }

    /// Where something outside listens.
    pub fn outside(&self, port: u16, is_ipv4: bool) -> SocketAddr {
        let address = if is_ipv4 { IpAddr::V4(self.lab.outside.address) } else { OUTSIDE6.parse().unwrap() };
        (address, port).into()
    }

    /// Endpoints at both addresses of the outside, as YAML.
    pub fn both(&self, port: u16) -> [String; 2] {
        [true, false].map(|is_ipv4| format!("'{}'", self.outside(port, is_ipv4)))
    }

    /// With names, capture and the access log on.
    pub fn scene(&self) -> Scene {
        Scene::new()
            .by_user(SIDECAR)
            .endpoints("nobody", &[])
            .set("capture", "{}")
            .set("dns", "{forward: {servers: ['10.77.0.2:53']}}")
            .set("log", "{access: true}")
    }

    pub fn start(self, scene: Scene) -> Workload {
        let proxy = self.host.enter(|| scene.start());
        Workload { proxy: Some(proxy), host: self.host, lab: self.lab }
    }
}

impl Workload {
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("it runs")
    }

    /// Runs a program beside the sidecar, as root.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Said {
        say(self.host.command("timeout").args(["30", program]).args(arguments))
    }

    /// What `curl` prints.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str]) -> String {
        self.run("curl", &[&["-sS", "--max-time", "20"], arguments].concat()).expect_ok("curl").out
    }

    /// A connection that the workload makes.
    #[track_caller]
    pub fn dial(&self, to: SocketAddr) -> TcpStream {
        dial(&self.host, to).unwrap_or_else(|error| panic!("{to}: {error}"))
    }

    /// The address that the service's name stands for here.
    #[track_caller]
    pub fn address_of(&self, service: &str, is_ipv4: bool) -> IpAddr {
        let database = if is_ipv4 { "ahostsv4" } else { "ahostsv6" };
        let said = self.run("getent", &[database, &format!("{service}.mesh.internal")]).expect_ok("getent");
        said.out.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The workload's own address.
    pub fn own_address(&self, is_ipv4: bool) -> IpAddr {
        self.lab.address("workload", is_ipv4)
    }

    /// Applies the network file with this about the workload.
    pub fn apply(&self, capture: &str) {
        apply(&self.lab, &self.host, capture);
    }

    pub fn metrics(&self) -> Metrics {
        self.host.enter(|| self.proxy().metrics())
    }

    /// Sum of samples now.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    #[track_caller]
    pub fn wait_for_sum(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        crate::wait::until_true(&format!("{name}{labels:?} to be {wanted}"), || {
            self.sum(name, labels) == wanted
        });
    }
}

fn apply(lab: &Lab, host: &Host, capture: &str) {
    let path = host.path();
    lab.apply(&format!(
        "networks:\n  web: {{subnets: [10.88.0.0/24, 'fd88::/64']}}\n\
         workloads:\n  workload: {{namespace: {{path: {}}}, network: web{capture}}}\n",
        path.display()
    ));
}

/// A TCP server with a thread per connection, which ends with the test's process.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    connections: Arc<AtomicU64>,
}

impl Server {
    pub fn start(host: &Host, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = host.enter(listen);
        let port = listener.local_addr().unwrap().port();
        let (connections, script) = (Arc::<AtomicU64>::default(), Arc::new(script));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                count.fetch_add(1, SeqCst);
                let script = Arc::clone(&script);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || script(stream));
            }
        });
        Self { port, connections }
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(SeqCst)
    }
}

/// At every address of either family.
fn listen() -> TcpListener {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap()
}

pub fn dial(host: &Host, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = host.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends, says that this was all, and reads what comes until the other side has said so, too.
pub fn say_all(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

/// Sends everything back as it comes.
pub fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// Reads exactly so much.
#[track_caller]
pub fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A connection that is broken off, be it before anything is said.
#[track_caller]
pub fn expect_refusal(host: &Host, to: SocketAddr, words: &[u8]) {
    let refused = dial(host, to).and_then(|mut stream| {
        stream.write_all(words)?;
        stream.read(&mut [0; 16])
    });
    let broken = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(refused.as_ref().is_err_and(|error| broken.contains(&error.kind())), "{to}: {refused:?}");
}

/// Its next read finds a reset.
#[track_caller]
pub fn expect_reset(stream: &mut TcpStream) {
    let read = stream.read(&mut [0; 16]);
    assert!(
        read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
        "a reset, not {read:?}"
    );
}

/// Has its peer see a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
