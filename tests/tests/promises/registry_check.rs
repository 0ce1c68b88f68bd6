//! `outrigger check --connect` and `outrigger registry --check`: what is wrong with a registry is told before a sidecar
//! or a registry is started.

use std::fs;
use std::path::Path;

use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::Etcd;
use outrigger_tests::program::{self, Said};
use outrigger_tests::registry::Home;
use tempfile::TempDir;

fn connect(dir: &Path, registry: &str) -> Said {
    fs::write(dir.join("outrigger.yaml"), format!("registry: {{{registry}}}\n")).unwrap();
    program::run(&["check", "outrigger.yaml", "--connect"], dir)
}

fn assert_refused(said: &Said, words: &str) {
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.err.contains(words), "{words}: {said:#?}");
}

/// Each member is asked: that one is away is told, and so is what sidecars would leave out or miss.
#[test]
fn check_asks_every_member_of_etcd() {
    let dir = TempDir::new().unwrap();
    let mut etcd = Etcd::cluster(3);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    etcd.instance("web", "b", b.address);
    etcd.instance("api", "b", b.address);
    etcd.put("/outrigger/services/web/junk", "{");
    let urls: Vec<String> = etcd.addresses().iter().map(|address| format!("'http://{address}'")).collect();
    let registry = format!("etcd: {{endpoints: [{}]}}, services: [web, shop]", urls.join(", "));
    let said = connect(dir.path(), &registry).expect_ok("check --connect");
    for address in etcd.addresses() {
        let line = format!("ok: etcd {address}: 2 services, 3 instances\n");
        assert!(said.out.contains(&line), "{line}\n{}", said.out);
    }
    assert!(said.out.contains("nothing is registered as `shop`"), "{}", said.out);
    assert!(said.out.contains("left out: /outrigger/services/web/junk: "), "{}", said.out);
    let away = etcd.addresses()[1];
    etcd.kill(1);
    assert_refused(&connect(dir.path(), &registry), &format!("etcd: {away}: cannot connect: "));
}

#[test]
fn check_says_who_is_not_let_in() {
    let dir = TempDir::new().unwrap();
    let etcd = Etcd::start();
    etcd.require_password("secret-word");
    let url = etcd.addresses()[0];
    fs::write(dir.path().join("wrong"), "word").unwrap();
    fs::write(dir.path().join("right"), "secret-word").unwrap();
    let with = |file: &str| format!("etcd: {{endpoints: 'http://{url}', user: root, password_file: {file}}}");
    assert_refused(&connect(dir.path(), &with("wrong")), "authentication failed");
    let said = connect(dir.path(), &with("right")).expect_ok("the right password");
    assert!(said.out.contains(": 0 services, 0 instances"), "{}", said.out);

    let registry = Home::new("tokens: [{name: sidecars, token: t0ken}]\n").start();
    fs::write(dir.path().join("token"), "t0ken").unwrap();
    let consul = format!("consul: {{endpoints: 'http://{}', token_file: ", registry.http);
    assert_refused(&connect(dir.path(), &format!("{consul} wrong}}")), "403");
    let said = connect(dir.path(), &format!("{consul} token}}")).expect_ok("the right token");
    assert!(said.out.contains(&format!("ok: consul {}: ", registry.http)), "{}", said.out);

    let said = connect(dir.path(), "file: right");
    assert_eq!(said.code, Some(1), "a password is no services file: {said:?}");
}

#[test]
fn the_registry_s_settings_are_checked_without_a_start() {
    let dir = TempDir::new().unwrap();
    let check = |settings: &str| {
        fs::write(dir.path().join("registry.yaml"), settings).unwrap();
        program::run(&["registry", "registry.yaml", "--check"], dir.path())
    };
    let bad =
        check("listen: 0.0.0.0:8500\nlimits: {waiters: 0}\ntls: {cert_file: none.crt, key_file: none.key}\n");
    for line in [
        "registry.yaml:1:9: listen: tokens are required",
        "registry.yaml:2:19: limits.waiters: 0 is out of range",
        "registry.yaml:3:18: tls.cert_file: none.crt: cannot be read",
    ] {
        assert_refused(&bad, line);
    }
    assert_refused(
        &check("tls: {cert_file: none.crt}\n"),
        "registry.yaml:1:6: tls: field `key_file` is missing",
    );
    let good = check("tokens: [{name: a, token: s3cret}]\n").expect_ok("good settings");
    assert!(
        good.out.starts_with("ok: 127.0.0.1:8500, data in ") && good.out.contains("tokens: 1"),
        "{}",
        good.out
    );
    assert!(!good.out.contains("s3cret"));
    assert!(!dir.path().join("registry-data").exists(), "nothing was started");
}
