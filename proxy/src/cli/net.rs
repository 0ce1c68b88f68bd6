//! `outrigger net`: the network of this host, planned, made, looked at and removed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::net::settings::{self, Settings};
use crate::net::store::Store;
use crate::net::{self, Ask, NetError};

mod run;
mod show;

/// Nobody holds the lock for longer than it takes to make a few hundred links.
const WAIT_SECONDS: u64 = 30;

/// A time that somebody may wait for: a day at most.
fn seconds() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(..=24 * 60 * 60)
}

/// Put workloads on the network of this host, and lead their traffic into sidecars.
#[derive(Debug, Args)]
pub struct NetCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what `apply` would change; change nothing.
    Plan(PlanArgs),
    /// Make the network as the file says, all or nothing.
    Apply(ApplyArgs),
    Run(run::RunArgs),
    /// Show what is in force, and where the kernel differs from it. Exit code 1 if it does.
    Status(Common),
    /// Remove what is ours, and put settings back.
    Undo(UndoArgs),
    /// Print the JSON Schema of the file.
    Schema,
}

#[derive(Debug, Args)]
struct Common {
    /// Folder in which we remember what is ours.
    #[arg(long, value_name = "FOLDER", default_value = net::STATE)]
    state: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How long to wait for another run to end.
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS, value_parser = seconds())]
    wait: u64,
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// The network file (YAML).
    file: PathBuf,
    /// This workload of the file alone; all others stay as they are.
    #[arg(long, value_name = "ID")]
    workload: Option<String>,
    /// Forget workloads whose namespace is gone, instead of failing on them.
    #[arg(long)]
    collect: bool,
    /// Print the firewall tables, too, in nftables' language.
    #[arg(long)]
    rules: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    drain: Drain,
}

#[derive(Debug, Args)]
struct Drain {
    /// Where a capture goes: how long the connections by it may take to end, of one workload after the other. New ones go
    /// past the sidecar meanwhile, and other runs wait.
    #[arg(long = "drain", value_name = "SECONDS", default_value_t = 0, value_parser = seconds())]
    seconds: u64,
}

impl Drain {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[derive(Debug, Args)]
struct UndoArgs {
    /// This workload alone.
    #[arg(long, value_name = "ID")]
    workload: Option<String>,
    #[command(flatten)]
    drain: Drain,
    #[command(flatten)]
    common: Common,
}

/// What a verb has to say.
struct Answer {
    text: String,
    json: Value,
    is_good: bool,
}

pub fn run(command: NetCommand) -> ExitCode {
    let (common, result) = match command.verb {
        Verb::Schema => {
            return say(&format!("{:#}\n", settings::schema()), true);
        }
        Verb::Run(args) => return run::run(&args),
        Verb::Plan(args) => (args.common.json, plan(&args)),
        Verb::Apply(args) => (args.plan.common.json, apply(&args)),
        Verb::Status(args) => (args.json, status(&args)),
        Verb::Undo(args) => (args.common.json, undo(&args)),
    };
    match result {
        Ok(answer) if common => say(&format!("{:#}\n", answer.json), answer.is_good),
        Ok(answer) => say(&answer.text, answer.is_good),
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// If nobody reads the output any more, there is nobody to tell.
fn say(text: &str, is_good: bool) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(args: &PlanArgs) -> Result<Answer, Vec<String>> {
    let ask = ask(args)?;
    let store = Store::to_read(&args.common.state);
    let done = block_on(async { net::plan_for(&store, ask, args.collect).await })?;
    Ok(Answer { text: show::plan(&done, args.rules), json: show::as_json(&done), is_good: true })
}

fn apply(args: &ApplyArgs) -> Result<Answer, Vec<String>> {
    let ApplyArgs { plan: args, drain } = args;
    let ask = ask(args)?;
    let done = block_on(async {
        let store = locked(&args.common).await?;
        net::apply(&store, ask, args.collect, drain.time()).await
    })?;
    Ok(Answer { text: show::done(&done, args.rules), json: show::as_json(&done), is_good: true })
}

fn undo(args: &UndoArgs) -> Result<Answer, Vec<String>> {
    let ask = args.workload.clone().map_or(Ask::Nothing, Ask::Without);
    let done = block_on(async {
        let store = locked(&args.common).await?;
        net::apply(&store, ask, false, args.drain.time()).await
    })?;
    Ok(Answer { text: show::done(&done, false), json: show::as_json(&done), is_good: true })
}

fn status(args: &Common) -> Result<Answer, Vec<String>> {
    let status = block_on(async { net::status(&Store::to_read(&args.state)).await })?;
    let is_good = status.is_in_order();
    Ok(Answer { text: show::status(&status), json: show::status_as_json(&status), is_good })
}

async fn locked(common: &Common) -> Result<Store, NetError> {
    Ok(Store::to_write(&common.state, Duration::from_secs(common.wait)).await?)
}

fn ask(args: &PlanArgs) -> Result<Ask, Vec<String>> {
    let shown = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let settings: Settings = settings::load(&args.file).map_err(shown)?;
    Ok(match &args.workload {
        Some(workload) => Ask::One(settings, workload.clone()),
        None => Ask::Whole(settings),
    })
}

fn block_on<T>(work: impl Future<Output = Result<T, NetError>>) -> Result<T, Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![format!("outrigger: cannot start the runtime: {error}")])?;
    runtime.block_on(work).map_err(|error| vec![format!("outrigger: {error}")])
}
