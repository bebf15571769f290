//! What transactions wait for beside memory, and who waits.
//!
//! A transaction waits either before it has changed anything or after it is done:
//!
//! - Before, its *request* waits. It is copied, its connection is parked, and the request runs again from its start when
//!   the [`Wait`] is over. So a request waits for a thread of the pool, for a reserved record, for a disk to answer, for room on a
//!   device or for its reply, for the versions that other nodes have, or for the node that it is passed on to.
//! - Afterwards, its *reply* waits until what it tells of is safe, under a [`Hold`]: on disk, and on replicas.
//!
//! In neither case does a service thread wait: it goes on with other connections, and whoever ends the wait posts the reply
//! to it.

mod held;
mod table;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;
use proto::peer::NodeId;

use super::ReplySink;
use super::replicas::RecordTurn;
pub(super) use held::Hold;
pub(super) use table::{RecordKey, RecordReservation, WaitTable};

use crate::metrics::Origin;

/// What the transaction of a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// A thread of a pool: the request is too long for a service thread, or a row that has to wait for the disk.
    Pool,
    /// A record that a thread of the pool has reserved for its change, or of which a write is on its way to replicas.
    Record(RecordKey),
    /// Other nodes, which may have a newer copy of a record.
    Duplicates(RecordKey),
    /// Room on the device of a record.
    Room(RecordKey),
    /// Room for a reply of at most so many bytes.
    ReplyRoom(usize),
    /// A disk that does not answer: that of device number `device` of namespace number `namespace`.
    Disk { namespace: usize, device: u8 },
    /// The answer of the node that serves the partition, which the request is passed on to.
    OtherNode(NodeId),
    /// The end of a change of the cluster, during which no write of the partition begins.
    Hold,
}

/// Longest that a request waits for room whose client has set it no time limit.
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// Takes room for a reply of at most so many bytes; `false` while there is none. It may be asked again for the same reply.
pub(crate) type TakeReplyRoom<'a> = &'a dyn Fn(usize) -> bool;

/// What a transaction may wait for before it has changed anything, and what it has found that it must.
pub(super) struct Patience<'a> {
    /// It may wait for the device of its record.
    pub(super) may_wait: bool,
    pub(super) lacks_room: Cell<bool>,
    /// The device of a disk that does not answer and would have to be waited for.
    pub(super) stuck_device: Cell<Option<u8>>,
    /// Asked before a large reply is made; `None` where replies have a limit of their own.
    pub(super) take_reply_room: Option<TakeReplyRoom<'a>>,
    /// It could not change its record now: this node is not the master of its partition any more, or may not be soon, or others
    /// are changing the record.
    pub(super) refused: Cell<Option<Wait>>,
    /// How large the reply may become that has no room; 0 = none lacks it.
    pub(super) lacking_reply_size: Cell<usize>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(may_wait: bool, take_reply_room: Option<TakeReplyRoom<'a>>) -> Self {
        Patience {
            may_wait,
            lacks_room: Cell::new(false),
            stuck_device: Cell::new(None),
            take_reply_room,
            refused: Cell::new(None),
            lacking_reply_size: Cell::new(0),
        }
    }
}

/// A request that waits, with its own copy of what the client sent.
pub(crate) struct OwnedRequest {
    /// The body of its message.
    pub(super) body: Box<[u8]>,
    /// When it was received; its deadline counts from then.
    pub(super) received: Instant,
    /// Where its reply goes.
    pub(super) sink: Arc<dyn ReplySink>,
    /// How long it has waited for its device or for room.
    pub(super) waited: Duration,
    /// It may wait for its device again.
    pub(super) may_wait: bool,
    pub(super) origin: Origin,
    /// The record, where the message does not say it: rows of batches.
    pub(super) digest: Option<Digest>,
    /// The next write of its record is its own: it has waited for that.
    pub(super) turn: Option<Box<RecordTurn>>,
}

impl OwnedRequest {
    pub(crate) fn new(body: &[u8], received: Instant, sink: Arc<dyn ReplySink>) -> Self {
        OwnedRequest {
            body: body.into(),
            received,
            sink,
            waited: Duration::ZERO,
            may_wait: true,
            origin: Origin::Client,
            digest: None,
            turn: None,
        }
    }

    /// The same, with the right to the next write of its record.
    pub(super) fn in_turn(self, turn: RecordTurn) -> Self {
        OwnedRequest { turn: Some(Box::new(turn)), ..self }
    }

    /// The same, asked by somebody else than a client directly.
    pub(super) fn of(self, origin: Origin, digest: Option<Digest>) -> Self {
        OwnedRequest { origin, digest, ..self }
    }
}
