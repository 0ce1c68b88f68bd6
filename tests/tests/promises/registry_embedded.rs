//! Sidecars and the embedded registry together: workloads register themselves, the others find them, and a registry
//! that is killed costs no request.

use std::net::SocketAddr;

use outrigger_tests::backend::Backend;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::registry::{Home, Registry};
use outrigger_tests::{etcd, wait};
use rustix::process::Signal;
use serde_json::json;

fn consul(registry: SocketAddr, more: &str) -> String {
    format!("{{consul: {{endpoints: 'http://{registry}', timeout: 1s}}{more}}}")
}

/// An instance without checks.
fn register(registry: &Registry, id: &str, backend: &Backend) {
    let entry = json!({
        "Name": "web", "ID": id, "Address": backend.address.ip(), "Port": backend.address.port(),
        "Meta": {"zone": "b", "version": "v1"}, "Tags": ["blue"], "Weights": {"Passing": 3, "Warning": 1},
    });
    registry.put("/v1/agent/service/register", entry.to_string());
}

#[test]
fn what_is_registered_is_found_with_all_it_says() {
    let registry = Registry::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    register(&registry, "one", &a);
    let proxy = Scene::new().registry(&consul(registry.http, "")).start();
    assert_eq!(proxy.get("web", "/").backend(), "a");
    let found = &proxy.ask("/endpoints")["web"][0];
    assert_eq!((&found["weight"], &found["zone"]), (&3.into(), &"b".into()));
    assert_eq!(found["labels"], json!({"version": "v1", "tag-blue": ""}));
    let load = Load::start(proxy.outbound, 2, "web");
    register(&registry, "two", &b);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    registry.put("/v1/agent/service/maintenance/one?enable=true&reason=update", "");
    wait::until_true("one to drain", || {
        proxy.endpoints("web").iter().any(|(_, status)| status == "draining")
    });
    registry.put("/v1/agent/service/maintenance/one?enable=false", "");
    registry.put("/v1/agent/service/deregister/two", "");
    proxy.wait_for_endpoints("web", &[&a]);
    load.stop().assert_clean();
}

#[test]
fn a_workload_registers_itself_and_others_find_it() {
    let registry = Registry::start();
    let workload = Backend::named("workload");
    let entry = format!(
        ", register: {{service: web, address: '{}', id: one, ttl: 3s, check: {{kind: tcp, interval: 50ms}}}}",
        workload.address
    );
    let mut beside = Scene::new().registry(&consul(registry.http, &entry)).start();
    let other = Scene::new().registry(&consul(registry.http, "")).start();
    other.wait_for_endpoints("web", &[&workload]);
    wait::until_true("its check to pass", || registry.passing("web") == ["one"]);
    assert_eq!(other.get("web", "/").backend(), "workload");
    beside.signal(Signal::TERM);
    assert!(beside.wait(wait::WAIT_MAX).success());
    other.wait_for_endpoints("web", &[]);
}

#[test]
fn a_registry_that_is_killed_costs_no_request_and_is_followed_again() {
    let address = etcd::free();
    let registry = Home::new("{}").start_on(address);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    register(&registry, "one", &a);
    let proxy = Scene::new().registry(&consul(address, "")).start();
    let load = Load::start(proxy.outbound, 2, "web");
    load.wait_for(100);
    let home = registry.kill();
    proxy.wait_for_ready("the loss", |ready| ready["registry_valid"] == false && ready["ready"] == true);
    load.wait_for(500);
    let registry = home.start_on(address);
    proxy.wait_for_ready("the return", |ready| ready["registry_valid"] == true);
    register(&registry, "two", &b);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    load.stop().assert_clean();
}
