//! The registry on disk: one redb file, whose commits are atomic and on the disk when they return.
//!
//! Rows are written as the state has them, so the store knows nothing of what a change means. Used by the writer
//! alone, which is a thread: every call may block.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{Check, Entry, Instance, Name, NodeRow, Session};
use super::state::{Node, Row, State};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const NODES: TableDefinition<&str, &[u8]> = TableDefinition::new("nodes");
const INSTANCES: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("instances");
const CHECKS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("checks");
/// Flags, lock index, session, create and modify index, value.
type EntryRow = (u64, u64, &'static str, u64, u64, &'static [u8]);
const ENTRIES: TableDefinition<&str, EntryRow> = TableDefinition::new("kv");
const SESSIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("sessions");

const FILE_NAME: &str = "registry.redb";
/// Grows by one when an older program could not read the tables.
const FORMAT: u64 = 1;
/// Of pages that redb keeps in memory; the state is in memory anyway.
const CACHE_BYTES: usize = 16 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot use {0}: {1}")]
    Folder(PathBuf, std::io::Error),
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    #[error("{0} was written by a newer version (format {1}, known here: {FORMAT})")]
    Newer(PathBuf, u64),
    #[error("{0}")]
    Redb(#[from] redb::Error),
    #[error("a row cannot be read: {0}")]
    Row(#[from] serde_json::Error),
}

macro_rules! redb_errors {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
redb_errors!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// `None` after a failure, until it has been opened again.
    database: Option<Database>,
}

impl Store {
    /// Opens or makes the file in this folder. Answers what it holds, too.
    pub(crate) fn open(folder: &Path) -> Result<(Self, State), StoreError> {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Folder(folder.to_owned(), error))?;
        let mut store = Self { path: folder.join(FILE_NAME), database: None };
        let state = store.reopen()?;
        Ok((store, state))
    }

    /// After a failure: what is on the disk is what holds.
    pub(crate) fn reopen(&mut self) -> Result<State, StoreError> {
        // The file's lock goes with it.
        self.database = None;
        let mut builder = Database::builder();
        let database = match builder.set_cache_size(CACHE_BYTES).create(&self.path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(StoreError::InUse(self.path.clone()));
            }
            Err(error) => return Err(error.into()),
        };
        let state = self.load(&database)?;
        self.database = Some(database);
        Ok(state)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Writes these rows as `state` has them, all or none. They are on the disk when this returns.
    pub(crate) fn commit(&mut self, state: &State, rows: &HashSet<Row>) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Err(StoreError::Redb(redb::Error::PreviousIo));
        };
        let result = write(database, state, rows);
        if result.is_err() {
            self.database = None;
        }
        result
    }

    fn load(&self, database: &Database) -> Result<State, StoreError> {
        let transaction = database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => {
                make_tables(database)?;
                return Ok(State::default());
            }
            Err(error) => return Err(error.into()),
        };
        let number = |name| Ok::<u64, StoreError>(meta.get(name)?.map_or(0, |number| number.value()));
        let format = number("format")?;
        if format > FORMAT {
            return Err(StoreError::Newer(self.path.clone(), format));
        }
        let mut rebuilt = Rebuilt(State { index: number("index")?, ..State::default() });
        for row in transaction.open_table(NODES)?.iter()? {
            rebuilt.node(decode(row?.1.value())?);
        }
        for row in transaction.open_table(INSTANCES)?.iter()? {
            let (key, value) = row?;
            rebuilt.instance(key.value().0, decode(value.value())?);
        }
        for row in transaction.open_table(CHECKS)?.iter()? {
            rebuilt.check(decode(row?.1.value())?);
        }
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let (flags, lock_index, session, create_index, modify_index, value) = value.value();
            let (session, value) = (session.into(), Bytes::copy_from_slice(value));
            rebuilt
                .entry(key.value(), Entry { value, flags, lock_index, session, create_index, modify_index });
        }
        for row in transaction.open_table(SESSIONS)?.iter()? {
            let session: Session = decode(row?.1.value())?;
            rebuilt.0.sessions.insert(Name::clone(&session.id), Arc::new(session));
        }
        Ok(rebuilt.finish())
    }
}

fn make_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.open_table(NODES)?;
        transaction.open_table(INSTANCES)?;
        transaction.open_table(CHECKS)?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(SESSIONS)?;
    }
    transaction.commit()?;
    Ok(())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Durability is redb's default: the commit returns after `fdatasync`.
fn write(database: &Database, state: &State, rows: &HashSet<Row>) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("index", state.index)?;
    let mut keys = Vec::new();
    for row in rows {
        match row {
            Row::Node(name) => {
                let node = state.nodes.get(name).map(|node| &*node.row);
                put(&transaction, NODES, name, node)?;
            }
            Row::Instance(node, id) => {
                let instance = state.nodes.get(node).and_then(|node| node.instances.get(id));
                put(&transaction, INSTANCES, (&**node, &**id), instance.map(|found| &**found))?;
            }
            Row::Check(node, id) => {
                let check = state.nodes.get(node).and_then(|node| node.check(id));
                put(&transaction, CHECKS, (&**node, &**id), check.map(|found| &**found))?;
            }
            Row::Entry(key) => keys.push(key),
            Row::Session(id) => {
                put(&transaction, SESSIONS, id, state.sessions.get(id).map(|session| &**session))?;
            }
        }
    }
    write_entries(&transaction, state, &keys)?;
    transaction.commit()?;
    Ok(())
}

fn put<K: redb::Key + 'static, T: Serialize>(
    transaction: &WriteTransaction,
    table: TableDefinition<K, &[u8]>,
    key: K::SelfType<'_>,
    value: Option<&T>,
) -> Result<(), StoreError> {
    let mut table = transaction.open_table(table)?;
    match value {
        Some(value) => table.insert(key, &*serde_json::to_vec(value)?)?,
        None => table.remove(key)?,
    };
    Ok(())
}

fn write_entries(transaction: &WriteTransaction, state: &State, keys: &[&Name]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(ENTRIES)?;
    for key in keys {
        match state.kv.get(&***key) {
            Some(entry) => table.insert(
                &***key,
                (
                    entry.flags,
                    entry.lock_index,
                    &*entry.session,
                    entry.create_index,
                    entry.modify_index,
                    &*entry.value,
                ),
            )?,
            None => table.remove(&***key)?,
        };
    }
    Ok(())
}

/// A state put together from rows. All indexes begin at that of the last change.
struct Rebuilt(State);

impl Rebuilt {
    fn node(&mut self, row: NodeRow) {
        let node = Node { index: self.0.index, ..Node::default() };
        self.0.nodes.insert(Name::clone(&row.name), Arc::new(Node { row: Arc::new(row), ..node }));
    }

    fn instance(&mut self, node: &str, instance: Instance) {
        let index = self.0.index;
        // A row is written together with its node.
        let Some(node) = self.0.nodes.get_mut(node).map(Arc::make_mut) else { return };
        let (id, service) = (Name::clone(&instance.id), Name::clone(&instance.service));
        let member = (Name::clone(&node.row.name), Name::clone(&id));
        node.instances.insert(id, Arc::new(instance));
        self.0.counts.instances += 1;
        let mut known = self.0.services.get(&service).map(|known| (**known).clone()).unwrap_or_default();
        known.index = index;
        known.members.insert(member, ());
        self.0.services.insert(service, Arc::new(known));
    }

    fn check(&mut self, check: Check) {
        let Some(node) = self.0.nodes.get_mut(&check.node).map(Arc::make_mut) else { return };
        node.check_owners.insert(Name::clone(&check.id), Name::clone(&check.service_id));
        node.checks.insert((Name::clone(&check.service_id), Name::clone(&check.id)), Arc::new(check));
        self.0.counts.checks += 1;
    }

    fn entry(&mut self, key: &str, entry: Entry) {
        self.0.counts.kv_bytes += key.len() + entry.value.len();
        self.0.kv.insert(key.into(), Arc::new(entry));
    }

    fn finish(self) -> State {
        let mut state = self.0;
        let index = state.index;
        state.indexes.nodes = index;
        state.indexes.services = index;
        state.indexes.checks = index;
        state.indexes.kv = index;
        state.indexes.sessions = index;
        state.indexes.extinction = index;
        state.indexes.graves_from = index;
        state
    }
}
