//! Capture through the accidents of a sidecar's life: rules flushed and replaced, a sidecar killed and stopped. Needs root,
//! for namespaces.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use outrigger_tests::backend::Backend;
use outrigger_tests::captured::{Stage, Workload, dial, echo, expect_refusal, read};
use outrigger_tests::wait;
use rustix::process::Signal;

const TABLE: &str = ", capture: {}";

/// A captured workload, with one service that speaks HTTP and one that does not.
struct Scenery {
    workload: Workload,
    /// An endpoint of `db`.
    db: SocketAddr,
    /// Nobody listens there.
    closed: SocketAddr,
    _web: Backend,
}

fn scenery() -> Option<Scenery> {
    let stage = Stage::new(TABLE)?;
    let server = stage.server(echo);
    let (web, http) = stage.backend("a");
    let scene = stage
        .scene()
        .endpoints("web", &stage.both(http))
        .endpoints("db", &stage.both(server.port))
        .set("defaults", "{dns: {answer: virtual}}")
        .set("capture", "{detect: 20ms}");
    let (db, closed) = (stage.outside(server.port, true), stage.outside(9, true));
    Some(Scenery { workload: stage.start(scene), db, closed, _web: web })
}

fn talk(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(read(stream, text.len()), text);
}

fn captured(workload: &Workload) -> f64 {
    workload.sum("outrigger_captured_connections_total", &[])
}

fn web(workload: &Workload) -> String {
    workload.curl(&["http://web.mesh.internal/"])
}

#[test]
fn rules_that_were_flushed_come_back_and_connections_with_them() {
    let Some(Scenery { workload, db, _web, .. }) = scenery() else { return };
    let mut stream = workload.dial(db);
    talk(&mut stream, "\0before");
    assert!(workload.host.command("nft").args(["flush", "ruleset"]).status().unwrap().success());
    let counted = captured(&workload);
    talk(&mut workload.dial(db), "\0straight");
    assert_eq!(captured(&workload), counted, "nothing is captured now");
    workload.apply(TABLE);
    // One that said nothing meanwhile goes on: the kernel remembers where it belongs.
    talk(&mut stream, "\0after");
    assert_eq!(web(&workload), "a");
    assert!(captured(&workload) > counted);
}

#[test]
fn a_sidecar_that_was_killed_takes_up_again_where_the_table_stands() {
    let Some(Scenery { mut workload, db, _web, .. }) = scenery() else { return };
    assert_eq!(web(&workload), "a");
    let mut stream = workload.dial(db);
    talk(&mut stream, "\0before");
    let before = workload.address_of("web", true);
    let mut proxy = workload.proxy.take().unwrap();
    proxy.signal(Signal::KILL);
    proxy.wait(wait::WAIT_MAX);
    // What went through it is gone with it, and so are those who come while it is away: told, not left to wait.
    assert!(matches!(stream.peek(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(dial(&workload.host, db).is_err());
    let scene = std::mem::take(&mut proxy.scene);
    // It had no time to remove it.
    std::fs::remove_file(scene.path("ready.json")).unwrap();
    workload.proxy = Some(workload.host.enter(|| scene.start_again()));
    assert_eq!(web(&workload), "a");
    assert_eq!(workload.address_of("web", true), before, "services keep their addresses");
    talk(&mut workload.dial(db), "\0after");
    assert_eq!(captured(&workload), 2.0);
}

/// A stop takes nothing new, and waits for what is relayed.
#[test]
fn a_stop_lets_connections_end() {
    let Some(Scenery { mut workload, db, .. }) = scenery() else { return };
    let mut stream = workload.dial(db);
    talk(&mut stream, "\0before");
    let mut proxy = workload.proxy.take().unwrap();
    proxy.signal(Signal::TERM);
    wait::until_true("the listeners to be closed", || dial(&workload.host, db).is_err());
    assert!(proxy.is_running());
    talk(&mut stream, "\0still");
    drop(stream);
    let status = proxy.wait(wait::WAIT_MAX);
    assert!(status.success(), "{status}: {}", proxy.log());
    assert!(proxy.access_log().contains(r#""outcome":"success""#), "{}", proxy.access_log());
    let scene = std::mem::take(&mut proxy.scene);
    workload.proxy = Some(workload.host.enter(|| scene.start_again()));
    talk(&mut workload.dial(db), "\0again");
}

/// In one step, under traffic.
#[test]
fn the_table_may_be_replaced_while_connections_are_open() {
    let Some(Scenery { workload, db, closed, .. }) = scenery() else { return };
    let mut stream = workload.dial(db);
    talk(&mut stream, "\0before");
    expect_refusal(&workload.host, closed, b"");
    workload.apply(", capture: {except_outbound: {ports: ['9']}}");
    talk(&mut stream, "\0after");
    assert!(dial(&workload.host, closed).is_err(), "it goes straight, and is refused there");
}
