//! The functions of the contract for core modules: each reads its arguments, asks `policy/imports` and writes what it
//! says. What they mean is decided there, once for both ways of calling.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime::{Caller, Linker};

use super::heap::Heap;
use crate::policy::bindings::env::{Host as _, HostCounter, HostHistogram, Level};
use crate::policy::bindings::request::Host as _;
use crate::policy::bindings::stats::{self, Host as _, Load};
use crate::policy::host::{Handle, HostState};

type Guest<'a> = Caller<'a, HostState>;
type Done = wasmtime::Result<()>;

const REQUEST: &str = "outrigger:policy/request@0.1.0";
const STATS: &str = "outrigger:policy/stats@0.1.0";
const ENV: &str = "outrigger:policy/env@0.1.0";

pub(super) fn add_to(linker: &mut Linker<HostState>) -> Done {
    texts(linker)?;
    lookups(linker)?;
    stats(linker)?;
    env(linker)?;
    counters(linker)?;
    histograms(linker)
}

fn texts(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(REQUEST, "method", |mut guest: Guest<'_>, to: u32| -> Done {
        let text = guest.data_mut().method()?;
        put_text(&mut guest, to, &text)
    })?;
    linker.func_wrap(REQUEST, "path", |mut guest: Guest<'_>, to: u32| -> Done {
        let text = guest.data_mut().path()?;
        put_text(&mut guest, to, &text)
    })?;
    linker.func_wrap(REQUEST, "authority", |mut guest: Guest<'_>, to: u32| -> Done {
        let text = guest.data_mut().authority()?;
        put_text(&mut guest, to, &text)
    })?;
    linker.func_wrap(REQUEST, "source-address", |mut guest: Guest<'_>, to: u32| -> Done {
        let text = guest.data_mut().source_address()?;
        put_text(&mut guest, to, &text)
    })?;
    linker.func_wrap(REQUEST, "identity", |mut guest: Guest<'_>, to: u32| -> Done {
        let found = guest.data_mut().identity()?;
        put_option(&mut guest, to, found)
    })?;
    Ok(())
}

fn lookups(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(REQUEST, "header", |mut guest: Guest<'_>, at: u32, len: u32, to: u32| -> Done {
        let name = text(&guest, at, len)?;
        let found = guest.data_mut().header(name)?;
        put_option(&mut guest, to, found)
    })?;
    linker.func_wrap(REQUEST, "headers", |mut guest: Guest<'_>, at: u32, len: u32, to: u32| -> Done {
        let name = text(&guest, at, len)?;
        let found = guest.data_mut().headers(name)?;
        let heap = heap(&guest)?;
        let list = heap.put_texts(&mut guest, found.iter().map(String::as_str))?;
        put_list(&mut guest, to, list)
    })?;
    linker.func_wrap(REQUEST, "cookie", |mut guest: Guest<'_>, at: u32, len: u32, to: u32| -> Done {
        let name = text(&guest, at, len)?;
        let found = guest.data_mut().cookie(name)?;
        put_option(&mut guest, to, found)
    })?;
    linker.func_wrap(REQUEST, "query", |mut guest: Guest<'_>, at: u32, len: u32, to: u32| -> Done {
        let name = text(&guest, at, len)?;
        let found = guest.data_mut().query(name)?;
        put_option(&mut guest, to, found)
    })?;
    linker.func_wrap(REQUEST, "tried", |mut guest: Guest<'_>, endpoint: u32| {
        guest.data_mut().tried(endpoint).map(u32::from)
    })?;
    Ok(())
}

fn stats(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(STATS, "get", |mut guest: Guest<'_>, endpoint: u32, to: u32| -> Done {
        let load = stats::Host::get(guest.data_mut(), endpoint)?;
        put_loads(&mut guest, to, &[load])
    })?;
    linker.func_wrap(STATS, "get-pair", |mut guest: Guest<'_>, a: u32, b: u32, to: u32| -> Done {
        let (a, b) = guest.data_mut().get_pair(a, b)?;
        put_loads(&mut guest, to, &[a, b])
    })?;
    linker.func_wrap(STATS, "in-flight-pair", |mut guest: Guest<'_>, a: u32, b: u32| {
        guest.data_mut().in_flight_pair(a, b)
    })?;
    linker.func_wrap(STATS, "in-flight", |mut guest: Guest<'_>, to: u32| -> Done {
        let list = guest.data_mut().in_flight()?;
        put_words(&mut guest, to, &list)
    })?;
    linker.func_wrap(STATS, "latencies", |mut guest: Guest<'_>, to: u32| -> Done {
        let list = guest.data_mut().latencies()?;
        put_words(&mut guest, to, &list)
    })?;
    Ok(())
}

fn env(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(ENV, "log", |mut guest: Guest<'_>, level: u32, at: u32, len: u32| -> Done {
        let level = match level {
            0 => Level::Debug,
            1 => Level::Info,
            2 => Level::Warn,
            3 => Level::Error,
            other => return Err(wasmtime::Error::msg(format!("log level {other} does not exist"))),
        };
        let message = text(&guest, at, len)?;
        guest.data_mut().log(level, message)
    })?;
    linker.func_wrap(ENV, "now", |guest: Guest<'_>| HostState::now(guest.data()))?;
    linker.func_wrap(ENV, "random", |mut guest: Guest<'_>| guest.data_mut().random())?;
    Ok(())
}

fn counters(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(ENV, "[constructor]counter", |mut guest: Guest<'_>, at: u32, len: u32| {
        let name = text(&guest, at, len)?;
        let counter = HostCounter::new(guest.data_mut(), name)?;
        guest.data_mut().handles.insert(Handle::Counter(counter.rep()))
    })?;
    linker.func_wrap(ENV, "[method]counter.get", |mut guest: Guest<'_>, handle: u32| {
        let counter = Resource::new_borrow(guest.data().handles.counter(handle)?);
        HostCounter::get(guest.data_mut(), counter)
    })?;
    linker.func_wrap(ENV, "[method]counter.add", |mut guest: Guest<'_>, handle: u32, delta: i64| {
        let counter = Resource::new_borrow(guest.data().handles.counter(handle)?);
        HostCounter::add(guest.data_mut(), counter, delta)
    })?;
    linker.func_wrap(ENV, "[method]counter.set", |mut guest: Guest<'_>, handle: u32, value: i64| {
        let counter = Resource::new_borrow(guest.data().handles.counter(handle)?);
        HostCounter::set(guest.data_mut(), counter, value)
    })?;
    linker.func_wrap(ENV, "[resource-drop]counter", |mut guest: Guest<'_>, handle: u32| -> Done {
        guest.data().handles.counter(handle)?;
        guest.data_mut().handles.remove(handle);
        Ok(())
    })?;
    Ok(())
}

fn histograms(linker: &mut Linker<HostState>) -> Done {
    linker.func_wrap(ENV, "[constructor]histogram", |mut guest: Guest<'_>, at: u32, len: u32| {
        let name = text(&guest, at, len)?;
        let histogram = HostHistogram::new(guest.data_mut(), name)?;
        guest.data_mut().handles.insert(Handle::Histogram(histogram.rep()))
    })?;
    linker.func_wrap(ENV, "[method]histogram.observe", |mut guest: Guest<'_>, handle: u32, value: u64| {
        let histogram = Resource::new_borrow(guest.data().handles.histogram(handle)?);
        HostHistogram::observe(guest.data_mut(), histogram, value)
    })?;
    linker.func_wrap(ENV, "[resource-drop]histogram", |mut guest: Guest<'_>, handle: u32| -> Done {
        guest.data().handles.histogram(handle)?;
        guest.data_mut().handles.remove(handle);
        Ok(())
    })?;
    Ok(())
}

/// The guest's memory, which it has once it is instantiated: imports that need it cannot be called before.
fn heap(guest: &Guest<'_>) -> wasmtime::Result<Arc<Heap>> {
    let heap = guest.data().heap.as_ref().map(Arc::clone);
    heap.ok_or_else(|| wasmtime::Error::msg("called the host while being instantiated"))
}

fn text(guest: &Guest<'_>, at: u32, len: u32) -> wasmtime::Result<String> {
    heap(guest)?.text(guest, at, len)
}

fn put_text(guest: &mut Guest<'_>, to: u32, text: &str) -> Done {
    let list = heap(guest)?.put_text(&mut *guest, text)?;
    put_list(guest, to, list)
}

fn put_words(guest: &mut Guest<'_>, to: u32, words: &[u32]) -> Done {
    let list = heap(guest)?.put_words(&mut *guest, words)?;
    put_list(guest, to, list)
}

fn put_list(guest: &mut Guest<'_>, to: u32, (at, len): (u32, u32)) -> Done {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&at.to_le_bytes());
    bytes[4..].copy_from_slice(&len.to_le_bytes());
    heap(guest)?.write(guest, to, &bytes)
}

/// `option<string>`: the case, then the text.
fn put_option(guest: &mut Guest<'_>, to: u32, found: Option<String>) -> Done {
    let heap = heap(guest)?;
    let Some(text) = found else { return heap.write(guest, to, &[0]) };
    let (at, len) = heap.put_text(&mut *guest, &text)?;
    let mut bytes = [0; 12];
    bytes[0] = 1;
    bytes[4..8].copy_from_slice(&at.to_le_bytes());
    bytes[8..].copy_from_slice(&len.to_le_bytes());
    heap.write(guest, to, &bytes)
}

fn put_loads(guest: &mut Guest<'_>, to: u32, loads: &[Load]) -> Done {
    let heap = heap(guest)?;
    let mut bytes = [0; 32];
    let words = loads.iter().flat_map(|load| [load.in_flight, load.latency_us, load.success, load.reported]);
    for (room, word) in bytes.chunks_exact_mut(4).zip(words) {
        room.copy_from_slice(&word.to_le_bytes());
    }
    heap.write(guest, to, &bytes[..loads.len() * 16])
}
