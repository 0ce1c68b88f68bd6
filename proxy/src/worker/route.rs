//! Where a request goes: routes in order, routers asked, the authority's service last.

use std::rc::Rc;
use std::time::Duration;

use super::Worker;
use super::generation::Generation;
use super::record::Record;
use super::respond::Reason;
use super::target::Target;
use crate::clock;
use crate::config::HashKey;
use crate::head::RequestFacts;
use crate::policy::{Decision, Forward, RouteContext, facts};
use crate::snapshot::RouteTarget;
use crate::snapshot::route::Router as RouterSpec;

/// What was decided.
#[derive(Debug)]
pub(super) enum Routed {
    To(Plan),
    /// A router's own answer.
    Answer {
        status: u16,
        fields: Vec<(String, String)>,
        body: String,
    },
    Refused(Reason),
}

/// Everything an attempt is made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Rc<Target>,
    pub(super) forward: Option<Box<Forward>>,
    /// Index into `Snapshot::pools`.
    pub(super) mirror: Option<usize>,
    /// Until the head of the answer.
    pub(super) timeout: Duration,
}

pub(super) fn decide(
    worker: &Worker,
    generation: &Generation,
    facts: &mut Option<Box<RequestFacts>>,
    record: &mut Record<'_>,
) -> Routed {
    let table = &generation.snapshot.routes;
    // The candidates borrow the head, which a router needs too: remember how far we are instead.
    let mut from = 0;
    loop {
        let candidate = match facts.as_deref() {
            Some(f) if !table.routes().is_empty() => table.find_from(&f.head, from),
            _ => None,
        };
        let Some((index, route)) = candidate.and_then(|i| Some((i, table.routes().get(i)?))) else { break };
        from = index + 1;
        match &route.target {
            RouteTarget::Pool(pool) => {
                let Some(target) = generation.target(worker, *pool) else { continue };
                record.routed(Some(&route.name), Some(target));
                return Routed::To(Plan::plain(target));
            }
            RouteTarget::Router(spec) => {
                let Some(router) = generation.routers.get(index).and_then(Option::as_ref) else { continue };
                let hash = hash_of(worker, &spec.hash_key, facts.as_deref());
                let context = RouteContext { hash, random: worker.random(), now: clock::now_ns() };
                // Without a working policy, the backend written first is the safe one.
                let decision = router.route(worker, facts, context).unwrap_or(Decision::Backend(0));
                if let Some(routed) = follow(worker, generation, spec, decision, |target| {
                    record.routed(Some(&route.name), target);
                }) {
                    return routed;
                }
            }
        }
    }
    let pool = facts.as_deref().and_then(|f| generation.snapshot.service_of(f.head.authority()));
    let Some(target) = pool.and_then(|index| generation.target(worker, index)) else {
        return Routed::Refused(Reason::NoService);
    };
    record.routed(None, Some(target));
    Routed::To(Plan::plain(target))
}

/// Turns a router's decision into a plan; `None` for `next`.
fn follow(
    worker: &Worker,
    generation: &Generation,
    spec: &RouterSpec,
    decision: Decision,
    routed: impl FnOnce(Option<&Rc<Target>>),
) -> Option<Routed> {
    // The host has checked the indices against the backends granted.
    let pool = |backend: u32| spec.backends.get(backend as usize).copied();
    let target = |backend| pool(backend).and_then(|index| generation.target(worker, index));
    Some(match decision {
        Decision::Next => return None,
        Decision::Backend(backend) => {
            let target = target(backend)?;
            routed(Some(target));
            Routed::To(Plan::plain(target))
        }
        Decision::Forward(forward) => {
            let target = target(forward.backend)?;
            routed(Some(target));
            Routed::To(Plan {
                target: Rc::clone(target),
                mirror: forward.mirror.and_then(pool),
                timeout: forward.timeout.unwrap_or(target.pool.settings.timeouts.request),
                forward: Some(forward),
            })
        }
        Decision::Redirect(redirect) => {
            routed(None);
            let fields = vec![("location".to_owned(), redirect.location)];
            Routed::Answer { status: redirect.status, fields, body: String::new() }
        }
        Decision::Reply(reply) => {
            routed(None);
            Routed::Answer { status: reply.status, fields: reply.headers, body: reply.body }
        }
    })
}

impl Plan {
    fn plain(target: &Rc<Target>) -> Self {
        let timeout = target.pool.settings.timeouts.request;
        Self { target: Rc::clone(target), forward: None, mirror: None, timeout }
    }
}

/// The hash that policies get: of the configured key, or random where there is no key or the request lacks it.
pub(super) fn hash_of(worker: &Worker, key: &HashKey, request: Option<&RequestFacts>) -> u64 {
    let hashed = request.and_then(|request| match key {
        HashKey::None => None,
        HashKey::Header(name) => request.head.header(name).map(outrigger_sdk::hash::bytes),
        HashKey::Cookie(name) => facts::cookie(&request.head, name).map(outrigger_sdk::hash::bytes),
        HashKey::SourceAddress => Some(match request.source {
            std::net::IpAddr::V4(ip) => outrigger_sdk::hash::bytes(&ip.octets()),
            std::net::IpAddr::V6(ip) => outrigger_sdk::hash::bytes(&ip.octets()),
        }),
        HashKey::Path => {
            let path = request.head.path();
            Some(outrigger_sdk::hash::text(path.split_once('?').map_or(path, |(path, _)| path)))
        }
    });
    hashed.unwrap_or_else(|| worker.random())
}
