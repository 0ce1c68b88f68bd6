//! Which route a request takes: a pure look-up, without allocation.
//!
//! Control compiles the table once per change; workers ask it for each request. Routes are tried in the order of the
//! configuration, and a request that none of them takes goes to the service its authority names. Paths are compared
//! as received: nothing is decoded and no `..` is resolved, so routes are no access control.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Names, PolicyRef};
use crate::config::{HashKey, RouteMatch};
use crate::head::RequestHead;

/// All routes.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Exact host to the routes that name it, in order.
    by_host: HashMap<Box<str>, Vec<u32>>,
    /// Routes that any host, or a wild card, may take; in order.
    by_pattern: Vec<u32>,
    /// `.mesh.internal`, lower case.
    domain_suffix: String,
}

/// One compiled route.
#[derive(Debug)]
pub struct Route {
    /// Unique; also the name of the slot that holds the router's instance.
    pub name: Arc<str>,
    pub target: RouteTarget,
    hosts: Vec<HostPattern>,
    /// Without a slash at the end; empty: any path.
    path_prefix: String,
    any_path: bool,
    methods: Vec<String>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteTarget {
    /// Index into `Snapshot::pools`.
    Pool(usize),
    Router(Router),
}

/// A policy that decides among backends. `backends` and `backend_names` are parallel.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    pub policy: PolicyRef,
    /// Indices into `Snapshot::pools`.
    pub backends: Vec<usize>,
    pub backend_names: Arc<[String]>,
    pub hash_key: HashKey,
}

#[derive(Debug, PartialEq, Eq)]
enum HostPattern {
    Exact(String),
    /// With the leading dot.
    Suffix(String),
}

impl RouteTable {
    pub fn new(routes: Vec<Route>, domain: &str) -> Self {
        let mut by_host: HashMap<Box<str>, Vec<u32>> = HashMap::new();
        let mut by_pattern = Vec::new();
        for (index, route) in (0_u32..).zip(&routes) {
            if route.hosts.is_empty() || route.hosts.iter().any(|h| matches!(h, HostPattern::Suffix(_))) {
                by_pattern.push(index);
                continue;
            }
            for host in &route.hosts {
                let HostPattern::Exact(host) = host else { continue };
                let indices = by_host.entry(host.as_str().into()).or_default();
                if indices.last() != Some(&index) {
                    indices.push(index);
                }
            }
        }
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let domain_suffix = if domain.is_empty() { String::new() } else { format!(".{domain}") };
        Self { routes, by_host, by_pattern, domain_suffix }
    }

    /// The routes that fit the request, in order. A router that says `next` hands on to the one after it.
    pub fn find<'a>(&'a self, head: &'a RequestHead) -> Candidates<'a> {
        self.find_as(host_of(head.authority()), head)
    }

    /// With another host than the one that the request names.
    fn find_as<'a>(&'a self, host: &'a str, head: &'a RequestHead) -> Candidates<'a> {
        Candidates {
            routes: &self.routes,
            exact: self.by_host.get(host).map_or(&[], Vec::as_slice),
            pattern: &self.by_pattern,
            host,
            head,
        }
    }

    /// Index of the first route from `from` on that fits: for callers that cannot keep the head borrowed from one
    /// candidate to the next.
    pub fn find_from(&self, head: &RequestHead, from: usize) -> Option<usize> {
        self.find_from_as(host_of(head.authority()), head, from)
    }

    /// The same for a request to this service, by whichever of its names a route knows it.
    pub fn find_from_for(&self, service: &str, head: &RequestHead, from: usize) -> Option<usize> {
        let full_name = format!("{service}{}", self.domain_suffix);
        let found = [service, &full_name].map(|host| self.find_from_as(host, head, from));
        found.into_iter().flatten().min()
    }

    fn find_from_as(&self, host: &str, head: &RequestHead, from: usize) -> Option<usize> {
        let from = u32::try_from(from).ok()?;
        let mut candidates = self.find_as(host, head);
        candidates.exact = &candidates.exact[candidates.exact.partition_point(|i| *i < from)..];
        candidates.pattern = &candidates.pattern[candidates.pattern.partition_point(|i| *i < from)..];
        candidates.next_indexed().map(|(index, _)| index)
    }

    /// The pool of the service that an authority names: `web`, `web.<domain>`, with or without port and final dot.
    pub fn service_of(&self, authority: &str, services: &Names) -> Option<usize> {
        let host = host_of(authority);
        let local = || services.get(host.strip_suffix(self.domain_suffix.as_str())?);
        services.get(host).or_else(local)
    }

    /// All routes, in order.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

/// Routes that fit one request, in order.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    routes: &'a [Route],
    exact: &'a [u32],
    pattern: &'a [u32],
    host: &'a str,
    head: &'a RequestHead,
}

impl<'a> Iterator for Candidates<'a> {
    type Item = &'a Route;

    fn next(&mut self) -> Option<&'a Route> {
        self.next_indexed().map(|(_, route)| route)
    }
}

impl<'a> Candidates<'a> {
    /// Merges the two ordered lists; no route is in both.
    fn next_indexed(&mut self) -> Option<(usize, &'a Route)> {
        loop {
            let list = match (self.exact.first(), self.pattern.first()) {
                (Some(e), Some(p)) if e < p => &mut self.exact,
                (Some(_), None) => &mut self.exact,
                _ => &mut self.pattern,
            };
            let (&index, rest) = list.split_first()?;
            *list = rest;
            let route = self.routes.get(index as usize)?;
            if route.fits(self.host, self.head) {
                return Some((index as usize, route));
            }
        }
    }
}

impl Route {
    pub fn new(name: &str, matches: &RouteMatch, target: RouteTarget) -> Self {
        let prefix = matches.path_prefix.as_deref();
        Self {
            name: name.into(),
            target,
            hosts: matches.hosts.iter().map(|h| HostPattern::new(h)).collect(),
            path_prefix: prefix.unwrap_or_default().trim_end_matches('/').to_owned(),
            any_path: prefix.is_none(),
            methods: matches.methods.clone(),
        }
    }

    fn fits(&self, host: &str, head: &RequestHead) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|h| h.fits(host)))
            && (self.methods.is_empty() || self.methods.iter().any(|m| m == head.method()))
            && (self.any_path || prefix_fits(&self.path_prefix, head.path()))
    }
}

impl HostPattern {
    fn new(text: &str) -> Self {
        match text.strip_prefix("*.") {
            Some(suffix) => Self::Suffix(format!(".{}", host_of(suffix).to_ascii_lowercase())),
            None => Self::Exact(host_of(text).to_ascii_lowercase()),
        }
    }

    fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

/// The host of an authority: no port, no brackets around an IPv6 address, no dot at the end.
pub fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(address, _)| address);
    }
    let host = match authority.rsplit_once(':') {
        // More than one colon without brackets is an address, not a host with a port.
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// `/api` fits `/api`, `/api/x` and `/api?x`, not `/apiary`.
fn prefix_fits(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes().first(), None | Some(b'/' | b'?')))
}

#[cfg(test)]
mod tests;
