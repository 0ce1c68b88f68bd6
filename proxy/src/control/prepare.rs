//! Instances made ready for the workers, off the workers.
//!
//! `needs` compares two worlds and says which places want new instances (pure); `make` makes them, one per worker,
//! on the blocking pool. What cannot be made is a refusal with the operator's file and line. Which places have one before
//! anybody asks is said in `room`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::policies::{Policies, Version};
use super::publish::{World, settings_of};
use crate::config::{Config, Node, Place, RouteAction};
use crate::link::{Instance, Slot};
use crate::policy::{Compiled, Interests, PolicyMetrics, Refusal, Setup};
use crate::snapshot::{Endpoint, PolicyRef, Pool, RouteTarget, Router};

mod room;

pub use room::{Eager, slots_max};

/// A place that wants new instances.
#[derive(Debug, Clone)]
pub struct Need {
    pub slot: Slot,
    pub policy: PolicyRef,
    pub place: Place,
    /// The instances replaced are another version of the same policy, and want to hand over what they know.
    pub hands_over: bool,
    target: Arc<str>,
    role: Role,
    compiled: Arc<Compiled>,
    metrics: Arc<PolicyMetrics>,
}

#[derive(Debug, Clone)]
enum Role {
    Balancer(Arc<[Arc<Endpoint>]>),
    Router(Arc<[String]>),
}

/// A use that its policy refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: policy `{policy}` for {target}: {refusal}")]
pub struct Refused {
    pub slot: Slot,
    pub policy: Arc<str>,
    pub place: Place,
    /// `service web` or `route api`.
    pub target: String,
    pub refusal: Refusal,
}

/// For one worker.
pub type Prepared = Vec<(Slot, Instance)>;

/// What workers have in their slots now. A slot that is not named is cold: nobody has asked for it.
pub type Slots = HashMap<Slot, Held>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// One for each worker; what it asked for.
    Instance(Interests),
    /// The policy does not want to serve here: nothing, until the endpoints or the policy change.
    Refused,
}

/// What a world wants before it may be in force.
#[derive(Debug, Default)]
pub struct Needs {
    pub fill: Vec<Need>,
    /// Uses of policies that are new and whose places are all cold: one instance of each has to show that it would
    /// serve, and is thrown away.
    pub prove: Vec<Need>,
}

/// Components to look names up in: those to be tried come before those in force.
#[derive(Debug)]
pub struct Versions<'a> {
    pub tried: &'a HashMap<Arc<str>, (Version, Arc<PolicyMetrics>)>,
    pub store: &'a Policies,
}

impl Versions<'_> {
    /// Quarantined, and not about to be replaced.
    fn is_out_of_service(&self, name: &str) -> bool {
        !self.tried.contains_key(name) && self.store.entry(name).is_some_and(|entry| entry.quarantined)
    }

    fn of(&self, name: &str) -> Option<(Arc<Compiled>, Arc<PolicyMetrics>)> {
        if let Some((version, metrics)) = self.tried.get(name) {
            return Some((Arc::clone(&version.compiled), Arc::clone(metrics)));
        }
        let entry = self.store.entry(name)?;
        Some((Arc::clone(&entry.current.compiled), Arc::clone(&entry.metrics)))
    }
}

/// The places whose instances do not serve on. A policy in quarantine gets none.
pub fn needs(old: Option<&World>, new: &World, held: &Slots, versions: &Versions<'_>) -> Needs {
    let mut fill = balancer_needs(old, new, held, versions);
    fill.extend(router_needs(old, new, held, versions));
    let mut prove = proofs(old, new, &fill, versions);
    for needs in [&mut fill, &mut prove] {
        needs.retain(|need| !versions.is_out_of_service(&need.policy.policy));
    }
    Needs { fill, prove }
}

fn balancer_needs(old: Option<&World>, new: &World, held: &Slots, versions: &Versions<'_>) -> Vec<Need> {
    let eager = Eager::of(new);
    let need = |at: usize, pool: &Arc<Pool>| {
        let slot = Slot::Balancer(Arc::clone(&pool.name));
        let held = held.get(&slot).copied();
        if held.is_none() && !eager.holds(new, at) {
            return None;
        }
        let before = old.and_then(|old| old.pool(&pool.name));
        let same_policy = before.is_some_and(|old| old.balancer == pool.balancer);
        let same_list = before.is_some_and(|old| Arc::ptr_eq(&old.endpoints, &pool.endpoints));
        let serves = match held {
            Some(Held::Instance(interests)) => same_list || !interests.rebuild,
            Some(Held::Refused) => same_list,
            None => false,
        };
        if same_policy && serves {
            return None;
        }
        let mut need = balancer_need(&new.snapshot.config, pool, versions)?;
        need.hands_over = !same_policy && state_fits(before.map(|old| &old.balancer), &pool.balancer, held);
        Some(need)
    };
    let pools = &new.snapshot.pools;
    if let (Some(old), Some(patch)) = (old, &new.snapshot.patch)
        && patch.base == old.snapshot.version
    {
        let changed = patch.pools.iter().filter_map(|at| Some((*at, pools.get(*at)?)));
        return changed.filter_map(|(at, pool)| need(at, pool)).collect();
    }
    pools.iter().enumerate().filter_map(|(at, pool)| need(at, pool)).collect()
}

/// Uses that the world before did not have and that no instance to be made proves. A patch has none: its new services
/// are served like those before.
fn proofs(old: Option<&World>, new: &World, fill: &[Need], versions: &Versions<'_>) -> Vec<Need> {
    if new.snapshot.patch.is_some() {
        return Vec::new();
    }
    let before = old.into_iter().flat_map(|old| old.snapshot.pools.iter().map(|pool| &pool.balancer));
    let mut proven: HashSet<&PolicyRef> = before.chain(fill.iter().map(|need| &need.policy)).collect();
    proven.extend(old.map(World::usual_balancer));
    let config = &new.snapshot.config;
    let new_uses = new.snapshot.pools.iter().filter(|pool| proven.insert(&pool.balancer));
    let mut prove: Vec<Need> = new_uses.filter_map(|pool| balancer_need(config, pool, versions)).collect();
    // Nobody has it yet, but the next service that comes will.
    if proven.insert(new.usual_balancer()) {
        prove.extend(usual_need(new, versions));
    }
    prove
}

fn router_needs(old: Option<&World>, new: &World, held: &Slots, versions: &Versions<'_>) -> Vec<Need> {
    let old: HashMap<&str, &Router> = old.into_iter().flat_map(routers).collect();
    let need = |(name, router): (&str, &Router)| {
        let before = old.get(name);
        let held = held.get(&Slot::Router(name.into())).copied();
        let same = |old: &&Router| old.policy == router.policy && old.backend_names == router.backend_names;
        if before.is_some_and(same) && held.is_some() {
            return None;
        }
        let mut need = router_need(&new.snapshot.config, name, router, versions)?;
        need.hands_over = state_fits(before.map(|old| &old.policy), &router.policy, held);
        Some(need)
    };
    routers(new).filter_map(need).collect()
}

/// The place in this world with this slot, as if it had to be filled anew.
pub fn need_of(world: &World, slot: &Slot, versions: &Versions<'_>) -> Option<Need> {
    let config = &world.snapshot.config;
    match slot {
        Slot::Balancer(name) => balancer_need(config, world.pool(name)?, versions),
        Slot::Router(name) => {
            let (name, router) = routers(world).find(|(route, _)| *route == &**name)?;
            router_need(config, name, router, versions)
        }
    }
}

/// Every place with the policy that works in it.
pub fn uses(world: &World) -> impl Iterator<Item = (&Arc<str>, Slot)> {
    let pools = world.snapshot.pools.iter();
    let pools = pools.map(|pool| (&pool.balancer.policy, Slot::Balancer(Arc::clone(&pool.name))));
    pools.chain(routers(world).map(|(name, router)| (&router.policy.policy, Slot::Router(name.into()))))
}

pub fn pool_of<'a>(world: &'a World, slot: &Slot) -> Option<&'a Pool> {
    match slot {
        Slot::Balancer(name) => world.pool(name).map(|pool| &**pool),
        Slot::Router(_) => None,
    }
}

/// The policy that works in a place; `None` if there is no such place.
pub fn policy_in<'a>(world: &'a World, slot: &Slot) -> Option<&'a PolicyRef> {
    match slot {
        Slot::Balancer(name) => world.pool(name).map(|pool| &pool.balancer),
        Slot::Router(name) => {
            routers(world).find(|(route, _)| *route == &**name).map(|(_, router)| &router.policy)
        }
    }
}

/// Makes one instance per worker for each place. Blocks. `states` holds what the old instances handed over, by slot
/// and worker.
pub fn make(
    needs: &[Need],
    node: &Node,
    workers: usize,
    states: &HashMap<Slot, Vec<Vec<u8>>>,
) -> (Vec<Prepared>, Vec<Refused>) {
    let mut prepared: Vec<Prepared> = (0..workers).map(|_| Prepared::with_capacity(needs.len())).collect();
    let mut refused = Vec::new();
    for need in needs {
        let states = states.get(&need.slot);
        for (worker, ready) in prepared.iter_mut().enumerate() {
            match need.make(node, states.and_then(|s| s.get(worker)).map(Vec::as_slice)) {
                Ok(instance) => ready.push((need.slot.clone(), instance)),
                Err(refusal) => {
                    refused.push(need.refused(refusal));
                    break;
                }
            }
        }
        if refused.last().is_some_and(|last| last.slot == need.slot) {
            // Some workers' instances may have been made: all workers get one, or none does.
            prepared.iter_mut().for_each(|ready| ready.retain(|(slot, _)| *slot != need.slot));
        }
    }
    (prepared, refused)
}

/// What a slot holds that has been given this instance.
pub fn held_by(instance: &Instance) -> Held {
    Held::Instance(match instance {
        Instance::Balancer(balancer) => balancer.interests(),
        Instance::Router(router) => router.interests(),
    })
}

impl Need {
    pub fn make(&self, node: &Node, state: Option<&[u8]>) -> Result<Instance, Refusal> {
        let setup = Setup {
            config: &self.policy.config,
            own_service: &node.service,
            own_zone: &node.zone,
            target: &self.target,
            metrics: Arc::clone(&self.metrics),
        };
        match &self.role {
            Role::Balancer(endpoints) => {
                let instance = self.compiled.balancer(&setup, Arc::clone(endpoints), state)?;
                Ok(Instance::Balancer(Box::new(instance)))
            }
            Role::Router(backends) => {
                let instance = self.compiled.router(&setup, backends, state)?;
                Ok(Instance::Router(Box::new(instance)))
            }
        }
    }

    /// Whether an instance made for it serves this pool: the same policy and, where that asks for it, the same list.
    pub fn fits(&self, pool: &Pool, interests: Interests) -> bool {
        let same = matches!(&self.role, Role::Balancer(list) if Arc::ptr_eq(list, &pool.endpoints));
        self.policy == pool.balancer && (same || !interests.rebuild)
    }

    pub fn refused(&self, refusal: Refusal) -> Refused {
        let kind = if matches!(self.role, Role::Balancer(_)) { "service" } else { "route" };
        Refused {
            slot: self.slot.clone(),
            policy: Arc::clone(&self.policy.policy),
            place: self.place.clone(),
            target: format!("{kind} `{}`", self.target),
            refusal,
        }
    }
}

/// `None` if the policy is not loaded, which building the world has ruled out.
fn balancer_need(config: &Config, pool: &Pool, versions: &Versions<'_>) -> Option<Need> {
    let (compiled, metrics) = versions.of(&pool.balancer.policy)?;
    Some(Need {
        slot: Slot::Balancer(Arc::clone(&pool.name)),
        policy: pool.balancer.clone(),
        place: settings_of(config, &pool.service).balancer.place.clone(),
        hands_over: false,
        target: Arc::clone(&pool.service),
        role: Role::Balancer(Arc::clone(&pool.endpoints)),
        compiled,
        metrics,
    })
}

/// For a service without endpoints that the configuration does not name.
fn usual_need(world: &World, versions: &Versions<'_>) -> Option<Need> {
    let policy = world.usual_balancer();
    let (compiled, metrics) = versions.of(&policy.policy)?;
    Some(Need {
        slot: Slot::Balancer(Arc::from("")),
        policy: policy.clone(),
        place: world.snapshot.config.defaults.balancer.place.clone(),
        hands_over: false,
        target: Arc::from(""),
        role: Role::Balancer(Arc::from([])),
        compiled,
        metrics,
    })
}

/// As `balancer_need`.
fn router_need(config: &Config, name: &str, router: &Router, versions: &Versions<'_>) -> Option<Need> {
    let (compiled, metrics) = versions.of(&router.policy.policy)?;
    Some(Need {
        slot: Slot::Router(name.into()),
        policy: router.policy.clone(),
        place: route_place(config, name),
        hands_over: false,
        target: name.into(),
        role: Role::Router(Arc::clone(&router.backend_names)),
        compiled,
        metrics,
    })
}

fn state_fits(old: Option<&PolicyRef>, new: &PolicyRef, held: Option<Held>) -> bool {
    old.is_some_and(|old| old.policy == new.policy)
        && matches!(held, Some(Held::Instance(interests)) if interests.state)
}

fn routers(world: &World) -> impl Iterator<Item = (&str, &Router)> {
    world.snapshot.routes.routes().iter().filter_map(|route| match &route.target {
        RouteTarget::Router(router) => Some((&*route.name, router)),
        RouteTarget::Pool(_) => None,
    })
}

fn route_place(config: &Config, name: &str) -> Place {
    let route = config.routes.iter().find(|route| route.name == name);
    match route.map(|route| (&route.action, &route.place)) {
        Some((RouteAction::Router { policy, .. }, _)) => policy.place.clone(),
        Some((RouteAction::Forward(_), place)) => place.clone(),
        None => Place::default(),
    }
}
