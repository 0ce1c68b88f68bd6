//! `outrigger status`: what a running sidecar serves, at one look.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::admin::{Address, Sidecar, block_on};
use super::table::columns;

/// Show services, endpoints and policies of a running sidecar.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    sidecar: Sidecar,

    /// Print JSON: `ready`, `endpoints`, `names` and `policies` as the admin interface has them
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if the sidecar is not ready or cannot be asked.
pub fn run(args: StatusArgs) -> ExitCode {
    match block_on(state(&args.sidecar.admin)) {
        Ok(state) => {
            let text = if args.json { format!("{state:#}\n") } else { table(&state) };
            // If nobody reads the output any more, there is nobody to tell.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if state["ready"]["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn state(admin: &Address) -> anyhow::Result<Value> {
    // Not ready is an answer, too.
    let (_, ready) = admin.ask(Method::GET, "/ready", None, Bytes::new()).await?;
    let endpoints = admin.get("/endpoints").await?;
    let names = admin.get("/names").await?;
    let policies = admin.get("/policies").await?;
    let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes);
    Ok(json!({
        "ready": value(&ready)?,
        "endpoints": value(&endpoints)?,
        "names": value(&names)?,
        "policies": value(&policies)?["policies"].take(),
    }))
}

fn table(state: &Value) -> String {
    let ready = &state["ready"];
    let mut text = String::new();
    let word = match (ready["ready"] == true, ready["draining"] == true) {
        (_, true) => "draining",
        (true, false) => "ready",
        (false, false) => "not ready",
    };
    let _ = writeln!(text, "{word}, snapshot {} of {}", ready["applied"], ready["version"]);
    for problem in ready["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "problem: {problem}");
    }
    names(&mut text, &state["names"]);
    services(&mut text, &state["endpoints"]);
    policies(&mut text, &state["policies"]);
    text
}

fn names(text: &mut String, names: &Value) {
    let Some(services) = names["services"].as_object() else { return };
    let listen: Vec<&str> =
        names["listen"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (count, domain) = (services.len(), names["domain"].as_str().unwrap_or_default());
    let _ = writeln!(text, "names: {count} services below {domain}, asked for at {}", listen.join(" and "));
}

fn services(text: &mut String, endpoints: &Value) {
    let rows = endpoints.as_object().into_iter().flatten().map(|(service, list)| {
        let list = list.as_array().map_or(&[][..], Vec::as_slice);
        let count = |status: &str| list.iter().filter(|e| e["status"] == status).count().to_string();
        let in_flight: u64 = list.iter().filter_map(|e| e["in_flight"].as_u64()).sum();
        let states = ["ready", "ejected", "draining", "down"].map(count);
        let mut row = vec![service.clone()];
        row.extend(states);
        row.push(in_flight.to_string());
        row
    });
    let head = ["SERVICE", "READY", "EJECTED", "DRAINING", "DOWN", "IN FLIGHT"];
    columns(text, &head, rows.collect());
}

fn policies(text: &mut String, policies: &Value) {
    let rows = policies.as_array().into_iter().flatten().map(|policy| {
        let word = |field: &str| policy[field].as_str().unwrap_or_default().to_owned();
        let uses: Vec<&str> =
            policy["uses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let more = policy["uses_total"].as_u64().unwrap_or_default().saturating_sub(uses.len() as u64);
        let uses = if more > 0 { format!("{} and {more} more", uses.join(", ")) } else { uses.join(", ") };
        let state = if policy["quarantined"] == true { "quarantined" } else { "in force" };
        let digest = word("digest").chars().take(12).collect();
        let version = policy["release"]["version"].as_u64().map_or_else(|| "-".to_owned(), |v| v.to_string());
        vec![word("name"), state.to_owned(), version, digest, policy["failures"].to_string(), uses]
    });
    columns(text, &["POLICY", "STATE", "VERSION", "DIGEST", "FAILURES", "USED BY"], rows.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_matters() {
        let state = json!({
            "ready": {"ready": true, "draining": false, "version": 7, "applied": 7, "problems": ["config: o.yaml:3:1"]},
            "endpoints": {"web": [{"status": "ready", "in_flight": 2}, {"status": "ejected", "in_flight": 1}], "a": []},
            "names": {"listen": ["127.0.0.1:15053"], "domain": "mesh.internal", "services": {"web": {}}},
            "policies": [{"name": "p2c", "quarantined": true, "digest": "0123456789abcdef", "failures": 5,
                          "uses": ["web", "a"], "uses_total": 5},
                         {"name": "mine", "digest": "00", "failures": 0, "release": {"name": "mine", "version": 7}}],
        });
        let text = table(&state);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["ready, snapshot 7 of 7", "problem: config: o.yaml:3:1"]);
        assert_eq!(lines[2], "names: 1 services below mesh.internal, asked for at 127.0.0.1:15053");
        assert!(lines.contains(&"SERVICE  READY  EJECTED  DRAINING  DOWN  IN FLIGHT"), "{text}");
        assert!(lines.contains(&"web      1      1        0         0     3"), "{text}");
        assert!(
            lines.contains(&"p2c     quarantined  -        0123456789ab  5         web, a and 3 more"),
            "{text}"
        );
        assert!(lines.contains(&"mine    in force     7        00            0"), "{text}");
    }
}
