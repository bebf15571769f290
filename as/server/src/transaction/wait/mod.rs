//! Waits of transactions for anything but memory.
//!
//! A transaction waits either before it has changed anything or after it is done:
//!
//! - Before: its *request* waits. It is copied, its connection is parked, and the request runs again from its start
//!   when the [`Wait`] is over. It waits for a pool thread, the lock of a sprig, a reserved record, a disk that does
//!   not answer, room on a device or for its reply, the versions of other nodes, or the node to which it is passed
//!   on.
//! - Afterwards: its *reply* waits under a [`Hold`] until its records are safe: on disk, and on replicas.
//!
//! A service thread waits in neither case: it continues with other connections, and the thread that ends the wait
//! posts the reply to it.

mod held;
mod key;
mod lock_line;
mod request;
mod table;

use std::cell::Cell;
use std::time::Duration;

use proto::peer::NodeId;

use crate::index::LockWait;

pub(super) use held::Hold;
pub(super) use key::RecordKey;
pub(super) use lock_line::LockLines;
pub(crate) use request::OwnedRequest;
pub(super) use request::{HeldTurn, ModuleShare};
pub(super) use table::{RecordReservation, WaitTable};

/// The condition that a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// A pool thread: the request is too long for a service thread, or is a row that has to wait for the disk.
    Pool,
    /// The lock of a record's sprig, which another thread has: a thread for such requests sleeps until it is free.
    Lock(RecordKey),
    /// A record that a pool thread has reserved for its change, or of which a write is on its way to replicas.
    Record(RecordKey),
    /// The same, of a request that has lost to other writers of the record: it reserves the record when it runs again.
    Reservation(RecordKey),
    /// Other nodes, which may have a newer copy of a record.
    Duplicates(RecordKey),
    /// Room on the device of a record.
    Room(RecordKey),
    /// Room for a reply of at most this many bytes.
    ReplyRoom(usize),
    /// No further wait: the record was not in memory and has been read from its disk. The request runs again at once.
    Fetched,
    /// A disk that does not answer: that of device number `device` in namespace number `namespace`.
    Disk { namespace: usize, device: u8 },
    /// The answer of the node that serves the partition, to which the request is passed on.
    OtherNode(NodeId),
    /// The end of a change of the cluster, during which no write of the partition may begin.
    Hold,
}

/// Longest wait for room of a request whose client has set no time limit.
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// Reserves room for a reply of at most this many bytes; `false` while there is none. May be called again for the
/// same reply.
pub(crate) type TakeReplyRoom<'a> = &'a dyn Fn(usize) -> bool;

/// The waits that a transaction may make before it has changed anything, and the reasons to wait that it has found.
pub(super) struct Patience<'a> {
    /// How it waits for the lock of the record's sprig.
    pub(super) lock_wait: LockWait,
    /// Whether it may wait for the device of its record.
    pub(super) may_wait: bool,
    pub(super) lacks_room: Cell<bool>,
    /// The device of a disk that does not answer and that it would have to wait for.
    pub(super) stuck_device: Cell<Option<u8>>,
    /// Called before a large reply is made; `None` if replies have a limit of their own.
    pub(super) take_reply_room: Option<TakeReplyRoom<'a>>,
    /// Set if it cannot reach or change its record now: this node is no longer the master of its partition or may
    /// soon not be, or others are changing the record.
    pub(super) refused: Cell<Option<Wait>>,
    /// Largest size of the reply that lacks room; 0 = there is none.
    pub(super) lacking_reply_size: Cell<usize>,
    /// How often its record was read from a disk.
    pub(super) fetch_count: Cell<u32>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(
        lock_wait: LockWait,
        may_wait: bool,
        take_reply_room: Option<TakeReplyRoom<'a>>,
    ) -> Self {
        Patience {
            lock_wait,
            may_wait,
            lacks_room: Cell::new(false),
            stuck_device: Cell::new(None),
            take_reply_room,
            refused: Cell::new(None),
            lacking_reply_size: Cell::new(0),
            fetch_count: Cell::new(0),
        }
    }
}
