//! The connection on which the message came that a fabric thread is handling.
//!
//! An answer on that connection takes TCP's acknowledgement of the message along, which otherwise is a packet of its own.

use std::cell::RefCell;
use std::sync::Arc;

use proto::peer::NodeId;

use super::connection::Connection;

thread_local! {
    static ARRIVED_ON: RefCell<Option<Arc<Connection>>> = const { RefCell::new(None) };
}

/// Clears the connection, even after a panic of a handler.
struct Arrival;

impl Drop for Arrival {
    fn drop(&mut self) {
        ARRIVED_ON.take();
    }
}

/// Runs `handle`, which handles messages that came on `connection`.
pub(super) fn handle_on<T>(connection: &Arc<Connection>, handle: impl FnOnce() -> T) -> T {
    ARRIVED_ON.set(Some(Arc::clone(connection)));
    let _arrival = Arrival;
    handle()
}

/// The connection to `node` on which the message came that this thread is handling, if there is one.
pub(super) fn connection_to(node: NodeId) -> Option<Arc<Connection>> {
    ARRIVED_ON.with_borrow(|connection| connection.as_ref().filter(|one| one.peer.node == node).cloned())
}
