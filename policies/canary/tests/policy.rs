//! What the canary promises, on the fake host.

use outrigger_policy_canary::Canary;
use outrigger_sdk::router::Decision;
use outrigger_sdk::testing::conformance::assert_router;
use outrigger_sdk::testing::{RouterHarness, get};

const BACKENDS: [&str; 2] = ["stable", "canary"];
const STABLE: Decision = Decision::Backend(0);
const CANARY: Decision = Decision::Backend(1);

#[test]
fn conforms() {
    assert_router::<Canary>("{}", &BACKENDS);
    assert_router::<Canary>(
        r#"{"percent": 50, "header": "x-canary", "cookie": "canary", "sticky": true}"#,
        &BACKENDS,
    );
}

#[test]
fn the_share_is_met_and_the_same_user_stays() {
    let mut tenth = RouterHarness::<Canary>::new(r#"{"percent": 10}"#, &BACKENDS);
    let mut third = RouterHarness::<Canary>::new(r#"{"percent": 33.3}"#, &BACKENDS);
    let mut counts = [0, 0];
    for user in 0..10_000 {
        let first = tenth.route_hash(&get("/"), user);
        assert_eq!(first, tenth.route_hash(&get("/"), user));
        let second = third.route_hash(&get("/"), user);
        counts[0] += u32::from(first == CANARY);
        counts[1] += u32::from(second == CANARY);
        assert!(first == STABLE || second == CANARY, "a growing share takes nobody off the canary");
    }
    assert!((900..1_100).contains(&counts[0]) && (3_150..3_510).contains(&counts[1]), "{counts:?}");
}

#[test]
fn marks_decide_and_the_header_comes_first() {
    let mut harness =
        RouterHarness::<Canary>::new(r#"{"header": "x-canary", "cookie": "canary"}"#, &BACKENDS);
    let marked = |value| get("/").with_header("X-Canary", value);
    assert_eq!(harness.route(&marked("always")), CANARY);
    assert_eq!(harness.route(&marked("perhaps")), STABLE);
    assert_eq!(harness.route(&get("/").with_cookie("canary", "always")), CANARY);
    assert_eq!(harness.route(&marked("never").with_cookie("canary", "always")), STABLE);
}

#[test]
fn a_draw_sticks_by_cookie() {
    let config = r#"{"percent": 50, "cookie": "lane", "sticky": true, "sticky_max_age_s": 60}"#;
    let mut harness = RouterHarness::<Canary>::new(config, &BACKENDS);
    let Decision::Forward(forward) = harness.route(&get("/")) else { panic!("no cookie is set") };
    let line = &forward.set_response_headers[0].value;
    let value = line.strip_prefix("lane=").unwrap().split(';').next().unwrap();
    assert!(line.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"), "{line}");
    let again = get("/").with_cookie("lane", value);
    assert_eq!(harness.route(&again), Decision::Backend(forward.backend));
}

#[test]
fn mistakes_are_refused_by_name() {
    let error = |config| RouterHarness::<Canary>::try_new(config, &BACKENDS).err().unwrap();
    assert!(error(r#"{"percent": 101}"#).starts_with("percent: "));
    assert!(error(r#"{"percent": "5"}"#).starts_with("percent: "));
    assert!(error(r#"{"sticky": true}"#).starts_with("sticky: "));
    assert!(error(r#"{"cookie": "a b"}"#).starts_with("cookie: "));
    assert_eq!(
        error(r#"{"canary": "next"}"#),
        "canary: no backend named `next` is granted to this policy; granted are `stable`, `canary`"
    );
}
