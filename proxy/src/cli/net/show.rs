//! What `outrigger net` prints: lines and tables for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::net::item::{Change, Item};
use crate::net::overlay::{Peer, State, Subnets};
use crate::net::{Done, Status};

pub(super) fn plan(done: &Done, rules: bool) -> String {
    let mut text = String::new();
    if done.changes.is_empty() {
        text.push_str("nothing to change\n");
    }
    changes(&mut text, &done.changes);
    gone(&mut text, done);
    if rules {
        tables(&mut text, &done.changes);
    }
    text
}

pub(super) fn done(done: &Done, rules: bool) -> String {
    let mut text = plan(done, rules);
    for (network, why) in &done.unreleased {
        let _ = writeln!(text, "network {network}: its subnet is not given back, and ends by itself: {why}");
    }
    for (workload, addresses) in done.addresses.iter().filter(|(_, addresses)| !addresses.is_empty()) {
        let _ = writeln!(text, "{workload}: {}", addresses.join(", "));
    }
    text
}

fn changes(text: &mut String, changes: &[Change]) {
    for change in changes {
        let _ = writeln!(text, "{change}");
    }
}

fn gone(text: &mut String, done: &Done) {
    for workload in &done.gone {
        let _ = writeln!(text, "{workload}: its namespace is gone");
    }
}

fn tables(text: &mut String, changes: &[Change]) {
    for change in changes {
        if let Some(Item::Table(table)) = &change.to {
            let _ = write!(text, "\n# {}\n{table}", change.place);
        }
    }
}

pub(super) fn as_json(done: &Done) -> Value {
    json!({
        "changes": changes_as_json(&done.changes),
        "gone": done.gone,
        "addresses": done.addresses,
    })
}

fn changes_as_json(changes: &[Change]) -> Vec<Value> {
    let one = |change: &Change| {
        json!({
            "place": change.place.to_string(),
            "do": change.word(),
            "text": change.to_string(),
            "from": change.from,
            "to": change.to,
        })
    };
    changes.iter().map(one).collect()
}

pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let word = if status.is_in_order() { "in order" } else { "not in order" };
    let settings = status.record.effective();
    let _ = writeln!(
        text,
        "{word}: {} networks, {} workloads",
        settings.networks.len(),
        settings.workloads.len()
    );
    if status.record.unfinished {
        text.push_str("a run has not ended: `outrigger net apply` or `undo` goes on from there\n");
    }
    let networks = settings.networks.iter().map(|(name, network)| {
        let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
        vec![name.clone(), network.bridge.clone(), subnets.join(" ")]
    });
    columns(&mut text, &["NETWORK", "BRIDGE", "SUBNETS"], networks.collect());
    let workloads = status.workloads.iter().map(|workload| {
        let captured = if workload.is_captured { "yes" } else { "no" };
        let state = if workload.is_gone { "namespace gone" } else { "there" };
        let network = workload.network.clone().unwrap_or_else(|| "-".into());
        vec![workload.id.clone(), network, workload.addresses.join(" "), captured.into(), state.into()]
    });
    columns(&mut text, &["WORKLOAD", "NETWORK", "ADDRESSES", "CAPTURED", "STATE"], workloads.collect());
    let hosts = status.record.overlays.iter().flat_map(|(name, state)| {
        let row = |subnets: &Subnets, address: String| vec![name.clone(), subnets.to_string(), address];
        let peers = state.peers.iter().map(move |peer| row(&peer.subnets, peer.addresses().join(" ")));
        [row(&state.subnets, format!("this host, by {}", state.underlay.link))].into_iter().chain(peers)
    });
    columns(&mut text, &["OVERLAY", "SUBNETS", "HOST"], hosts.collect());
    if !status.drift.is_empty() {
        text.push_str("\nthe kernel differs; `outrigger net apply` would:\n");
        changes(&mut text, &status.drift);
    }
    for link in &status.strangers {
        let _ =
            writeln!(text, "link {link} has our mark, but no record: remove it with `ip link del {link}`");
    }
    text
}

pub(super) fn status_as_json(status: &Status) -> Value {
    let workload = |workload: &crate::net::WorkloadStatus| {
        json!({
            "id": workload.id,
            "network": workload.network,
            "addresses": workload.addresses,
            "captured": workload.is_captured,
            "gone": workload.is_gone,
        })
    };
    json!({
        "in_order": status.is_in_order(),
        "unfinished": status.record.unfinished,
        "networks": status.record.effective().networks,
        "overlays": overlays_as_json(status),
        "workloads": status.workloads.iter().map(workload).collect::<Vec<_>>(),
        "drift": changes_as_json(&status.drift),
        "strangers": status.strangers,
    })
}

fn overlays_as_json(status: &Status) -> Value {
    let of_one = |(name, state): (&String, &State)| {
        let peer = |peer: &Peer| json!({"subnets": peer.subnets.list(), "addresses": peer.addresses()});
        let told = json!({
            "subnets": state.subnets.list(),
            "vni": state.plan.vni,
            "port": state.plan.port,
            "interface": state.underlay.link,
            "peers": state.peers.iter().map(peer).collect::<Vec<_>>(),
        });
        (name.clone(), told)
    };
    status.record.overlays.iter().map(of_one).collect::<serde_json::Map<_, _>>().into()
}

/// A table with its columns aligned, after an empty line; none if it has no rows.
fn columns(text: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    text.push('\n');
    for row in [&head].into_iter().chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
