//! Where servers speak first: from a worker's second connection on, nothing is waited for there.
//!
//! Only a wait is saved: who speaks first is looked at each time, so what has changed does no harm.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Services by port; beyond, what has expired makes room, or else anything.
const PLACES_MAX: usize = 1024;
const EXPIRES: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Learned(RefCell<HashMap<(Arc<str>, u16), Instant>>);

impl Learned {
    /// Whether the server there has spoken first of late.
    pub(super) fn server_speaks_first(&self, service: &Arc<str>, port: u16, now: Instant) -> bool {
        let places = self.0.borrow();
        let learned = places.get(&(Arc::clone(service), port));
        learned.is_some_and(|at| now - *at < EXPIRES)
    }

    /// It has.
    pub(super) fn learn(&self, service: &Arc<str>, port: u16, now: Instant) {
        let mut places = self.0.borrow_mut();
        let place = (Arc::clone(service), port);
        if places.len() >= PLACES_MAX && !places.contains_key(&place) {
            places.retain(|_, at| now - *at < EXPIRES);
            if places.len() >= PLACES_MAX
                && let Some(any) = places.keys().next().cloned()
            {
                places.remove(&any);
            }
        }
        places.insert(place, now);
    }

    /// The client has.
    pub(super) fn forget(&self, service: &Arc<str>, port: u16) {
        self.0.borrow_mut().remove(&(Arc::clone(service), port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_is_bounded_and_expires() {
        let (learned, now) = (Learned::default(), Instant::now());
        let (mail, web): (Arc<str>, Arc<str>) = ("mail".into(), "web".into());
        learned.learn(&mail, 25, now);
        assert!(learned.server_speaks_first(&mail, 25, now) && !learned.server_speaks_first(&mail, 587, now));
        assert!(!learned.server_speaks_first(&web, 25, now));
        assert!(!learned.server_speaks_first(&mail, 25, now + EXPIRES));
        (0..5000).for_each(|port| learned.learn(&web, port, now));
        assert_eq!(learned.0.borrow().len(), PLACES_MAX);
        assert!(learned.server_speaks_first(&web, 4999, now));
        learned.forget(&web, 4999);
        assert!(!learned.server_speaks_first(&web, 4999, now));
    }
}
