//! What a run is asked to bring about, and which settings that makes of those that are recorded. Pure.

use std::collections::BTreeSet;

use super::super::NetError;
use super::super::plan::Scope;
use super::super::settings::{Settings, is_attached};
use super::super::store::{Names, Record};
use super::keep;

/// An id that no workload has.
const NOBODY: &str = "";

/// What a run is asked to bring about.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The whole file, and nothing else of ours but what runtimes have attached (`net::cni`).
    Whole(Settings),
    /// One workload of the file; the others stay as they are.
    One(Settings, String),
    /// The networks of the file, beside what is there.
    Networks(Settings),
    /// The whole file, beside what was added to it workload by workload.
    Follow(Settings),
    /// What is recorded, as it is recorded.
    Recorded,
    Nothing,
    Without(String),
}

pub(super) fn without(ask: Ask, gone: &[String]) -> Ask {
    match ask {
        Ask::Whole(mut settings) => {
            settings.workloads.retain(|id, _| !gone.contains(id));
            Ask::Whole(settings)
        }
        other => other,
    }
}

/// Which settings hold afterwards.
pub(super) fn next_settings(record: &Record, ask: &Ask) -> Result<Settings, NetError> {
    match ask {
        Ask::Whole(settings) => {
            let mut attached = record.settings.attached();
            // What a network of the file is, the file says, whoever else is on it.
            attached.networks.retain(|name, _| !settings.networks.contains_key(name));
            with_networks(&attached, settings).map(|networks| Settings {
                workloads: networks.workloads.into_iter().chain(settings.workloads.clone()).collect(),
                networks: networks.networks,
            })
        }
        Ask::Follow(file) => keep::followed(record, file),
        Ask::Recorded => Ok(record.settings.clone()),
        Ask::Nothing => Ok(Settings::default()),
        Ask::Without(workload) => {
            let mut settings = record.settings.clone();
            settings.workloads.remove(workload);
            Ok(settings)
        }
        Ask::One(file, id) => {
            let workload = file.workloads.get(id).ok_or_else(|| NetError::UnknownWorkload(id.clone()))?;
            let mut settings = with_networks(&record.settings, file)?;
            settings.workloads.insert(id.clone(), workload.clone());
            Ok(settings)
        }
        Ask::Networks(file) => with_networks(&record.settings, file),
    }
}

/// These settings, and the networks of the file.
pub(super) fn with_networks(settings: &Settings, file: &Settings) -> Result<Settings, NetError> {
    let mut settings = settings.clone();
    for (name, network) in &file.networks {
        let in_use: BTreeSet<String> = settings.networks_in_use().map(str::to_owned).collect();
        // A runtime's network that nobody is on gives way, be it an earlier form of this one.
        let gives_way = |other: &String| is_attached(other) && !in_use.contains(other);
        settings.networks.retain(|other, known| !gives_way(other) || !known.collides(network));
        let in_force = settings.networks.entry(name.clone()).or_insert_with(|| network.clone());
        if in_force != network {
            return Err(NetError::OtherNetwork(name.clone()));
        }
        let mut others = settings.networks.iter().filter(|(other, _)| *other != name);
        if let Some((other, _)) = others.find(|(_, known)| known.collides(network)) {
            return Err(NetError::SameNetwork(name.clone(), other.clone()));
        }
    }
    Ok(settings)
}

/// Networks that this host has to have a subnet of.
pub(super) fn overlays_asked_for<'a>(
    settings: &'a Settings,
    ask: &'a Ask,
) -> impl Iterator<Item = &'a String> {
    let is_asked_for = move |network: &&String| match ask {
        Ask::Whole(_) | Ask::Follow(_) => true,
        Ask::One(_, workload) => settings.is_plugged(workload, network),
        Ask::Networks(_) | Ask::Recorded | Ask::Nothing | Ask::Without(_) => false,
    };
    let overlays = settings.networks.iter().filter(|(_, network)| network.overlay.is_some());
    overlays.map(|(name, _)| name).filter(is_asked_for)
}

pub(super) fn from_file(record: &Record, ask: &Ask) -> Names {
    match ask {
        Ask::Whole(file) | Ask::Follow(file) => Names::of(file),
        Ask::Nothing => Names::default(),
        Ask::One(..) | Ask::Networks(_) | Ask::Without(_) | Ask::Recorded => record.from_file.clone(),
    }
}

pub(super) fn scope(ask: &Ask) -> Scope<'_> {
    match ask {
        Ask::Whole(_) | Ask::Follow(_) | Ask::Recorded | Ask::Nothing => Scope::Everything,
        Ask::One(_, workload) | Ask::Without(workload) => Scope::Workload(workload),
        Ask::Networks(_) => Scope::Workload(NOBODY),
    }
}
