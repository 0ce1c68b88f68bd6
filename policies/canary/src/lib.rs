//! Canary: sends a share of the requests, or those that are marked, to a second backend.
//!
//! A header or a cookie with `always` or `never` decides; otherwise the share does, by the route's hash key, so that the
//! same user stays where they are, and stays on the canary when the share grows. Without a key every request draws anew,
//! unless the policy may set the cookie itself.

use outrigger_sdk::router::*;
use serde::Deserialize;

export_router!(Canary);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    stable: String,
    canary: String,
    /// Of the requests that nothing else decides, 0 to 100.
    percent: f64,
    /// A request header whose value `always` or `never` decides.
    header: Option<String>,
    /// A cookie whose value `always` or `never` decides.
    cookie: Option<String>,
    /// Sets the cookie when the share has decided.
    sticky: bool,
    sticky_max_age_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stable: "stable".into(),
            canary: "canary".into(),
            percent: 0.0,
            header: None,
            cookie: None,
            sticky: false,
            sticky_max_age_s: 86_400,
        }
    }
}

pub struct Canary {
    stable: BackendIndex,
    canary: BackendIndex,
    share: f64,
    header: Option<String>,
    cookie: Option<String>,
    /// The rest of the `set-cookie` line after name and value, if the policy may set it.
    sticky: Option<String>,
}

impl Router for Canary {
    type Config = Settings;

    fn new(config: Settings, _: &Setup, backends: &[String]) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&config.percent) {
            return Err("percent: out of range, expected 0 to 100".into());
        }
        if config.sticky && config.cookie.is_none() {
            return Err("sticky: needs a cookie, expected its name in `cookie`".into());
        }
        if config.cookie.as_deref().is_some_and(|name| !is_token(name)) {
            return Err("cookie: not the name of a cookie, expected letters, digits, `-` and `_`".into());
        }
        Ok(Self {
            stable: backend(backends, "stable", &config.stable)?,
            canary: backend(backends, "canary", &config.canary)?,
            share: config.percent / 100.0,
            header: config.header,
            cookie: config.cookie,
            sticky: config
                .sticky
                .then(|| format!("; Path=/; Max-Age={}; HttpOnly; SameSite=Lax", config.sticky_max_age_s)),
        })
    }

    fn route(&mut self, _: &Head, ctx: &Context) -> Decision {
        if let Some(is_canary) = self.marked() {
            return Decision::Backend(self.side(is_canary));
        }
        // Mixed, so that users of the canary are not also those whom a balancer hashes to one endpoint.
        let is_canary = hash::unit(hash::mix(ctx.hash)) < self.share;
        match (&self.cookie, &self.sticky) {
            (Some(name), Some(attributes)) => {
                let value = if is_canary { "always" } else { "never" };
                let cookie =
                    Header { name: "set-cookie".into(), value: format!("{name}={value}{attributes}") };
                Decision::Forward(Forward {
                    set_response_headers: vec![cookie],
                    ..forward(self.side(is_canary))
                })
            }
            _ => Decision::Backend(self.side(is_canary)),
        }
    }
}

impl Canary {
    fn marked(&self) -> Option<bool> {
        let verdict = |value: String| match value.as_str() {
            "always" => Some(true),
            "never" => Some(false),
            _ => None,
        };
        let by_header = self.header.as_ref().and_then(|name| request::header(name)).and_then(verdict);
        by_header.or_else(|| self.cookie.as_ref().and_then(|name| request::cookie(name)).and_then(verdict))
    }

    fn side(&self, is_canary: bool) -> BackendIndex {
        if is_canary { self.canary } else { self.stable }
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
