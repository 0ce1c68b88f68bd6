//! A router called directly: texts in, a decision out, which `policy/decision` then checks.

use std::sync::Arc;

use wasmtime::{InstancePre, Store, TypedFunc};

use super::heap::Heap;
use super::state::State;
use super::{Address, Setup, after, finish, no_case, put_setup, read_interests, required, word};
use crate::policy::bindings::{router, types};
use crate::policy::host::HostState;
use crate::policy::instance::HOSTCALL_BYTES_MAX;

/// A setup and the names of the backends: ten words.
type Configure = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32);
/// Method, path and authority, each an address and a length; then hash, random bits, time.
type Route = (u32, u32, u32, u32, u32, u32, u64, u64, u64);

/// The exports of one instance of a router's core module.
pub(in crate::policy) struct Router {
    heap: Arc<Heap>,
    configure: TypedFunc<Configure, Address>,
    route: TypedFunc<Route, Address>,
    tick: TypedFunc<u64, ()>,
    after_configure: Option<TypedFunc<Address, ()>>,
    after_route: Option<TypedFunc<Address, ()>>,
    pub(in crate::policy) state: State,
}

impl Router {
    pub(in crate::policy) fn start(
        core: &InstancePre<HostState>,
        store: &mut Store<HostState>,
    ) -> wasmtime::Result<Self> {
        let (instance, heap) = super::instantiate(core, store)?;
        Ok(Self {
            configure: required(&instance, store, "router", "configure")?,
            route: required(&instance, store, "router", "route")?,
            tick: required(&instance, store, "router", "tick")?,
            after_configure: after(&instance, store, "router", "configure")?,
            after_route: after(&instance, store, "router", "route")?,
            state: State::of(&instance, store, &heap)?,
            heap,
        })
    }

    pub(in crate::policy) fn configure(
        &self,
        store: &mut Store<HostState>,
        setup: &types::Setup<'_>,
        backends: &[&str],
    ) -> wasmtime::Result<Result<types::Interests, String>> {
        let (a, b, c, d, e, f, g, h): Setup = put_setup(&self.heap, store, setup)?;
        let (list, count) = self.heap.put_texts(&mut *store, backends.iter().copied())?;
        let at = self.configure.call(&mut *store, (a, b, c, d, e, f, g, h, list, count))?;
        let answer = read_interests(&self.heap, store, at)?;
        finish(self.after_configure.as_ref(), store, at)?;
        Ok(answer)
    }

    pub(in crate::policy) fn route(
        &self,
        store: &mut Store<HostState>,
        head: &router::Head<'_>,
        ctx: router::Context,
    ) -> wasmtime::Result<router::Decision> {
        let heap = &*self.heap;
        let method = heap.put_text(&mut *store, head.method)?;
        let path = heap.put_text(&mut *store, head.path)?;
        let authority = heap.put_text(&mut *store, head.authority)?;
        let texts = (method.0, method.1, path.0, path.1, authority.0, authority.1);
        let words = (texts.0, texts.1, texts.2, texts.3, texts.4, texts.5, ctx.hash, ctx.random, ctx.now);
        let at = self.route.call(&mut *store, words)?;
        let decision = Reader { heap, store, left: HOSTCALL_BYTES_MAX }.decision(at)?;
        finish(self.after_route.as_ref(), store, at)?;
        Ok(decision)
    }

    pub(in crate::policy) fn tick(&self, store: &mut Store<HostState>, now: u64) -> wasmtime::Result<()> {
        self.tick.call(store, now)
    }
}

/// Reads an answer, within what one call may move: texts may be listed any number of times.
struct Reader<'a> {
    heap: &'a Heap,
    store: &'a Store<HostState>,
    left: usize,
}

/// Sizes of records in memory, in bytes.
const DECISION_BYTES: usize = 104;
const HEADER_BYTES: u32 = 16;
const TEXT_BYTES: u32 = 8;
/// Where a decision's record begins; its parts are counted from there.
const RECORD: usize = 8;

impl<'a> Reader<'a> {
    fn decision(mut self, at: Address) -> wasmtime::Result<router::Decision> {
        // Only `forward` is as long as this, but the longest case says how much room each of them has.
        let answer = self.heap.read::<DECISION_BYTES>(self.store, at, 8)?;
        let record = &answer[RECORD..];
        match answer[0] {
            0 => Ok(router::Decision::Next),
            1 => Ok(router::Decision::Backend(word(record, 0))),
            2 => Ok(router::Decision::Forward(self.forward(record)?)),
            3 => Ok(router::Decision::Redirect(router::Redirect {
                status: half(record, 0),
                location: self.text(record, 4)?,
            })),
            4 => Ok(router::Decision::Reply(router::Reply {
                status: half(record, 0),
                headers: self.headers(record, 4)?,
                body: self.text(record, 12)?,
            })),
            case => Err(no_case("route", case)),
        }
    }

    fn forward(&mut self, record: &[u8]) -> wasmtime::Result<router::Forward> {
        Ok(router::Forward {
            backend: word(record, 0),
            path: self.option(record, 4, |this| this.text(record, 8))?,
            authority: self.option(record, 16, |this| this.text(record, 20))?,
            set_headers: self.headers(record, 28)?,
            remove_headers: self.texts(record, 36)?,
            set_response_headers: self.headers(record, 44)?,
            timeout: self.option(record, 56, |_| {
                Ok(u64::from(word(record, 64)) | u64::from(word(record, 68)) << 32)
            })?,
            retry: match record[72] {
                0 => router::Retry::Configured,
                1 => router::Retry::Never,
                2 => router::Retry::Safe,
                case => return Err(no_case("route", case)),
            },
            hash_key: self.option(record, 76, |this| this.text(record, 80))?,
            mirror: self.option(record, 88, |_| Ok(word(record, 92)))?,
        })
    }

    fn option<T>(
        &mut self,
        record: &[u8],
        at: usize,
        value: impl FnOnce(&mut Self) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<Option<T>> {
        match record[at] {
            0 => Ok(None),
            1 => value(self).map(Some),
            case => Err(no_case("route", case)),
        }
    }

    /// The text whose address and length are at `at` in the record.
    fn text(&mut self, record: &[u8], at: usize) -> wasmtime::Result<String> {
        self.spend(word(record, at + 4) as usize)?;
        self.heap.text(self.store, word(record, at), word(record, at + 4))
    }

    fn texts(&mut self, record: &[u8], at: usize) -> wasmtime::Result<Vec<String>> {
        let items = self.items(record, at, TEXT_BYTES)?;
        items.chunks_exact(TEXT_BYTES as usize).map(|item| self.text(item, 0)).collect()
    }

    fn headers(&mut self, record: &[u8], at: usize) -> wasmtime::Result<Vec<router::Header>> {
        let items = self.items(record, at, HEADER_BYTES)?;
        let header = |item| Ok(router::Header { name: self.text(item, 0)?, value: self.text(item, 8)? });
        items.chunks_exact(HEADER_BYTES as usize).map(header).collect()
    }

    /// The list whose address and length are at `at` in the record; an empty one may point anywhere.
    fn items(&mut self, record: &[u8], at: usize, bytes: u32) -> wasmtime::Result<&'a [u8]> {
        let (start, count) = (word(record, at), word(record, at + 4));
        let len = count.checked_mul(bytes).ok_or_else(|| too_much(usize::MAX))?;
        self.spend(len as usize)?;
        if !start.is_multiple_of(4) {
            return Err(wasmtime::Error::msg(format!("a list at {start} is not aligned")));
        }
        self.heap.bytes(self.store, start, len)
    }

    fn spend(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| too_much(bytes))?;
        Ok(())
    }
}

fn half(record: &[u8], at: usize) -> u16 {
    u16::from(record[at]) | u16::from(record[at + 1]) << 8
}

#[cold]
fn too_much(bytes: usize) -> wasmtime::Error {
    wasmtime::Error::msg(format!(
        "{bytes} bytes more in an answer, of which {HOSTCALL_BYTES_MAX} may be in all"
    ))
}
