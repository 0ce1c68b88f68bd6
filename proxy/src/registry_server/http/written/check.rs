//! A check, as clients write it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use serde_json::Value;

use super::super::ask::Problem;
use super::{checked_name, is_empty, not_a_duration};
use crate::registry_server::change::Registration;
use crate::registry_server::model::{Check, Definition, Name, Status, duration, go_duration};
use crate::registry_server::settings::Settings;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A check, alone or of a service.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(in super::super) struct WrittenCheck {
    #[serde(alias = "checkid")]
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    notes: Option<String>,
    status: Option<String>,
    output: Option<String>,
    pub(super) serviceid: Option<String>,
    http: Option<String>,
    method: Option<String>,
    header: Option<BTreeMap<String, Vec<String>>>,
    body: Option<String>,
    tcp: Option<String>,
    grpc: Option<String>,
    grpcusetls: bool,
    ttl: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    deregistercriticalserviceafter: Option<String>,
    successbeforepassing: Option<u32>,
    failuresbeforecritical: Option<u32>,
    /// Kinds that are not carried out here.
    script: Option<Value>,
    args: Option<Value>,
    scriptargs: Option<Value>,
    dockercontainerid: Option<Value>,
    aliasnode: Option<Value>,
    aliasservice: Option<Value>,
    udp: Option<Value>,
    h2ping: Option<Value>,
    osservice: Option<Value>,
}

impl WrittenCheck {
    /// Through the agent: of the node itself, or of the service it names.
    pub(in super::super) fn registration(mut self, settings: &Settings) -> Result<Registration, Problem> {
        let node = Name::from(settings.node.as_str());
        if self.name.as_ref().is_none_or(String::is_empty) {
            return Err(Problem::bad("Missing check name"));
        }
        if self.id.as_ref().is_none_or(String::is_empty) {
            self.id.clone_from(&self.name);
        }
        let check = self.resolve(&node, settings, true)?;
        Ok(Registration { node, checks: vec![check], keep_status: true, ..Registration::default() })
    }

    /// `run`: by this registry, so that it has to say how.
    pub(super) fn resolve(mut self, node: &Name, settings: &Settings, run: bool) -> Result<Check, Problem> {
        self.refuse_foreign()?;
        let id = self.id.take().filter(|id| !id.is_empty()).or_else(|| self.name.clone()).unwrap_or_default();
        let id = checked_name(&id, "Missing check ID", "a check's id")?;
        let status = match self.status.as_deref() {
            None | Some("") => Status::Critical,
            Some(text) => {
                Status::of(text).ok_or_else(|| Problem::bad(format!("Invalid check status: {text:?}")))?
            }
        };
        let definition = if run { self.definition(settings)? } else { Definition::default() };
        let kind = definition.kind();
        if run && kind.is_empty() {
            return Err(Problem::bad("a check has one of TTL, HTTP, TCP and GRPC"));
        }
        let shown = |time: Duration| if time.is_zero() { String::new() } else { go_duration(time) };
        Ok(Check {
            node: Name::clone(node),
            id,
            name: self.name.unwrap_or_default(),
            status,
            notes: self.notes.unwrap_or_default(),
            output: self.output.unwrap_or_default(),
            service_id: self.serviceid.unwrap_or_default().into(),
            kind: kind.into(),
            interval: shown(definition.interval),
            timeout: shown(definition.timeout),
            definition,
            ..Check::default()
        })
    }

    fn refuse_foreign(&self) -> Result<(), Problem> {
        let foreign = [
            ("Script", &self.script),
            ("Args", &self.args),
            ("ScriptArgs", &self.scriptargs),
            ("DockerContainerID", &self.dockercontainerid),
            ("AliasNode", &self.aliasnode),
            ("AliasService", &self.aliasservice),
            ("UDP", &self.udp),
            ("H2PING", &self.h2ping),
            ("OSService", &self.osservice),
        ];
        match foreign.iter().find(|(_, value)| !is_empty(value.as_ref())) {
            Some((name, _)) => Err(Problem::bad(format!(
                "`{name}`: this registry carries out TTL, HTTP, TCP and GRPC checks"
            ))),
            None if self.grpcusetls => Err(Problem::bad("`GRPCUseTLS`: checks here speak no TLS")),
            None => Ok(()),
        }
    }

    fn definition(&mut self, settings: &Settings) -> Result<Definition, Problem> {
        let time = |text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(Duration::ZERO),
            Some(text) => duration(text).ok_or_else(|| not_a_duration(text)),
        };
        let mut definition = Definition {
            http: self.http.take().unwrap_or_default(),
            method: self.method.take().unwrap_or_default().to_uppercase(),
            header: self.header.take().unwrap_or_default(),
            body: self.body.take().unwrap_or_default(),
            tcp: self.tcp.take().unwrap_or_default(),
            grpc: self.grpc.take().unwrap_or_default(),
            ttl: time(&self.ttl)?,
            interval: time(&self.interval)?,
            timeout: time(&self.timeout)?,
            deregister_after: time(&self.deregistercriticalserviceafter)?,
            success_before_passing: self.successbeforepassing.unwrap_or(0),
            failures_before_critical: self.failuresbeforecritical.unwrap_or(0),
        };
        let kinds = [&definition.http, &definition.tcp, &definition.grpc];
        let probes = kinds.iter().filter(|target| !target.is_empty()).count();
        if probes + usize::from(!definition.ttl.is_zero()) > 1 {
            return Err(Problem::bad("a check has only one of TTL, HTTP, TCP and GRPC"));
        }
        if probes == 1 {
            if definition.interval.is_zero() {
                return Err(Problem::bad(
                    "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
                ));
            }
            definition.interval = definition.interval.max(INTERVAL_MIN);
            if definition.timeout.is_zero() {
                definition.timeout = TIMEOUT_DEFAULT;
            }
            check_target(&definition)?;
        }
        if !definition.deregister_after.is_zero() {
            definition.deregister_after =
                definition.deregister_after.max(settings.limits.deregister_after_min);
        }
        Ok(definition)
    }
}

impl Definition {
    /// As Consul names the types; empty if nothing is to be carried out.
    fn kind(&self) -> &'static str {
        match self {
            Self { http, .. } if !http.is_empty() => "http",
            Self { tcp, .. } if !tcp.is_empty() => "tcp",
            Self { grpc, .. } if !grpc.is_empty() => "grpc",
            Self { ttl, .. } if !ttl.is_zero() => "ttl",
            _ => "",
        }
    }
}

fn check_target(definition: &Definition) -> Result<(), Problem> {
    if !definition.http.is_empty() {
        let uri: Option<Uri> = definition.http.parse().ok();
        return match uri.as_ref().and_then(Uri::scheme_str) {
            Some("http") if uri.as_ref().is_some_and(|uri| uri.host().is_some()) => Ok(()),
            Some("https") => Err(Problem::bad("`HTTP`: checks here speak no TLS; give a URL with http://")),
            _ => Err(Problem::bad(format!("`HTTP`: {:?} is not a URL with http://", definition.http))),
        };
    }
    let target = if definition.tcp.is_empty() { &definition.grpc } else { &definition.tcp };
    let address = target.split('/').next().unwrap_or_default();
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    if address.parse::<SocketAddr>().is_ok() || matches!(port, Some(Ok(_))) {
        return Ok(());
    }
    Err(Problem::bad(format!("{target:?} is not an address with a port")))
}
