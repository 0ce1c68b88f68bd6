//! Everything a router is written with: `use outrigger_sdk::router::*;`.
//!
//! The proxy calls `new` once, then [`interests`](Router::interests), after a swap
//! [`import_state`](Router::import_state), and then [`route`](Router::route) for every request of the routes that the
//! policy is configured on. Calls never overlap.

pub use crate::bindings::router::{Context, Decision, Forward, Head, Header, Redirect, Reply, Retry};
pub use crate::bindings::types::{BackendIndex, Interests, Nanoseconds, Setup};
pub use crate::config::{Config, NoConfig};
pub use crate::env::{Counter, Histogram, Level};
pub use crate::{choose, env, export_policy, export_router, hash, request};

/// Decides what happens to each request.
///
/// ```
/// use outrigger_sdk::router::*;
///
/// /// Sends testers to the second backend.
/// struct Testers;
///
/// impl Router for Testers {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, _: &Setup, backends: &[String]) -> Result<Self, String> {
///         if backends.len() == 2 { Ok(Testers) } else { Err("backends: exactly two are needed".into()) }
///     }
///
///     fn route(&mut self, _: &Head, _: &Context) -> Decision {
///         Decision::Backend(request::header("x-tester").is_some().into())
///     }
/// }
///
/// export_router!(Testers);
/// ```
pub trait Router: Sized + 'static {
    /// A type of your own with `#[derive(Deserialize)]`, or [`NoConfig`].
    type Config: Config;

    /// Called once, first. `backends` are the names granted to this policy; decisions name them by position, which
    /// [`backend`] finds.
    ///
    /// # Errors
    /// Refuses the policy; the text is shown to the operator. Begin it with the name of the field to blame.
    fn new(config: Self::Config, setup: &Setup, backends: &[String]) -> Result<Self, String>;

    /// What to call beyond the minimum; asked once, after `new`. [`Interests::OUTCOMES`] and [`Interests::REBUILD`]
    /// mean nothing to a router.
    fn interests(&self) -> Interests {
        Interests::empty()
    }

    /// Decides for one request, within 2 ms of CPU time.
    fn route(&mut self, head: &Head, ctx: &Context) -> Decision;

    /// About every 100 ms. Needs [`Interests::TICKS`].
    fn tick(&mut self, _now: Nanoseconds) {}

    /// What the next version of this policy should know, at most 1 MiB. Needs [`Interests::STATE`].
    fn export_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over from the version before, after `new`. Needs [`Interests::STATE`]. Check the bytes.
    ///
    /// # Errors
    /// The policy then goes on afresh, and the text is logged. Nothing of the bytes may have been kept.
    fn import_state(&mut self, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// The position of a backend by its name.
///
/// # Errors
/// A line for the operator, beginning with `field`, when the configuration does not grant that backend.
pub fn backend(backends: &[String], field: &str, name: &str) -> Result<BackendIndex, String> {
    match backends.iter().position(|granted| granted == name) {
        Some(position) => Ok(position as BackendIndex),
        None => {
            let granted = backends.join("`, `");
            Err(format!(
                "{field}: no backend named `{name}` is granted to this policy; granted are `{granted}`"
            ))
        }
    }
}

/// A forward to the backend that changes nothing: the start for `Forward { timeout: Some(t), ..forward(b) }`.
#[must_use]
pub fn forward(backend: BackendIndex) -> Forward {
    Forward {
        backend,
        path: None,
        authority: None,
        set_headers: Vec::new(),
        remove_headers: Vec::new(),
        set_response_headers: Vec::new(),
        timeout: None,
        retry: Retry::Configured,
        hash_key: None,
        mirror: None,
    }
}
