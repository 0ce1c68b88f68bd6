//! Registries with TLS: whom the sidecar trusts, what it shows them, and what happens when certificates change.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use outrigger_tests::authority::{Authority, Identity, bundle};
use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::{Etcd, free};
use outrigger_tests::load::Load;
use outrigger_tests::program::{self, Said};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::registry::{Home, Registry};
use outrigger_tests::wait;
use tempfile::TempDir;

const HERE: [&str; 2] = ["localhost", "127.0.0.1"];

fn shown(ca: &Path, identity: &Identity) -> String {
    let Identity { cert_file, key_file } = identity;
    let [ca, cert, key] = [ca, cert_file, key_file].map(|path| path.display());
    format!("ca_file: '{ca}', cert_file: '{cert}', key_file: '{key}'")
}

fn of_etcd(etcd: &Etcd, tls: &str) -> String {
    format!("etcd: {{endpoints: 'https://{}', timeout: 1s, tls: {{{tls}}}}}", etcd.secure_address())
}

fn scene(registry: &str) -> Scene {
    Scene::new().registry(&format!("{{{registry}}}"))
}

/// etcd takes nobody without a certificate: the catalogue and the workload's own entry come and go by way of one.
#[test]
fn etcd_is_shown_a_certificate() {
    let dir = TempDir::new().unwrap();
    let (servers, clients) = (Authority::new(dir.path(), "servers"), Authority::new(dir.path(), "clients"));
    let etcd = Etcd::with_tls(servers.issue("etcd", &HERE), &[&servers, &clients]);
    let (a, own) = (Backend::named("a"), Backend::named("own"));
    etcd.instance("web", "a", a.address);
    let tls = shown(&servers.file, &clients.issue("sidecar", &["sidecar"]));
    let register = format!("register: {{service: web, id: own, address: '{}'}}", own.address);
    let proxy = scene(&format!("{}, {register}", of_etcd(&etcd, &tls))).start();
    proxy.wait_for_endpoints("web", &[&a, &own]);
    let view = proxy.admin("GET", "/config", "", b"").text();
    assert!(view.contains("https://127.0.0.1:") && view.contains("sidecar.key"), "{view}");
    proxy.stop();
    assert!(etcd.entry("/outrigger/services/web/own").is_none(), "taken back");
}

fn refused(registry: &str, reason: &str) {
    let proxy = scene(registry).start_unready(free(), free());
    let ready = proxy.wait_for_ready(reason, |ready| ready["problems"].to_string().contains(reason));
    assert_eq!(ready["ready"], false);
}

#[test]
fn it_is_said_who_does_not_trust_whom() {
    let dir = TempDir::new().unwrap();
    let (servers, clients) = (Authority::new(dir.path(), "servers"), Authority::new(dir.path(), "clients"));
    let etcd = Etcd::with_tls(servers.issue("etcd", &HERE), &[&servers, &clients]);
    let good = clients.issue("sidecar", &["sidecar"]);
    refused(&of_etcd(&etcd, &shown(&clients.file, &good)), "issued by nobody who is trusted here");
    let named = format!("{}, server_name: elsewhere.internal", shown(&servers.file, &good));
    refused(&of_etcd(&etcd, &named), "certificate is for another name");
    let nobody = format!("ca_file: '{}'", servers.file.display());
    refused(&of_etcd(&etcd, &nobody), "or wants one (`cert_file`)");
    let stranger = Authority::new(dir.path(), "strangers").issue("stranger", &["sidecar"]);
    refused(&of_etcd(&etcd, &shown(&servers.file, &stranger)), "does not take our certificate");
    let late = clients.issue_until("late", &["sidecar"], 2002);
    refused(&of_etcd(&etcd, &shown(&servers.file, &late)), "does not take our certificate");
    let plain = Registry::start();
    let dialled = format!("etcd: {{endpoints: 'https://{}', tls: {{{nobody}}}}}", plain.http);
    refused(&dialled, "does not speak TLS");

    let old = Etcd::with_tls(servers.issue_until("old", &HERE, 2002), &[&servers, &clients]);
    refused(&of_etcd(&old, &shown(&servers.file, &good)), "certificate is no longer valid");
}

/// A server that takes connections and says nothing is given up after the time of one exchange.
#[test]
fn a_handshake_that_hangs_is_given_up() {
    let dir = TempDir::new().unwrap();
    let ca = Authority::new(dir.path(), "ca");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for kind in ["etcd", "consul"] {
        let tls = format!("tls: {{ca_file: '{}'}}", ca.file.display());
        refused(
            &format!("{kind}: {{endpoints: 'https://{address}', timeout: 1s, {tls}}}"),
            "no answer within 1s",
        );
    }
}

/// New files are in force without a restart, and files that cannot be used change nothing; requests flow all the while.
#[test]
fn certificates_change_while_requests_flow() {
    let dir = TempDir::new().unwrap();
    let (servers, clients) = (Authority::new(dir.path(), "servers"), Authority::new(dir.path(), "clients"));
    let others = Authority::new(dir.path(), "others");
    let mut etcd = Etcd::with_tls(servers.issue("etcd", &HERE), &[&servers, &clients, &others]);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    let mine = clients.issue("sidecar", &["sidecar"]);
    let trusted = dir.path().join("trusted.pem");
    bundle(&[&servers], &trusted);
    let proxy = scene(&of_etcd(&etcd, &shown(&trusted, &mine))).start();
    let load = Load::start(proxy.outbound, 2, "web");

    fs::write(&mine.key_file, "no key").unwrap();
    let field = "registry.etcd.tls: ";
    let is_bad = |ready: &serde_json::Value| ready["problems"].to_string().contains(field);
    let ready = proxy.wait_for_ready("a word about the key", is_bad);
    assert!(ready["problems"].to_string().contains("sidecar.key: holds no private key"), "{ready}");
    assert_eq!((&ready["ready"], &ready["registry_valid"]), (&true.into(), &true.into()));
    clients.issue("sidecar", &["sidecar"]);
    proxy.wait_for_ready("the key to be good", |ready| !is_bad(ready));

    // Another authority takes over: both are trusted for a while.
    let applied =
        |proxy: &Proxy| proxy.metrics().sum("outrigger_tls_reloads_total", &[("result", "applied")]);
    let before = applied(&proxy);
    bundle(&[&servers, &others], &trusted);
    proxy.wait_for_metric("outrigger_tls_reloads_total", &[("result", "applied")], before + 1.0);
    others.issue("etcd", &HERE);
    // Every connection is a new one.
    etcd.kill(0);
    proxy.wait_for_ready("the loss", |ready| ready["registry_valid"] == false);
    etcd.start_again(0);
    proxy.wait_for_ready("the new authority", |ready| ready["registry_valid"] == true);
    let before = applied(&proxy);
    bundle(&[&others], &trusted);
    proxy.wait_for_metric("outrigger_tls_reloads_total", &[("result", "applied")], before + 1.0);
    etcd.instance("web", "b", b.address);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    load.stop().assert_clean();
    assert!(proxy.metrics().sum("outrigger_tls_reloads_total", &[("result", "refused")]) >= 1.0);
}

fn curl(arguments: &[&str], registry: &Registry, path: &str) -> Said {
    let url = format!("https://{}{path}", registry.http);
    let always = ["--silent", "--show-error", "--max-time", "10"];
    program::tool("curl", &[&always, arguments, &[&url]].concat(), Path::new("/"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

/// curl is somebody else's client: it is served if it trusts the registry, and not otherwise.
#[test]
fn the_embedded_registry_speaks_tls() {
    let dir = TempDir::new().unwrap();
    let (ca, other) = (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "other"));
    let identity = ca.issue("registry", &HERE);
    let files =
        format!("cert_file: '{}', key_file: '{}'", text(&identity.cert_file), text(&identity.key_file));
    let registry = Home::new(&format!("tls: {{{files}}}\n")).start();
    let body = r#"{"Name": "web", "ID": "one", "Port": 80}"#;
    let trusts = ["--cacert", text(&ca.file)];
    let put = [&trusts[..], &["-X", "PUT", "-d", body, "--fail"]].concat();
    curl(&put, &registry, "/v1/agent/service/register").expect_ok("a registration");
    let found = curl(&trusts, &registry, "/v1/health/service/web").expect_ok("a read");
    assert!(found.out.contains(r#""ID":"one""#), "{}", found.out);
    // 60: the peer's certificate is not to be trusted.
    assert_eq!(curl(&["--cacert", text(&other.file)], &registry, "/").code, Some(60));
    let plain =
        program::tool("curl", &["--silent", &format!("http://{}/metrics", registry.http)], dir.path());
    assert!(!plain.ok(), "{plain:?}");

    // A key that does not fit changes nothing; then another authority takes over.
    fs::copy(other.issue("stray", &HERE).key_file, &identity.key_file).unwrap();
    wait::until_true("a word", || registry.log().contains("registry.key: is not the key of "));
    curl(&trusts, &registry, "/metrics").expect_ok("the old certificate");
    other.issue("registry", &HERE);
    let follows = ["--cacert", text(&other.file)];
    wait::until_true("the new certificate", || curl(&follows, &registry, "/metrics").ok());
    assert_eq!(curl(&trusts, &registry, "/metrics").code, Some(60));
    let metrics = curl(&follows, &registry, "/metrics").out;
    assert!(
        metrics.contains("outrigger_registry_server_tls_reloads_total{result=\"refused\"} "),
        "{metrics}"
    );
}

/// With an authority for clients, nobody else is served, and tokens may be left out beyond loopback.
#[test]
fn the_embedded_registry_asks_for_certificates() {
    let dir = TempDir::new().unwrap();
    let (servers, clients) = (Authority::new(dir.path(), "servers"), Authority::new(dir.path(), "clients"));
    let identity = servers.issue("registry", &HERE);
    let settings = format!(
        "tls: {{cert_file: '{}', key_file: '{}', client_ca_file: '{}'}}\n",
        text(&identity.cert_file),
        text(&identity.key_file),
        text(&clients.file)
    );
    let registry = Home::new(&settings).start();
    let trusts = ["--cacert", text(&servers.file)];
    assert!(!curl(&trusts, &registry, "/metrics").ok());
    let client = clients.issue("sidecar", &["sidecar"]);
    let known = [&trusts[..], &["--cert", text(&client.cert_file), "--key", text(&client.key_file)]].concat();
    curl(&known, &registry, "/metrics").expect_ok("a client with a certificate");
    let stranger = servers.issue("stranger", &["sidecar"]);
    let unknown = ["--cert", text(&stranger.cert_file), "--key", text(&stranger.key_file)];
    assert!(!curl(&[&trusts[..], &unknown].concat(), &registry, "/metrics").ok());

    let (a, own) = (Backend::named("a"), Backend::named("own"));
    let body =
        format!(r#"{{"Name": "web", "ID": "a", "Address": "127.0.0.1", "Port": {}}}"#, a.address.port());
    let put = [&known[..], &["-X", "PUT", "-d", &body, "--fail"]].concat();
    curl(&put, &registry, "/v1/agent/service/register").expect_ok("a registration");
    let register = format!("register: {{service: web, id: own, address: '{}'}}", own.address);
    let tls = shown(&servers.file, &client);
    let consul = format!("consul: {{endpoints: 'https://{}', tls: {{{tls}}}}}", registry.http);
    let proxy = scene(&format!("{consul}, {register}")).start();
    proxy.wait_for_endpoints("web", &[&a, &own]);
    let log = registry.log();
    assert!(!log.contains("denied"), "{log}");
}
