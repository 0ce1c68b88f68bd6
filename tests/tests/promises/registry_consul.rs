//! A registry that speaks Consul's HTTP API. The server here is scripted: it knows the parts that a sidecar uses, and
//! how to misbehave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use outrigger_tests::backend::{Backend, Exchange, Next};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::shared::Shared;
use outrigger_tests::wait;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Shorter than what the sidecar asks for, as a server may.
const HOLD: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Default)]
struct State {
    index: u64,
    /// Instances by service.
    services: BTreeMap<String, Vec<Value>>,
    /// Bodies of registrations, by id.
    registered: BTreeMap<String, Value>,
    /// Bodies of check updates.
    updates: Vec<Value>,
    deregistered: Vec<String>,
}

struct Consul {
    server: Backend,
    state: Shared<State>,
    truncate: Arc<AtomicBool>,
    nonsense: Arc<AtomicBool>,
}

impl Consul {
    fn start() -> Self {
        let state = Shared::new(State { index: 10, ..State::default() });
        let (truncate, nonsense) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (own, cut, lie) = (state.clone(), Arc::clone(&truncate), Arc::clone(&nonsense));
        let server = Backend::scripted(move |exchange| {
            if exchange.head.method() == "PUT" {
                return put(exchange, &own);
            }
            let (index, mut body) = get(exchange, &own);
            if lie.load(SeqCst) {
                body = "<html>".to_owned();
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nx-consul-index: {index}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            if cut.load(SeqCst) {
                exchange.send(head + &body[..body.len() / 2]);
                return Next::Close;
            }
            exchange.send(head + &body)
        });
        Self { server, state, truncate, nonsense }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.with(|state| {
            state.index += 1;
            change(state);
        });
    }

    fn service(&self, name: &str, instances: Vec<Value>) {
        self.change(|state| drop(state.services.insert(name.to_owned(), instances)));
    }

    fn scene(&self, more: &str) -> Scene {
        Scene::new().registry(&format!(
            "{{consul: {{endpoints: 'http://{}', timeout: 1s}}{more}}}",
            self.server.address
        ))
    }
}

fn target(exchange: &Exchange<'_>) -> (String, String) {
    let target = exchange.head.first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path.to_owned(), query.to_owned())
}

/// Holds the answer back until something is new.
fn get(exchange: &Exchange<'_>, state: &Shared<State>) -> (u64, String) {
    let (path, query) = target(exchange);
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("index=")?.parse::<u64>().ok());
    let asked = asked.unwrap_or_default();
    wait::at_most(HOLD, || state.with(|s| (asked == 0 || s.index != asked).then_some(())));
    state.with(|s| {
        let body = match path.strip_prefix("/v1/health/service/") {
            Some(name) => json!(s.services.get(name).cloned().unwrap_or_default()),
            None => s
                .services
                .keys()
                .map(|name| (name.clone(), json!([])))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        };
        (s.index, body.to_string())
    })
}

fn put(exchange: &mut Exchange<'_>, state: &Shared<State>) -> Next {
    let (path, _) = target(exchange);
    let body = exchange.body().unwrap_or_default().text();
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let status = state.with(|state| {
        let id = path.rsplit('/').next().unwrap_or_default().trim_start_matches("service:").to_owned();
        match path.as_str() {
            "/v1/agent/service/register" => {
                state.registered.insert(body["ID"].as_str().unwrap_or_default().to_owned(), body);
            }
            _ if path.starts_with("/v1/agent/check/update/") => {
                if !state.registered.contains_key(&id) {
                    return 404;
                }
                state.updates.push(body);
            }
            _ if path.starts_with("/v1/agent/service/deregister/") => {
                state.registered.remove(&id);
                state.deregistered.push(id);
            }
            _ => {}
        }
        200
    });
    exchange.status(status, "consul")
}

fn instance(backend: &Backend, check: &str) -> Value {
    json!({
        "Node": { "Node": "n", "Address": backend.address.ip() },
        "Service": { "ID": backend.address.to_string(), "Service": "web", "Address": "", "Tags": null,
            "Port": backend.address.port(), "Meta": { "zone": "b" }, "ModifyIndex": 1 },
        "Checks": [{ "CheckID": "c", "Status": check, "Output": "" }],
    })
}

#[test]
fn services_are_followed_by_blocking_queries() {
    let consul = Consul::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    consul.service("web", vec![instance(&a, "passing")]);
    let proxy = consul.scene("").start();
    assert_eq!(proxy.get("web", "/").backend(), "a");
    let load = Load::start(proxy.outbound, 2, "web");
    consul.service("web", vec![instance(&a, "passing"), instance(&b, "warning"), json!({ "Service": 7 })]);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    proxy.wait_for_metric("outrigger_registry_bad_entries_total", &[], 1.0);
    consul.service("web", vec![instance(&a, "passing"), instance(&b, "critical")]);
    wait::until_true("b to be down", || proxy.endpoints("web").iter().any(|(_, status)| status == "down"));
    consul.service("api", vec![instance(&b, "passing")]);
    proxy.wait_for_endpoints("api", &[&b]);
    load.stop().assert_clean();
}

/// Restored from a backup, the server counts from a lower index: it is asked anew, and what it says is believed.
#[test]
fn an_index_that_goes_back_is_forgotten() {
    let consul = Consul::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    consul.service("web", vec![instance(&a, "passing")]);
    let proxy = consul.scene(", services: [web]").start();
    let load = Load::start(proxy.outbound, 2, "web");
    consul.state.with(|state| {
        state.index = 3;
        state.services.insert("web".into(), vec![instance(&a, "passing"), instance(&b, "passing")]);
    });
    proxy.wait_for_endpoints("web", &[&a, &b]);
    proxy.wait_for_metric("outrigger_registry_resyncs_total", &[("reason", "gone-back")], 1.0);
    consul.service("web", vec![instance(&b, "passing"), instance(&a, "critical")]);
    wait::until_true("a to be down", || proxy.endpoints("web").iter().any(|(_, status)| status == "down"));
    load.stop().assert_clean();
}

#[test]
fn truncated_and_malformed_answers_change_nothing() {
    let consul = Consul::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    consul.service("web", vec![instance(&a, "passing")]);
    let proxy = consul.scene("").start();
    let load = Load::start(proxy.outbound, 2, "web");
    for fault in [&consul.truncate, &consul.nonsense] {
        fault.store(true, SeqCst);
        consul.service("web", vec![]);
        let ready = proxy.wait_for_ready("the fault", |ready| ready["registry_valid"] == false);
        assert_eq!(ready["ready"], true);
        load.wait_for(100);
        consul.service("web", vec![instance(&a, "passing"), instance(&b, "passing")]);
        fault.store(false, SeqCst);
        proxy.wait_for_endpoints("web", &[&a, &b]);
        proxy.wait_for_ready("the cure", |ready| ready["registry_valid"] == true);
    }
    load.stop().assert_clean();
}

#[test]
fn the_workload_registers_itself_with_consul() {
    let consul = Consul::start();
    let workload = Backend::named("workload");
    let register = format!(
        ", register: {{service: web, address: '{}', id: one, weight: 2, ttl: 3s, version: v1, check: {{kind: tcp, interval: 50ms}}}}",
        workload.address
    );
    let mut proxy = consul.scene(&register).start();
    let entry = wait::until("the entry", || consul.state.with(|state| state.registered.get("one").cloned()));
    assert_eq!((&entry["Weights"]["Passing"], &entry["Meta"]["version"]), (&2.into(), &"v1".into()));
    assert_eq!(entry["Check"]["TTL"], "3s");
    let passing =
        |state: &mut State| state.updates.last().is_some_and(|update| update["Status"] == "passing");
    wait::until_true("the check to pass", || consul.state.with(passing));
    // The agent has forgotten it.
    consul.state.with(|state| state.registered.clear());
    wait::until_true("it to be there again", || consul.state.with(|s| s.registered.contains_key("one")));
    proxy.signal(Signal::TERM);
    assert!(proxy.wait(wait::WAIT_MAX).success());
    assert_eq!(consul.state.with(|state| state.deregistered.clone()), ["one"]);
}
