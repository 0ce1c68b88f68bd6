use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

fn filled() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.requests.with_label_values(&["outbound", "web", "-", "2xx", "success"]).inc();
    metrics.request_duration.with_label_values(&["outbound", "web"]).observe(0.003);
    metrics.first_byte.with_label_values(&["web"]).observe(0.002);
    metrics.upstream_connects.with_label_values(&["web"]).inc();
    metrics.upstream_connects.with_label_values(&["api"]).inc();
    metrics.policy_calls.with_label_values(&["p2c", "pick"]).inc();
    metrics.policy_duration.with_label_values(&["p2c", "pick"]).observe(2e-7);
    metrics.policy_value.with_label_values(&["p2c", "seen"]).set(-4);
    metrics.endpoints.with_label_values(&["web", "ready"]).set(3);
    metrics
}

#[test]
fn exports_what_was_counted_and_the_process() {
    let text = filled().encode(std::iter::empty()).unwrap();
    for line in [
        "outrigger_requests_total{code_class=\"2xx\",direction=\"outbound\",outcome=\"success\",route=\"-\",service=\"web\"} 1",
        "outrigger_policy_value{name=\"seen\",policy=\"p2c\"} -4",
        "outrigger_first_byte_seconds_bucket{service=\"web\",le=\"0.0025\"} 1",
        "outrigger_config_valid 0",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(text.contains(line), "{line} is missing from\n{text}");
    }
    let resident = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes ")).unwrap();
    assert!(resident.parse::<f64>().unwrap() > 100_000.0, "{resident}");
}

#[test]
fn local_handles_count_when_flushed() {
    let metrics = filled();
    let local = metrics.upstream_retries.with_label_values(&["web"]).local();
    local.inc_by(5);
    assert_eq!(metrics.upstream_retries.with_label_values(&["web"]).get(), 0);
    local.flush();
    assert_eq!(metrics.upstream_retries.with_label_values(&["web"]).get(), 5);
}

#[test]
fn a_forgotten_service_leaves_the_others() {
    let metrics = filled();
    metrics.forget_services(&HashSet::from(["web".into()]));
    let text = metrics.encode(std::iter::empty()).unwrap();
    assert!(!text.contains("service=\"web\""), "{text}");
    assert!(text.contains("outrigger_upstream_connects_total{service=\"api\"} 1"));
    assert!(text.contains("policy=\"p2c\""));
    metrics.forget_policy("p2c");
    assert!(!metrics.encode(std::iter::empty()).unwrap().contains("policy=\"p2c\""));
}

#[test]
fn the_table_is_well_formed() {
    for family in FAMILIES {
        assert!(family.help.ends_with('.'), "{}", family.name);
        assert!(family.name.starts_with("outrigger_"), "{}", family.name);
        assert!(family.buckets.is_sorted(), "{}", family.name);
    }
}

/// Skipped where promtool is not installed.
#[test]
fn promtool_finds_nothing_to_say() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return };
    child.stdin.take().unwrap().write_all(filled().encode(std::iter::empty()).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
