//! What peak EWMA promises, on the fake host.

use std::time::Duration;

use outrigger_policy_peak_ewma::PeakEwma;
use outrigger_sdk::balancer::Outcome;
use outrigger_sdk::testing::conformance::{self, Claims};
use outrigger_sdk::testing::{Harness, endpoint, endpoints};

const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(50);

#[test]
fn conforms() {
    let claims = Claims::none().weighted().load_aware().avoids_failures().retries_elsewhere();
    conformance::assert::<PeakEwma>("{}", &claims);
}

#[test]
fn the_faster_one_wins_until_it_is_loaded() {
    let mut harness = Harness::<PeakEwma>::new("{}");
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Success, FAST);
    harness.observe(1, Outcome::Success, SLOW);
    assert_eq!(harness.tally(100), [100, 0]);
    harness.set_in_flight(0, 20);
    assert_eq!(harness.tally(100), [0, 100]);
}

#[test]
fn a_peak_counts_at_once_and_fades_without_answers() {
    let mut harness = Harness::<PeakEwma>::new(r#"{"decay_ms": 1000}"#);
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Success, FAST);
    harness.observe(1, Outcome::Success, FAST);
    harness.observe(0, Outcome::Success, SLOW);
    assert_eq!(harness.tally(100), [0, 100]);
    harness.advance(Duration::from_secs(4));
    harness.observe(1, Outcome::Success, FAST);
    assert_eq!(harness.tally(100), [100, 0]);
}

#[test]
fn refusals_do_not_look_fast() {
    let mut harness = Harness::<PeakEwma>::new("{}");
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Refused, Duration::from_micros(80));
    harness.observe(1, Outcome::Success, SLOW);
    assert_eq!(harness.tally(100), [0, 100]);
}

#[test]
fn a_client_that_leaves_says_nothing() {
    let mut harness = Harness::<PeakEwma>::new("{}");
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Success, FAST);
    harness.observe(1, Outcome::Success, SLOW);
    harness.observe(1, Outcome::Cancelled, Duration::ZERO);
    assert_eq!(harness.tally(100), [100, 0]);
}

#[test]
fn a_new_endpoint_begins_with_the_mean() {
    let mut harness = Harness::<PeakEwma>::new("{}");
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Success, FAST);
    harness.observe(1, Outcome::Success, SLOW);
    let mut more = endpoints(2);
    more.insert(1, endpoint("10.9.9.9:80"));
    harness.update(more);
    let counts = harness.tally(3_000);
    assert!(counts[2] == 0 && counts[0] > 1_900 && (900..1_100).contains(&counts[1]), "{counts:?}");
}

#[test]
fn averages_outlive_a_swap() {
    let mut harness = Harness::<PeakEwma>::new("{}");
    harness.update(endpoints(2));
    harness.observe(0, Outcome::Success, SLOW);
    harness.observe(1, Outcome::Success, FAST);
    harness.swap().unwrap();
    assert_eq!(harness.tally(100), [0, 100]);
}
