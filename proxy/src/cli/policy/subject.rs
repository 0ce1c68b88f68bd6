//! A compiled policy as the conformance kit sees it: the kit's words translated into the proxy's.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outrigger_sdk::balancer::{Choice, Context, Endpoint, Interests, Load, Observation, Outcome, Setup};
use outrigger_sdk::router::{self, Decision, Forward, Header, Redirect, Reply, Retry};
use outrigger_sdk::testing::Request;
use outrigger_sdk::testing::conformance::{Host, RouterSubject, Subject};

use crate::head::{HeadLimits, Progress, RequestFacts, RequestHead};
use crate::policy::{
    self, BalancerInstance, Compiled, PickContext, PolicyMetrics, RouteContext, RouterInstance,
};
use crate::snapshot::{self, EndpointState};

/// A balancer component under test.
pub(super) struct Balancer {
    compiled: Arc<Compiled>,
    instance: Option<BalancerInstance>,
    host: Host,
}

/// A router component under test.
pub(super) struct Router {
    compiled: Arc<Compiled>,
    instance: Option<RouterInstance>,
    host: Host,
}

impl Balancer {
    pub(super) fn new(compiled: Arc<Compiled>) -> Self {
        Self { compiled, instance: None, host: Host::idle(0, 1) }
    }

    fn instance(&mut self) -> Result<&mut BalancerInstance, String> {
        self.instance.as_mut().ok_or_else(|| "not configured".to_owned())
    }
}

impl Subject for Balancer {
    fn configure(&mut self, setup: &Setup) -> Result<Interests, String> {
        self.instance = None;
        let started = self.compiled.simulated_balancer(&lowered(setup), self.host.seed, self.host.now);
        let instance = started.map_err(|refusal| refusal.to_string())?;
        let interests = interests(instance.interests());
        self.instance = Some(instance);
        Ok(interests)
    }

    fn update(&mut self, endpoints: &[Endpoint]) -> Result<(), String> {
        let list: Arc<[_]> = endpoints.iter().map(|endpoint| Arc::new(raised(endpoint))).collect();
        set_loads(&list, &self.host.loads);
        self.instance()?.update(list).map_err(text)
    }

    fn pick(&mut self, ctx: &Context) -> Result<Choice, String> {
        let mut facts = facts(&self.host.request);
        let instance = self.instance.as_mut().ok_or("not configured")?;
        let ids = self.host.tried.iter().filter_map(|i| instance.endpoints().get(*i as usize));
        facts.tried = ids.map(|endpoint| endpoint.id).collect();
        let Context { hash, random, now, attempt, previous } = *ctx;
        let ctx = PickContext { hash, random, now, attempt, previous };
        match instance.pick(facts, ctx).1.map_err(text)? {
            policy::Choice::Endpoint(index) => Ok(Choice::Endpoint(index)),
            policy::Choice::None => Ok(Choice::None),
            policy::Choice::Fallback => Ok(Choice::Fallback),
        }
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), String> {
        let Observation { endpoint, outcome, status, attempt, first_byte, total, now } = *observation;
        let outcome = ended(outcome);
        let observation = policy::Observation { endpoint, outcome, status, attempt, first_byte, total, now };
        self.instance()?.observe(&observation).map_err(text)
    }

    fn tick(&mut self, now: u64) -> Result<(), String> {
        self.instance()?.tick(now).map_err(text)
    }

    fn export_state(&mut self) -> Result<Vec<u8>, String> {
        self.instance()?.export_state().map_err(text)
    }

    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String> {
        self.instance()?.import_state(bytes).map_err(text)
    }

    fn surround(&mut self, host: &Host) {
        self.host.clone_from(host);
        if let Some(instance) = &mut self.instance {
            set_loads(instance.endpoints(), &host.loads);
            instance.simulate(host.seed, host.now);
        }
    }
}

impl Router {
    pub(super) fn new(compiled: Arc<Compiled>) -> Self {
        Self { compiled, instance: None, host: Host::idle(0, 1) }
    }

    fn instance(&mut self) -> Result<&mut RouterInstance, String> {
        self.instance.as_mut().ok_or_else(|| "not configured".to_owned())
    }
}

impl RouterSubject for Router {
    fn configure(&mut self, setup: &Setup, backends: &[String]) -> Result<Interests, String> {
        self.instance = None;
        let (seed, now) = (self.host.seed, self.host.now);
        let started = self.compiled.simulated_router(&lowered(setup), backends, seed, now);
        let instance = started.map_err(|refusal| refusal.to_string())?;
        let interests = interests(instance.interests());
        self.instance = Some(instance);
        Ok(interests)
    }

    fn route(&mut self, ctx: &router::Context) -> Result<Decision, String> {
        let facts = facts(&self.host.request);
        let router::Context { hash, random, now } = *ctx;
        let decision = self.instance()?.route(facts, RouteContext { hash, random, now }).1.map_err(text)?;
        Ok(decided(decision))
    }

    fn tick(&mut self, now: u64) -> Result<(), String> {
        self.instance()?.tick(now).map_err(text)
    }

    fn export_state(&mut self) -> Result<Vec<u8>, String> {
        self.instance()?.export_state().map_err(text)
    }

    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String> {
        self.instance()?.import_state(bytes).map_err(text)
    }

    fn surround(&mut self, host: &Host) {
        self.host.clone_from(host);
        if let Some(instance) = &mut self.instance {
            instance.simulate(host.seed, host.now);
        }
    }
}

/// The request as the proxy's parser reads it. What the parser refuses never reaches a policy: a plain one stands in.
pub(super) fn facts(request: &Request) -> Box<RequestFacts> {
    let head = parsed(request).or_else(|| parsed(&outrigger_sdk::testing::get("/"))).unwrap_or_default();
    let mut facts = Box::new(RequestFacts { head, ..RequestFacts::default() });
    facts.identity = request.identity.as_deref().map(Into::into);
    if let Ok(source) = request.source_address.parse() {
        facts.source = source;
    }
    facts
}

fn parsed(request: &Request) -> Option<RequestHead> {
    let fields: String = request.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let Request { method, path, authority, .. } = request;
    let text = format!("{method} {path} HTTP/1.1\r\nhost: {authority}\r\n{fields}\r\n");
    let limits = HeadLimits { bytes_max: 1 << 20, fields_max: 1024 };
    let mut head = RequestHead::default();
    matches!(head.parse(text.as_bytes(), limits), Ok(Progress::Complete { .. })).then_some(head)
}

fn set_loads(endpoints: &[Arc<snapshot::Endpoint>], loads: &[Load]) {
    for (endpoint, load) in endpoints.iter().zip(loads) {
        endpoint.state.in_flight.store(load.in_flight, Relaxed);
        endpoint.state.latency_us.store(load.latency_us, Relaxed);
        endpoint.state.success.store(load.success, Relaxed);
        endpoint.state.reported.store(load.reported, Relaxed);
    }
}

fn raised(endpoint: &Endpoint) -> snapshot::Endpoint {
    let address = endpoint.address.parse().unwrap_or_else(|_| ([127, 0, 0, 1], 80).into());
    snapshot::Endpoint {
        id: endpoint.id,
        address,
        text: endpoint.address.as_str().into(),
        weight: endpoint.weight,
        zone: endpoint.zone.as_str().into(),
        labels: endpoint.labels.iter().map(|l| (l.key.as_str().into(), l.value.as_str().into())).collect(),
        state: Arc::new(EndpointState::default()),
    }
}

fn lowered(setup: &Setup) -> policy::Setup<'_> {
    policy::Setup {
        config: &setup.config,
        own_service: &setup.own_service,
        own_zone: &setup.own_zone,
        target: &setup.target,
        metrics: Arc::new(PolicyMetrics::new("checked")),
    }
}

fn interests(interests: policy::Interests) -> Interests {
    let mut flags = Interests::empty();
    flags.set(Interests::OUTCOMES, interests.outcomes);
    flags.set(Interests::TICKS, interests.ticks);
    flags.set(Interests::STATE, interests.state);
    flags.set(Interests::REBUILD, interests.rebuild);
    flags
}

fn ended(outcome: Outcome) -> policy::Outcome {
    match outcome {
        Outcome::Success => policy::Outcome::Success,
        Outcome::ClientError => policy::Outcome::ClientError,
        Outcome::ServerError => policy::Outcome::ServerError,
        Outcome::RateLimited => policy::Outcome::RateLimited,
        Outcome::Timeout => policy::Outcome::Timeout,
        Outcome::Reset => policy::Outcome::Reset,
        Outcome::Refused => policy::Outcome::Refused,
        Outcome::Cancelled => policy::Outcome::Cancelled,
    }
}

fn decided(decision: policy::Decision) -> Decision {
    match decision {
        policy::Decision::Next => Decision::Next,
        policy::Decision::Backend(index) => Decision::Backend(index),
        policy::Decision::Forward(f) => Decision::Forward(Forward {
            backend: f.backend,
            path: f.path,
            authority: f.authority,
            set_headers: headers(f.set_headers),
            remove_headers: f.remove_headers,
            set_response_headers: headers(f.set_response_headers),
            timeout: f.timeout.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
            retry: match f.retry {
                policy::RetryVerdict::Configured => Retry::Configured,
                policy::RetryVerdict::Never => Retry::Never,
                policy::RetryVerdict::Safe => Retry::Safe,
            },
            hash_key: f.hash_key,
            mirror: f.mirror,
        }),
        policy::Decision::Redirect(r) => {
            Decision::Redirect(Redirect { status: r.status, location: r.location })
        }
        policy::Decision::Reply(r) => {
            Decision::Reply(Reply { status: r.status, headers: headers(r.headers), body: r.body })
        }
    }
}

fn headers(list: Vec<(String, String)>) -> Vec<Header> {
    list.into_iter().map(|(name, value)| Header { name, value }).collect()
}

fn text(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}
