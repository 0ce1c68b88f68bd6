//! What the shadow promises, on the fake host.

use outrigger_policy_shadow::Shadow;
use outrigger_sdk::router::{Decision, Forward, Retry};
use outrigger_sdk::testing::conformance::assert_router;
use outrigger_sdk::testing::{Request, RouterHarness, get};

const BACKENDS: [&str; 2] = ["main", "shadow"];

fn harness(config: &str) -> RouterHarness<Shadow> {
    RouterHarness::new(config, &BACKENDS)
}

fn forward(harness: &mut RouterHarness<Shadow>, request: &Request) -> Forward {
    match harness.route(request) {
        Decision::Forward(forward) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn conforms() {
    assert_router::<Shadow>("{}", &BACKENDS);
    assert_router::<Shadow>(
        r#"{"percent": 50, "strip_prefix": "/api", "authority": "web.internal", "user_header": "x-user",
            "remove_headers": ["cookie"], "timeout_ms": 500, "retry": "safe"}"#,
        &BACKENDS,
    );
}

#[test]
fn the_share_is_met_and_counted() {
    let mut harness = harness(r#"{"percent": 10}"#);
    let copied = (0..10_000).filter(|_| forward(&mut harness, &get("/")).mirror.is_some()).count();
    assert!((900..1_100).contains(&copied), "{copied}");
    assert_eq!(harness.counter("shadowed"), copied as i64);
}

#[test]
fn a_user_is_copied_always_or_never() {
    let mut harness = harness(r#"{"percent": 30, "user_header": "x-user"}"#);
    let mut copied = 0;
    for user in 0..1_000 {
        let request = get("/").with_header("X-User", &user.to_string());
        let first = forward(&mut harness, &request);
        assert_eq!(first, forward(&mut harness, &request));
        assert_eq!(first.hash_key, Some(user.to_string()));
        copied += u32::from(first.mirror.is_some());
    }
    assert!((230..370).contains(&copied), "{copied}");
}

#[test]
fn the_mark_cannot_be_forged() {
    let mut all = harness(r#"{"percent": 100}"#);
    let chosen = forward(&mut all, &get("/"));
    assert_eq!((chosen.backend, chosen.mirror), (0, Some(1)));
    assert_eq!((&*chosen.set_headers[0].name, &*chosen.set_headers[0].value), ("x-shadowed", "1"));
    assert_eq!(chosen.set_headers, chosen.set_response_headers);
    let mut none = harness(r#"{"percent": 0}"#);
    let left = forward(&mut none, &get("/").with_header("x-shadowed", "1"));
    assert_eq!((left.mirror, left.set_headers.len()), (None, 0));
    assert_eq!(left.remove_headers, ["x-shadowed"]);
}

#[test]
fn the_prefix_is_stripped_in_whole_segments() {
    for prefix in ["/api", "/api/"] {
        let mut harness = harness(&format!(r#"{{"strip_prefix": "{prefix}"}}"#));
        let mut path = |path: &str| forward(&mut harness, &get(path)).path;
        assert_eq!(path("/api/items?page=2").as_deref(), Some("/items?page=2"));
        assert_eq!(path("/api").as_deref(), Some("/"));
        assert_eq!(path("/api?x").as_deref(), Some("/?x"));
        assert_eq!(path("/api//x").as_deref(), Some("//x"));
        assert_eq!([path("/apis"), path("/v1/api/"), path("*")], [None, None, None]);
    }
}

#[test]
fn the_rest_is_as_configured() {
    let mut plain = harness("{}");
    let unchanged = forward(&mut plain, &get("/"));
    assert_eq!((unchanged.timeout, unchanged.retry), (None, Retry::Configured));
    let mut set = harness(
        r#"{"timeout_ms": 250, "retry": "never", "authority": "web:81", "remove_headers": ["cookie"]}"#,
    );
    let changed = forward(&mut set, &get("/"));
    assert_eq!((changed.timeout, changed.retry), (Some(250_000_000), Retry::Never));
    assert_eq!(changed.authority.as_deref(), Some("web:81"));
    assert_eq!(changed.remove_headers, ["cookie", "x-shadowed"]);
}

#[test]
fn mistakes_are_refused_by_name() {
    let error = |config| RouterHarness::<Shadow>::try_new(config, &BACKENDS).err().unwrap();
    assert!(error(r#"{"percent": -1}"#).starts_with("percent: "));
    assert!(error(r#"{"strip_prefix": "api"}"#).starts_with("strip_prefix: "));
    assert!(error(r#"{"timeout_ms": 0}"#).starts_with("timeout_ms: "));
    assert!(error(r#"{"retry": "always"}"#).starts_with("retry: "), "{}", error(r#"{"retry": "always"}"#));
    assert!(error(r#"{"shadow": "next"}"#).starts_with("shadow: no backend named `next`"));
}
