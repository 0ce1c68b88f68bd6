//! What a runtime asks: environment and standard input, as the specification has them.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::reply::Refusal;
use crate::net::settings::resolve::is_link_name;

/// A network's name becomes a part of ids, and of a bridge's name.
const NETWORK_CHARACTERS_MAX: usize = 63;
const CONTAINER_CHARACTERS_MAX: usize = 128;

/// The variables that a runtime sets. Without `CNI_PATH`: no other plugin is called.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub command: Option<String>,
    pub container: Option<String>,
    pub namespace: Option<String>,
    pub interface: Option<String>,
    pub arguments: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn own() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND"),
            container: variable("CNI_CONTAINERID"),
            namespace: variable("CNI_NETNS"),
            interface: variable("CNI_IFNAME"),
            arguments: variable("CNI_ARGS"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// Of the specification, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// What is asked, once it makes sense.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) version: Version,
    /// The name of the network.
    pub(super) network: String,
    /// Empty where the command is about the network as a whole.
    pub(super) container: String,
    pub(super) interface: String,
    pub(super) namespace: Option<PathBuf>,
    /// Addresses that `CNI_ARGS` asks for.
    pub(super) addresses: Vec<String>,
    pub(super) config: Map<String, Value>,
}

impl Version {
    pub(super) const LATEST: Self = Self::V1_1_0;
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }
}

impl Command {
    /// The version that brought it.
    fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl Request {
    /// The workload's id. The parts have no `/`, so no two attachments share one.
    pub(super) fn id(&self) -> String {
        format!("{}{}/{}", self.ids(), self.container, self.interface)
    }

    /// What the ids of the network's workloads begin with.
    pub(super) fn ids(&self) -> String {
        format!("{}/", self.network)
    }

    /// The network's name among those of the host.
    pub(super) fn network_key(&self) -> String {
        format!("cni/{}", self.network)
    }
}

pub(super) fn command(environment: &Environment) -> Result<Command, Refusal> {
    match environment.command.as_deref() {
        Some("ADD") => Ok(Command::Add),
        Some("DEL") => Ok(Command::Del),
        Some("CHECK") => Ok(Command::Check),
        Some("GC") => Ok(Command::Gc),
        Some("STATUS") => Ok(Command::Status),
        Some("VERSION") => Ok(Command::Version),
        Some(other) => Err(Refusal::environment(format!("CNI_COMMAND: there is no `{other}`"))),
        None => Err(Refusal::environment("CNI_COMMAND is missing").with(
            "container runtimes call this with a variable CNI_COMMAND and a configuration on standard input; people \
             want `outrigger net`",
        )),
    }
}

/// The answer to VERSION, which asks for no particular form.
pub(super) fn versions(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(input).ok();
    let asked = asked.as_ref().and_then(|config| config["cniVersion"].as_str());
    let all = Version::ALL.map(Version::text);
    json!({"cniVersion": asked.unwrap_or(Version::LATEST.text()), "supportedVersions": all})
}

/// An error comes with the version to say it in.
pub(super) fn read(
    command: Command,
    environment: &Environment,
    input: &[u8],
) -> Result<Request, (Version, Refusal)> {
    let config = serde_json::from_slice::<Map<String, Value>>(input).map_err(|error| {
        (Version::LATEST, Refusal::decoding(format!("the configuration on standard input: {error}")))
    })?;
    let version = version(&config).map_err(|refusal| (Version::LATEST, refusal))?;
    understood(command, version, environment, config).map_err(|refusal| (version, refusal))
}

fn version(config: &Map<String, Value>) -> Result<Version, Refusal> {
    let known = Version::ALL.map(Version::text).join(", ");
    let known = format!("this plugin knows {known}");
    match config.get("cniVersion") {
        Some(Value::String(text)) => {
            Version::read(text).ok_or_else(|| Refusal::version(format!("`cniVersion` is {text}")).with(known))
        }
        Some(_) => Err(Refusal::config("`cniVersion` is not text").with(known)),
        None => Err(Refusal::version("`cniVersion` is missing, which means 0.1.0").with(known)),
    }
}

fn understood(
    command: Command,
    version: Version,
    environment: &Environment,
    config: Map<String, Value>,
) -> Result<Request, Refusal> {
    if version < command.since() {
        let (version, since) = (version.text(), command.since().text());
        let message = format!("`cniVersion` is {version}, and this command came with {since}");
        return Err(Refusal::version(message));
    }
    let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
    if !is_name(name, NETWORK_CHARACTERS_MAX) {
        return Err(Refusal::config(format!("`name`: `{name}` cannot be the name of a network"))
            .with(form(NETWORK_CHARACTERS_MAX)));
    }
    let mut request = Request {
        command,
        version,
        network: name.to_owned(),
        container: String::new(),
        interface: String::new(),
        namespace: environment.namespace.clone().map(PathBuf::from),
        addresses: Vec::new(),
        config,
    };
    if command.is_about_a_container() {
        attachment(&mut request, environment)?;
    }
    if command == Command::Add {
        request.addresses = arguments(environment.arguments.as_deref().unwrap_or_default())?;
    }
    Ok(request)
}

fn attachment(request: &mut Request, environment: &Environment) -> Result<(), Refusal> {
    let needs_namespace = request.command != Command::Del;
    let variables = [
        ("CNI_CONTAINERID", environment.container.is_none()),
        ("CNI_NETNS", needs_namespace && environment.namespace.is_none()),
        ("CNI_IFNAME", environment.interface.is_none()),
    ];
    let missing: Vec<&str> =
        variables.into_iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        return Err(Refusal::environment(format!("missing: {}", missing.join(", "))));
    }
    request.container = environment.container.clone().unwrap_or_default();
    request.interface = environment.interface.clone().unwrap_or_default();
    if !is_name(&request.container, CONTAINER_CHARACTERS_MAX) {
        let message = format!("CNI_CONTAINERID: `{}` cannot be the id of a container", request.container);
        return Err(Refusal::environment(message).with(form(CONTAINER_CHARACTERS_MAX)));
    }
    if !is_link_name(&request.interface) {
        let message = format!("CNI_IFNAME: `{}` cannot be the name of an interface", request.interface);
        return Err(Refusal::environment(message).with("1 to 15 letters, digits, `-`, `_` and `.`"));
    }
    Ok(())
}

/// As the specification has networks' names and containers' ids.
fn is_name(name: &str, at_most: usize) -> bool {
    (1..=at_most).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn form(at_most: usize) -> String {
    format!("1 to {at_most} letters, digits, `-`, `_` and `.`, and a letter or digit first")
}

/// `KEY=VALUE;…`; the addresses asked for.
fn arguments(text: &str) -> Result<Vec<String>, Refusal> {
    let mut addresses = Vec::new();
    let (mut unknown, mut ignores_unknown) = (None, false);
    for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
        let Some((key, value)) = pair.trim().split_once('=') else {
            return Err(Refusal::environment(format!("CNI_ARGS: `{pair}` is not KEY=VALUE")));
        };
        match key {
            "IP" => addresses.extend(value.split(',').filter(|part| !part.is_empty()).map(str::to_owned)),
            "MAC" if !value.is_empty() => {
                let message = format!("CNI_ARGS: MAC={value} cannot be had");
                return Err(
                    Refusal::environment(message).with("hardware addresses are made from IP addresses")
                );
            }
            "IgnoreUnknown" => ignores_unknown = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T"),
            _ => unknown = unknown.or(Some(key)),
        }
    }
    match unknown.filter(|_| !ignores_unknown) {
        Some(key) => Err(Refusal::environment(format!("CNI_ARGS: nothing is known of `{key}`"))
            .with("`IgnoreUnknown=1` lets it pass")),
        None => Ok(addresses),
    }
}

#[cfg(test)]
mod tests;
