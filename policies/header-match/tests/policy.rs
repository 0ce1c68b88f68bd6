//! What the rules promise, on the fake host.

use outrigger_policy_header_match::HeaderMatch;
use outrigger_sdk::router::{Decision, Redirect};
use outrigger_sdk::testing::conformance::assert_router;
use outrigger_sdk::testing::{RouterHarness, get};

const BACKENDS: [&str; 2] = ["web", "beta"];
const WEB: Decision = Decision::Backend(0);
const BETA: Decision = Decision::Backend(1);

fn harness(rules: &str) -> RouterHarness<HeaderMatch> {
    RouterHarness::new(&format!(r#"{{"rules": [{rules}]}}"#), &BACKENDS)
}

#[test]
fn conforms() {
    assert_router::<HeaderMatch>(r#"{"rules": []}"#, &BACKENDS);
    let config = r#"{"rules": [
        {"headers": [{"name": "x-user", "present": true}], "backend": "beta"},
        {"path_prefix": "/api", "redirect": {"status": 308, "location": "/v2"}},
        {"method": "POST", "reply": {"status": 405, "body": "read only"}}
    ]}"#;
    assert_router::<HeaderMatch>(config, &BACKENDS);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let mut harness = harness(
        r#"{"headers": [{"name": "x-tag", "exact": "beta"}], "method": "GET", "backend": "beta"},
           {"path_prefix": "/", "backend": "web"}"#,
    );
    let tagged = get("/").with_header("X-Tag", "beta");
    assert_eq!(harness.route(&tagged), BETA);
    assert_eq!(harness.route(&tagged.with_method("POST")), WEB);
    assert_eq!(harness.route(&get("/")), WEB);
}

#[test]
fn nothing_matches_means_the_next_route() {
    assert_eq!(harness(r#"{"method": "PUT", "backend": "web"}"#).route(&get("/")), Decision::Next);
}

#[test]
fn every_test_of_a_header() {
    let cases = [
        (r#""exact": "abc""#, [true, false, false]),
        (r#""prefix": "ab""#, [true, true, false]),
        (r#""suffix": "bd""#, [false, true, false]),
        (r#""contains": "b""#, [true, true, false]),
        (r#""present": true"#, [true, true, false]),
        (r#""present": false"#, [false, false, true]),
        (r#""exact": "abc", "invert": true"#, [false, true, true]),
        (r#""present": false, "invert": true"#, [true, true, false]),
    ];
    for (test, expected) in cases {
        let mut harness =
            harness(&format!(r#"{{"headers": [{{"name": "x-a", {test}}}], "backend": "web"}}"#));
        let requests = [get("/").with_header("x-a", "abc"), get("/").with_header("x-a", "abd"), get("/")];
        let matched = requests.map(|request| harness.route(&request) == WEB);
        assert_eq!(matched, expected, "{test}");
    }
}

#[test]
fn a_path_prefix_matches_whole_segments() {
    for prefix in ["/api", "/api/"] {
        let mut harness = harness(&format!(r#"{{"path_prefix": "{prefix}", "backend": "web"}}"#));
        let matched =
            ["/api", "/api/", "/api/7", "/api?x", "/apis", "/"].map(|path| harness.route(&get(path)) == WEB);
        assert_eq!(matched, [true, true, true, true, false, false], "{prefix}");
    }
}

#[test]
fn answers_without_a_backend() {
    let mut harness = harness(
        r#"{"path_prefix": "/old", "redirect": {"status": 301, "location": "/new"}},
           {"reply": {"status": 404, "body": "nothing here"}}"#,
    );
    let moved = Decision::Redirect(Redirect { status: 301, location: "/new".into() });
    assert_eq!(harness.route(&get("/old/page")), moved);
    let Decision::Reply(reply) = harness.route(&get("/")) else { panic!("no reply") };
    assert_eq!((reply.status, reply.body.as_str()), (404, "nothing here"));
}

#[test]
fn mistakes_are_refused_by_name() {
    let error = |rule: &str| {
        let config = format!(r#"{{"rules": [{{"backend": "web"}}, {rule}]}}"#);
        RouterHarness::<HeaderMatch>::try_new(&config, &BACKENDS).err().unwrap()
    };
    let one_of = "rules[1]: expected one of `backend`, `redirect` and `reply`";
    assert_eq!(error("{}"), one_of);
    assert_eq!(error(r#"{"backend": "web", "reply": {"status": 200}}"#), one_of);
    assert!(error(r#"{"backend": "old"}"#).starts_with("rules[1].backend: no backend named `old`"));
    assert!(error(r#"{"backend": "web", "path_prefix": "api"}"#).starts_with("rules[1].path_prefix: "));
    assert!(
        error(r#"{"redirect": {"status": 200, "location": "/"}}"#).starts_with("rules[1].redirect.status: ")
    );
    assert!(error(r#"{"headers": [{"name": "a"}], "backend": "web"}"#).starts_with("rules[1].headers[0]: "));
    assert!(error(r#"{"reply": {"status": "x"}}"#).starts_with("rules[1].reply.status: invalid type"));
}
