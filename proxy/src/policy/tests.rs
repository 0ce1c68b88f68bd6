//! What hostile, broken and innocent guests may and may not do.

mod builtin;
mod child;
mod direct;
pub(super) mod guest;

use std::sync::Arc;
use std::time::Duration;

use guest::{
    Balancer, CONFIGURATION_REFUSED, CONFIGURED_WITH_STATE, LOOP, PICK_SEVENTH, endpoints, engine, host,
    metrics, setup,
};

use super::compiler::embed_world;
use super::{BalancerInstance, Choice, Engine, Failure, FailureKind, PickContext, Refusal};
use crate::config::PolicyHost;

const PATIENCE: Duration = Duration::from_secs(5);

fn pick(instance: &mut BalancerInstance) -> Result<Choice, Failure> {
    instance.pick(Box::default(), PickContext::default()).1
}

/// The same, in kind, whether it is called directly or through the component.
fn failure_of(guest: &Balancer) -> Failure {
    failure_under(guest, &host())
}

fn failure_under(guest: &Balancer, host: &PolicyHost) -> Failure {
    let [failure, other] = [true, false].map(|direct_calls| {
        let engine = Engine::new(&PolicyHost { direct_calls, ..host.clone() }).expect("engine");
        let compiled = guest.load(&engine).expect("loads");
        let mut instance = compiled.balancer(&setup(&metrics()), endpoints(3), None).expect("starts");
        assert_eq!(compiled.is_direct(), direct_calls);
        pick(&mut instance).expect_err("fails")
    });
    assert_eq!(failure.kind, other.kind, "{failure}, but through the component: {other}");
    failure
}

fn refusal_of(bytes: &[u8]) -> Refusal {
    engine().load(bytes).expect_err("refused")
}

#[test]
fn an_honest_guest_picks() {
    let mut instance = Balancer::default().start(3).expect("starts");
    assert_eq!(pick(&mut instance), Ok(Choice::Endpoint(0)));
    assert_eq!(instance.endpoints().len(), 3);
    assert_eq!(instance.memory_bytes(), 64 << 10);
    instance.tick(1).expect("tick");
}

#[test]
fn a_described_module_is_as_good_as_a_component() {
    let module = Balancer { state: true, ..Balancer::default() }.module();
    let compiled = engine().load(&module).expect("loads");
    assert!(compiled.roles().balancer && !compiled.roles().router);
}

#[test]
fn files_that_are_no_policies_are_refused() {
    assert_eq!(refusal_of(b"#!/bin/sh"), Refusal::NotWasm);
    assert_eq!(refusal_of(b""), Refusal::NotWasm);
    let component = Balancer::default().component();
    for end in [8, 9, 100, component.len() / 2, component.len() - 1] {
        let refusal = refusal_of(&component[..end]);
        let fits = matches!(refusal, Refusal::Malformed { .. } | Refusal::WrongWorld { .. });
        assert!(fits, "{end}: {refusal}");
    }
    let plain = wat::parse_str("(module)").expect("text");
    assert_eq!(refusal_of(&plain), Refusal::NoWorld);
    let empty = wat::parse_str("(component)").expect("text");
    assert_eq!(refusal_of(&empty), Refusal::WrongWorld { exports: Vec::new() });
    let host = PolicyHost { component_bytes_max: 100, ..host() };
    let refusal = Engine::new(&host).expect("engine").load(&component).expect_err("refused");
    assert_eq!(refusal, Refusal::TooLarge { bytes: component.len(), max: 100 });
}

#[test]
fn foreign_imports_are_named_with_a_remedy() {
    let wasi = r#"(component (import "wasi:io/poll@0.2.6" (instance)))"#;
    let Refusal::ForeignImport { name, remedy } = refusal_of(&wat::parse_str(wasi).expect("text")) else {
        panic!("another refusal")
    };
    assert_eq!(name, "wasi:io/poll@0.2.6");
    assert!(remedy.contains("--stub-wasi"), "{remedy}");
    let other_version = r#"(component (import "outrigger:policy/env@0.2.0" (instance)))"#;
    let refusal = refusal_of(&wat::parse_str(other_version).expect("text"));
    assert!(refusal.to_string().contains("another version"), "{refusal}");
    let module =
        wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#).expect("text");
    let described = embed_world(&module, "load-balancer").expect("world");
    assert!(matches!(refusal_of(&described), Refusal::ForeignImport { .. }));
}

#[test]
fn exports_of_other_types_do_not_fit() {
    let text = r#"(component (instance $i) (export "outrigger:policy/balancer@0.1.0" (instance $i)))"#;
    let refusal = refusal_of(&wat::parse_str(text).expect("text"));
    assert!(matches!(refusal, Refusal::Mismatch { .. }), "{refusal}");
}

#[test]
fn a_balancer_is_no_router() {
    let compiled = Balancer::default().load(&engine()).expect("loads");
    let refusal = compiled.router(&setup(&metrics()), &[], None).expect_err("refused");
    assert_eq!(refusal, Refusal::WrongRole { wanted: "router", is: "balancer" });
}

#[test]
fn the_guests_words_refuse_a_configuration() {
    let guest = Balancer { configure: CONFIGURATION_REFUSED, ..Balancer::default() };
    assert_eq!(guest.start(1).expect_err("refused"), Refusal::Configuration { message: "no!".to_owned() });
}

#[test]
fn traps_fail_the_call_and_finish_the_instance() {
    let guest = Balancer { pick: "unreachable", ..Balancer::default() };
    let mut instance = guest.start(1).expect("starts");
    let failure = pick(&mut instance).expect_err("fails");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.starts_with("pick: ") && failure.message.contains("unreachable"), "{failure}");
    assert_eq!(pick(&mut instance).map_err(|f| f.kind), Err(FailureKind::Trap));
    let guest = Balancer { update: "unreachable", ..Balancer::default() };
    let Err(Refusal::FailedToStart { failure }) = guest.start(1) else { panic!("starts") };
    assert!(failure.message.starts_with("update: "), "{failure}");
}

#[test]
fn endless_loops_are_cut_off() {
    let failure = failure_of(&Balancer { pick: LOOP, ..Balancer::default() });
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert!(failure.message.contains("2ms"), "{failure}");
    let guest = Balancer { configure: LOOP, ..Balancer::default() };
    let Err(Refusal::FailedToStart { failure }) = guest.start(1) else { panic!("starts") };
    assert_eq!((failure.kind, failure.message.contains("50ms")), (FailureKind::Deadline, true), "{failure}");
}

/// The thread parks between calls and wakes for the next: a deadline must hold after any pause.
#[test]
fn deadlines_hold_after_the_epoch_thread_has_parked() {
    let engine = engine();
    let compiled = Balancer { pick: LOOP, ..Balancer::default() }.load(&engine).expect("loads");
    for _ in 0..3 {
        let mut instance = compiled.balancer(&setup(&metrics()), endpoints(1), None).expect("starts");
        while !engine.pulse().is_parked() {
            std::thread::yield_now();
        }
        assert_eq!(pick(&mut instance).map_err(|f| f.kind), Err(FailureKind::Deadline));
    }
}

#[test]
fn memory_is_bounded() {
    let bomb = "(loop (drop (memory.grow (i32.const 16))) (br 0)) unreachable";
    assert_eq!(failure_of(&Balancer { pick: bomb, ..Balancer::default() }).kind, FailureKind::Memory);
    let Err(Refusal::FailedToStart { failure }) =
        Balancer { memory_pages: 257, ..Balancer::default() }.start(1)
    else {
        panic!("starts")
    };
    assert_eq!(failure.kind, FailureKind::Memory, "{failure}");
}

#[test]
fn stack_overflows_are_traps() {
    let imports = "(func $deep (param i32) (result i32) (call $deep (i32.add (local.get 0) (i32.const 1))))";
    let failure =
        failure_of(&Balancer { imports, pick: "(call $deep (i32.const 0))", ..Balancer::default() });
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("stack"), "{failure}");
}

#[test]
fn choices_out_of_range_are_nonsense() {
    let failure = failure_of(&Balancer { pick: PICK_SEVENTH, ..Balancer::default() });
    assert_eq!(failure, Failure { kind: FailureKind::Nonsense, message: "pick: endpoint 7 of 3".to_owned() });
    let invalid = "(i32.store8 (i32.const 64) (i32.const 9)) (i32.const 64)";
    assert_eq!(failure_of(&Balancer { pick: invalid, ..Balancer::default() }).kind, FailureKind::Trap);
}

#[test]
fn bad_indices_trap_the_guest() {
    let imports = r#"(import "outrigger:policy/stats@0.1.0" "get" (func $get (param i32 i32)))"#;
    let failure = failure_of(&Balancer {
        imports,
        pick: "(call $get (i32.const 3) (i32.const 200)) (i32.const 64)",
        ..Balancer::default()
    });
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("endpoint 3 of 3"), "{failure}");
}

#[test]
fn state_is_handed_over_if_wanted() {
    let metrics = metrics();
    let wanting = Balancer { configure: CONFIGURED_WITH_STATE, ..Balancer::default() };
    let compiled = wanting.load(&engine()).expect("loads");
    let mut old = compiled.balancer(&setup(&metrics), endpoints(120), None).expect("starts");
    assert_eq!(old.export_state().as_deref(), Ok(&b"memo"[..]));
    let mut new = compiled.balancer(&setup(&metrics), endpoints(120), Some(b"memo")).expect("starts");
    assert_eq!(pick(&mut new), Ok(Choice::Endpoint(u32::from(b'm'))));
    // One byte is refused: the instance starts afresh.
    let mut fresh = compiled.balancer(&setup(&metrics), endpoints(120), Some(b"x")).expect("starts");
    assert_eq!(pick(&mut fresh), Ok(Choice::Endpoint(0)));
    let mut careless = Balancer::default().start(1).expect("starts");
    assert_eq!(careless.export_state(), Ok(Vec::new()));
}

const COUNTER: &str = r#"
    (import "outrigger:policy/env@0.1.0" "[constructor]counter" (func $counter (param i32 i32) (result i32)))
    (import "outrigger:policy/env@0.1.0" "[method]counter.add" (func $add (param i32 i64) (result i64)))"#;

#[test]
fn counters_are_shared_and_outlive_instances() {
    let metrics = metrics();
    let guest = Balancer {
        imports: COUNTER,
        pick: "(drop (call $add (call $counter (i32.const 99) (i32.const 7)) (i64.const 2))) (i32.const 64)",
        ..Balancer::default()
    };
    let compiled = guest.load(&engine()).expect("loads");
    for _ in 0..2 {
        let mut instance = compiled.balancer(&setup(&metrics), endpoints(1), None).expect("starts");
        pick(&mut instance).expect("picks");
    }
    assert_eq!(metrics.counters().collect::<Vec<_>>(), [("metrics", 4)]);
}

#[test]
fn counters_over_the_cap_count_nowhere_and_bad_names_trap() {
    let full = metrics();
    for i in 0..super::metrics::COUNTERS_MAX {
        full.counter_slot(&format!("c{i}"));
    }
    let pick_one =
        "(drop (call $add (call $counter (i32.const 99) (i32.const 7)) (i64.const 2))) (i32.const 64)";
    let guest = Balancer { imports: COUNTER, pick: pick_one, ..Balancer::default() };
    let compiled = guest.load(&engine()).expect("loads");
    let mut instance = compiled.balancer(&setup(&full), endpoints(1), None).expect("starts");
    assert_eq!(pick(&mut instance), Ok(Choice::Endpoint(0)));
    assert!(full.counters().all(|(name, value)| name != "metrics" && value == 0));
    let bad_name = "(drop (call $counter (i32.const 96) (i32.const 3))) (i32.const 64)";
    let failure = failure_of(&Balancer { imports: COUNTER, pick: bad_name, ..Balancer::default() });
    assert!(failure.message.contains("`no!` is not a metric name"), "{failure}");
    let hoarding = "(loop (drop (call $counter (i32.const 99) (i32.const 7))) (br 0)) unreachable";
    let hoarder = Balancer { imports: COUNTER, pick: hoarding, ..Balancer::default() };
    // Without optimisation, filling the table takes longer than a call may.
    let failure = failure_under(&hoarder, &PolicyHost { call_budget: PATIENCE, ..host() });
    assert_eq!(failure.kind, FailureKind::Trap, "{failure}");
}

#[test]
fn instances_can_be_sent_to_workers() {
    let mut instance = Balancer::default().start(1).expect("starts");
    let choice = std::thread::spawn(move || pick(&mut instance)).join().expect("joins");
    assert_eq!(choice, Ok(Choice::Endpoint(0)));
}

#[test]
fn the_update_replaces_what_indices_mean() {
    let mut instance = Balancer { pick: PICK_SEVENTH, ..Balancer::default() }.start(8).expect("starts");
    assert_eq!(pick(&mut instance), Ok(Choice::Endpoint(7)));
    instance.update(endpoints(2)).expect("updates");
    assert!(Arc::ptr_eq(instance.endpoints(), &instance.endpoints().clone()));
    assert_eq!(pick(&mut instance).map_err(|f| f.kind), Err(FailureKind::Nonsense));
}
