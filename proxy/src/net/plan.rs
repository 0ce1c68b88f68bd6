//! The comparison: which changes lead from what there is to what there should be. Pure.
//!
//! Three things go in: what is wanted, what is ours (the store's list of what we made) and what was seen. Invariant:
//! nothing that is not ours is ever changed or removed, except settings, whose former value is kept with ours.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::item::{Change, Item, Key, Place};
use super::observe::{Seen, Standing};
use super::target::Wanted;

/// Something that we made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub place: Place,
    /// The workload that it serves alone.
    pub owner: Option<String>,
    pub item: Item,
    /// Of a setting: what it was before us.
    pub before: Option<Item>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// What will be ours when all changes are done, in the order of making.
    pub made: Vec<Made>,
    /// What is left out, since something of somebody else's is there.
    pub yielded: Vec<Item>,
    /// What may be ours while changes are under way: written down before the first of them.
    pub while_under_way: Vec<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    #[error("{place}: there is a link {name} that is not ours; give another name, or remove it")]
    Link { place: Place, name: String },
    #[error(
        "{place}: {what} is there already, and not ours; remove it, or leave `capture.mode` at `redirect`"
    )]
    Steering { place: Place, what: &'static str },
    #[error("{place}: there is another route to {to}; the namespace belongs to another network already")]
    Route { place: Place, to: String },
}

/// Which part of what is ours a plan is about.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    Everything,
    /// One workload, and what all share.
    Workload(&'a str),
}

impl Scope<'_> {
    pub fn includes(self, owner: Option<&str>) -> bool {
        match self {
            Self::Everything => true,
            Self::Workload(id) => owner.is_none_or(|owner| owner == id),
        }
    }
}

pub fn plan(wanted: &[Wanted], made: &[Made], seen: &Seen, scope: Scope<'_>) -> Result<Plan, Conflict> {
    let (within, beyond): (Vec<&Made>, Vec<&Made>) =
        made.iter().partition(|made| scope.includes(made.owner.as_deref()));
    let mut plan = Plan::default();
    let ours: BTreeMap<(&Place, Key), &Made> = within.iter().map(|made| (made.known_by(), *made)).collect();
    let named: BTreeSet<(&Place, Key)> =
        wanted.iter().map(|wanted| (&wanted.place, wanted.item.key())).collect();
    let leaving = within.iter().rev().filter(|made| !named.contains(&made.known_by()));
    // A subnet that was ours and is another host's now: a route there cannot come while its addresses are here.
    let (first, last): (Vec<&Made>, Vec<&Made>) =
        leaving.partition(|made| made.place == Place::Host && matches!(made.item, Item::Address { .. }));
    plan.changes.extend(first.into_iter().filter_map(|made| removal(made, seen)));
    for wanted in wanted {
        let ours = ours.get(&(&wanted.place, wanted.item.key()));
        bring_about(wanted, ours.copied(), seen, &mut plan)?;
    }
    plan.changes.extend(last.into_iter().filter_map(|made| removal(made, seen)));
    // What others own was made by other runs, after what all share.
    let at = plan.made.iter().rposition(|made| made.owner.is_none()).map_or(0, |last| last + 1);
    let beyond: Vec<Made> = beyond.into_iter().cloned().collect();
    plan.made.splice(at..at, beyond);
    let old: BTreeSet<(&Place, Key)> = made.iter().map(Made::known_by).collect();
    let new = plan.made.iter().filter(|new| !old.contains(&new.known_by()));
    plan.while_under_way = made.iter().chain(new).cloned().collect();
    Ok(plan)
}

impl Made {
    fn known_by(&self) -> (&Place, Key) {
        (&self.place, self.item.key())
    }
}

fn bring_about(wanted: &Wanted, ours: Option<&Made>, seen: &Seen, plan: &mut Plan) -> Result<(), Conflict> {
    let Wanted { place, owner, item, .. } = wanted;
    let before = ours.and_then(|made| made.before.clone());
    let standing = seen.standing(place, item, ours.map(|made| &made.item));
    let keep = |before: Option<Item>| Made {
        place: place.clone(),
        owner: owner.clone(),
        item: item.clone(),
        before,
    };
    let (from, before) = match standing {
        // A setting that was so before us stays so after us.
        Standing::Same if ours.is_none() && item.is_setting() => return Ok(()),
        Standing::Same => {
            plan.made.push(keep(before));
            return Ok(());
        }
        Standing::Absent => (None, before),
        Standing::Foreign if wanted.yields => {
            plan.yielded.push(item.clone());
            return Ok(());
        }
        Standing::Foreign => return Err(conflict(place, item)),
        Standing::Other(found) => {
            let setting = (ours.is_none() && item.is_setting()).then(|| found.clone());
            (Some(found), before.or(setting))
        }
    };
    plan.changes.push(Change { place: place.clone(), from, to: Some(item.clone()) });
    plan.made.push(keep(before));
    Ok(())
}

fn conflict(place: &Place, item: &Item) -> Conflict {
    let place = place.clone();
    match item.key() {
        Key::Route(to) => Conflict::Route { place, to: to.to_string() },
        Key::MarkRule(_) => Conflict::Steering { place, what: "a rule for the mark of captured packets" },
        Key::WayIn(_) => Conflict::Steering { place, what: "the table of routes for captured packets" },
        Key::Link(name)
        | Key::Up(name)
        | Key::Address(name, _)
        | Key::Sysctl(name)
        | Key::Forward(name, _)
        | Key::Neighbour(name, _)
        | Key::Checksums(name)
        | Key::Table(name) => Conflict::Link { place, name },
    }
}

/// Ours to remove, if it is still there and still as we made it.
fn removal(made: &Made, seen: &Seen) -> Option<Change> {
    let Made { place, item, before, .. } = made;
    let change = |from: Item| Some(Change { place: place.clone(), from: Some(from), to: before.clone() });
    match seen.standing(place, item, Some(item)) {
        // Whoever has changed a setting after us has taken it over.
        Standing::Other(_) if item.is_setting() => None,
        // It came with a link of ours, and goes with it.
        Standing::Same if matches!(item, Item::Sysctl { .. }) && before.is_none() => None,
        Standing::Same | Standing::Other(_) => change(item.clone()),
        Standing::Absent | Standing::Foreign => None,
    }
}

#[cfg(test)]
mod tests;
