use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::config::AdminListen;
use crate::control::tests::{FLUSHES, Scene, component};

const SERVICES: &str = "services:\n  web: {endpoints: [\"10.0.0.1:80\", \"10.0.0.2:80\"]}\n";

/// An answer as it came.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

async fn serve(listen: AdminListen, token: Option<&str>) -> (Scene, Option<SocketAddr>) {
    let scene = Scene::start("services: {web: {}}", SERVICES).await;
    let listener = Listener::bind(&listen).await.unwrap();
    let address = listener.address();
    let token = token.map(|token| Secret(token.into()));
    tokio::spawn(listener.serve(token, scene.control.clone(), scene.metrics.clone(), scene.workers.clone()));
    (scene, address)
}

async fn loopback(token: Option<&str>) -> (Scene, SocketAddr) {
    let (scene, address) = serve(AdminListen::Tcp(([127, 0, 0, 1], 0).into()), token).await;
    (scene, address.unwrap())
}

async fn ask(address: SocketAddr, method: &str, path: &str, fields: &str, body: &[u8]) -> Got {
    exchange(TcpStream::connect(address).await.unwrap(), method, path, fields, body).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    fields: &str,
    body: &[u8],
) -> Got {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let host = if fields.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
    let head = format!("{method} {path} HTTP/1.1\r\n{host}{length}{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses early need not read on.
    let _ = stream.write_all(body).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    Got { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}

async fn read(address: SocketAddr, path: &str) -> Got {
    ask(address, "GET", path, "", b"").await
}

#[tokio::test]
async fn everything_can_be_read() {
    let (_scene, address) = loopback(Some("s3cret")).await;
    let ready = read(address, "/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["ready"], &ready.json()["version"]),
        (200, &true.into(), &1.into())
    );
    assert_eq!(read(address, "/live").await.json()["live"], true);
    assert!(read(address, "/").await.json()["GET /ready"].is_string());
    let config = read(address, "/config").await;
    assert_eq!(config.json()["domain"], "mesh.internal");
    assert!(!config.body.contains("s3cret"));
    let endpoints = read(address, "/endpoints").await.json();
    assert_eq!(endpoints["web"].as_array().unwrap().len(), 2);
    assert_eq!(endpoints["web"][0]["status"], "ready");
    assert_eq!(endpoints["web"][0]["success"], 1.0);
    let policies = read(address, "/policies").await.json();
    assert_eq!(policies["policies"][0]["name"], "p2c");
    assert_eq!(read(address, "/policies/p2c").await.json()["roles"][0], "balancer");
    assert_eq!(read(address, "/policies/maglev").await.status, 404);
    let head = ask(address, "HEAD", "/live", "", b"").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_scrape_flushes_the_workers_first() {
    let (scene, address) = loopback(None).await;
    let before = FLUSHES.load(Relaxed);
    let got = read(address, "/metrics").await;
    assert!(FLUSHES.load(Relaxed) >= before + scene.workers.len());
    assert!(got.head.contains("content-type: text/plain; version=0.0.4"), "{}", got.head);
    for line in [
        "outrigger_endpoints{service=\"web\",state=\"ready\"} 2",
        "outrigger_endpoints{service=\"web\",state=\"down\"} 0",
        "outrigger_snapshot_version 1",
        "outrigger_config_valid 1",
        "outrigger_registry_valid 1",
        "outrigger_policy_info{digest=",
    ] {
        assert!(got.body.contains(line), "{line} is missing from\n{}", got.body);
    }
}

#[tokio::test]
async fn a_policy_is_put_taken_back_and_refused() {
    let (_scene, address) = loopback(None).await;
    let put = ask(address, "PUT", "/policies/p2c", "", &component("random")).await;
    assert_eq!((put.status, &put.json()["version"]), (200, &2.into()), "{put:?}");
    assert_eq!(put.json()["digest"], read(address, "/policies/p2c").await.json()["digest"]);
    let back = ask(address, "POST", "/policies/p2c/rollback", "", b"").await;
    assert_eq!((back.status, &back.json()["version"]), (200, &3.into()));
    let none = ask(address, "POST", "/policies/p2c/rollback?to=ffff", "", b"").await;
    assert_eq!(none.status, 409);
    let refused = ask(address, "PUT", "/policies/p2c", "", b"junk").await;
    assert_eq!(refused.status, 422);
    assert!(refused.json()["error"].as_str().unwrap().contains("not WebAssembly"));
    assert_eq!(ask(address, "PUT", "/policies/nobody", "", b"junk").await.status, 404);
    assert_eq!(ask(address, "POST", "/policies/p2c/reset", "", b"").await.status, 200);
    let huge =
        ask(address, "PUT", "/policies/p2c", "expect: 100-continue\r\ncontent-length: 99999999999\r\n", b"")
            .await;
    assert_eq!(huge.status, 413);
    let chunks = "transfer-encoding: chunked\r\n";
    let endless = format!("{:x}\r\n{}", 1 << 30, "x".repeat(1 << 10));
    let cut = timeout(Duration::from_millis(200), async {
        ask_open(address, "PUT", "/policies/p2c", chunks, endless.as_bytes()).await
    });
    // A body that does not end is waited for, but answers nobody else later.
    assert!(cut.await.is_err());
    assert_eq!(read(address, "/live").await.status, 200);
}

/// Sends without saying the body's length.
async fn ask_open(address: SocketAddr, method: &str, path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn strangers_change_nothing() {
    let (scene, address) = loopback(Some("s3cret")).await;
    let reset = |fields: &'static str| async move {
        ask(address, "POST", "/policies/p2c/reset", fields, b"").await.status
    };
    assert_eq!(reset("").await, 401);
    assert_eq!(reset("authorization: Bearer wrong\r\n").await, 401);
    assert_eq!(reset("authorization: Bearer s3cret\r\norigin: http://evil.example\r\n").await, 403);
    assert_eq!(reset("authorization: Bearer s3cret\r\nhost: evil.example\r\n").await, 403);
    assert_eq!(scene.control.status().ready.version, 1);
    assert_eq!(reset("authorization: Bearer s3cret\r\n").await, 200);
    assert_eq!(ask(address, "GET", "/config", "host: evil.example\r\n", b"").await.status, 403);
}

#[tokio::test]
async fn paths_and_methods_are_checked() {
    let (_scene, address) = loopback(None).await;
    let unknown = read(address, "/nothing").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].is_string());
    let wrong = ask(address, "POST", "/ready", "", b"").await;
    assert_eq!(wrong.status, 405);
    assert!(wrong.head.contains("\nallow: get"), "{}", wrong.head);
    assert!(ask(address, "DELETE", "/policies/p2c", "", b"").await.head.contains("\nallow: get, put"));
}

#[tokio::test]
async fn a_unix_socket_is_private_and_replaces_a_stale_one() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_scene, _) = serve(AdminListen::Unix(path.clone()), None).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(exchange(stream, "GET", "/live", "host: anything\r\n", b"").await.status, 200);
    assert!(Listener::bind(&AdminListen::Unix(path.clone())).await.is_err());
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(exchange(stream, "POST", "/policies/p2c/reset", "", b"").await.status, 200);
}
