//! Ordered rules on headers, path prefix and method; the first that matches decides, and without one the next route
//! is tried.

use outrigger_sdk::router::*;
use serde::Deserialize;

export_router!(HeaderMatch);

/// The configuration as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    rules: Vec<RuleSettings>,
}

/// Conditions, which all have to hold, and one action.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSettings {
    #[serde(default)]
    headers: Vec<HeaderSettings>,
    /// Matches whole segments: `/api` matches `/api`, `/api/7` and `/api?x`, not `/apis`.
    path_prefix: Option<String>,
    method: Option<String>,
    backend: Option<String>,
    redirect: Option<RedirectSettings>,
    reply: Option<ReplySettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderSettings {
    name: String,
    exact: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    contains: Option<String>,
    present: Option<bool>,
    #[serde(default)]
    invert: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectSettings {
    status: u16,
    location: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplySettings {
    status: u16,
    #[serde(default)]
    body: String,
}

pub struct HeaderMatch {
    rules: Vec<Rule>,
}

struct Rule {
    headers: Vec<HeaderCondition>,
    path_prefix: Option<String>,
    method: Option<String>,
    decision: Decision,
}

struct HeaderCondition {
    name: String,
    test: Test,
    /// What the test has to answer.
    expected: bool,
}

enum Test {
    Present,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
}

impl Router for HeaderMatch {
    type Config = Settings;

    fn new(config: Settings, _: &Setup, backends: &[String]) -> Result<Self, String> {
        let rules = config.rules.into_iter().enumerate();
        let rules = rules.map(|(i, rule)| Rule::new(&format!("rules[{i}]"), rule, backends));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    fn route(&mut self, head: &Head, _: &Context) -> Decision {
        self.rules.iter().find(|rule| rule.matches(head)).map_or(Decision::Next, |rule| rule.decision.clone())
    }
}

impl Rule {
    fn new(field: &str, rule: RuleSettings, backends: &[String]) -> Result<Self, String> {
        if rule.path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
            return Err(format!("{field}.path_prefix: expected a path that begins with `/`"));
        }
        let headers = rule.headers.into_iter().enumerate();
        let headers =
            headers.map(|(i, header)| HeaderCondition::new(&format!("{field}.headers[{i}]"), header));
        let decision = match (rule.backend, rule.redirect, rule.reply) {
            (Some(name), None, None) => {
                Decision::Backend(backend(backends, &format!("{field}.backend"), &name)?)
            }
            (None, Some(redirect), None) => redirect.decision(field)?,
            (None, None, Some(reply)) => reply.decision(field)?,
            _ => return Err(format!("{field}: expected one of `backend`, `redirect` and `reply`")),
        };
        Ok(Self {
            headers: headers.collect::<Result<_, _>>()?,
            path_prefix: rule.path_prefix,
            method: rule.method,
            decision,
        })
    }

    /// The cheap conditions first: each header is a call into the host.
    fn matches(&self, head: &Head) -> bool {
        self.method.as_ref().is_none_or(|method| *method == head.method)
            && self.path_prefix.as_ref().is_none_or(|prefix| has_prefix(&head.path, prefix))
            && self.headers.iter().all(HeaderCondition::holds)
    }
}

impl RedirectSettings {
    fn decision(self, field: &str) -> Result<Decision, String> {
        if !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!(
                "{field}.redirect.status: {} is none, expected 301, 302, 303, 307 or 308",
                self.status
            ));
        }
        Ok(Decision::Redirect(Redirect { status: self.status, location: self.location }))
    }
}

impl ReplySettings {
    fn decision(self, field: &str) -> Result<Decision, String> {
        if !(200..600).contains(&self.status) {
            return Err(format!("{field}.reply.status: {} is none, expected 200 to 599", self.status));
        }
        let headers = vec![Header { name: "content-type".into(), value: "text/plain; charset=utf-8".into() }];
        Ok(Decision::Reply(Reply { status: self.status, headers, body: self.body }))
    }
}

impl HeaderCondition {
    fn new(field: &str, header: HeaderSettings) -> Result<Self, String> {
        let HeaderSettings { name, exact, prefix, suffix, contains, present, invert } = header;
        let mut expected = !invert;
        let test = match (exact, prefix, suffix, contains, present) {
            (Some(text), None, None, None, None) => Test::Exact(text),
            (None, Some(text), None, None, None) => Test::Prefix(text),
            (None, None, Some(text), None, None) => Test::Suffix(text),
            (None, None, None, Some(text), None) => Test::Contains(text),
            (None, None, None, None, Some(present)) => {
                expected = present != invert;
                Test::Present
            }
            _ => {
                return Err(format!(
                    "{field}: expected one of `exact`, `prefix`, `suffix`, `contains` and `present`"
                ));
            }
        };
        Ok(Self { name, test, expected })
    }

    /// One value that matches is enough. A header that is missing matches nothing.
    fn holds(&self) -> bool {
        request::headers(&self.name).iter().any(|value| self.test.matches(value)) == self.expected
    }
}

impl Test {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Contains(text) => value.contains(text.as_str()),
        }
    }
}

fn has_prefix(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}
