//! The services file: a registry for those who have none.
//!
//! Pure but for reading the file; control watches it and calls again. Invariant: a file that does not say `services`
//! is an error, not an empty catalogue, so that one caught half-written (or truncated) empties nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::config::diagnostic::{Diagnostic, FieldPath, Problems};
use crate::config::resolve::check;
use crate::config::written::Short;
use crate::config::{read_text, schema::schema_of, yaml};
use crate::snapshot::service::EndpointStatus;
use crate::snapshot::{Catalogue, EndpointRecord};

const FILE_BYTES_MAX: u64 = 16 << 20;
const WEIGHT_MAX: u32 = 65_535;

/// Reads the services file.
pub fn load(path: &Path) -> Result<Catalogue, Vec<Diagnostic>> {
    let text = read_text(path, FILE_BYTES_MAX).map_err(|error| vec![error])?;
    parse(&text, &path.display().to_string())
}

/// Reads a services file's text. `file_name` is for messages.
pub fn parse(text: &str, file_name: &str) -> Result<Catalogue, Vec<Diagnostic>> {
    let (written, mut problems) = yaml::read(text, file_name)?;
    let catalogue = resolve(written, &mut problems);
    problems.finish()?;
    Ok(catalogue)
}

/// The JSON Schema of the services file.
pub fn schema() -> Value {
    schema_of::<WrittenServices>()
}

/// Services and where they can be reached.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outrigger services")]
struct WrittenServices {
    /// By name: lower-case letters, digits and hyphens.
    #[schemars(required)]
    services: Option<BTreeMap<String, WrittenService>>,
}

/// One service.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenService {
    /// May be empty.
    #[schemars(required)]
    endpoints: Option<Vec<Short<WrittenEndpoint>>>,
}

/// One address of a service. The short form is the address.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenEndpoint {
    /// IP:port; host names are not looked up.
    #[schemars(required)]
    address: Option<String>,
    /// Share of traffic relative to the others, 1 to 65535. Default: 1.
    weight: Option<u32>,
    /// The zone it runs in.
    zone: Option<String>,
    /// What routes and policies can choose by.
    labels: Option<BTreeMap<String, String>>,
    /// Default: ready.
    status: Option<WrittenStatus>,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WrittenStatus {
    /// It does.
    Ready,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It is out of order.
    Down,
}

fn resolve(written: WrittenServices, problems: &mut Problems) -> Catalogue {
    let root = FieldPath::Root;
    let at = &root.field("services");
    let Some(written) = written.services else {
        problems.report_with(at, "field `services` is missing", "`services: {}` says that there are none");
        return Catalogue::default();
    };
    let mut services = BTreeMap::new();
    for (name, service) in written {
        let at = &at.field(&name);
        check::dns_label_key(&name, at, problems);
        let endpoints = endpoints(service, &at.field("endpoints"), problems);
        services.insert(name.as_str().into(), endpoints.into());
    }
    Catalogue { services }
}

fn endpoints(written: WrittenService, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<EndpointRecord> {
    let Some(written) = written.endpoints else {
        problems.report_with(at, "field `endpoints` is missing", "`endpoints: []` says that there are none");
        return Vec::new();
    };
    let mut first: HashMap<SocketAddr, usize> = HashMap::new();
    let mut records = Vec::with_capacity(written.len());
    for (index, endpoint) in written.into_iter().enumerate() {
        let at = &at.item(index);
        let Some(record) = endpoint_record(endpoint, at, problems) else { continue };
        if let Some(before) = first.insert(record.address, index) {
            let parent = match at {
                FieldPath::Item(parent, _) => parent,
                FieldPath::Root | FieldPath::Field(..) => at,
            };
            let line = problems.place(&parent.item(before)).line;
            problems.report(at, format!("{} is already given on line {line}", record.address));
        }
        records.push(record);
    }
    records
}

fn endpoint_record(
    written: Short<WrittenEndpoint>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<EndpointRecord> {
    let (written, address_at) = match written {
        Short::Text(address) => {
            (WrittenEndpoint { address: Some(address), ..WrittenEndpoint::default() }, *at)
        }
        Short::Full(endpoint) => (endpoint, at.field("address")),
    };
    let weight = check::range(written.weight, 1, 1..=WEIGHT_MAX, &at.field("weight"), problems);
    let status = match written.status {
        None | Some(WrittenStatus::Ready) => EndpointStatus::Ready,
        Some(WrittenStatus::Draining) => EndpointStatus::Draining,
        Some(WrittenStatus::Down) => EndpointStatus::Down,
    };
    let Some(address) = written.address else {
        problems.report(&address_at, "field `address` is missing");
        return None;
    };
    let address = check::reachable(&address, &address_at, problems)?;
    let (zone, labels) = (written.zone.unwrap_or_default(), written.labels.unwrap_or_default());
    Some(EndpointRecord { address, weight, zone, labels, status })
}

#[cfg(test)]
mod tests;
