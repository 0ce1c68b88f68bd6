//! Questions that are on their way over UDP, by the port and id that they left with. A question that arrives with both
//! is our own: its upstream is ourselves, by a redirect or a list of resolvers that names us.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Whether it has come back. No more entries than questions in flight, each of which removes its own.
    on_their_way: RefCell<HashMap<(u16, u16), bool>>,
}

/// Takes the question back out when it is dropped.
#[derive(Debug)]
pub(super) struct OnItsWay {
    sent: Rc<Sent>,
    port_and_id: (u16, u16),
}

impl Sent {
    pub(super) fn note(self: &Rc<Self>, port: u16, id: u16) -> OnItsWay {
        self.on_their_way.borrow_mut().insert((port, id), false);
        OnItsWay { sent: Rc::clone(self), port_and_id: (port, id) }
    }

    /// A client asks from this port with this id. Answers whether that is us.
    pub(super) fn is_ours(&self, port: u16, id: u16) -> bool {
        self.on_their_way.borrow_mut().get_mut(&(port, id)).map(|came_back| *came_back = true).is_some()
    }

    pub(super) fn came_back(&self, port: u16, id: u16) -> bool {
        self.on_their_way.borrow().get(&(port, id)).copied().unwrap_or_default()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.sent.on_their_way.borrow_mut().remove(&self.port_and_id);
    }
}
