//! `outrigger doctor`: whether `outrigger net` and capture can work here, in plain words.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::net::doctor::{Finding, Verdict, examine};
use crate::net::settings;

/// Say what this kernel, these privileges and the other tables on this host allow, and what to change.
///
/// What can be tried is tried in a network namespace that ends with the try; nothing on the host changes. Exit code 1 if
/// something that is needed does not work.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// A network file: are its subnets free on this host?
    file: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &DoctorArgs) -> ExitCode {
    let settings = match args.file.as_deref().map(settings::load).transpose() {
        Ok(settings) => settings,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return ExitCode::FAILURE;
        }
    };
    let found = examine(settings.as_ref());
    let works = found.iter().all(|finding| finding.verdict != Verdict::Bad);
    let text = if args.json {
        format!("{:#}\n", json!({ "works": works, "findings": found }))
    } else {
        show(&found)
    };
    // If nobody reads the output any more, there is nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
    if works { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(found: &[Finding]) -> String {
    let width = found.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in found {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Warning => "look",
            Verdict::Bad => "BAD ",
        };
        let _ = writeln!(text, "{verdict}  {:width$}  {}", finding.about, finding.says);
        if !finding.cure.is_empty() {
            let _ = writeln!(text, "      {:width$}  -> {}", "", finding.cure);
        }
    }
    text
}
