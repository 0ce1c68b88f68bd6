//! A policy that has passed every check that needs no configuration, ready to be instantiated any number of times.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::component::{Component, InstancePre};

use super::balancer::BalancerInstance;
use super::bindings::{balancer, router, state};
use super::engine::Engine;
use super::host::HostState;
use super::inspect::{Inspection, Roles};
use super::metrics::PolicyMetrics;
use super::refusal::{Failure, Refusal};
use super::router::RouterInstance;
use crate::snapshot::{Digest, Endpoint};

/// Shared by all places that use the policy; keeps its engine alive.
pub struct Compiled {
    engine: Engine,
    digest: Digest,
    pre: InstancePre<HostState>,
    /// By role, the core module to be called directly, if that can be: known once an instance has been started.
    cores: [Core; 2],
    balancer: Option<balancer::GuestIndices>,
    router: Option<router::GuestIndices>,
    state: Option<state::GuestIndices>,
    /// Bytes of the policy as it was given.
    pub wasm_bytes: usize,
    /// Bytes of machine code and data made from it.
    pub code_bytes: usize,
    /// Time to compile it, or to load it from the cache.
    pub load_time: Duration,
    pub from_cache: bool,
}

/// Who asks, constant for the life of an instance.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// JSON text.
    pub config: &'a str,
    pub own_service: &'a str,
    pub own_zone: &'a str,
    /// The service balanced, or the route's name.
    pub target: &'a str,
    pub metrics: Arc<PolicyMetrics>,
}

/// What a policy wants to be called for beyond the minimum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interests {
    pub outcomes: bool,
    pub ticks: bool,
    pub state: bool,
    pub rebuild: bool,
}

/// Unknown, none, or ready to be instantiated.
pub(super) type Core = OnceLock<Option<wasmtime::InstancePre<HostState>>>;

/// What an instance is made for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Balancer,
    Router,
}

/// Given time and randomness.
#[derive(Debug, Clone, Copy)]
pub(super) struct Simulation {
    pub(super) seed: u64,
    pub(super) now: u64,
}

/// How the code came about.
pub(super) struct Provenance {
    pub(super) wasm_bytes: usize,
    pub(super) code_bytes: usize,
    pub(super) load_time: Duration,
    pub(super) from_cache: bool,
}

impl Compiled {
    /// Links the component and looks up what it exports; the linker checks every type against the contract.
    pub(super) fn new(
        engine: &Engine,
        digest: Digest,
        component: &Component,
        inspection: &Inspection,
        how: Provenance,
    ) -> Result<Self, Refusal> {
        let Inspection { roles, has_state, .. } = *inspection;
        let pre = engine.linker().instantiate_pre(component).map_err(mismatch)?;
        let balancer =
            roles.balancer.then(|| balancer::GuestIndices::new(&pre)).transpose().map_err(mismatch)?;
        let router = roles.router.then(|| router::GuestIndices::new(&pre)).transpose().map_err(mismatch)?;
        let state = has_state.then(|| state::GuestIndices::new(&pre)).transpose().map_err(mismatch)?;
        let Provenance { wasm_bytes, code_bytes, load_time, from_cache } = how;
        let engine = engine.clone();
        Ok(Self {
            engine,
            digest,
            pre,
            cores: [OnceLock::new(), OnceLock::new()],
            balancer,
            router,
            state,
            wasm_bytes,
            code_bytes,
            load_time,
            from_cache,
        })
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn roles(&self) -> Roles {
        Roles { balancer: self.balancer.is_some(), router: self.router.is_some() }
    }

    /// Instantiates, configures, updates, and imports the state if there is one and the policy wants it.
    pub fn balancer(
        self: &Arc<Self>,
        setup: &Setup<'_>,
        endpoints: Arc<[Arc<Endpoint>]>,
        state: Option<&[u8]>,
    ) -> Result<BalancerInstance, Refusal> {
        let mut instance = BalancerInstance::start(self, setup, Arc::clone(&endpoints), None)?;
        let Some(bytes) = wanted(state, instance.interests()) else { return Ok(instance) };
        match instance.import_state(bytes) {
            Ok(Ok(())) => Ok(instance),
            refused => {
                report_refused_state(setup, &refused);
                BalancerInstance::start(self, setup, endpoints, None)
            }
        }
    }

    /// Instantiates, configures, and imports the state if there is one and the policy wants it.
    pub fn router(
        self: &Arc<Self>,
        setup: &Setup<'_>,
        backends: &[String],
        state: Option<&[u8]>,
    ) -> Result<RouterInstance, Refusal> {
        let mut instance = RouterInstance::start(self, setup, backends, None)?;
        let Some(bytes) = wanted(state, instance.interests()) else { return Ok(instance) };
        match instance.import_state(bytes) {
            Ok(Ok(())) => Ok(instance),
            refused => {
                report_refused_state(setup, &refused);
                RouterInstance::start(self, setup, backends, None)
            }
        }
    }

    /// Without endpoints; time and randomness are given from the first call on. For checks and simulations.
    pub fn simulated_balancer(
        self: &Arc<Self>,
        setup: &Setup<'_>,
        seed: u64,
        now: u64,
    ) -> Result<BalancerInstance, Refusal> {
        BalancerInstance::start(self, setup, Arc::from([]), Some(Simulation { seed, now }))
    }

    /// The same for routers.
    pub fn simulated_router(
        self: &Arc<Self>,
        setup: &Setup<'_>,
        backends: &[String],
        seed: u64,
        now: u64,
    ) -> Result<RouterInstance, Refusal> {
        RouterInstance::start(self, setup, backends, Some(Simulation { seed, now }))
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn pre(&self) -> &InstancePre<HostState> {
        &self.pre
    }

    /// Whether instances made from it are called without the component around them; known once one has been made.
    pub fn is_direct(&self) -> bool {
        self.cores.iter().any(|core| core.get().is_some_and(Option::is_some))
    }

    pub(super) fn core(&self, role: Role) -> &Core {
        &self.cores[role as usize]
    }

    pub(super) fn balancer_indices(&self) -> Result<&balancer::GuestIndices, Refusal> {
        self.balancer.as_ref().ok_or(Refusal::WrongRole { wanted: "balancer", is: "router" })
    }

    pub(super) fn router_indices(&self) -> Result<&router::GuestIndices, Refusal> {
        self.router.as_ref().ok_or(Refusal::WrongRole { wanted: "router", is: "balancer" })
    }

    pub(super) fn state_indices(&self) -> Option<&state::GuestIndices> {
        self.state.as_ref()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("digest", &self.digest)
            .field("roles", &self.roles())
            .field("wasm_bytes", &self.wasm_bytes)
            .field("from_cache", &self.from_cache)
            .finish_non_exhaustive()
    }
}

fn wanted(state: Option<&[u8]>, interests: Interests) -> Option<&[u8]> {
    state.filter(|bytes| interests.state && !bytes.is_empty())
}

/// A refused state costs what was learnt, not the swap.
fn report_refused_state(setup: &Setup<'_>, refused: &Result<Result<(), String>, Failure>) {
    let reason = match refused {
        Ok(Ok(())) => return,
        Ok(Err(message)) => message.clone(),
        Err(failure) => failure.to_string(),
    };
    let policy = setup.metrics.policy();
    tracing::warn!(target: "policy", policy, place = setup.target, reason, "state not taken over; starting afresh");
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn mismatch(error: wasmtime::Error) -> Refusal {
    Refusal::Mismatch { message: format!("{error:#}") }
}
