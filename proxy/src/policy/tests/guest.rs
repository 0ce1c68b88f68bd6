//! Small guests in the text format: a balancer whose functions are replaced one by one.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::config::PolicyHost;
use crate::policy::compiler::{componentize, embed_world};
use crate::policy::{BalancerInstance, Compiled, Engine, PolicyMetrics, Refusal, Setup};
use crate::snapshot::{Endpoint, EndpointState};

/// Bodies of a balancer's functions; the defaults do nothing and pick endpoint 0.
#[derive(Clone)]
pub(super) struct Balancer {
    pub(super) imports: &'static str,
    pub(super) memory_pages: u32,
    pub(super) configure: &'static str,
    pub(super) update: &'static str,
    pub(super) pick: &'static str,
    pub(super) state: bool,
}

/// Pointers to answers prepared in the data section below.
pub(super) const CONFIGURED: &str = "(i32.const 16)";
pub(super) const CONFIGURED_WITH_STATE: &str = "(i32.const 32)";
pub(super) const CONFIGURATION_REFUSED: &str = "(i32.const 48)";
pub(super) const PICK_FIRST: &str = "(i32.const 64)";
pub(super) const PICK_SEVENTH: &str = "(i32.const 80)";
pub(super) const LOOP: &str = "(loop (br 0)) unreachable";

impl Default for Balancer {
    fn default() -> Self {
        Self {
            imports: "",
            memory_pages: 1,
            configure: CONFIGURED,
            update: "",
            pick: PICK_FIRST,
            state: false,
        }
    }
}

impl Balancer {
    pub(super) fn module(&self) -> Vec<u8> {
        let Self { imports, memory_pages, configure, update, pick, state } = self;
        let state = if *state { STATE } else { "" };
        let mut text = String::new();
        write!(
            text,
            r#"(module {imports}
            (memory (export "memory") {memory_pages})
            (global $next (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.get $next)
                (global.set $next (i32.add (global.get $next) (local.get 3))))
            (func (export "outrigger:policy/balancer@0.1.0#configure")
                (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {configure})
            (func (export "outrigger:policy/balancer@0.1.0#update") (param i32 i32) {update})
            (func (export "outrigger:policy/balancer@0.1.0#pick")
                (param i64 i64 i64 i32 i32 i32) (result i32) {pick})
            (func (export "outrigger:policy/balancer@0.1.0#observe") (param i32 i32 i32 i32 i64 i64 i64))
            (func (export "outrigger:policy/balancer@0.1.0#tick") (param i64))
            {state}
            (data (i32.const 16) "\00\00\00\00\00")
            (data (i32.const 32) "\00\00\00\00\04")
            (data (i32.const 48) "\01\00\00\00\60\00\00\00\03\00\00\00")
            (data (i32.const 64) "\00\00\00\00\00\00\00\00")
            (data (i32.const 80) "\00\00\00\00\07\00\00\00")
            (data (i32.const 96) "no!metrics")
            (data (i32.const 112) "\80\00\00\00\04\00\00\00")
            (data (i32.const 128) "memo"))"#
        )
        .expect("text");
        let module = wat::parse_str(&text).expect("valid text");
        embed_world(&module, "load-balancer").expect("world")
    }

    pub(super) fn component(&self) -> Vec<u8> {
        componentize(&self.with_state_exports().module()).expect("component")
    }

    /// The world wants them, whether or not they are used.
    fn with_state_exports(&self) -> Self {
        Self { state: true, ..self.clone() }
    }

    pub(super) fn load(&self, engine: &Engine) -> Result<Arc<Compiled>, Refusal> {
        engine.load(&self.component())
    }

    pub(super) fn start(&self, endpoints: usize) -> Result<BalancerInstance, Refusal> {
        let compiled = self.load(&engine())?;
        compiled.balancer(&setup(&metrics()), self::endpoints(endpoints), None)
    }
}

/// Answers a pick with the first byte of the state taken over, and hands over `memo`. Refuses state of one byte.
const STATE: &str = r#"
    (func (export "outrigger:policy/state@0.1.0#export-state") (result i32) (i32.const 112))
    (func (export "outrigger:policy/state@0.1.0#import-state") (param i32 i32) (result i32)
        (i32.store8 (i32.const 68) (i32.load8_u (local.get 0)))
        (if (result i32) (i32.eq (local.get 1) (i32.const 1))
            (then (i32.const 48)) (else (i32.const 16))))"#;

pub(in crate::policy) fn host() -> PolicyHost {
    PolicyHost {
        cache_dir: None,
        memory_bytes_max: 16 << 20,
        component_bytes_max: 1 << 20,
        instances_max: 4096,
        call_budget: Duration::from_millis(2),
        update_budget: Duration::from_millis(50),
        direct_calls: true,
        quarantine_failures: 5,
        quarantine_window: Duration::from_secs(30),
    }
}

pub(super) fn engine() -> Engine {
    Engine::new(&host()).expect("engine")
}

pub(super) fn metrics() -> Arc<PolicyMetrics> {
    Arc::new(PolicyMetrics::new("guest"))
}

pub(super) fn setup(metrics: &Arc<PolicyMetrics>) -> Setup<'static> {
    Setup { config: "{}", own_service: "", own_zone: "", target: "web", metrics: Arc::clone(metrics) }
}

pub(super) fn endpoints(count: usize) -> Arc<[Arc<Endpoint>]> {
    let endpoint = |i: usize| {
        let address: std::net::SocketAddr = ([10, 0, 0, 1], 8000 + i as u16).into();
        Arc::new(Endpoint {
            id: i as u64,
            address,
            text: address.to_string().into(),
            weight: 1,
            zone: "z".into(),
            labels: vec![("version".into(), "v1".into())],
            state: Arc::new(EndpointState::default()),
        })
    };
    (0..count).map(endpoint).collect()
}
