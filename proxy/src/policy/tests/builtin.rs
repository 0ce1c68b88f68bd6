//! First-party policies through the same doors as anybody's.

use super::guest::{endpoints, engine, metrics};
use crate::head::{HeadLimits, RequestFacts, RequestHead};
use crate::policy::{Choice, Decision, PickContext, RouteContext, RouterInstance, Setup, builtin};

fn setup(config: &str) -> Setup<'_> {
    Setup { config, own_service: "", own_zone: "", target: "web", metrics: metrics() }
}

fn request(text: &str) -> Box<RequestFacts> {
    let mut head = RequestHead::default();
    head.parse(text.as_bytes(), HeadLimits { bytes_max: 4096, fields_max: 16 }).expect("a good head");
    Box::new(RequestFacts { head, ..RequestFacts::default() })
}

fn route(router: &mut RouterInstance, text: &str) -> Decision {
    let (back, decision) = router.route(request(text), RouteContext::default());
    assert_eq!(back.head.authority(), "web", "the request comes back");
    decision.expect("decides")
}

#[test]
fn the_canary_asks_for_headers() {
    let bytes = builtin::bytes("canary").expect("built in");
    let compiled = engine().load(bytes).expect("loads");
    let backends = ["stable".to_owned(), "canary".to_owned()];
    let setup = setup(r#"{"header": "x-canary"}"#);
    let mut router = compiled.router(&setup, &backends, None).expect("starts");
    assert_eq!(route(&mut router, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"), Decision::Backend(0));
    let marked = "GET / HTTP/1.1\r\nHost: web\r\nX-Canary: always\r\n\r\n";
    assert_eq!(route(&mut router, marked), Decision::Backend(1));
    let refusal = compiled.router(&setup, &backends[..1], None).expect_err("refused");
    assert!(refusal.to_string().contains("canary"), "{refusal}");
}

#[test]
fn p2c_reads_live_loads() {
    let bytes = builtin::bytes("p2c").expect("built in");
    let compiled = engine().load(bytes).expect("loads");
    let list = endpoints(2);
    let mut balancer = compiled.balancer(&setup("{}"), std::sync::Arc::clone(&list), None).expect("starts");
    for (busy, free) in [(0, 1), (1, 0)] {
        list[busy].state.in_flight.store(9, std::sync::atomic::Ordering::Relaxed);
        list[free].state.in_flight.store(1, std::sync::atomic::Ordering::Relaxed);
        for random in 0..50_u64 {
            let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let ctx = PickContext { random, ..PickContext::default() };
            let (_, choice) = balancer.pick(request("GET / HTTP/1.1\r\nHost: web\r\n\r\n"), ctx);
            assert_eq!(choice, Ok(Choice::Endpoint(free as u32)));
        }
    }
}
