//! `outrigger wait`: holds a workload's start back until its sidecar can serve it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::admin::{Sidecar, block_on};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Exit code when time ran out, as that of `timeout`.
const TIMED_OUT: u8 = 124;

/// Wait until a sidecar is ready, then run a command in this process's place.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    #[command(flatten)]
    sidecar: Sidecar,

    /// Give up after so many seconds, with exit code 124
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    timeout: f64,

    /// What to run once the sidecar is ready, with its arguments; nothing only waits
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(args: WaitArgs) -> ExitCode {
    let Ok(limit) = Duration::try_from_secs_f64(args.timeout) else {
        eprintln!("error: --timeout {} is no time to wait", args.timeout);
        return ExitCode::FAILURE;
    };
    match block_on(until_ready(&args.sidecar, limit)) {
        Ok(None) => {}
        Ok(Some(last)) => {
            eprintln!("error: {} is not ready after {limit:?}: {last}", args.sidecar.admin);
            return ExitCode::from(TIMED_OUT);
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let Some((program, arguments)) = args.command.split_first() else { return ExitCode::SUCCESS };
    // It takes this process's place, so signals and the exit code are its own.
    let error = Command::new(program).args(arguments).exec();
    eprintln!("error: cannot run {program}: {error}");
    ExitCode::FAILURE
}

/// `None` once it is ready; what it said last if time ran out.
async fn until_ready(sidecar: &Sidecar, limit: Duration) -> anyhow::Result<Option<String>> {
    let end = Instant::now() + limit;
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        let ask = sidecar.admin.ask(Method::GET, "/ready", None, Bytes::new());
        let said = match tokio::time::timeout(rest.max(PAUSE), ask).await {
            Ok(Ok((status, _))) if status.is_success() => return Ok(None),
            Ok(Ok((_, body))) => reason(&body),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= end {
            return Ok(Some(said));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn reason(body: &[u8]) -> String {
    let ready: Value = serde_json::from_slice(body).unwrap_or_default();
    let problems = ready["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let problems: Vec<&str> = problems.collect();
    match (ready["draining"].as_bool(), problems.is_empty()) {
        (Some(true), _) => "it is draining".to_owned(),
        (_, true) => "no worker serves yet".to_owned(),
        (_, false) => problems.join("; "),
    }
}
