//! Prefers its own zone.
