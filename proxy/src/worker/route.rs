//! Where a request goes: routes in order, routers asked, the authority's service last.
//!
//! A captured request belongs to the service that was dialled. Its authority counts as long as it contradicts nothing:
//! where it names another service, or is an address, routes see the dialled service's name in its place.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::captured::Destination;
use super::generation::Generation;
use super::record::Record;
use super::respond::Reason;
use super::target::Target;
use crate::clock;
use crate::config::HashKey;
use crate::head::RequestFacts;
use crate::policy::{Decision, Forward, RouteContext, facts};
use crate::snapshot::route::{Router as RouterSpec, host_of};
use crate::snapshot::{RouteTarget, Snapshot};

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
    destination: &Destination,
    record: &mut Record<'_>,
) -> Routed {
    let dialled = match destination {
        Destination::Authority => None,
        Destination::Services(services) => dialled(&generation.snapshot, services, facts.as_deref()),
        Destination::Workload(target) => {
            record.routed(None, Some(target));
            return Routed::To(Plan::plain(target));
        }
    };
    let table = &generation.snapshot.routes;
    // The candidates borrow the head, which a router needs too: remember how far we are instead.
    let mut from = 0;
    loop {
        let candidate = match facts.as_deref() {
            Some(f) if !table.routes().is_empty() => match &dialled {
                Some(Dialled { service, contradicted: true }) => table.find_from_for(service, &f.head, from),
                _ => table.find_from(&f.head, from),
            },
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
    let pool = match dialled {
        Some(Dialled { service, .. }) => generation.snapshot.services.get(service),
        None => facts.as_deref().and_then(|f| generation.snapshot.service_of(f.head.authority())),
    };
    let Some(target) = pool.and_then(|index| generation.target(worker, index)) else {
        return Routed::Refused(Reason::NoService);
    };
    record.routed(None, Some(target));
    Routed::To(Plan::plain(target))
}

/// The service whose address a captured connection was made to.
#[derive(Debug, Clone, Copy)]
struct Dialled<'a> {
    service: &'a str,
    /// The request's authority names another service, or none.
    contradicted: bool,
}

/// Where several services share an address, the authority may choose among them.
fn dialled<'a>(
    snapshot: &Snapshot,
    services: &'a [Arc<str>],
    facts: Option<&RequestFacts>,
) -> Option<Dialled<'a>> {
    let authority = facts.map_or("", |f| f.head.authority());
    let named = snapshot.service_of(authority);
    let is_named = |service: &&Arc<str>| named.is_some() && snapshot.services.get(service) == named;
    let host = host_of(authority);
    let is_name = !host.is_empty() && host.parse::<IpAddr>().is_err();
    match services.iter().find(is_named) {
        Some(service) => Some(Dialled { service, contradicted: !is_name }),
        None => Some(Dialled { service: services.first()?, contradicted: !is_name || named.is_some() }),
    }
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
            IpAddr::V4(ip) => outrigger_sdk::hash::bytes(&ip.octets()),
            IpAddr::V6(ip) => outrigger_sdk::hash::bytes(&ip.octets()),
        }),
        HashKey::Path => {
            let path = request.head.path();
            Some(outrigger_sdk::hash::text(path.split_once('?').map_or(path, |(path, _)| path)))
        }
    });
    hashed.unwrap_or_else(|| worker.random())
}
