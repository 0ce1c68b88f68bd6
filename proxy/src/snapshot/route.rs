//! Which route a request takes: a pure lookup.
