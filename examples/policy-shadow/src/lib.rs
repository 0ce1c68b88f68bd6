//! Sends requests to one backend and copies of a share of them to another, changed on their way as configured.
//!
//! Shows all that a router's `forward` can do.

use outrigger_sdk::router::*;
use serde::Deserialize;

export_router!(Shadow);

const MARK: &str = "x-shadowed";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    main: String,
    shadow: String,
    /// Of all requests, 0 to 100.
    percent: f64,
    /// A request header that names the user, whose requests are then treated alike.
    user_header: Option<String>,
    strip_prefix: Option<String>,
    authority: Option<String>,
    remove_headers: Vec<String>,
    timeout_ms: Option<u32>,
    retry: RetrySetting,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RetrySetting {
    Configured,
    Never,
    Safe,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            main: "main".into(),
            shadow: "shadow".into(),
            percent: 5.0,
            user_header: None,
            strip_prefix: None,
            authority: None,
            remove_headers: Vec::new(),
            timeout_ms: None,
            retry: RetrySetting::Configured,
        }
    }
}

pub struct Shadow {
    shadow: BackendIndex,
    share: f64,
    user_header: Option<String>,
    strip_prefix: Option<String>,
    /// What is the same for all requests.
    plain: Forward,
    shadowed: Counter,
}

impl Router for Shadow {
    type Config = Settings;

    fn new(config: Settings, _: &Setup, backends: &[String]) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&config.percent) {
            return Err("percent: expected 0 to 100".into());
        }
        if config.strip_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
            return Err("strip_prefix: expected a path that begins with `/`".into());
        }
        if config.timeout_ms == Some(0) {
            return Err("timeout_ms: nothing answers in no time, expected 1 or more".into());
        }
        let mut remove_headers = config.remove_headers;
        remove_headers.push(MARK.into());
        let plain = Forward {
            authority: config.authority,
            remove_headers,
            timeout: config.timeout_ms.map(|ms| u64::from(ms) * 1_000_000),
            retry: match config.retry {
                RetrySetting::Configured => Retry::Configured,
                RetrySetting::Never => Retry::Never,
                RetrySetting::Safe => Retry::Safe,
            },
            ..forward(backend(backends, "main", &config.main)?)
        };
        Ok(Self {
            shadow: backend(backends, "shadow", &config.shadow)?,
            share: config.percent / 100.0,
            user_header: config.user_header,
            strip_prefix: config.strip_prefix,
            plain,
            shadowed: Counter::new("shadowed"),
        })
    }

    fn route(&mut self, head: &Head, ctx: &Context) -> Decision {
        let user = self.user_header.as_ref().and_then(|name| request::header(name));
        let hash = user.as_ref().map_or(ctx.hash, |user| hash::text(user));
        let mut forward = Forward {
            path: self.strip_prefix.as_ref().and_then(|prefix| stripped(&head.path, prefix)),
            hash_key: user,
            ..self.plain.clone()
        };
        // Mixed, so that the users copied are not also those whom a balancer hashes to one endpoint.
        if hash::unit(hash::mix(hash)) < self.share {
            self.shadowed.add(1);
            let mark = Header { name: MARK.into(), value: "1".into() };
            forward.mirror = Some(self.shadow);
            forward.set_headers.push(mark.clone());
            forward.set_response_headers.push(mark);
        }
        Decision::Forward(forward)
    }
}

/// The path without the prefix, which ends at a slash or before the query; `None` if it has another.
fn stripped(path: &str, prefix: &str) -> Option<String> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    match rest.bytes().next() {
        Some(b'/') => Some(rest.into()),
        Some(b'?') | None => Some(format!("/{rest}")),
        Some(_) => None,
    }
}
