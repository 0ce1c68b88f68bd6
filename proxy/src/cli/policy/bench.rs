//! `policy bench`: what a component costs, in CPU time of this thread, so that a busy machine blurs nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use outrigger_sdk::testing::{Random, get};
use serde::Serialize;

use super::{HostArgs, Role, load, role, say, subject};
use crate::head::RequestFacts;
use crate::policy::epoch::thread_cpu_time;
use crate::policy::{BalancerInstance, Compiled, PickContext, PolicyMetrics, RouteContext, Setup};
use crate::snapshot::{Endpoint, EndpointState};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// A component, a core module that describes its world, or the name of a built-in policy.
    file: String,
    /// The policy's configuration, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// Needed for a policy that is both.
    #[arg(long)]
    role: Option<Role>,
    /// Names of the backends granted to a router.
    #[arg(long, value_delimiter = ',', default_value = "stable,canary")]
    backends: Vec<String>,
    /// Calls in one of the rounds, of which the median is shown.
    #[arg(long, default_value_t = 20_000)]
    calls: u32,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    digest: String,
    wasm_bytes: usize,
    code_bytes: usize,
    compile_ms: f64,
    /// Called without the component around it.
    direct: bool,
    pub(super) rows: Vec<Row>,
}

/// One size of the list; a router has one row.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    endpoints: usize,
    pub(super) call_ns: f64,
    /// Instantiate, configure and update.
    start_us: f64,
    update_us: f64,
    memory_kib: usize,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let measured = bench(args)?;
    let text = if args.json { serde_json::to_string_pretty(&measured)? + "\n" } else { table(&measured) };
    say(&text);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Measured> {
    let compiled = load(&args.file, &args.host)?;
    let setup = Setup {
        config: &args.config,
        own_service: "caller",
        own_zone: "a",
        target: "bench",
        metrics: Arc::new(PolicyMetrics::new("bench")),
    };
    let rows = match role(&compiled, args.role)? {
        Role::Balancer => SIZES
            .iter()
            .map(|size| balancer(&compiled, &setup, *size, args.calls))
            .collect::<Result<_, _>>()?,
        Role::Router => vec![router(&compiled, &setup, args)?],
    };
    Ok(Measured {
        digest: compiled.digest().to_string(),
        wasm_bytes: compiled.wasm_bytes,
        code_bytes: compiled.code_bytes,
        compile_ms: compiled.load_time.as_secs_f64() * 1e3,
        direct: compiled.is_direct(),
        rows,
    })
}

fn balancer(compiled: &Arc<Compiled>, setup: &Setup<'_>, size: usize, calls: u32) -> anyhow::Result<Row> {
    let list = endpoints(size);
    let (start, instance) = timed(|| compiled.balancer(setup, Arc::clone(&list), None));
    let mut instance = instance?;
    let call_ns = picks(&mut instance, calls)?;
    let mut updates = Vec::new();
    for _ in 0..ROUNDS {
        let (took, done) = timed(|| instance.update(Arc::clone(&list)));
        done?;
        updates.push(took);
    }
    let update_us = median(&mut updates).as_secs_f64() * 1e6;
    let memory_kib = instance.memory_bytes() >> 10;
    Ok(Row { endpoints: size, call_ns, start_us: start.as_secs_f64() * 1e6, update_us, memory_kib })
}

/// With fresh random bits for each pick, drawn within the measured time as a worker draws them.
fn picks(instance: &mut BalancerInstance, calls: u32) -> anyhow::Result<f64> {
    let mut random = Random::new(1);
    let mut request = facts();
    let now = crate::clock::now_ns();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = thread_cpu_time();
        for _ in 0..calls {
            let (hash, bits) = (random.next(), random.next());
            let ctx = PickContext { hash, random: bits, now, ..PickContext::default() };
            let (back, choice) = instance.pick(request, ctx);
            request = back;
            choice?;
        }
        rounds.push(thread_cpu_time().saturating_sub(start));
    }
    Ok(per_call(&mut rounds, calls))
}

fn router(compiled: &Arc<Compiled>, setup: &Setup<'_>, args: &BenchArgs) -> anyhow::Result<Row> {
    let (start, instance) = timed(|| compiled.router(setup, &args.backends, None));
    let mut instance = instance?;
    let mut random = Random::new(1);
    let mut request = facts();
    let now = crate::clock::now_ns();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = thread_cpu_time();
        for _ in 0..args.calls {
            let ctx = RouteContext { hash: random.next(), random: random.next(), now };
            let (back, decision) = instance.route(request, ctx);
            request = back;
            decision?;
        }
        rounds.push(thread_cpu_time().saturating_sub(start));
    }
    let call_ns = per_call(&mut rounds, args.calls);
    let memory_kib = instance.memory_bytes() >> 10;
    Ok(Row { endpoints: 0, call_ns, start_us: start.as_secs_f64() * 1e6, update_us: 0.0, memory_kib })
}

fn table(measured: &Measured) -> String {
    let Measured { digest, wasm_bytes, code_bytes, compile_ms, direct, rows } = measured;
    let how = if *direct { "its core module, directly" } else { "through the component" };
    let mut text = format!(
        "digest    {digest}\nsize      {wasm_bytes} bytes of Wasm, {code_bytes} of machine code\n\
         compile   {compile_ms:.1} ms\ncalls     {how}\n\nendpoints   call ns   start us   update us   memory KiB\n"
    );
    for Row { endpoints, call_ns, start_us, update_us, memory_kib } in rows {
        text +=
            &format!("{endpoints:>9} {call_ns:>9.1} {start_us:>10.1} {update_us:>11.1} {memory_kib:>12}\n");
    }
    text
}

fn facts() -> Box<RequestFacts> {
    let request = get("/api/items?page=2").with_header("x-user", "7").with_cookie("session", "abc");
    subject::facts(&request)
}

fn endpoints(count: usize) -> Arc<[Arc<Endpoint>]> {
    let endpoint = |i: usize| {
        let [_, _, high, low] = u32::try_from(i).unwrap_or(0).to_be_bytes();
        let address: std::net::SocketAddr = ([10, 0, high, low], 8080).into();
        let state = EndpointState::default();
        state.in_flight.store(u32::from(low) % 7, std::sync::atomic::Ordering::Relaxed);
        Arc::new(Endpoint {
            id: (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            address,
            text: address.to_string().into(),
            weight: 1,
            zone: "a".into(),
            labels: vec![("version".into(), "v1".into())],
            state: Arc::new(state),
        })
    };
    (0..count).map(endpoint).collect()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = thread_cpu_time();
    let done = work();
    (thread_cpu_time().saturating_sub(start), done)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn per_call(rounds: &mut [Duration], calls: u32) -> f64 {
    median(rounds).as_secs_f64() * 1e9 / f64::from(calls.max(1))
}

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
const ROUNDS: usize = 15;
