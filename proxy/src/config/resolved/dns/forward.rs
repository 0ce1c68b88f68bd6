//! Where names go that are not ours.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forward {}
