//! A router at work: owned by one worker, asked once per request of the routes it serves.

use std::fmt;
use std::sync::Arc;

use wasmtime::{InstancePre, Store};

use super::bindings::{router, state, types};
use super::compiled::{Compiled, Interests, Role, Setup, Simulation};
use super::decision::{Decision, checked};
use super::direct;
use super::host::HostState;
use super::instance::{Guest, configured, lowered, shortened};
use super::refusal::{Failure, Refusal};
use crate::head::RequestFacts;
use crate::snapshot::Digest;

/// One instance of a policy with the backends it may name. After a `Failure` it is finished: retire it.
pub struct RouterInstance {
    guest: Guest,
    exports: Exports,
    compiled: Arc<Compiled>,
    interests: Interests,
    backends: usize,
    /// The head of the request in hand, copied so that the request itself can be lent to the guest meanwhile.
    method: String,
    path: String,
    authority: String,
}

/// The two ways of calling.
enum Exports {
    Component { router: router::Guest, state: Option<state::Guest> },
    Direct(Box<direct::router::Router>),
}

/// The facts of one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteContext {
    pub hash: u64,
    pub random: u64,
    /// Of `clock::now_ns`.
    pub now: u64,
}

impl RouterInstance {
    pub(super) fn start(
        compiled: &Arc<Compiled>,
        setup: &Setup<'_>,
        backends: &[String],
        simulation: Option<Simulation>,
    ) -> Result<Self, Refusal> {
        let open = || Guest::empty(compiled, setup, simulation);
        let (mut guest, exports) = start(compiled, open)?;
        let names: Vec<&str> = backends.iter().map(String::as_str).collect();
        let answer =
            guest.call_slowly("configure", |store| exports.configure(store, &lowered(setup), &names));
        let interests = configured(answer)?;
        Ok(Self {
            guest,
            exports,
            compiled: Arc::clone(compiled),
            interests,
            backends: backends.len(),
            method: String::new(),
            path: String::new(),
            authority: String::new(),
        })
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

    /// Decides for one request, which is lent to the guest and given back.
    pub fn route(
        &mut self,
        request: Box<RequestFacts>,
        ctx: RouteContext,
    ) -> (Box<RequestFacts>, Result<Decision, Failure>) {
        fill(&mut self.method, request.head.method());
        fill(&mut self.path, request.head.path());
        fill(&mut self.authority, request.head.authority());
        self.guest.store.data_mut().request = Some(request);
        let head = router::Head { method: &self.method, path: &self.path, authority: &self.authority };
        let RouteContext { hash, random, now } = ctx;
        let lowered = router::Context { hash, random, now };
        let answer = self.guest.call("route", |store| self.exports.route(store, head, lowered));
        let request = self.guest.store.data_mut().request.take().unwrap_or_default();
        (request, answer.and_then(|decision| checked(decision, self.backends)))
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

/// Instantiates the policy, directly if it allows; as `balancer::start`.
fn start(compiled: &Compiled, open: impl Fn() -> Guest) -> Result<(Guest, Exports), Refusal> {
    let known = compiled.core(Role::Router);
    if let Some(Some(core)) = known.get() {
        return directly(core, open());
    }
    let mut guest = open();
    let indices = compiled.router_indices()?;
    let instance = guest.instantiate(compiled)?;
    let load = |e: wasmtime::Error| Refusal::Mismatch { message: format!("{e:#}") };
    let router = indices.load(&mut guest.store, &instance).map_err(load)?;
    let state = compiled.state_indices().map(|s| s.load(&mut guest.store, &instance));
    let state = state.transpose().map_err(load)?;
    if known.get().is_none() {
        let core = guest.core_of(compiled, &instance);
        let started = core.and_then(|core| Some((directly(&core, open()).ok()?, core)));
        let (started, core) = started.unzip();
        let _ = known.set(core);
        if let Some(started) = started {
            return Ok(started);
        }
    }
    Ok((guest, Exports::Component { router, state }))
}

fn directly(core: &InstancePre<HostState>, mut guest: Guest) -> Result<(Guest, Exports), Refusal> {
    let exports = guest.call_slowly("instantiate", |store| direct::router::Router::start(core, store));
    let exports = exports.map_err(|failure| Refusal::FailedToStart { failure })?;
    Ok((guest, Exports::Direct(Box::new(exports))))
}

impl Exports {
    fn configure(
        &self,
        store: &mut Store<HostState>,
        setup: &types::Setup<'_>,
        backends: &[&str],
    ) -> wasmtime::Result<Result<types::Interests, String>> {
        match self {
            Self::Component { router, .. } => router.call_configure(store, setup.clone(), backends),
            Self::Direct(direct) => direct.configure(store, setup, backends),
        }
    }

    fn route(
        &self,
        store: &mut Store<HostState>,
        head: router::Head<'_>,
        ctx: router::Context,
    ) -> wasmtime::Result<router::Decision> {
        match self {
            Self::Component { router, .. } => router.call_route(store, head, ctx),
            Self::Direct(direct) => direct.route(store, &head, ctx),
        }
    }

    fn tick(&self, store: &mut Store<HostState>, now: u64) -> wasmtime::Result<()> {
        match self {
            Self::Component { router, .. } => router.call_tick(store, now),
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

impl fmt::Debug for RouterInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterInstance")
            .field("digest", &self.digest())
            .field("interests", &self.interests)
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}

fn fill(buffer: &mut String, text: &str) {
    buffer.clear();
    buffer.push_str(text);
}
