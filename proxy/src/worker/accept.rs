//! Taking connections in. The loop waits for nobody: each connection gets a task at once.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::socket::Socket;
use super::{Door, Worker, captured, connection};

/// After an error that a moment may cure, such as running out of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The connections of one worker: how many there are, and which of them are idle.
#[derive(Debug, Default)]
pub(super) struct Connections {
    seats: RefCell<Vec<Option<Occupant>>>,
    free: RefCell<Vec<usize>>,
    /// By door: what comes from outside takes nothing from the workload.
    open: [Cell<usize>; Door::COUNT],
    left: Notify,
}

#[derive(Debug)]
struct Occupant {
    busy: Rc<Cell<bool>>,
    task: Option<AbortHandle>,
}

/// A connection's place; dropped, it is free for another.
#[derive(Debug)]
pub(super) struct Seat {
    worker: Rc<Worker>,
    door: Door,
    index: usize,
    busy: Rc<Cell<bool>>,
}

/// Accepts until the task is dropped.
pub(super) async fn run(worker: Rc<Worker>, listener: Socket, door: Door) {
    let open = &worker.connections.open[door as usize];
    loop {
        while open.get() >= worker.config.limits.connections_max {
            worker.connections.left.notified().await;
        }
        match listener.accept().await {
            Ok((socket, address)) => {
                let seat = Seat::take(&worker, door);
                let (index, busy) = (seat.index, Rc::clone(&seat.busy));
                // Boxed: the spawning moves what it is given more than once, and this is 3 KiB.
                let worker_too = Rc::clone(&worker);
                let task = match door.captured() {
                    None => {
                        let served = connection::serve(worker_too, socket, address, seat);
                        tokio::task::spawn_local(Box::pin(served))
                    }
                    Some(direction) => {
                        let served = captured::serve(worker_too, (socket, address), direction, seat);
                        tokio::task::spawn_local(Box::pin(served))
                    }
                };
                if let Some(occupant) = worker.connections.seats.borrow_mut()[index].as_mut()
                    && Rc::ptr_eq(&occupant.busy, &busy)
                {
                    occupant.task = Some(task.abort_handle());
                }
            }
            Err(error) if passing(&error) => {}
            Err(error) => {
                tracing::warn!(worker = worker.index, %error, "cannot accept; trying again");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

impl Connections {
    pub(super) fn open(&self) -> usize {
        self.open.iter().map(Cell::get).sum()
    }

    /// Ends connections that wait for a request; the busy ones end with theirs.
    pub(super) fn close_idle(&self) {
        for occupant in self.seats.borrow().iter().flatten() {
            if let (false, Some(task)) = (occupant.busy.get(), &occupant.task) {
                task.abort();
            }
        }
    }

    /// Waits until no connection is open.
    pub(super) async fn all_left(&self) {
        while self.open() > 0 {
            self.left.notified().await;
        }
    }
}

impl Seat {
    fn take(worker: &Rc<Worker>, door: Door) -> Self {
        let connections = &worker.connections;
        let busy = Rc::new(Cell::new(true));
        let occupant = Some(Occupant { busy: Rc::clone(&busy), task: None });
        let mut seats = connections.seats.borrow_mut();
        let index = match connections.free.borrow_mut().pop() {
            Some(index) => {
                seats[index] = occupant;
                index
            }
            None => {
                seats.push(occupant);
                seats.len() - 1
            }
        };
        let open = &connections.open[door as usize];
        open.set(open.get() + 1);
        Self { worker: Rc::clone(worker), door, index, busy }
    }

    pub(super) fn idle(&self) {
        self.busy.set(false);
    }

    pub(super) fn busy(&self) {
        self.busy.set(true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let connections = &self.worker.connections;
        let open = &connections.open[self.door as usize];
        open.set(open.get() - 1);
        // The seats may be borrowed by whoever ends us; a seat left taken is found out of use by its count.
        if let (Ok(mut seats), Ok(mut free)) =
            (connections.seats.try_borrow_mut(), connections.free.try_borrow_mut())
        {
            seats[self.index] = None;
            free.push(self.index);
        }
        connections.left.notify_waiters();
        connections.left.notify_one();
    }
}

/// Errors of the connection, not of the listener.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
