//! `check --request`: where a request would go, by the same look-up that workers make, and what the look-up costs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Place};
use crate::control::publish::{Pin, Pins, World};
use crate::head::{HeadLimits, Progress, RequestHead};
use crate::policy::epoch::thread_cpu_time;
use crate::snapshot::{Catalogue, RouteTarget, Snapshot};

/// A method and a URL, or a URL: `POST http://shop.mesh.internal/cart`. A registry over the network is not asked.
pub(super) fn trace(request: &str, config: &Config, catalogue: Option<&Catalogue>) -> Result<String, String> {
    let limits =
        HeadLimits { bytes_max: config.limits.head_bytes_max, fields_max: config.limits.headers_max };
    let head = head_of(request, limits)?;
    let config = Arc::new(config.clone());
    // Which component serves a policy has no part in routing.
    let names: BTreeSet<&str> = config.policy_uses().map(|used| used.policy.as_str()).collect();
    let pins: Pins = names.into_iter().map(|name| (name.into(), Pin::absent())).collect();
    let world = World::next(None, &config, catalogue.unwrap_or(&Catalogue::default()), &pins)
        .map_err(|e| e.to_string())?;
    let snapshot = &world.snapshot;
    let mut text = format!("{} {}{}\n", head.method(), head.authority(), head.path());
    let decided = routes(&mut text, snapshot, &head);
    if !decided {
        fallen_through(&mut text, snapshot, &head);
    }
    if catalogue.is_none() {
        text +=
            "  (the registry was not asked: services and endpoints are those that the configuration names)\n";
    }
    let _ = write!(text, "  a look-up takes {:.0} ns of CPU time", look_up_ns(snapshot, &head));
    Ok(text)
}

fn head_of(request: &str, limits: HeadLimits) -> Result<RequestHead, String> {
    if request.chars().any(char::is_control) {
        return Err("a request is one line".to_owned());
    }
    let (method, url) = request.trim().split_once(' ').unwrap_or(("GET", request.trim()));
    let rest = url.trim().strip_prefix("http://").ok_or("a request is a method and an http:// URL")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let mut head = RequestHead::default();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    match head.parse(text.as_bytes(), limits) {
        Ok(Progress::Complete(length)) if length == text.len() => Ok(head),
        Ok(_) => Err("no whole request".to_owned()),
        Err(bad) => Err(format!("no request: {bad:?}")),
    }
}

/// One line per route that fits, up to the one that decides. Answers whether one did.
fn routes(text: &mut String, snapshot: &Snapshot, head: &RequestHead) -> bool {
    let table = &snapshot.routes;
    let mut from = 0;
    while let Some(index) = table.find_from(head, from) {
        from = index + 1;
        let (Some(route), Some(written)) = (table.routes().get(index), snapshot.config.routes.get(index))
        else {
            return false;
        };
        let Place { line, column, .. } = written.place;
        let _ = write!(text, "  route `{}`, line {line}:{column}: ", route.name);
        match &route.target {
            RouteTarget::Pool(pool) => {
                let _ = writeln!(text, "{}", pool_line(snapshot, *pool));
                return true;
            }
            RouteTarget::Router(router) => {
                let names = router.backend_names.join("`, `");
                let policy = &router.policy.policy;
                let _ = writeln!(text, "policy `{policy}` chooses of `{names}`, or says `next`");
                for (name, pool) in router.backend_names.iter().zip(&router.backends) {
                    let _ = writeln!(text, "    `{name}`: {}", pool_line(snapshot, *pool));
                }
            }
        }
    }
    false
}

fn fallen_through(text: &mut String, snapshot: &Snapshot, head: &RequestHead) {
    match snapshot.service_of(head.authority()) {
        Some(pool) => {
            let _ = writeln!(text, "  by its authority: {}", pool_line(snapshot, pool));
        }
        None => {
            let _ = writeln!(text, "  no route and no service: 404, reason `no-service`");
        }
    }
}

fn pool_line(snapshot: &Snapshot, index: usize) -> String {
    snapshot.pools.get(index).map_or_else(String::new, |pool| {
        let ready = pool.endpoints.len();
        let endpoints = if ready == 1 { "endpoint" } else { "endpoints" };
        format!("service `{}`, {ready} {endpoints} ready, balancer `{}`", pool.name, pool.balancer.policy)
    })
}

/// Median over rounds.
fn look_up_ns(snapshot: &Snapshot, head: &RequestHead) -> f64 {
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| round(snapshot, head)).collect();
    rounds.sort_unstable();
    rounds[rounds.len() / 2].as_secs_f64() * 1e9 / f64::from(LOOK_UPS)
}

fn round(snapshot: &Snapshot, head: &RequestHead) -> Duration {
    let start = thread_cpu_time();
    for _ in 0..LOOK_UPS {
        let (snapshot, head) = std::hint::black_box((snapshot, head));
        let route = snapshot.routes.find_from(head, 0);
        std::hint::black_box(route.or_else(|| snapshot.service_of(head.authority())));
    }
    thread_cpu_time().saturating_sub(start)
}

const ROUNDS: usize = 15;
const LOOK_UPS: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::control::registry::file;

    const CONFIG: &str = "
registry: {file: services.yaml}
routes:
  - {name: admin, match: {hosts: [shop], path_prefix: /admin}, service: back}
  - name: try
    match: {hosts: [shop], methods: [GET]}
    router: {policy: canary, config: {percent: 5}}
    backends: {old: shop, new: back}
";

    fn traced(request: &str) -> Result<String, String> {
        let config = config::parse(CONFIG, "o.yaml", "".as_ref()).expect("good");
        let services = "services: {shop: {endpoints: ['10.0.0.1:80', '10.0.0.2:80']}, back: {endpoints: []}}";
        let catalogue = file::parse(services, "services.yaml").expect("good");
        trace(request, &config, Some(&catalogue))
    }

    #[test]
    fn says_which_route_takes_a_request() {
        let text = traced("POST http://shop.mesh.internal:8080/admin/x?y").expect("traced");
        assert!(text.starts_with("POST shop.mesh.internal:8080/admin/x?y\n"), "{text}");
        let text = traced("http://shop/admin").expect("traced");
        assert!(text.contains("route `admin`, line 4:"), "{text}");
        assert!(text.contains("service `back`, 0 endpoints ready, balancer `p2c`"), "{text}");
        let text = traced("GET http://shop").expect("traced");
        assert!(text.contains("policy `canary` chooses of `old`, `new`"), "{text}");
        assert!(text.contains("by its authority: service `shop`, 2 endpoints ready"), "{text}");
        let text = traced("http://elsewhere/").expect("traced");
        assert!(text.contains("404, reason `no-service`") && text.contains(" ns of CPU time"), "{text}");
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bad in [
            "",
            "shop/x",
            "GET shop",
            "GET http://",
            "G(T http://shop/",
            "GET http://shop/a b",
            "GET http://s\r\nx: y/",
        ] {
            assert!(traced(bad).is_err(), "{bad}");
        }
    }
}
