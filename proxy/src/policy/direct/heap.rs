//! A guest's memory as the canonical ABI uses it: texts and lists in, answers out.
//!
//! Invariant: no address from a guest is used unchecked, and no answer makes the host take more than a call may move.

use std::sync::Arc;

use wasmtime::{AsContextMut, Instance, Memory, Store, TypedFunc};

use crate::policy::host::HostState;
use crate::policy::instance::HOSTCALL_BYTES_MAX;
use crate::snapshot::Endpoint;

/// Memory of one instance, and the guest's own allocator for it.
pub(in crate::policy) struct Heap {
    memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
}

/// Sizes of records in memory, in bytes.
const ENDPOINT_BYTES: usize = 40;
const LABEL_BYTES: usize = 16;
const TEXT_BYTES: usize = 8;

impl Heap {
    pub(super) fn of(instance: &Instance, store: &mut Store<HostState>) -> wasmtime::Result<Self> {
        let missing = || wasmtime::Error::msg("the module exports no `memory`");
        let memory = instance.get_memory(&mut *store, "memory").ok_or_else(missing)?;
        Ok(Self { memory, realloc: instance.get_typed_func(store, "cabi_realloc")? })
    }

    /// Room for `size` bytes.
    fn allocate(
        &self,
        mut store: impl AsContextMut<Data = HostState>,
        align: u32,
        size: usize,
    ) -> wasmtime::Result<u32> {
        let bytes = u32::try_from(size)?;
        let at = self.realloc.call(&mut store, (0, 0, align, bytes))?;
        let end = (at as usize).checked_add(size).filter(|end| *end <= self.memory.data_size(&store));
        if end.is_none() || !at.is_multiple_of(align) {
            return Err(wasmtime::Error::msg(format!("cabi_realloc returned {at} for {size} bytes")));
        }
        Ok(at)
    }

    pub(super) fn put_bytes(
        &self,
        mut store: impl AsContextMut<Data = HostState>,
        bytes: &[u8],
    ) -> wasmtime::Result<(u32, u32)> {
        let at = self.allocate(&mut store, 1, bytes.len())?;
        self.write(store, at, bytes)?;
        // `allocate` has seen that the length fits.
        Ok((at, bytes.len() as u32))
    }

    pub(super) fn put_text(
        &self,
        store: impl AsContextMut<Data = HostState>,
        text: &str,
    ) -> wasmtime::Result<(u32, u32)> {
        self.put_bytes(store, text.as_bytes())
    }

    /// A list of texts: where it begins, and its length.
    pub(super) fn put_texts<'a>(
        &self,
        mut store: impl AsContextMut<Data = HostState>,
        texts: impl ExactSizeIterator<Item = &'a str>,
    ) -> wasmtime::Result<(u32, u32)> {
        let count = texts.len();
        let at = self.allocate(&mut store, 4, count * TEXT_BYTES)?;
        let mut list = Vec::with_capacity(count * TEXT_BYTES);
        for text in texts {
            words(&mut list, [self.put_text(&mut store, text)?].into_iter().flat_map(|(at, len)| [at, len]));
        }
        self.write(store, at, &list)?;
        Ok((at, count as u32))
    }

    pub(super) fn put_words(
        &self,
        mut store: impl AsContextMut<Data = HostState>,
        list: &[u32],
    ) -> wasmtime::Result<(u32, u32)> {
        let mut bytes = Vec::with_capacity(list.len() * 4);
        words(&mut bytes, list.iter().copied());
        let at = self.allocate(&mut store, 4, bytes.len())?;
        self.write(store, at, &bytes)?;
        Ok((at, list.len() as u32))
    }

    /// `list<endpoint>`, in one piece but for the texts.
    pub(super) fn put_endpoints(
        &self,
        store: &mut Store<HostState>,
        endpoints: &[Arc<Endpoint>],
    ) -> wasmtime::Result<(u32, u32)> {
        let at = self.allocate(&mut *store, 8, endpoints.len() * ENDPOINT_BYTES)?;
        let mut list = Vec::with_capacity(endpoints.len() * ENDPOINT_BYTES);
        for endpoint in endpoints {
            let address = self.put_text(&mut *store, &endpoint.text)?;
            let zone = self.put_text(&mut *store, &endpoint.zone)?;
            let labels = self.put_labels(store, endpoint)?;
            list.extend_from_slice(&endpoint.id.to_le_bytes());
            let rest = [address.0, address.1, endpoint.weight, zone.0, zone.1, labels.0, labels.1, 0];
            words(&mut list, rest);
        }
        self.write(store, at, &list)?;
        Ok((at, endpoints.len() as u32))
    }

    fn put_labels(&self, store: &mut Store<HostState>, endpoint: &Endpoint) -> wasmtime::Result<(u32, u32)> {
        let at = self.allocate(&mut *store, 4, endpoint.labels.len() * LABEL_BYTES)?;
        let mut list = Vec::with_capacity(endpoint.labels.len() * LABEL_BYTES);
        for (key, value) in &endpoint.labels {
            let key = self.put_text(&mut *store, key)?;
            let value = self.put_text(&mut *store, value)?;
            words(&mut list, [key.0, key.1, value.0, value.1]);
        }
        self.write(store, at, &list)?;
        Ok((at, endpoint.labels.len() as u32))
    }

    pub(super) fn write(
        &self,
        mut store: impl AsContextMut<Data = HostState>,
        at: u32,
        bytes: &[u8],
    ) -> wasmtime::Result<()> {
        let room = self.memory.data_mut(&mut store).get_mut(at as usize..);
        let Some(room) = room.and_then(|room| room.get_mut(..bytes.len())) else {
            return Err(outside(at, bytes.len()));
        };
        room.copy_from_slice(bytes);
        Ok(())
    }

    /// An answer of fixed size.
    #[inline]
    pub(super) fn read<const N: usize>(
        &self,
        store: &Store<HostState>,
        at: u32,
        align: u32,
    ) -> wasmtime::Result<[u8; N]> {
        let found = self.memory.data(store).get(at as usize..).and_then(|rest| rest.first_chunk::<N>());
        match found {
            Some(bytes) if at.is_multiple_of(align) => Ok(*bytes),
            _ => Err(outside(at, N)),
        }
    }

    /// What the guest points to.
    pub(super) fn bytes<'a>(
        &self,
        store: impl Into<wasmtime::StoreContext<'a, HostState>>,
        at: u32,
        len: u32,
    ) -> wasmtime::Result<&'a [u8]> {
        let len = len as usize;
        if len > HOSTCALL_BYTES_MAX {
            let message = format!("{len} bytes at once, of which {HOSTCALL_BYTES_MAX} may be");
            return Err(wasmtime::Error::msg(message));
        }
        let memory = self.memory.data(store);
        memory.get(at as usize..).and_then(|rest| rest.get(..len)).ok_or_else(|| outside(at, len))
    }

    pub(super) fn text<'a>(
        &self,
        store: impl Into<wasmtime::StoreContext<'a, HostState>>,
        at: u32,
        len: u32,
    ) -> wasmtime::Result<String> {
        Ok(std::str::from_utf8(self.bytes(store, at, len)?)?.to_owned())
    }
}

fn words(list: &mut Vec<u8>, words: impl IntoIterator<Item = u32>) {
    for word in words {
        list.extend_from_slice(&word.to_le_bytes());
    }
}

#[cold]
fn outside(at: u32, len: usize) -> wasmtime::Error {
    wasmtime::Error::msg(format!("{len} bytes at {at} are not all in the guest's memory, or not aligned"))
}
