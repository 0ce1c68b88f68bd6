//! A balancer at work: owned by one worker, called for each attempt of a request.

use std::fmt;
use std::sync::Arc;

use wasmtime::{InstancePre, Store};

use super::bindings::{balancer, state, types};
use super::compiled::{Compiled, Interests, Role, Setup, Simulation};
use super::direct;
use super::host::HostState;
use super::instance::{Guest, configured, lowered, shortened};
use super::refusal::{Failure, Refusal};
use crate::head::RequestFacts;
use crate::snapshot::{Digest, Endpoint};

/// One instance of a policy with the list it picks from. After a `Failure` it is finished: retire it.
pub struct BalancerInstance {
    guest: Guest,
    exports: Exports,
    compiled: Arc<Compiled>,
    interests: Interests,
    /// Taken out of the list of the last update only by the next.
    endpoints: Arc<[Arc<Endpoint>]>,
}

/// The two ways of calling.
enum Exports {
    Component { balancer: balancer::Guest, state: Option<state::Guest> },
    Direct(Box<direct::balancer::Balancer>),
}

/// The facts of one attempt.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickContext {
    pub hash: u64,
    pub random: u64,
    /// Of `clock::now_ns`.
    pub now: u64,
    pub attempt: u32,
    /// Index of the endpoint that the attempt before went to, if it is still in the list.
    pub previous: Option<u32>,
}

/// What the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// An index into `BalancerInstance::endpoints`, checked.
    Endpoint(u32),
    /// Nothing is usable: 503.
    None,
    /// No opinion: the native balancer decides.
    Fallback,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    ClientError,
    ServerError,
    RateLimited,
    Timeout,
    Reset,
    Refused,
    Cancelled,
}

/// One finished attempt, for policies that asked for outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Index into `BalancerInstance::endpoints`.
    pub endpoint: u32,
    pub outcome: Outcome,
    /// 0 if there was none.
    pub status: u16,
    pub attempt: u32,
    /// From the pick to the first byte, ns; 0 if there was none.
    pub first_byte: u64,
    /// From the pick to the last byte, ns.
    pub total: u64,
    pub now: u64,
}

impl BalancerInstance {
    pub(super) fn start(
        compiled: &Arc<Compiled>,
        setup: &Setup<'_>,
        endpoints: Arc<[Arc<Endpoint>]>,
        simulation: Option<Simulation>,
    ) -> Result<Self, Refusal> {
        let open = || Guest::empty(compiled, setup, simulation);
        let (mut guest, exports) = start(compiled, open)?;
        let answer = guest.call_slowly("configure", |store| exports.configure(store, &lowered(setup)));
        let interests = configured(answer)?;
        let compiled = Arc::clone(compiled);
        let mut instance = Self { guest, exports, compiled, interests, endpoints: Arc::from([]) };
        instance.update(endpoints).map_err(|failure| Refusal::FailedToStart { failure })?;
        Ok(instance)
    }

    pub fn digest(&self) -> Digest {
        self.compiled.digest()
    }

    pub fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }

    pub fn interests(&self) -> Interests {
        self.interests
    }

    /// The list of the last update: indices refer to it.
    pub fn endpoints(&self) -> &Arc<[Arc<Endpoint>]> {
        &self.endpoints
    }

    /// Chooses for one attempt. The request is lent to the guest and given back.
    pub fn pick(
        &mut self,
        request: Box<RequestFacts>,
        ctx: PickContext,
    ) -> (Box<RequestFacts>, Result<Choice, Failure>) {
        self.guest.store.data_mut().request = Some(request);
        let PickContext { hash, random, now, attempt, previous } = ctx;
        let lowered = balancer::Context { hash, random, now, attempt, previous };
        let answer = self.guest.call("pick", |store| self.exports.pick(store, lowered));
        let request = self.guest.store.data_mut().request.take().unwrap_or_default();
        (request, answer.and_then(|choice| self.checked(choice)))
    }

    fn checked(&self, choice: balancer::Choice) -> Result<Choice, Failure> {
        match choice {
            balancer::Choice::Endpoint(index) if (index as usize) < self.endpoints.len() => {
                Ok(Choice::Endpoint(index))
            }
            balancer::Choice::Endpoint(index) => {
                Err(Failure::nonsense("pick", format!("endpoint {index} of {}", self.endpoints.len())))
            }
            balancer::Choice::None => Ok(Choice::None),
            balancer::Choice::Fallback => Ok(Choice::Fallback),
        }
    }

    /// Replaces the list. `endpoints()` is the new one even if the guest fails on it.
    pub fn update(&mut self, endpoints: Arc<[Arc<Endpoint>]>) -> Result<(), Failure> {
        self.guest.store.data_mut().endpoints = Arc::clone(&endpoints);
        self.endpoints = endpoints;
        self.guest.call_slowly("update", |store| self.exports.update(store, &self.endpoints))
    }

    /// Only for policies interested in outcomes.
    pub fn observe(&mut self, observation: &Observation) -> Result<(), Failure> {
        let Observation { endpoint, outcome, status, attempt, first_byte, total, now } = *observation;
        let outcome = outcome.into();
        let lowered = balancer::Observation { endpoint, outcome, status, attempt, first_byte, total, now };
        self.guest.call("observe", |store| self.exports.observe(store, lowered))
    }

    /// Only for policies interested in ticks.
    pub fn tick(&mut self, now: u64) -> Result<(), Failure> {
        self.guest.call("tick", |store| self.exports.tick(store, now))
    }

    /// Empty unless the policy is interested in handing over state.
    pub fn export_state(&mut self) -> Result<Vec<u8>, Failure> {
        if !self.interests.state {
            return Ok(Vec::new());
        }
        self.guest.export_state(|store| self.exports.export_state(store))
    }

    /// The outer error is a failure of the call, the inner one the policy's own words.
    pub fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, Failure> {
        let answer =
            self.guest.call_slowly("import-state", |store| self.exports.import_state(store, bytes))?;
        Ok(answer.map_err(shortened))
    }

    /// Bytes of linear memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.guest.memory_bytes()
    }

    /// Makes time and randomness repeatable, for checks.
    pub fn simulate(&mut self, seed: u64, now: u64) {
        self.guest.simulate(Simulation { seed, now });
    }
}

/// Instantiates the policy, directly if it allows.
///
/// The first instance is always the component: that checks every type against the contract, and shows whether its
/// core module can be had, linked and started.
fn start(compiled: &Compiled, open: impl Fn() -> Guest) -> Result<(Guest, Exports), Refusal> {
    let known = compiled.core(Role::Balancer);
    if let Some(Some(core)) = known.get() {
        return directly(core, open());
    }
    let indices = compiled.balancer_indices()?;
    let mut guest = open();
    let instance = guest.instantiate(compiled)?;
    let load = |e: wasmtime::Error| Refusal::Mismatch { message: format!("{e:#}") };
    let balancer = indices.load(&mut guest.store, &instance).map_err(load)?;
    let state = compiled.state_indices().map(|s| s.load(&mut guest.store, &instance));
    let state = state.transpose().map_err(load)?;
    if known.get().is_none() {
        let core = guest.core_of(compiled, &instance);
        let started = core.and_then(|core| Some((directly(&core, open()).ok()?, core)));
        let (started, core) = started.unzip();
        // Two threads may find the same out at once.
        let _ = known.set(core);
        if let Some(started) = started {
            return Ok(started);
        }
    }
    Ok((guest, Exports::Component { balancer, state }))
}

fn directly(core: &InstancePre<HostState>, mut guest: Guest) -> Result<(Guest, Exports), Refusal> {
    let exports = guest.call_slowly("instantiate", |store| direct::balancer::Balancer::start(core, store));
    let exports = exports.map_err(|failure| Refusal::FailedToStart { failure })?;
    Ok((guest, Exports::Direct(Box::new(exports))))
}

impl Exports {
    fn configure(
        &self,
        store: &mut Store<HostState>,
        setup: &types::Setup<'_>,
    ) -> wasmtime::Result<Result<types::Interests, String>> {
        match self {
            Self::Component { balancer, .. } => balancer.call_configure(store, setup.clone()),
            Self::Direct(direct) => direct.configure(store, setup),
        }
    }

    fn update(&self, store: &mut Store<HostState>, endpoints: &[Arc<Endpoint>]) -> wasmtime::Result<()> {
        match self {
            Self::Component { balancer, .. } => {
                let labels: Vec<Vec<types::Label<'_>>> = endpoints.iter().map(|e| labels(e)).collect();
                let list = endpoints.iter().zip(&labels).map(|(endpoint, labels)| lower(endpoint, labels));
                balancer.call_update(store, &list.collect::<Vec<_>>())
            }
            Self::Direct(direct) => direct.update(store, endpoints),
        }
    }

    #[inline]
    fn pick(
        &self,
        store: &mut Store<HostState>,
        ctx: balancer::Context,
    ) -> wasmtime::Result<balancer::Choice> {
        match self {
            Self::Component { balancer, .. } => balancer.call_pick(store, ctx),
            Self::Direct(direct) => direct.pick(store, ctx),
        }
    }

    fn observe(
        &self,
        store: &mut Store<HostState>,
        observation: balancer::Observation,
    ) -> wasmtime::Result<()> {
        match self {
            Self::Component { balancer, .. } => balancer.call_observe(store, observation),
            Self::Direct(direct) => direct.observe(store, &observation),
        }
    }

    fn tick(&self, store: &mut Store<HostState>, now: u64) -> wasmtime::Result<()> {
        match self {
            Self::Component { balancer, .. } => balancer.call_tick(store, now),
            Self::Direct(direct) => direct.tick(store, now),
        }
    }

    fn export_state(&self, store: &mut Store<HostState>) -> wasmtime::Result<Vec<u8>> {
        match self {
            Self::Component { state: Some(state), .. } => state.call_export_state(store),
            Self::Component { state: None, .. } => Ok(Vec::new()),
            Self::Direct(direct) => direct.state.export(store),
        }
    }

    fn import_state(
        &self,
        store: &mut Store<HostState>,
        bytes: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        match self {
            Self::Component { state: Some(state), .. } => state.call_import_state(store, bytes),
            Self::Component { state: None, .. } => Ok(Ok(())),
            Self::Direct(direct) => direct.state.import(store, bytes),
        }
    }
}

impl fmt::Debug for BalancerInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancerInstance")
            .field("digest", &self.digest())
            .field("interests", &self.interests)
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

fn labels(endpoint: &Endpoint) -> Vec<types::Label<'_>> {
    endpoint.labels.iter().map(|(key, value)| types::Label { key, value }).collect()
}

fn lower<'a>(endpoint: &'a Endpoint, labels: &'a [types::Label<'a>]) -> types::Endpoint<'a> {
    types::Endpoint {
        id: endpoint.id,
        address: &endpoint.text,
        weight: endpoint.weight,
        zone: &endpoint.zone,
        labels,
    }
}

impl From<Outcome> for balancer::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::ClientError => Self::ClientError,
            Outcome::ServerError => Self::ServerError,
            Outcome::RateLimited => Self::RateLimited,
            Outcome::Timeout => Self::Timeout,
            Outcome::Reset => Self::Reset,
            Outcome::Refused => Self::Refused,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}
