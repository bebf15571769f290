//! Gathering: a thread sends the messages of one turn together itself, and so need not wake a fabric thread.
//!
//! A thread that [gathers](Gathering) notes the connections on which it queues messages, and sends on them at
//! the end of its turn. Messages of other threads are sent by the fabric thread of the connection.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;

thread_local! {
    static IS_GATHERING: Cell<bool> = const { Cell::new(false) };
    /// Connections with messages of this turn.
    static GATHERED: RefCell<Vec<Arc<dyn Gather>>> = const { RefCell::new(Vec::new()) };
}

/// A connection on which messages are queued.
pub(super) trait Gather {
    /// Sends the queued messages without waiting.
    fn send_gathered(&self);
}

/// A turn of this thread. Its messages are sent when it ends, even by a panic.
pub(crate) struct Gathering {
    /// Keeps the turn on its thread.
    of_thread: PhantomData<*const ()>,
}

impl Gathering {
    /// Begins a turn.
    pub(crate) fn begin() -> Self {
        IS_GATHERING.set(true);
        Gathering { of_thread: PhantomData }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        IS_GATHERING.set(false);
        send_gathered();
    }
}

/// Sends the messages of this turn so far. Called before the thread does something that may take long.
pub(crate) fn send_gathered() {
    let gathered = GATHERED.take();
    gathered.iter().for_each(|connection| connection.send_gathered());
}

/// Notes that a message is queued on `connection`. Returns whether this thread gathers and will therefore
/// send it.
pub(super) fn note<G: Gather + 'static>(connection: &Arc<G>) -> bool {
    let gathers = IS_GATHERING.get();
    if gathers {
        GATHERED.with_borrow_mut(|gathered| {
            if !gathered.iter().any(|noted| std::ptr::addr_eq(Arc::as_ptr(noted), Arc::as_ptr(connection))) {
                gathered.push(Arc::<G>::clone(connection));
            }
        });
    }
    gathers
}
