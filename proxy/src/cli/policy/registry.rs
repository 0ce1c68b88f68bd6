//! The registry that releases are published in, as the verbs about them see it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cli::admin::block_on;
use crate::config::{self, Diagnostic, RegistrySource};
use crate::control::registry::kv::Kv;
use crate::http_client::Error;
use crate::release::{Layout, Manifest, WORDS_BYTES_MAX, shortened};

/// Attempts in all, each with the next server.
const ATTEMPTS: usize = 3;

/// Which registry a verb talks to.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// The registry: a configuration file that names it, or etcd=URL or consul=URL, with commas between several URLs
    #[arg(short, long, value_name = "WHERE", env = "OUTRIGGER_REGISTRY")]
    registry: String,
}

/// Who does something, and why: what the audit trail says.
#[derive(Debug, Args)]
pub(super) struct WordsArgs {
    /// Why, for the audit trail
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    pub(super) message: String,
    /// Who, for the audit trail. Default: user and host
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl WordsArgs {
    pub(super) fn by(&self) -> String {
        let number = || format!("uid-{}", rustix::process::getuid().as_raw());
        let user =
            || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| number());
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        shortened(&self.by.clone().unwrap_or_else(|| format!("{}@{}", user(), host())))
    }

    pub(super) fn checked(&self) -> anyhow::Result<()> {
        if self.message.len() > WORDS_BYTES_MAX {
            bail!("--message: {} bytes, of which {WORDS_BYTES_MAX} are allowed", self.message.len());
        }
        Ok(())
    }
}

impl RegistryArgs {
    fn source(&self) -> anyhow::Result<RegistrySource> {
        let listed = |all: Vec<Diagnostic>| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", all.join("\n"))
        };
        let written = ["etcd", "consul"].iter().find_map(|kind| {
            let urls = self.registry.strip_prefix(kind)?.strip_prefix('=')?;
            let urls: Vec<&str> = urls.split(',').collect();
            Some(format!("registry: {{{kind}: {{endpoints: {}}}}}", serde_json::json!(urls)))
        });
        let config = match written {
            Some(text) => config::parse(&text, "--registry", Path::new("")),
            None if self.registry.contains("://") => {
                bail!("--registry: say what it is: etcd={0} or consul={0}", self.registry)
            }
            None => config::load(&PathBuf::from(&self.registry)),
        };
        Ok(config.map_err(listed)?.registry.source)
    }

    /// Runs work that may be repeated, with another server if one does not answer.
    pub(super) fn with<T>(
        &self,
        mut work: impl AsyncFnMut(&mut Kv, &Layout) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let source = self.source()?;
        let (Some(layout), kv) = (Layout::of(&source), Kv::of(&source)) else {
            bail!(
                "a services file keeps no releases: put the component where `policies` says, it is watched"
            );
        };
        let mut kv = kv.context("a registry")?;
        block_on(async {
            let mut attempt = 1;
            loop {
                match work(&mut kv, &layout).await {
                    Err(error) if attempt < ATTEMPTS && may_pass(&error) => kv.turn(),
                    result => return result,
                }
                attempt += 1;
            }
        })
    }
}

/// Another server may know better.
fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<Error>()
            .is_some_and(|error| matches!(error, Error::Connect(..) | Error::Broken(..) | Error::Slow(..)))
    })
}

/// All versions of a policy that are kept and can be read, newest first.
pub(super) async fn manifests(kv: &mut Kv, layout: &Layout, policy: &str) -> anyhow::Result<Vec<Manifest>> {
    let listing = kv.list(&layout.manifests(policy)).await?;
    let mut all = Vec::with_capacity(listing.entries.len());
    for entry in listing.entries {
        match Manifest::read(&entry.value) {
            Ok(manifest) if layout.manifest(policy, manifest.version) == entry.key => all.push(manifest),
            Ok(_) => eprintln!("warning: {}: the manifest of another version; left out", entry.key),
            Err(unfit) => eprintln!("warning: {}: {unfit}", entry.key),
        }
    }
    all.sort_by_key(|manifest| std::cmp::Reverse(manifest.version));
    Ok(all)
}

/// The name under which something is published.
pub(super) fn checked_name(name: &str) -> anyhow::Result<()> {
    if !config::resolve::check::is_dns_label(name) {
        bail!(
            "`{name}` cannot be a name: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(registry: &str) -> anyhow::Result<RegistrySource> {
        RegistryArgs { registry: registry.to_owned() }.source()
    }

    #[test]
    fn a_registry_is_named_by_kind_and_urls_or_by_a_file() {
        let RegistrySource::Etcd(etcd) = source("etcd=http://a:1,http://b:2").unwrap() else {
            panic!("etcd")
        };
        assert_eq!((etcd.servers.len(), etcd.prefix.as_str()), (2, "/outrigger"));
        let RegistrySource::Consul(consul) = source("consul=http://127.0.0.1:8500").unwrap() else {
            panic!("consul")
        };
        assert_eq!(consul.servers.len(), 1);
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("o.yaml");
        std::fs::write(&file, "registry: {consul: {endpoints: 'http://a:1'}}").unwrap();
        assert!(matches!(source(file.to_str().unwrap()).unwrap(), RegistrySource::Consul(_)));
        let error = |registry: &str| source(registry).unwrap_err().to_string();
        assert!(error("http://a:1").contains("etcd=http://a:1 or consul=http://a:1"));
        assert!(error("etcd=a:1").contains("`a:1` is not a URL"), "{}", error("etcd=a:1"));
        assert!(error("none.yaml").contains("none.yaml: cannot be read"));
    }
}
