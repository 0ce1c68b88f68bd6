//! `outrigger demo`: what a sidecar with swappable policies does, on an empty machine and in half a minute.
//!
//! Three real backends, a real sidecar and a load at a fixed rate, all in this process; `PHASES` is the script. Every
//! number on the screen is computed from answers that came, or read from the sidecar's own interface.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

mod backends;
mod load;
mod readings;
mod report;
mod screen;
mod sidecar;
mod tally;

use backends::{Backend, COUNT, Condition};
use load::Load;
use readings::Readings;
use report::Row;
use screen::Screen;
use sidecar::{Sidecar, Word};
use tally::Tally;

/// Arguments of `outrigger demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long the demo takes.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: u32,
    /// Requests per second.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(20..=5000))]
    rate: u32,
    /// Workers of the sidecar.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    workers: u16,
    /// Prints one line per second, as it does without a terminal, instead of a table that is redrawn.
    #[arg(long)]
    plain: bool,
    /// Goes on with a light load at the end, and prints commands to try.
    #[arg(long)]
    keep: bool,
}

/// A part of the script.
#[derive(Debug)]
struct Phase {
    policy: &'static str,
    happens: &'static str,
    why: &'static str,
    conditions: [Condition; COUNT],
    /// Its length relative to that of the others.
    weight: u32,
}

const SLOW: Condition = Condition::Slow(80);
const PHASES: [Phase; 6] = [
    Phase {
        policy: "round-robin",
        happens: "all is well",
        why: "Each backend in turn, whatever its speed.",
        conditions: [Condition::Well; COUNT],
        weight: 3,
    },
    Phase {
        policy: "round-robin",
        happens: "beta turns slow",
        why: "Round robin does not look: every third request waits for beta.",
        conditions: [Condition::Well, SLOW, Condition::Well],
        weight: 4,
    },
    Phase {
        policy: "peak-ewma",
        happens: "beta is still slow",
        why: "Swapped under load. It learns from every answer, and leaves beta alone.",
        conditions: [Condition::Well, SLOW, Condition::Well],
        weight: 5,
    },
    Phase {
        policy: "traps",
        happens: "a policy with a bug",
        why: "It traps every half second; the sidecar decides itself, then gives it up.",
        conditions: [Condition::Well; COUNT],
        weight: 4,
    },
    Phase {
        policy: "p2c",
        happens: "gamma answers 500",
        why: "Failed attempts go elsewhere and gamma is ejected: clients see nothing.",
        conditions: [Condition::Well, Condition::Well, Condition::Failing],
        weight: 4,
    },
    Phase {
        policy: "p2c",
        happens: "all is well again",
        why: "Gamma is tried again, and stays.",
        conditions: [Condition::Well; COUNT],
        weight: 4,
    },
];
const ROUND_ROBIN_SLOW: usize = 1;
const PEAK_EWMA_SLOW: usize = 2;
const TRAPS: usize = 3;
const FAILING: usize = 4;

/// The screen is redrawn this often; the sidecar is asked every other time.
const FRAME: Duration = Duration::from_millis(250);
/// How long the last answers may take: as long as a client waits, and a little more.
const LAST_ANSWERS: Duration = Duration::from_secs(12);
const KEEP_RATE: u32 = 20;
const DRAIN: Duration = Duration::from_secs(5);

/// The demo while it runs: what the screen shows.
#[derive(Debug)]
struct Stage {
    args: DemoArgs,
    backends: Vec<Arc<Backend>>,
    sidecar: Sidecar,
    load: Load,
    tally: Tally,
    word: Word,
    /// Index into `PHASES`.
    phase: usize,
    /// The sidecar's counters before the first request.
    start: Readings,
    /// And when the phase began.
    before: Readings,
    /// Of the phases that are over, what they came to; of the last one, as it is now.
    rows: Vec<Row>,
}

/// Runs the script. The exit code is 0 if no request failed or got lost.
pub fn run(args: DemoArgs) -> ExitCode {
    let result = (|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(demo(args));
        runtime.shutdown_background();
        code
    })();
    result.unwrap_or_else(|error: anyhow::Error| {
        eprintln!("outrigger demo: {error:#}");
        ExitCode::FAILURE
    })
}

async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::new()?;
    let mut screen = Screen::new(args.plain || !io::stdout().is_terminal());
    screen.opening(&args);
    let began = Instant::now();
    let mut stage = Stage::set(args).await?;
    screen.begin(&stage, began.elapsed());
    let mut stopped = false;
    for phase in 0..PHASES.len() {
        stage.enter(phase).await?;
        screen.phase(&stage);
        stopped = stage.play(&mut screen, &mut stop).await?;
        stage.leave().await?;
        if stopped {
            break;
        }
    }
    stage.finish_load().await;
    drop(screen);
    report::print(&stage, stopped);
    let clean = stage.tally.failed == 0 && stage.lost() == 0;
    if stage.args.keep && !stopped {
        stage.keep(&mut stop).await?;
    }
    stage.sidecar.running.drain(DRAIN).await;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Stage {
    /// Starts everything, in the condition of the first phase.
    async fn set(args: DemoArgs) -> anyhow::Result<Self> {
        let backends = backends::start().context("cannot start the backends")?;
        let sidecar = Sidecar::start(&backends, args.workers.into(), PHASES[0].policy).await?;
        let word = sidecar.word(&backends).await?;
        let load = Load::start(sidecar.outbound, args.rate).context("cannot start the load")?;
        let (tally, start) = (Tally::default(), word.readings);
        Ok(Self {
            args,
            backends,
            sidecar,
            load,
            tally,
            word,
            phase: 0,
            start,
            before: start,
            rows: Vec::new(),
        })
    }

    /// Swaps the policy if the phase has another one, then changes the backends. The phase begins when both are done.
    async fn enter(&mut self, index: usize) -> anyhow::Result<()> {
        let phase = &PHASES[index];
        if phase.policy != PHASES[self.phase].policy {
            self.sidecar.put(phase.policy).await?;
        }
        for (backend, condition) in self.backends.iter().zip(phase.conditions) {
            backend.set(condition);
        }
        self.phase = index;
        self.tally.begin_phase(self.load.began.elapsed());
        self.word = self.sidecar.word(&self.backends).await?;
        self.before = self.word.readings;
        Ok(())
    }

    /// Counts and shows until the phase is over. Answers whether the user has had enough.
    async fn play(&mut self, screen: &mut Screen, stop: &mut Stop) -> anyhow::Result<bool> {
        let ends = self.load.began + self.until(self.phase + 1);
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut frame = 0_u32;
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(true),
                failure = self.sidecar.running.failed() => return Err(failure.into()),
                () = tokio::time::sleep_until(ends.into()) => return Ok(false),
                sample = self.load.samples.recv() => match sample {
                    Some(sample) => self.tally.add(sample),
                    None => anyhow::bail!("the load has ended by itself"),
                },
                _ = frames.tick() => {
                    frame += 1;
                    if frame.is_multiple_of(2) {
                        self.word = self.sidecar.word(&self.backends).await?;
                    }
                    screen.draw(self);
                }
            }
        }
    }

    async fn leave(&mut self) -> anyhow::Result<()> {
        self.word = self.sidecar.word(&self.backends).await?;
        let summary = self.tally.phase(self.phase);
        self.rows.push(Row { summary, readings: self.word.readings - self.before });
        Ok(())
    }

    /// No more requests; waits for the answers under way, and completes what the phases came to.
    async fn finish_load(&mut self) {
        self.load.set_rate(0);
        let last = async {
            while let Some(sample) = self.load.samples.recv().await {
                self.tally.add(sample);
            }
        };
        // What has not come by then is lost, and counted so.
        let _ = tokio::time::timeout(LAST_ANSWERS, last).await;
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.summary = self.tally.phase(index);
        }
    }

    /// Leaves everything running, in good condition and with a light load, until the user has had enough.
    async fn keep(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let mut load = Load::start(self.sidecar.outbound, KEEP_RATE).context("cannot start the load")?;
        report::print_commands(self);
        loop {
            tokio::select! {
                () = stop.asked() => break,
                failure = self.sidecar.running.failed() => return Err(failure.into()),
                sample = load.samples.recv() => match sample.map(|sample| sample.answer) {
                    Some(Ok(_)) => {}
                    Some(Err(failure)) => println!("a request failed: {failure}"),
                    None => anyhow::bail!("the load has ended by itself"),
                },
            }
        }
        load.set_rate(0);
        Ok(())
    }

    /// When a phase begins, from the start of the load.
    fn until(&self, phase: usize) -> Duration {
        let weight = |phases: &[Phase]| phases.iter().map(|phase| phase.weight).sum::<u32>();
        Duration::from_secs(self.args.seconds.into()) * weight(&PHASES[..phase]) / weight(&PHASES)
    }

    /// Requests that were sent and never ended. Only meaningful when the load has ended.
    fn lost(&self) -> u64 {
        self.load.sent().saturating_sub(self.tally.answered + self.tally.failed)
    }
}

/// Ctrl-C and its like.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_policies_that_are_there_and_fits_the_table() {
        for phase in &PHASES {
            assert!(phase.policy == "traps" || crate::policy::builtin::bytes(phase.policy).is_some());
            assert!(
                phase.policy.len() <= 11 && phase.happens.len() <= 20 && phase.why.len() <= 78,
                "{phase:?}"
            );
        }
        let compared = [ROUND_ROBIN_SLOW, PEAK_EWMA_SLOW].map(|index| &PHASES[index]);
        assert!(compared.iter().all(|phase| phase.conditions.contains(&SLOW)));
        assert_eq!(compared.map(|phase| phase.policy), ["round-robin", "peak-ewma"]);
        assert_eq!(PHASES[TRAPS].policy, "traps");
        assert!(PHASES[FAILING].conditions.contains(&Condition::Failing));
    }
}
