//! What a path of the admin interface means: the one list of them.

use http::{Method, Uri};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Index,
    Live,
    Ready,
    Metrics,
    Config,
    Endpoints,
    Names,
    Policies,
    Policy(&'a str),
    Rollback(&'a str),
    Reset(&'a str),
}

impl<'a> Target<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let target = match (segments.next()?, segments.next(), segments.next()) {
            ("", None, None) => Self::Index,
            ("live", None, None) => Self::Live,
            ("ready", None, None) => Self::Ready,
            ("metrics", None, None) => Self::Metrics,
            ("config", None, None) => Self::Config,
            ("endpoints", None, None) => Self::Endpoints,
            ("names", None, None) => Self::Names,
            ("policies", None, None) => Self::Policies,
            ("policies", Some(name), None) if !name.is_empty() => Self::Policy(name),
            ("policies", Some(name), Some("rollback")) => Self::Rollback(name),
            ("policies", Some(name), Some("reset")) => Self::Reset(name),
            _ => return None,
        };
        segments.next().is_none().then_some(target)
    }

    /// `HEAD` goes with `GET`. Everything but `GET` changes something.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Policy(_) => &[Method::GET, Method::PUT],
            Self::Rollback(_) | Self::Reset(_) => &[Method::POST],
            _ => &[Method::GET],
        }
    }
}

pub(super) fn index() -> Value {
    json!({
        "GET /live": "200 while the process runs",
        "GET /ready": "200 while every worker serves and the process is not about to end; what is wrong",
        "GET /metrics": "Prometheus, text format 0.0.4",
        "GET /config": "the configuration in force",
        "GET /endpoints": "endpoints by service, with health and load",
        "GET /names": "names of services and their virtual addresses, if names are offered",
        "GET /policies": "policies in use, with versions, failures and refusals",
        "GET /policies/NAME": "one of them",
        "PUT /policies/NAME": "put this component in force under a configured name; the body is the component",
        "POST /policies/NAME/rollback": "go back to the version before, or to ?to=DIGEST",
        "POST /policies/NAME/reset": "lift the quarantine",
    })
}

/// First value of a query parameter, as written.
pub(super) fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exact() {
        assert_eq!(Target::of("/"), Some(Target::Index));
        assert_eq!(Target::of("/policies/p2c"), Some(Target::Policy("p2c")));
        assert_eq!(Target::of("/policies/p2c/rollback"), Some(Target::Rollback("p2c")));
        for path in
            ["", "*", "/policies/", "/Ready", "/ready/", "/policies/p2c/delete", "/policies/p2c/reset/x"]
        {
            assert_eq!(Target::of(path), None, "{path}");
        }
    }

    #[test]
    fn docs_list_every_path() {
        let mut table = String::from("| request | what it is for |\n|---|---|\n");
        for (request, what) in index().as_object().into_iter().flatten() {
            table += &format!("| `{request}` | {} |\n", what.as_str().unwrap_or_default());
        }
        crate::docs::keep("ADMIN.md", "paths", &table);
    }

    #[test]
    fn queries_are_looked_up_by_name() {
        let uri: Uri = "/policies/p2c/rollback?x=1&to=abc&to=def".parse().unwrap();
        assert_eq!(query(&uri, "to").as_deref(), Some("abc"));
        assert_eq!(query(&uri, "from"), None);
    }
}
