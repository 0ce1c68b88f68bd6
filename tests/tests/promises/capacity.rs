//! Many connections, many services, many policies: what they cost is bounded.

use outrigger_tests::backend::Backend;
use outrigger_tests::client::Client;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 2_000;
/// A task and a place in the list, but no buffers.
const IDLE_CONNECTION_BYTES_MAX: u64 = 8 * 1024;

/// The test holds as many descriptors as the proxy.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn idle_connections_are_cheap() {
    raise_descriptor_limit();
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).start();
    let connect = |count: usize| -> Vec<Client> {
        let one = |_| {
            let mut client = proxy.client();
            assert_eq!(client.get("web", "/", "").status, 200);
            client
        };
        (0..count).map(one).collect()
    };
    let first = connect(50);
    let before_kib = proxy.resident_kib();
    let more = connect(CONNECTIONS);
    assert_eq!(proxy.metrics().sum("outrigger_connections", &[]), (first.len() + more.len()) as f64);
    let growth = proxy.resident_kib().saturating_sub(before_kib) * 1024;
    let each = growth / CONNECTIONS as u64;
    println!("{each} bytes for an idle connection");
    assert!(each < IDLE_CONNECTION_BYTES_MAX, "{each} bytes");
    drop((first, more));
    wait::until_true("all to be gone", || proxy.metrics().sum("outrigger_connections", &[]) == 0.0);
}

/// Over the limit, connections wait their turn in the kernel's queue; none is answered badly.
#[test]
fn connections_over_the_limit_wait() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("workers", "1").set("limits", "{connections_max: 4}").start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("web", "/", "").status, 200);
    }
    let mut fifth = proxy.client();
    fifth.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(clients[0].get("web", "/", "").status, 200);
    assert_eq!(backend.requests(), 5, "the fifth waits");
    clients.pop();
    assert_eq!(fifth.answer("GET").status, 200);
}

#[test]
fn a_large_registry_is_served_and_followed() {
    const SERVICES: usize = 1_000;
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let text = |last: &Backend| {
        let mut text = "services:\n".to_owned();
        for number in 0..SERVICES {
            let backend = if number + 1 == SERVICES { last } else { &a };
            text.push_str(&format!(
                "  s{number}: {{endpoints: ['{}', '127.0.0.9:{}']}}\n",
                backend.address,
                number + 1
            ));
        }
        text
    };
    let scene = Scene::new().set("defaults", "{balancer: round-robin}");
    scene.write();
    scene.replace("services.yaml", text(&a).as_bytes());
    let proxy = scene.start_again();
    let load = Load::start(proxy.outbound, 2, "s7");
    let last = format!("s{}", SERVICES - 1);
    for host in ["s0", "s500", last.as_str()] {
        assert_eq!(proxy.get(host, "/").backend(), "a", "{host}");
    }
    let version = proxy.version();
    proxy.scene.replace("services.yaml", text(&b).as_bytes());
    proxy.wait_for_version_after(version);
    assert_eq!(proxy.get(&last, "/").backend(), "b");
    load.stop().assert_clean();
    assert_eq!(proxy.ask("/endpoints").as_object().map(serde_json::Map::len), Some(SERVICES));
}
