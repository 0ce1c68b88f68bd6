//! `outrigger cni`: a container runtime's door to the network of this host.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::net::cni::{self, Answer, Environment};

const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Be a CNI plugin: container runtimes call this, with CNI_COMMAND in the environment and a configuration on standard
/// input. See proxy/CNI.md.
#[derive(Debug, Default, Args)]
pub struct CniCommand {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the JSON Schema of the plugin's fields in a conflist.
    Schema,
}

/// Whether this process was started as a plugin: by its name, without a word.
pub fn is_asked() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some()
}

pub fn run(command: &CniCommand) -> ExitCode {
    match command.verb {
        Some(Verb::Schema) => say(&Answer { text: format!("{:#}\n", cni::schema()), is_good: true }),
        None => match answer() {
            Ok(answer) => say(&answer),
            Err(error) => {
                eprintln!("outrigger: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn answer() -> io::Result<Answer> {
    let environment = Environment::own();
    let mut input = Vec::new();
    // Without a command there is nothing to wait for.
    if environment.command.is_some() {
        io::stdin().take(INPUT_BYTES_MAX).read_to_end(&mut input)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(cni::answer(&environment, &input)))
}

/// If nobody reads the output any more, there is nobody to tell.
fn say(answer: &Answer) -> ExitCode {
    let _ = io::stdout().write_all(answer.text.as_bytes());
    if answer.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
