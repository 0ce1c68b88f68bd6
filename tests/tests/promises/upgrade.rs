//! A new process takes the place of a running one: no connection is refused, reset or lost. The captured ones need root,
//! for namespaces.

use std::io::Write as _;
use std::net::TcpStream;

use outrigger_tests::backend::Backend;
use outrigger_tests::captured::{Stage, Workload, echo, read};
use outrigger_tests::client::Client;
use outrigger_tests::etcd::Etcd;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Line, Proxy, Scene};
use outrigger_tests::wait;
use rustix::process::Signal;

const UPGRADES: usize = 6;
/// On each kind of load.
const CLIENTS: usize = 4;

fn talk(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(read(stream, text.len()), text);
}

/// Told to end, it does so in order.
fn end(mut old: Proxy) {
    old.signal(Signal::TERM);
    let status = old.wait(wait::WAIT_MAX);
    assert!(status.success(), "{status}\n{}", old.log());
}

#[test]
fn no_request_is_lost_whoever_takes_over() {
    let (backend, line) = (Backend::named("a"), Line::default());
    let mut proxy = Scene::web(&[&backend]).in_line(&line).start();
    let address = proxy.outbound;
    let kept = Load::start(address, CLIENTS, "web");
    let fresh = Load::with_fields(address, CLIENTS, "web", "connection: close\r\n");
    // More workers, and fewer.
    for workers in (0..UPGRADES).map(|round| ["1", "3", "2"][round % 3]) {
        fresh.wait_for(200);
        let next = proxy.scene.again().set("workers", workers).start();
        assert_eq!((next.outbound, next.admin), (address, proxy.admin), "the ports are the same");
        fresh.wait_for(200);
        end(proxy);
        proxy = next;
        let before = proxy.metrics().sum("outrigger_requests_total", &[]);
        kept.wait_for(200);
        assert!(proxy.metrics().sum("outrigger_requests_total", &[]) > before, "the new one serves");
    }
    for load in [kept, fresh] {
        let tally = load.stop();
        tally.assert_clean();
        println!("{} requests", tally.good());
    }
}

/// Kept connections that nobody uses get until the grace is over, and then a clean end.
#[test]
fn an_idle_connection_is_used_once_more() {
    let (backend, line) = (Backend::named("a"), Line::default());
    let old = Scene::web(&[&backend]).in_line(&line).start();
    let mut client = old.client();
    assert_eq!(client.get("web", "/", "").backend(), "a");
    let _next = old.scene.again().start();
    old.signal(Signal::TERM);
    wait::until_true("it to drain", || old.log().contains("draining"));
    let answer = client.get("web", "/", "");
    assert_eq!((answer.backend(), answer.field("connection")), ("a", Some("close")));
    client.expect_end();
    let mut old = old;
    assert!(old.wait(wait::WAIT_MAX).success(), "{}", old.log());
}

#[test]
fn a_successor_that_dies_leaves_all_as_it_was() {
    let (backend, line) = (Backend::named("a"), Line::default());
    let old = Scene::web(&[&backend]).in_line(&line).start();
    for round in 1..=2 {
        let mut next = old.scene.again().start();
        next.signal(Signal::KILL);
        next.wait(wait::WAIT_MAX);
        wait::until_true("it to be noticed", || {
            old.log().matches("the successor has ended").count() == round
        });
        assert_eq!(old.ask("/ready")["ready"], true, "the admin interface is there again");
        assert_eq!(old.get("web", "/").backend(), "a");
    }
    let next = old.scene.again().start();
    end(old);
    assert_eq!(next.get("web", "/").backend(), "a");
}

/// Each process has a lease of its own; that of the old one lapses.
#[test]
fn the_workload_stays_registered() {
    const KEY: &str = "/outrigger/services/web/one";
    let (etcd, workload, line) = (Etcd::start(), Backend::named("a"), Line::default());
    let registry = format!(
        "{{etcd: {{endpoints: 'http://{}'}}, register: {{address: '{}', id: one, ttl: 6s}}}}",
        etcd.addresses()[0],
        workload.address
    );
    let scene = Scene::new().set("registry", &registry).set("node", "{service: web}").in_line(&line);
    let old = scene.start();
    let first = wait::until("the entry", || etcd.entry(KEY)).lease;
    let next = old.scene.again().start();
    end(old);
    wait::until_true("the new one to hold the entry", || {
        etcd.entry(KEY).expect("it is there all the time").lease != first
    });
    etcd.revoke(&first);
    assert!(etcd.entry(KEY).is_some(), "it is not the old one's any more");
    assert_eq!(next.get("web", "/").backend(), "a");
    end(next);
    assert!(etcd.entry(KEY).is_none(), "the last one takes it back");
}

#[test]
fn without_a_successor_a_stop_is_a_stop() {
    let (backend, line) = (Backend::named("a"), Line::default());
    let proxy = Scene::web(&[&backend]).in_line(&line).start();
    let mut client = proxy.client();
    assert_eq!(client.get("web", "/", "").backend(), "a");
    let (address, path) = (proxy.outbound, line.socket());
    assert!(path.exists());
    let scene = proxy.stop();
    assert!(Client::try_connect(address).is_err(), "nobody listens");
    assert!(!path.exists() && !scene.path("ready.json").exists());
}

/// By name, outbound and inbound, kept and fresh, while relays stay open.
fn captured_traffic_goes_on(table: &str, mode: &str) {
    let Some(stage) = Stage::new(table) else { return };
    let line = Line::default();
    let server = stage.server(echo);
    let (_web, http) = stage.backend("a");
    let scene = stage
        .scene()
        .in_line(&line)
        .endpoints("web", &stage.both(http))
        .endpoints("db", &stage.both(server.port))
        .set("defaults", "{dns: {answer: virtual}}")
        .set("capture", &format!("{{mode: {mode}, detect: 20ms}}"));
    let scene = if mode == "tproxy" { scene.capable("+net_raw") } else { scene };
    let db = stage.outside(server.port, true);
    let mut workload = stage.start(scene);
    let local = Backend::on(workload.host.enter(|| std::net::TcpListener::bind(("::", 80)).unwrap()), |e| {
        let _ = e.body();
        e.reply("inside")
    });
    let web = (workload.address_of("web", true), 80).into();
    let own = (workload.own_address(true), 80).into();
    let fresh = "connection: close\r\n";
    let loads = [
        workload.host.enter(|| Load::start(web, CLIENTS, "web")),
        workload.host.enter(|| Load::with_fields(web, CLIENTS, "web", fresh)),
        workload.lab.node.enter(|| Load::start(own, CLIENTS, "shop")),
        workload.lab.node.enter(|| Load::with_fields(own, CLIENTS, "shop", fresh)),
    ];
    for round in 0..UPGRADES {
        let mut relay = workload.dial(db);
        talk(&mut relay, "\0before");
        let old = workload.proxy.take().unwrap();
        // What is inherited needs no privilege.
        let next = old.scene.again().capable("-all");
        workload.proxy = Some(workload.host.enter(|| next.start()));
        loads.iter().for_each(|load| load.wait_for(50));
        old.signal(Signal::TERM);
        wait::until_true("it to drain", || old.log().contains("draining"));
        assert_eq!(workload.curl(&["http://web.mesh.internal/"]), "a", "names are answered");
        talk(&mut relay, &format!("\0still {round}"));
        let after = captured(&workload);
        talk(&mut workload.dial(db), "\0after");
        assert!(captured(&workload) > after, "the new one takes it");
        loads.iter().for_each(|load| load.wait_for(50));
        let mut old = old;
        assert!(old.is_running(), "a relay is open");
        drop(relay);
        let status = old.wait(wait::WAIT_MAX);
        assert!(status.success(), "{status}\n{}", old.log());
    }
    for load in loads {
        let tally = load.stop();
        tally.assert_clean();
        println!("{} requests", tally.good());
    }
    drop(local);
    assert_eq!(workload.sum("outrigger_captured_refused_total", &[]), 0.0);
}

fn captured(workload: &Workload) -> f64 {
    workload.sum("outrigger_captured_connections_total", &[])
}

#[test]
fn captured_connections_go_on() {
    captured_traffic_goes_on(", capture: {}", "redirect");
}

#[test]
fn captured_connections_go_on_without_translation() {
    captured_traffic_goes_on(", capture: {mode: tproxy}", "tproxy");
}
