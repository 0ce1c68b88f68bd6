//! `outrigger check --connect`: each server of the registry is asked what it holds.

use std::fmt::Write as _;

use super::Count;
use crate::config::{Config, RegistrySource};
use crate::control::registry::visit::{self, Found};

/// A line for each server, and one for what sidecars would miss; or what is wrong, if any server does not answer.
pub(super) fn connect(config: &Config) -> Result<String, Vec<String>> {
    let kind = match &config.registry.source {
        RegistrySource::File(_) => return Err(vec!["--connect: the registry is a file".to_owned()]),
        RegistrySource::Etcd(_) => "etcd",
        RegistrySource::Consul(_) => "consul",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![format!("cannot start the runtime: {error}")])?;
    let visits = runtime.block_on(visit::visit(&config.registry));
    // The look-up of a name may still be under way.
    runtime.shutdown_background();
    let (mut text, mut errors) = (String::new(), Vec::new());
    for visit in visits {
        match visit.found {
            Ok(found) => {
                let _ = writeln!(text, "ok: {kind} {}: {}", visit.server, holds(&found));
                for name in config.registry.services.iter().flatten() {
                    if !found.services.contains(name) {
                        let _ = writeln!(
                            text,
                            "note: {kind} {}: nothing is registered as `{name}`",
                            visit.server
                        );
                    }
                }
                for reason in found.bad {
                    let _ = writeln!(text, "note: {kind} {}: left out: {reason}", visit.server);
                }
            }
            Err(error) => errors.push(format!("{kind}: {error}")),
        }
    }
    if errors.is_empty() { Ok(text.trim_end().to_owned()) } else { Err(errors) }
}

fn holds(found: &Found) -> String {
    let services = Count(found.services.len(), "service", "services").to_string();
    match found.instances {
        Some(instances) => format!("{services}, {}", Count(instances, "instance", "instances")),
        None => services,
    }
}
