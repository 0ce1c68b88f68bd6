//! The balancer that comes with the proxy, and what makes it overrule a policy.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::snapshot::Endpoint;
use crate::worker::Worker;
use crate::worker::record::Fallback;

/// Why the policy's choice cannot stand, if it cannot: it was tried already while others were not, or it has just
/// been ejected while others are not.
pub(super) fn unfit(usable: &[Arc<Endpoint>], index: usize, tried: &[u64], now_ms: u64) -> Option<Fallback> {
    let chosen = usable.get(index)?;
    if !tried.is_empty() && tried.contains(&chosen.id) && usable.iter().any(|e| !tried.contains(&e.id)) {
        return Some(Fallback::Tried);
    }
    (ejected(chosen, now_ms) && usable.iter().any(|e| !ejected(e, now_ms))).then_some(Fallback::Ejected)
}

/// The native balancer: the less loaded of two at random, among those neither tried nor ejected while there are any.
pub(super) fn native(usable: &[Arc<Endpoint>], tried: &[u64], worker: &Worker, now_ms: u64) -> Option<usize> {
    let draw = || ((u128::from(worker.random()) * usable.len() as u128) >> 64) as usize;
    let fits =
        |index: &usize| usable.get(*index).is_some_and(|e| !tried.contains(&e.id) && !ejected(e, now_ms));
    // From a random place on, so that the first one found is not always the same.
    let from = |start: usize| (start..usable.len()).chain(0..start);
    let a = from(draw()).find(fits).or_else(|| from(draw()).find(|i| !tried.contains(&usable[*i].id)));
    let a = a.or_else(|| (!usable.is_empty()).then(draw))?;
    let b = from(draw()).find(fits).unwrap_or(a);
    let load = |i: usize| usable[i].state.in_flight.load(Relaxed);
    Some(if load(b) < load(a) { b } else { a })
}

pub(super) fn ejected(endpoint: &Endpoint, now_ms: u64) -> bool {
    endpoint.state.ejected_until_ms.load(Relaxed) > now_ms
}
