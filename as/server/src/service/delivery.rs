//! What other threads make for a parked connection, and how a connection is named.

use super::reply_budget::Charge;

/// Names a connection of a service thread, for as long as that connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionToken(pub(super) u64);

/// What a parked connection waits for.
pub(crate) enum Delivery {
    /// Some of the replies.
    Part(Vec<u8>),
    /// The reply, or the last one.
    Reply(Vec<u8>),
    /// The inflated request, as a whole frame, and its room.
    Inflated(Vec<u8>, Charge),
    /// The reply will not be made.
    Abandoned,
}
