//! What a container with a sidecar sees, whatever runtime runs it.

use crate::docker::Docker;
use crate::machine::Podman;
use crate::metrics::Metrics;
use crate::program::Said;
use crate::wait;

/// Where a sidecar tells its metrics, seen from its namespace.
const METRICS: &str = "http://127.0.0.1:15020/metrics";

pub trait Runtime {
    fn say(&self, arguments: &[&str]) -> Said;
}

impl Runtime for Podman<'_> {
    fn say(&self, arguments: &[&str]) -> Said {
        Podman::say(self, arguments)
    }
}

impl Runtime for Docker<'_> {
    fn say(&self, arguments: &[&str]) -> Said {
        Docker::say(self, arguments)
    }
}

/// A container of the image `images::web`, or another one that has curl.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    pub runtime: &'a dyn Runtime,
    pub name: &'a str,
}

impl Container<'_> {
    pub fn curl(&self, url: &str) -> Said {
        self.runtime.say(&["exec", self.name, "/usr/bin/curl", "-sSf", "--max-time", "2", url])
    }

    #[track_caller]
    pub fn until_answered(&self, url: &str) {
        wait::until_true(&format!("{url} to answer in {}", self.name), || self.curl(url).ok());
    }

    /// So many requests that the sidecar has carried, of those with these labels.
    #[track_caller]
    pub fn counted(&self, labels: &[(&str, &str)]) -> f64 {
        Metrics::parse(&self.curl(METRICS).expect_ok("metrics").out).sum("outrigger_requests_total", labels)
    }
}
