//! Changes of keys: alone, and as transactions.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{Done, Refusal, full};
use crate::registry_server::edit::Edit;
use crate::registry_server::model::{Entry, Name};
use crate::registry_server::settings::Limits;

/// What is done with a key. The names are those of Consul's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvVerb {
    Set,
    /// If nobody has changed it since `index`; 0: if it does not exist.
    Cas,
    Lock,
    Unlock,
    Get,
    GetTree,
    Delete,
    DeleteTree,
    DeleteCas,
    CheckIndex,
    CheckSession,
    CheckNotExists,
}

#[derive(Debug, Clone)]
pub(crate) struct KvOp {
    pub(crate) verb: KvVerb,
    pub(crate) key: Name,
    pub(crate) value: Bytes,
    pub(crate) flags: u64,
    pub(crate) index: u64,
    pub(crate) session: Name,
}

/// A key after an operation.
#[derive(Debug, Clone)]
pub(crate) struct KvDone {
    pub(crate) key: Name,
    pub(crate) entry: Arc<Entry>,
    /// Changes answer without the value.
    pub(crate) with_value: bool,
}

/// A condition that does not hold is an answer, not an error.
pub(super) fn one(edit: &mut Edit<'_>, op: KvOp, limits: &Limits) -> Result<Done, Refusal> {
    let made = match perform(edit, &op) {
        Ok(_) => true,
        Err(Unmet::Condition(_)) => false,
        Err(Unmet::Invalid(why)) => return Err(Refusal::Invalid(why)),
    };
    within(edit, limits)?;
    Ok(Done::Made(made))
}

pub(super) fn all(edit: &mut Edit<'_>, ops: Vec<KvOp>, limits: &Limits) -> Result<Done, Refusal> {
    let mut done = Vec::new();
    for (place, op) in ops.into_iter().enumerate() {
        match perform(edit, &op) {
            Ok(results) => done.extend(results),
            Err(Unmet::Condition(why) | Unmet::Invalid(why)) => return Err(Refusal::Txn(place, why)),
        }
    }
    within(edit, limits)?;
    Ok(Done::Txn(done))
}

fn within(edit: &Edit<'_>, limits: &Limits) -> Result<(), Refusal> {
    full("kv_entries", edit.state.kv.len(), limits.kv_entries)?;
    full("kv_bytes", edit.state.counts.kv_bytes, limits.kv_bytes)
}

enum Unmet {
    Condition(String),
    Invalid(String),
}

fn perform(edit: &mut Edit<'_>, op: &KvOp) -> Result<Vec<KvDone>, Unmet> {
    let old = edit.state.kv.get(&op.key).cloned();
    let unmet = |why: &str| Err(Unmet::Condition(format!("{why}, key {:?}", op.key)));
    let index = old.as_ref().map_or(0, |entry| entry.modify_index);
    match op.verb {
        KvVerb::Set => set(edit, op, old.as_deref(), false),
        KvVerb::Cas if index != op.index => return unmet("failed to set: index is stale"),
        KvVerb::Cas => set(edit, op, old.as_deref(), false),
        KvVerb::Lock => lock(edit, op, old.as_deref())?,
        KvVerb::Unlock => match &old {
            Some(entry) if !op.session.is_empty() && entry.session == op.session => {
                set(edit, op, old.as_deref(), true);
            }
            _ => return unmet("failed to unlock: the lock isn't held by this session"),
        },
        KvVerb::Get if old.is_none() => return unmet("key doesn't exist"),
        KvVerb::Get => return Ok(result(edit, &op.key, true)),
        KvVerb::GetTree => {
            let found = edit.state.keys(&op.key);
            return Ok(found
                .map(|(key, entry)| KvDone { key: key.clone(), entry: entry.clone(), with_value: true })
                .collect());
        }
        KvVerb::Delete => {
            edit.remove_entry(&op.key);
            return Ok(Vec::new());
        }
        KvVerb::DeleteTree => {
            let keys: Vec<Name> = edit.state.keys(&op.key).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| {
                edit.remove_entry(key);
            });
            return Ok(Vec::new());
        }
        // As Consul has it: deleting what is not there is done already.
        KvVerb::DeleteCas if old.is_some() && index != op.index => {
            return unmet("failed to delete: index is stale");
        }
        KvVerb::DeleteCas => {
            edit.remove_entry(&op.key);
            return Ok(Vec::new());
        }
        KvVerb::CheckIndex if old.is_none() => return unmet("key doesn't exist"),
        KvVerb::CheckIndex if index != op.index => return unmet("current modify index is different"),
        KvVerb::CheckSession if old.as_ref().is_none_or(|entry| entry.session != op.session) => {
            return unmet("failed session check: the lock isn't held by this session");
        }
        KvVerb::CheckNotExists if old.is_some() => return unmet("key exists"),
        KvVerb::CheckIndex | KvVerb::CheckSession => return Ok(result(edit, &op.key, false)),
        KvVerb::CheckNotExists => return Ok(Vec::new()),
    }
    Ok(result(edit, &op.key, false))
}

fn result(edit: &Edit<'_>, key: &Name, with_value: bool) -> Vec<KvDone> {
    let entry = edit.state.kv.get(key).cloned();
    entry.map(|entry| KvDone { key: Name::clone(key), entry, with_value }).into_iter().collect()
}

fn set(edit: &mut Edit<'_>, op: &KvOp, old: Option<&Entry>, release: bool) {
    let entry = Entry {
        value: op.value.clone(),
        flags: op.flags,
        lock_index: old.map_or(0, |old| old.lock_index),
        session: old.filter(|_| !release).map(|old| Name::clone(&old.session)).unwrap_or_default(),
        ..Entry::default()
    };
    edit.set_entry(&op.key, entry);
}

fn lock(edit: &mut Edit<'_>, op: &KvOp, old: Option<&Entry>) -> Result<(), Unmet> {
    if !edit.state.sessions.contains(&op.session) {
        return Err(Unmet::Invalid(format!("invalid session {:?}", op.session)));
    }
    let held = old.map(|old| &old.session).filter(|session| !session.is_empty());
    if held.is_some_and(|session| *session != op.session) {
        return Err(Unmet::Condition(format!("failed to lock: held by another session, key {:?}", op.key)));
    }
    if edit.state.lock_delays.get(&op.key).is_some_and(|until| *until > Instant::now()) {
        return Err(Unmet::Condition(format!("failed to lock: its last holder was lost, key {:?}", op.key)));
    }
    edit.state.lock_delays.remove(&op.key);
    let lock_index = old.map_or(0, |old| old.lock_index) + u64::from(held.is_none());
    let session = Name::clone(&op.session);
    edit.set_entry(
        &op.key,
        Entry { value: op.value.clone(), flags: op.flags, lock_index, session, ..Entry::default() },
    );
    Ok(())
}

/// Its locks are released, or their keys deleted, and nobody may take them for the delay it asked for.
pub(super) fn end_session(edit: &mut Edit<'_>, id: &Name, now: Instant) {
    let Some(session) = edit.remove_session(id) else { return };
    let held = edit.state.kv.iter().filter(|(_, entry)| entry.session == *id);
    let held: Vec<(Name, Arc<Entry>)> = held.map(|(key, entry)| (key.clone(), entry.clone())).collect();
    for (key, entry) in held {
        if session.behavior == "delete" {
            edit.remove_entry(&key);
        } else {
            edit.set_entry(&key, Entry { session: Name::default(), ..(*entry).clone() });
        }
        if !session.lock_delay.is_zero() {
            edit.state.lock_delays.insert(key, now + session.lock_delay);
        }
    }
}
