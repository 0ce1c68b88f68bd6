//! `outrigger check`: what is wrong with a configuration, before it is used.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Config, Diagnostic, RegistrySource};
use crate::control::registry::file;
use crate::snapshot::Catalogue;

mod connect;
mod trace;

/// Check a configuration and the services file it names, and on demand the registry.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(required_unless_present = "schema")]
    pub file: Option<PathBuf>,

    /// Say where a request would go: a method and a URL, such as 'POST http://shop/cart'
    #[arg(long, value_name = "REQUEST", requires = "file")]
    pub request: Option<String>,

    /// Ask every server of the registry whether it lets a sidecar in, and what it holds
    #[arg(long, requires = "file", conflicts_with = "request")]
    pub connect: bool,

    /// Print the JSON Schema of a file's form instead
    #[arg(long, value_name = "FORM", num_args = 0..=1, default_missing_value = "config", conflicts_with = "file")]
    pub schema: Option<Form>,
}

/// The files that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// The configuration
    Config,
    /// The services file
    Services,
}

/// Errors go to standard error, one per line; exit code 1 if there are any.
pub fn run(args: CheckArgs) -> ExitCode {
    let shown = |errors: Vec<Diagnostic>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let result = match (args.schema, &args.file, &args.request) {
        (Some(form), ..) => Ok(schema(form)),
        (None, Some(file), None) => check(file).map_err(shown).and_then(|good| match args.connect {
            true => Ok(format!("{good}\n{}", connect::connect(&good.config)?)),
            false => Ok(good.to_string()),
        }),
        (None, Some(file), Some(request)) => check(file).map_err(shown).and_then(|good| {
            let catalogue = good.services.as_ref().map(|(_, catalogue)| catalogue);
            trace::trace(request, &good.config, catalogue)
                .map_err(|error| vec![format!("--request: {error}")])
        }),
        // clap refuses it.
        (None, None, _) => Err(Vec::new()),
    };
    // If nobody reads the output any more, there is nobody to tell.
    match result {
        Ok(text) => {
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let mut stderr = io::stderr().lock();
            for error in &errors {
                let _ = writeln!(stderr, "{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn schema(form: Form) -> String {
    let schema = match form {
        Form::Config => config::schema(),
        Form::Services => file::schema(),
    };
    format!("{schema:#}")
}

/// What a pair of good files holds.
#[derive(Debug)]
struct Summary {
    file: PathBuf,
    config: Config,
    /// `None` with a registry over the network.
    services: Option<(PathBuf, Catalogue)>,
}

fn check(path: &Path) -> Result<Summary, Vec<Diagnostic>> {
    let config = config::load(path)?;
    let services = match &config.registry.source {
        RegistrySource::File(path) => Some((path.clone(), file::load(path)?)),
        RegistrySource::Etcd(_) | RegistrySource::Consul(_) => None,
    };
    Ok(Summary { file: path.to_owned(), config, services })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let releases = self.config.releases().count();
        write!(
            f,
            "ok: {}: {}, {}, {}",
            self.file.display(),
            Count(self.config.routes.len(), "route", "routes"),
            Count(self.config.services.len(), "service with settings", "services with settings"),
            Count(self.config.policies.len() - releases, "policy file", "policy files"),
        )?;
        if releases > 0 {
            write!(f, ", {}", Count(releases, "release", "releases"))?;
        }
        let Some((file, catalogue)) = &self.services else { return Ok(()) };
        write!(
            f,
            "; {}: {}, {}",
            file.display(),
            Count(catalogue.services.len(), "service", "services"),
            Count(catalogue.endpoints(), "endpoint", "endpoints"),
        )
    }
}

/// A number with its noun.
struct Count(usize, &'static str, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { self.1 } else { self.2 })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tempfile::TempDir;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckArgs,
    }

    fn args(line: &[&str]) -> Result<CheckArgs, clap::Error> {
        Line::try_parse_from([&["check"], line].concat()).map(|line| line.check)
    }

    fn files(config: &str, services: &str) -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("services.yaml"), services).unwrap();
        let file = directory.path().join("outrigger.yaml");
        std::fs::write(&file, config).unwrap();
        (directory, file)
    }

    #[test]
    fn takes_a_file_or_the_name_of_a_form() {
        assert_eq!(args(&["o.yaml"]).unwrap().file, Some("o.yaml".into()));
        assert_eq!(args(&["--schema"]).unwrap().schema, Some(Form::Config));
        assert_eq!(args(&["--schema", "services"]).unwrap().schema, Some(Form::Services));
        for wrong in [&[][..], &["o.yaml", "--schema", "config"], &["--schema", "other"]] {
            assert!(args(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sums_up_good_files() {
        let config = "registry: {file: services.yaml}\nroutes: [{service: web}]\n";
        let (_directory, file) =
            files(config, "services: {web: {endpoints: ['10.0.0.1:80', '10.0.0.2:80']}}");
        let summary = check(&file).unwrap().to_string();
        assert!(summary.contains("1 route, 0 services with settings, 0 policy files"), "{summary}");
        assert!(summary.ends_with("services.yaml: 1 service, 2 endpoints"), "{summary}");
    }

    #[test]
    fn shows_the_errors_of_either_file() {
        let (_directory, file) = files("registri: {file: services.yaml}", "services: {}");
        let errors = check(&file).unwrap_err();
        assert_eq!((errors[0].place.line, errors[0].place.column), (1, 1));
        assert_eq!(errors[0].hint.as_deref(), Some("did you mean `registry`?"));

        let (_directory, file) = files("registry: {file: services.yaml}", "services:\n  web: 5\n");
        let errors = check(&file).unwrap_err();
        assert!(errors[0].place.file.ends_with("services.yaml"));
        assert_eq!((errors[0].place.line, errors[0].place.column), (2, 8));

        let (_directory, file) = files("registry: {file: none.yaml}", "");
        let shown = check(&file).unwrap_err()[0].to_string();
        assert!(shown.contains("none.yaml: cannot be read: No such file"), "{shown}");
    }

    #[test]
    fn prints_schemas() {
        let config: serde_json::Value = serde_json::from_str(&schema(Form::Config)).unwrap();
        assert_eq!(config["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema(Form::Services).contains("endpoints"));
    }
}
