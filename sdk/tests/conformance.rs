//! The kit finds what it says it finds: one broken policy for each check.

use outrigger_sdk::balancer::*;
use outrigger_sdk::testing::conformance::{
    Claims, Native, NativeRouter, Report, check_balancer, check_router,
};
use outrigger_sdk::{hash, router};

/// Balancers that differ in one function.
macro_rules! balancer {
    ($name:ident, |$count:ident, $ctx:ident, $calls:ident| $pick:expr) => {
        struct $name {
            count: u32,
            calls: u32,
        }
        impl Balancer for $name {
            type Config = NoConfig;
            fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
                Ok(Self { count: 0, calls: 0 })
            }
            fn interests(&self) -> Interests {
                Interests::OUTCOMES
            }
            fn update(&mut self, endpoints: Vec<Endpoint>) {
                self.count = endpoints.len() as u32;
            }
            fn pick(&mut self, $ctx: &Context) -> Choice {
                self.calls += 1;
                let ($count, $calls) = (self.count, self.calls);
                $pick
            }
        }
    };
}

balancer!(Uniform, |count, ctx, _calls| choose::index(ctx.random, count).into());
balancer!(OnePastTheEnd, |count, ctx, _calls| Choice::Endpoint(ctx.random as u32 % (count + 1)));
balancer!(DividesByZero, |count, ctx, _calls| Choice::Endpoint(ctx.random as u32 % count));
balancer!(Modulo, |count, ctx, _calls| choose::index(hash::mix(ctx.hash), count).into());
balancer!(Gives404, |_count, _ctx, _calls| Choice::None);
balancer!(AsksForTooMuch, |count, _ctx, _calls| Choice::Endpoint(stats::load(count).in_flight));

fn failed<B: Balancer>(claims: &Claims) -> Vec<&'static str> {
    let report = check_balancer(&mut Native::<B>::new(), "{}", claims);
    names(&report)
}

fn names(report: &Report) -> Vec<&'static str> {
    report.failures().map(|(name, _)| name).collect()
}

#[test]
fn a_sound_policy_passes_and_claims_are_checked() {
    assert!(failed::<Uniform>(&Claims::none()).is_empty());
    let all = Claims::none().weighted().hashed(0.05).load_aware().avoids_failures().retries_elsewhere();
    let names = failed::<Uniform>(&all);
    assert_eq!(
        names,
        [
            "respects weights",
            "sends a hash to one place",
            "moves few keys",
            "avoids a loaded endpoint",
            "avoids an endpoint that fails fast",
            "retries elsewhere"
        ]
    );
}

#[test]
fn unsound_policies_fail() {
    assert!(failed::<OnePastTheEnd>(&Claims::none()).contains(&"stays inside the list of any size"));
    assert!(failed::<DividesByZero>(&Claims::none()).contains(&"answers none or fallback without endpoints"));
    assert!(failed::<Gives404>(&Claims::none()).contains(&"stays inside the list of any size"));
    assert!(
        failed::<AsksForTooMuch>(&Claims::none()).contains(&"answers none or fallback without endpoints")
    );
}

#[test]
fn hashing_modulo_the_count_moves_too_many_keys() {
    assert!(failed::<Modulo>(&Claims::none().hashed(0.05)).contains(&"moves few keys"));
}

#[test]
fn a_refused_configuration_ends_the_run() {
    let report = check_balancer(&mut Native::<Uniform>::new(), r#"{"a": 1}"#, &Claims::none());
    assert_eq!(names(&report), ["accepts its configuration"]);
    assert_eq!(report.checks.len(), 1);
}

struct Elsewhere;

impl router::Router for Elsewhere {
    type Config = NoConfig;
    fn new(_: NoConfig, _: &Setup, _: &[String]) -> Result<Self, String> {
        Ok(Self)
    }
    fn route(&mut self, head: &router::Head, _: &router::Context) -> router::Decision {
        router::Decision::Backend(u32::from(head.path.len() > 100))
    }
}

#[test]
fn a_backend_that_is_not_granted_is_found() {
    let mut subject = NativeRouter::<Elsewhere>::new();
    assert_eq!(names(&check_router(&mut subject, "{}", &["a"])), ["answers odd requests legally"]);
    assert!(check_router(&mut subject, "{}", &["a", "b"]).passed());
}
