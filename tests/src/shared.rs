//! A value that a backend's threads and the test both see.

use std::sync::{Arc, PoisonError};

#[expect(
    clippy::disallowed_types,
    reason = "the ban is for the proxy's workers; here threads report to a test"
)]
type Lock<T> = std::sync::Mutex<T>;

/// Cheap to clone; all clones are the same value.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<Lock<T>>);

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Lock::new(value)))
    }

    /// Looks at the value, or changes it. A test that failed meanwhile does not matter.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
