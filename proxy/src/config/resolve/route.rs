//! Which requests go where.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::super::builtin::PolicyKind;
use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{Backend, HashKey, NamedPolicy, Route, RouteAction, RouteMatch};
use super::super::written;
use super::{check, policy, service};

const ROUTES_MAX: usize = 1024;
const BACKENDS_MAX: usize = 64;
const ROUTE_NAME_BYTES_MAX: usize = 100;

pub(super) fn routes(
    written: Vec<written::Route>,
    policies: &BTreeMap<String, NamedPolicy>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<Route> {
    check::count(written.len(), ROUTES_MAX, at, problems);
    let mut lines: HashMap<String, usize> = HashMap::new();
    let mut routes = Vec::with_capacity(written.len());
    for (index, route) in written.into_iter().enumerate() {
        let at = &at.item(index);
        let place = problems.place(at);
        let name = name(route.name.as_deref(), index, &at.field("name"), problems);
        match lines.get(&name) {
            Some(line) => {
                let message = format!("`{name}` is also the name of the route on line {line}");
                problems.report(&at.field("name"), message);
            }
            None => drop(lines.insert(name.clone(), place.line)),
        }
        let matches = route_match(route.matches.as_ref(), &at.field("match"), problems);
        let action = action(&route, policies, at, problems);
        routes.push(Route { name, matches, action, place });
    }
    routes
}

fn name(written: Option<&str>, index: usize, at: &FieldPath<'_>, problems: &mut Problems) -> String {
    let Some(name) = written else {
        return format!("route-{index}");
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > ROUTE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let message = format!(
            "`{name}` cannot be a name: 1 to {ROUTE_NAME_BYTES_MAX} letters, digits, hyphens, underscores and dots"
        );
        problems.report(at, message);
    }
    name.to_owned()
}

fn action(
    written: &written::Route,
    policies: &BTreeMap<String, NamedPolicy>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> RouteAction {
    match (&written.service, &written.router) {
        (Some(_), Some(_)) => problems.report(at, "`service` and `router` exclude each other"),
        (None, None) => problems.report(at, "either `service` or `router` is needed"),
        (Some(_), None) => {
            for (given, name) in
                [(written.backends.is_some(), "backends"), (written.hash_key.is_some(), "hash_key")]
            {
                if given {
                    problems
                        .report_key(&at.field(name), format!("`{name}` goes with `router`, not `service`"));
                }
            }
        }
        (None, Some(_)) if written.labels.is_some() => {
            let message = "`labels` goes with `service`; with `router`, each backend has its own";
            problems.report_key(&at.field("labels"), message);
        }
        (None, Some(_)) => {}
    }
    let Some(router) = &written.router else {
        let service = written.service.clone().unwrap_or_default();
        if written.service.is_some() {
            check::dns_label(&service, &at.field("service"), problems);
        }
        let labels = labels(written.labels.as_ref(), &at.field("labels"), problems);
        return RouteAction::Forward(Backend { name: service.clone(), service, labels });
    };
    RouteAction::Router {
        policy: policy::resolve(router, PolicyKind::Router, policies, &at.field("router"), problems),
        backends: backends(written.backends.as_ref(), &at.field("backends"), problems),
        hash_key: match &written.hash_key {
            Some(key) => service::hash_key(key, &at.field("hash_key"), problems),
            None => HashKey::None,
        },
    }
}

fn backends(
    written: Option<&written::Ordered<written::Short<written::Backend>>>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<Backend> {
    let Some(written::Ordered(entries)) = written.filter(|backends| !backends.0.is_empty()) else {
        problems.report(at, "a router needs at least one backend");
        return Vec::new();
    };
    check::count(entries.len(), BACKENDS_MAX, at, problems);
    entries.iter().map(|(name, written)| backend(name, written, &at.field(name), problems)).collect()
}

fn backend(
    name: &str,
    written: &written::Short<written::Backend>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Backend {
    check::dns_label_key(name, at, problems);
    let (service, labels) = match written {
        written::Short::Text(service) => {
            check::dns_label(service, at, problems);
            (service.clone(), BTreeMap::new())
        }
        written::Short::Full(backend) => {
            let service_at = &at.field("service");
            match &backend.service {
                Some(service) => check::dns_label(service, service_at, problems),
                None => problems.report(service_at, "field `service` is missing"),
            }
            let labels = labels(backend.labels.as_ref(), &at.field("labels"), problems);
            (backend.service.clone().unwrap_or_default(), labels)
        }
    };
    Backend { name: name.to_owned(), service, labels }
}

/// An empty set would silently mean all endpoints.
fn labels(
    written: Option<&BTreeMap<String, String>>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    if written.is_some_and(BTreeMap::is_empty) {
        problems.report(at, "no labels; leave `labels` out to mean every endpoint");
    }
    written.cloned().unwrap_or_default()
}

fn route_match(written: Option<&written::Match>, at: &FieldPath<'_>, problems: &mut Problems) -> RouteMatch {
    let Some(written) = written else {
        return RouteMatch::default();
    };
    let (hosts_at, methods_at) = (&at.field("hosts"), &at.field("methods"));
    let mut hosts = Vec::new();
    for (index, text) in written.hosts.iter().flatten().enumerate() {
        match host(text) {
            Ok(host) => hosts.push(host),
            Err(message) => problems.report(&hosts_at.item(index), message),
        }
    }
    if written.hosts.as_ref().is_some_and(Vec::is_empty) {
        problems.report(hosts_at, "an empty list fits nothing; leave `hosts` out to mean any host");
    }
    let mut methods = Vec::new();
    for (index, text) in written.methods.iter().flatten().enumerate() {
        match http::Method::from_bytes(text.to_ascii_uppercase().as_bytes()) {
            Ok(method) => methods.push(method.as_str().to_owned()),
            Err(_) => problems.report(&methods_at.item(index), format!("`{text}` is not a method")),
        }
    }
    if written.methods.as_ref().is_some_and(Vec::is_empty) {
        problems.report(methods_at, "an empty list fits nothing; leave `methods` out to mean any method");
    }
    let path_prefix = written.path_prefix.as_deref();
    RouteMatch {
        hosts,
        path_prefix: path_prefix
            .and_then(|prefix| self::path_prefix(prefix, &at.field("path_prefix"), problems)),
        methods,
    }
}

/// As requests will be compared with it: lower case, no port.
fn host(text: &str) -> Result<String, String> {
    let host = text.to_ascii_lowercase();
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse() {
            Ok(IpAddr::V6(address)) => Ok(format!("[{address}]")),
            _ => Err(format!("`{text}` is not a host")),
        };
    }
    if let Ok(IpAddr::V6(address)) = host.parse() {
        return Ok(format!("[{address}]"));
    }
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if check::is_dns_name(name) {
        return Ok(host);
    }
    Err(match host.as_str() {
        "*" => "`*` is every host; leave `hosts` out instead".to_owned(),
        _ if host.contains('*') => format!("`{text}`: `*.` can only be the first label"),
        _ if host.contains(':') => format!("`{text}`: hosts are given without scheme and port"),
        _ => format!("`{text}` is not a host"),
    })
}

/// Without the slash at the end, which makes no difference; `/` fits every path, as `None` does.
fn path_prefix(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<String> {
    if !text.starts_with('/') {
        problems.report(at, format!("`{text}` does not start with a slash"));
    } else if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(['?', '#']) {
        problems.report(at, format!("`{text}` is not a path: printable ASCII without spaces, `?` and `#`"));
    }
    let trimmed = text.trim_end_matches('/');
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn normalises_hosts() {
        for (text, host) in [
            ("Web", "web"),
            ("*.Shop.internal", "*.shop.internal"),
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::0007", "[fd00::7]"),
            ("[FD00::7]", "[fd00::7]"),
        ] {
            assert_eq!(super::host(text).as_deref(), Ok(host));
        }
        for text in ["", "*", "a.*.b", "**.b", "web:80", "http://web", "[10.0.0.7]", "a b", "web.", "wéb"] {
            assert!(super::host(text).is_err(), "{text}");
        }
    }
}
