//! `policy check`: everything the proxy would refuse, then the conformance kit on the component itself.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use outrigger_sdk::testing::conformance::{Claims, Report, check_balancer, check_router};

use super::{HostArgs, Role, load, role, say, subject};
use crate::policy::Compiled;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
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
    /// What a balancer promises beyond safety, and is held to.
    #[arg(long, value_delimiter = ',')]
    claim: Vec<Claim>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Claim {
    /// Idle endpoints are chosen in proportion to their weights.
    Weighted,
    /// The same hash goes to the same endpoint, and few keys move when one endpoint of 20 comes or goes.
    Hashed,
    /// An endpoint with very many requests in flight is avoided.
    LoadAware,
    /// An endpoint that fails fast is avoided.
    AvoidsFailures,
    /// A second attempt goes elsewhere.
    RetriesElsewhere,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = check(args)?;
    let (verdict, code) =
        if report.passed() { ("passes", ExitCode::SUCCESS) } else { ("does not pass", ExitCode::FAILURE) };
    say(&format!("{report}{} {verdict}\n", args.file));
    Ok(code)
}

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<Report> {
    let compiled = load(&args.file, &args.host)?;
    let role = role(&compiled, args.role)?;
    Ok(conformance(&compiled, role, &args.config, (&args.backends, &args.claim)))
}

/// The kit on one of its roles.
pub(super) fn conformance(
    compiled: &Arc<Compiled>,
    role: Role,
    config: &str,
    (backends, claim): (&[String], &[Claim]),
) -> Report {
    let compiled = Arc::clone(compiled);
    match role {
        Role::Balancer => check_balancer(&mut subject::Balancer::new(compiled), config, &claims(claim)),
        Role::Router => {
            let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
            check_router(&mut subject::Router::new(compiled), config, &backends)
        }
    }
}

fn claims(list: &[Claim]) -> Claims {
    list.iter().fold(Claims::none(), |claims, claim| match claim {
        Claim::Weighted => claims.weighted(),
        Claim::Hashed => claims.hashed(NEEDLESS_MOVES),
        Claim::LoadAware => claims.load_aware(),
        Claim::AvoidsFailures => claims.avoids_failures(),
        Claim::RetriesElsewhere => claims.retries_elsewhere(),
    })
}

/// Share of the keys that may move without need; Maglev, which is not perfect, moves about 2 %.
const NEEDLESS_MOVES: f64 = 0.05;
