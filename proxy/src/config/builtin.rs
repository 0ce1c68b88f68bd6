//! The policies that come with the program, by name.
//!
//! The one list of them: configuration checks names against it, and the policy host brings a component for each.

/// What a policy decides, that is, which world its component implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Picks an endpoint of a service.
    Balancer,
    /// Picks a backend of a route.
    Router,
}

/// Every built-in policy.
pub const BUILTIN_POLICIES: &[(&str, PolicyKind)] = &[
    ("round-robin", PolicyKind::Balancer),
    ("weighted", PolicyKind::Balancer),
    ("random", PolicyKind::Balancer),
    ("least-request", PolicyKind::Balancer),
    ("p2c", PolicyKind::Balancer),
    ("peak-ewma", PolicyKind::Balancer),
    ("maglev", PolicyKind::Balancer),
    ("rendezvous", PolicyKind::Balancer),
    ("canary", PolicyKind::Router),
    ("header-match", PolicyKind::Router),
];

/// The balancer of a service that names none.
pub const DEFAULT_BALANCER: &str = "p2c";

/// What the built-in policy of this name decides; `None` if there is none.
pub fn builtin_kind(name: &str) -> Option<PolicyKind> {
    BUILTIN_POLICIES.iter().find(|(builtin, _)| *builtin == name).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_default_is_among_them() {
        let names: std::collections::BTreeSet<_> = BUILTIN_POLICIES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), BUILTIN_POLICIES.len());
        assert_eq!(builtin_kind(DEFAULT_BALANCER), Some(PolicyKind::Balancer));
        assert_eq!(builtin_kind("none"), None);
    }
}
