//! What is broken, tampered with or not signed comes into force nowhere, whoever wrote it into the registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use outrigger_tests::backend::Backend;
use outrigger_tests::guest::{self, Balancer};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Proxy;
use outrigger_tests::shelf::{Shelf, version, wait_for_problem, wait_for_version};
use outrigger_tests::{program, wait};
use serde_json::{Value, json};

/// A sidecar with the first version of `mine` in force.
fn start(shelf: &Shelf, more: &str) -> (Proxy, Backend) {
    let backend = Backend::named("a");
    shelf.instance("web", "a", &backend);
    let proxy = shelf.scene(more).start();
    proxy.wait_for_endpoints("web", &[&backend]);
    (proxy, backend)
}

fn digest_of(component: &[u8]) -> String {
    let dir = tempfile::TempDir::new().unwrap();
    fs::write(dir.path().join("x.wasm"), component).unwrap();
    let shown = program::run(&["policy", "show", "x.wasm"], dir.path());
    let digest = shown.out.lines().find_map(|line| line.strip_prefix("digest   "));
    digest.unwrap_or_else(|| panic!("{shown:?}")).to_owned()
}

/// Publishes as any tool might that knows the form of the keys, and checks nothing.
fn publish(shelf: &Shelf, version: u64, component: &[u8], change: impl Fn(&mut Value)) {
    let digest = digest_of(component);
    shelf.write(&format!("parts/mine/{digest}/0000"), component);
    announce(shelf, version, (&digest, component.len()), change);
}

/// The same for a component that is there already, or is not.
fn announce(shelf: &Shelf, version: u64, (digest, size): (&str, usize), change: impl Fn(&mut Value)) {
    let mut manifest = json!({
        "policy": "mine", "version": version, "digest": digest, "size": size, "parts": 1,
        "contract": "outrigger:policy@0.1.0", "published_at": 1_700_000_000, "published_by": "a tool",
    });
    change(&mut manifest);
    shelf.write(&format!("manifests/mine/{version:010}"), manifest.to_string());
    shelf.write("current/mine", json!({"version": version, "change": version}).to_string());
}

#[test]
fn push_refuses_what_is_broken() {
    let shelf = Shelf::embedded();
    shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
    for (component, reason) in [
        (guest::wasi(), "wasi:io/poll"),
        (Balancer::picking(guest::LOOP).component(), "does not pass, and is not published"),
        (Balancer::picking(guest::EIGHTH).component(), "does not pass, and is not published"),
        (b"junk".to_vec(), "not WebAssembly"),
    ] {
        let said = shelf.push(&component, &[]);
        assert!(!said.ok() && format!("{said:?}").contains(reason), "{said:?}");
    }
    for (line, reason) in [
        (&["--name", "mine", "--config", "5"][..], "a JSON object"),
        (&["--name", "Not-A-Name"], "cannot be a name"),
        (&["--name", "mine", "--sign", "none.key"], "none.key"),
    ] {
        let said = shelf.policy(&[&["push", "p2c"], line].concat(), program::root());
        assert!(!said.ok() && said.err.contains(reason), "{said:?}");
    }
    let releases = shelf.releases();
    assert_eq!(releases["versions"].as_array().map(Vec::len), Some(1), "{releases:#}");
    let nobody =
        program::run(&["policy", "releases", "mine", "--registry", "services.yaml"], program::root());
    assert!(!nobody.ok() && nobody.err.contains("services.yaml"), "{nobody:?}");
}

#[test]
fn a_broken_release_written_past_push_comes_into_force_nowhere() {
    for shelf in Shelf::all() {
        shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        let (proxy, _backend) = start(&shelf, "");
        wait_for_version(&proxy, 1);
        let load = Load::start(proxy.outbound, 2, "web");
        // A component that no sidecar takes.
        publish(&shelf, 2, &guest::wasi(), |_| {});
        wait_for_problem(&proxy, "release `mine`, version 2: imports `wasi:io/poll");
        // One that its use refuses.
        let refusing = Balancer { configure: guest::REFUSES, ..Balancer::default() };
        publish(&shelf, 3, &refusing.component(), |_| {});
        wait_for_problem(&proxy, guest::REFUSAL);
        // Not what the manifest says.
        publish(&shelf, 4, &Balancer::last().component(), |manifest| manifest["size"] = json!(1));
        wait_for_problem(&proxy, "version 4: the parts of its component have");
        let other = Balancer { pages: 2, ..Balancer::default() }.component();
        publish(&shelf, 5, &other, |_| {});
        wait_for_version(&proxy, 5);
        let mut tampered = Balancer { pages: 3, ..Balancer::default() }.component();
        let digest = digest_of(&tampered);
        let last = tampered.len() - 1;
        tampered[last] ^= 1;
        announce(&shelf, 6, (&digest, tampered.len()), |_| {});
        wait_for_problem(&proxy, "version 6: part 0 of its component is missing");
        shelf.write(&format!("parts/mine/{digest}/0000"), &tampered);
        wait_for_problem(&proxy, "version 6: its component has the digest");
        // Another's manifest, and no manifest.
        publish(&shelf, 7, &Balancer::first().component(), |manifest| manifest["policy"] = json!("other"));
        wait_for_problem(&proxy, "it was published as version 7 of `other`");
        shelf.write("current/mine", r#"{"version": 8, "change": 8}"#);
        wait_for_problem(&proxy, "version 8: its manifest is missing");
        shelf.write("current/mine", "junk");
        wait_for_problem(&proxy, "what is in force of release `mine` cannot be read");
        assert_eq!(version(&proxy), Some(5));
        assert_refusal_is_reported(&shelf, &proxy);
        // As soon as what is in force is in force in the registry as well, all is well.
        shelf.write("current/mine", r#"{"version": 5, "change": 9}"#);
        proxy.wait_for_ready("no problem", |ready| ready["problems"] == json!([]));
        load.stop().assert_clean();
    }
}

fn assert_refusal_is_reported(shelf: &Shelf, proxy: &Proxy) {
    shelf.write("current/mine", r#"{"version": 2, "change": 2}"#);
    wait_for_problem(proxy, "version 2: imports");
    let wanted = |name: &str| proxy.metrics().sum(name, &[("policy", "mine")]);
    let versions = (wanted("outrigger_policy_release"), wanted("outrigger_policy_release_wanted"));
    assert_eq!(versions, (5.0, 2.0));
    let sidecar = wait::until("the refusal to be reported", || {
        let sidecar = shelf.releases()["sidecars"][0].clone();
        (sidecar["refused"]["version"] == 2).then_some(sidecar)
    });
    assert_eq!(sidecar["version"], 5);
    assert!(sidecar["refused"]["reason"].to_string().contains("wasi:io/poll"), "{sidecar:#}");
    let table = shelf.policy(&["releases", "mine"], program::root()).expect_ok("releases");
    assert!(table.out.contains("BECAUSE") && table.out.contains("wasi:io/poll"), "{}", table.out);
}

#[test]
fn only_what_a_trusted_key_has_signed_comes_into_force() {
    for shelf in Shelf::all() {
        let keys = tempfile::TempDir::new().unwrap();
        for name in ["ours", "foreign"] {
            program::run(&["policy", "keygen", name], keys.path()).expect_ok("keygen");
        }
        let again = program::run(&["policy", "keygen", "ours"], keys.path());
        assert!(!again.ok(), "a key is never overwritten: {again:?}");
        let path = |name: &str| keys.path().join(name).display().to_string();
        let mode = fs::metadata(path("ours.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        shelf.push(&Balancer::first().component(), &["--sign", &path("ours.key")]).expect_ok("push");
        let (proxy, _backend) = start(&shelf, &format!(", at_least: 1, keys: '{}'", path("ours.pub")));
        wait_for_version(&proxy, 1);
        assert!(proxy.ask("/policies/mine")["release"]["key"].is_string());
        shelf.push(&Balancer::last().component(), &[]).expect_ok("push");
        wait_for_problem(&proxy, "version 2: it is not signed");
        shelf.push(&Balancer::last().component(), &["--sign", &path("foreign.key")]).expect_ok("push");
        wait_for_problem(&proxy, "version 3: it is signed with key");
        // A signature from one version under another.
        let signed = shelf.read("manifests/mine/0000000001");
        publish(&shelf, 4, &Balancer::first().component(), |manifest| {
            manifest["signature"] = signed["signature"].clone()
        });
        wait_for_problem(&proxy, "version 4: its signature with key");
        assert_eq!(version(&proxy), Some(1));
        shelf
            .push(&Balancer::last().component(), &["--sign", &path("ours.key"), "--version", "5"])
            .expect_ok("push");
        wait_for_version(&proxy, 5);
        proxy.wait_for_ready("no problem", |ready| ready["problems"] == json!([]));

        // Old releases are signed as well: the lowest version that is accepted keeps them out.
        let mut scene = proxy.stop();
        let entry = format!("{{mine: {{release: mine, at_least: 5, keys: '{}'}}}}", path("ours.pub"));
        scene.change("policies", &entry);
        let proxy = scene.start();
        shelf.policy(&["rollback", "mine", "--to", "1"], program::root()).expect_ok("rollback");
        wait_for_problem(&proxy, "version 5 is the lowest that is accepted here");
        assert_eq!(version(&proxy), Some(5));
    }
}
