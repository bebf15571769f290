//! Deliveries: what other threads make for a parked connection, and the token that identifies a connection.

use super::reply_budget::Charge;

/// Identifies a connection of a service thread, for as long as that connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionToken(pub(super) u64);

/// A delivery for which a parked connection waits.
pub(crate) enum Delivery {
    /// Some of the replies; more follow.
    Part(Vec<u8>),
    /// The only or the last reply.
    Reply(Vec<u8>),
    /// The inflated request, as a whole frame, and its room.
    Inflated(Vec<u8>, Charge),
    /// The reply will not be made.
    Abandoned,
}
