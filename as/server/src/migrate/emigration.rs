//! Sends a partition to another node: records are read one after the other, gathered into messages, and sent
//! again until each is acknowledged.
//!
//! A record is read from its disk before its own lock is taken, and no lock is held during any wait. Records
//! that are added or change meanwhile need not be sent, because the receiver is a replica and gets the
//! master's writes. Removals are sent too, so that the receiver's older copies are removed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use cf::Digest;
use datamodel::flat::FlatRecord;
use parking_lot::{Condvar, Mutex};
use proto::peer::NodeId;
use proto::peer::hello::Channel;
use proto::peer::migrate::{Migrate, MigrateBody};

use super::{Fabric, Namespace, PartitionId};
use crate::fabric::SendError;
use crate::metrics::NamespaceCounter;
use crate::storage::ReadBuffer;

/// Number of bytes of messages that are gathered before they are sent.
const GATHERED_SIZE: usize = 64 << 10;
/// Largest number of unacknowledged bytes of an emigration. They may wait at the receiver, even ahead of
/// writes of clients.
const UNACKED_SIZE_MAX: usize = 4 << 20;
/// Largest number of unacknowledged records of an emigration.
const UNACKED_COUNT_MAX: usize = 16 << 10;
/// Pauses of `migrate-sleep` add up to this before the thread sleeps, because the system cannot sleep for a
/// microsecond.
const REST_MIN: Duration = Duration::from_millis(1);
/// Pause before sending is retried if too many bytes wait already.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Longest wait for acknowledgements before a check whether anything must be sent again.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// Largest number of records sent again at a time.
const RESENT_COUNT_MAX: usize = 256;

/// An unacknowledged record.
struct Sent {
    digest: Digest,
    /// Bytes of its message; 0 while the record cannot be read.
    size: usize,
    resend_at: Instant,
}

#[derive(Default)]
struct Window {
    /// The unacknowledged records by insert id.
    sent: BTreeMap<u64, Sent>,
    bytes: usize,
}

/// An emigration under way.
pub(super) struct Emigration {
    pub(super) id: u32,
    to: NodeId,
    /// Whether the receiver understands messages about removals.
    pub(super) tells_removals: bool,
    pub(super) namespace: Arc<Namespace>,
    pub(super) partition: PartitionId,
    window: Mutex<Window>,
    /// The insert id of the next record. No id is used twice, even if the emigration begins again.
    next_insert_id: AtomicU64,
    acked: Condvar,
    is_stopped: AtomicBool,
    /// Number of times that the emigration has ended in a panic.
    panics: AtomicU32,
}

/// Sends a message on the bulk channel. If it is lost, the side that misses an answer repeats its message.
pub(super) fn send_bulk(fabric: &Fabric, to: NodeId, message: &Migrate<'_>) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    let _ = fabric.send(to, Channel::Bulk, &bytes);
}

impl Emigration {
    pub(super) fn new(id: u32, to: NodeId, namespace: Arc<Namespace>, partition: PartitionId) -> Self {
        Emigration {
            id,
            to,
            tells_removals: false,
            namespace,
            partition,
            window: Mutex::default(),
            next_insert_id: AtomicU64::new(0),
            acked: Condvar::new(),
            is_stopped: AtomicBool::new(false),
            panics: AtomicU32::new(0),
        }
    }

    /// Notes that the emigration has ended in a panic. Returns how long to wait before it begins again.
    pub(super) fn pause_after_panic(&self) -> Duration {
        cf::threads::pause_after_panics(self.panics.fetch_add(1, Relaxed) + 1)
    }

    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Release);
        drop(self.window.lock());
        self.acked.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Acquire)
    }

    /// Notes that the receiver has a record.
    pub(super) fn acked(&self, from: NodeId, insert_id: u64) {
        if from != self.to {
            return;
        }
        let mut window = self.window.lock();
        if window.forget(insert_id) && (window.sent.is_empty() || window.is_half_full()) {
            drop(window);
            self.acked.notify_all();
        }
    }

    /// Sends all records and waits until all are acknowledged. Returns false if it was stopped before. After
    /// a panic it may be called again, and then sends all records again.
    pub(super) fn run(&self, fabric: &Fabric) -> bool {
        *self.window.lock() = Window::default();
        let mut sender = Sender {
            emigration: self,
            fabric,
            scratch: ReadBuffer::new(),
            gathered: Vec::new(),
            rest: Duration::ZERO,
        };
        let mut cursor = self.namespace.index.cursor(self.partition, None);
        while let Some(portion) = cursor.next_portion(|_| true) {
            for found in portion {
                if self.is_stopped() || !sender.send(&found.digest) {
                    return false;
                }
            }
        }
        if self.tells_removals {
            for (digest, _) in self.namespace.partitions.removals_of(self.partition) {
                // A record that was written again has been sent with the time of the removal.
                let is_gone = self.namespace.index.get(&digest).is_none();
                if self.is_stopped() || is_gone && !sender.send(&digest) {
                    return false;
                }
            }
        }
        sender.flush();
        loop {
            let mut window = self.window.lock();
            if window.sent.is_empty() || self.is_stopped() {
                return !self.is_stopped();
            }
            self.acked.wait_for(&mut window, LOOK_PERIOD);
            drop(window);
            sender.resend_due();
        }
    }

    fn retransmit_period(&self) -> Duration {
        let ms = self.namespace.config().params.migrate_retransmit_ms.get();
        Duration::from_millis(ms.max(1).into())
    }
}

impl Window {
    fn is_full(&self) -> bool {
        self.bytes > UNACKED_SIZE_MAX || self.sent.len() > UNACKED_COUNT_MAX
    }

    fn is_half_full(&self) -> bool {
        self.bytes > UNACKED_SIZE_MAX / 2 || self.sent.len() > UNACKED_COUNT_MAX / 2
    }

    fn forget(&mut self, insert_id: u64) -> bool {
        let Some(sent) = self.sent.remove(&insert_id) else { return false };
        self.bytes -= sent.size;
        true
    }
}

/// The result of reading a record that is to be sent.
enum Gathered {
    /// The message with the record, or with its removal, has this many bytes.
    Whole(usize),
    /// The record no longer exists, and there is no removal to report.
    Gone,
    /// The record cannot be read now.
    Unreadable,
    /// The partition is no longer here.
    Left,
}

/// Sends the records of one emigration.
struct Sender<'a> {
    emigration: &'a Emigration,
    fabric: &'a Fabric,
    scratch: ReadBuffer,
    /// Messages that are not sent yet.
    gathered: Vec<u8>,
    /// Pauses of `migrate-sleep` that are still to be slept.
    rest: Duration,
}

impl Sender<'_> {
    /// Sends a record for the first time. Returns false if no further record is to be sent.
    fn send(&mut self, digest: &Digest) -> bool {
        let emigration = self.emigration;
        cf::fault_point!("emigration");
        let namespace = &emigration.namespace;
        let insert_id = emigration.next_insert_id.fetch_add(1, Relaxed);
        let size = match self.gather_surely(digest, insert_id) {
            Gathered::Whole(size) => size,
            Gathered::Gone => return true,
            Gathered::Left => return false,
            Gathered::Unreadable if namespace.config().params.migrate_skip_unreadable.get() => {
                namespace.metrics.add(NamespaceCounter::MigrateRecordsUnreadable, 1);
                return true;
            }
            Gathered::Unreadable => 0,
        };
        let resend_at = Instant::now() + emigration.retransmit_period();
        let mut window = emigration.window.lock();
        window.sent.insert(insert_id, Sent { digest: *digest, size, resend_at });
        window.bytes += size;
        let is_full = window.is_full();
        drop(window);
        namespace.metrics.add(NamespaceCounter::MigrateRecordsTransmitted, 1);
        if is_full || self.gathered.len() >= GATHERED_SIZE {
            self.flush();
        }
        if is_full {
            self.await_room();
        }
        self.pause();
        true
    }

    /// As [`gather`](Self::gather), but a record that causes a panic counts as unreadable, so that the others
    /// are still sent.
    fn gather_surely(&mut self, digest: &Digest, insert_id: u64) -> Gathered {
        let before = self.gathered.len();
        let gathered = catch_unwind(AssertUnwindSafe(|| self.gather(digest, insert_id)));
        gathered.unwrap_or_else(|_| {
            self.gathered.truncate(before);
            self.scratch = ReadBuffer::new();
            let name = self.emigration.namespace.name();
            cf::warning_limited!(Migrate, "{{{name}}} record {digest} failed on an internal error");
            Gathered::Unreadable
        })
    }

    /// Appends the message of a record to the unsent ones.
    fn gather(&mut self, digest: &Digest, insert_id: u64) -> Gathered {
        // A record that could not be read is sent again later. The buffer must not keep anything of the
        // previous attempt.
        self.scratch.forget();
        let Emigration { namespace, partition, id, .. } = self.emigration;
        let Some(_reservation) = namespace.partitions.reserve_data(*partition) else { return Gathered::Left };
        let removed_at = namespace.partitions.removed_at(digest).filter(|_| self.emigration.tells_removals);
        let before = self.gathered.len();
        let Some(guard) = namespace.storage.get_readable(&namespace.index, digest, &mut self.scratch) else {
            let Some(removed_at) = removed_at else { return Gathered::Gone };
            let body = MigrateBody::Removal { insert_id, digest: *digest, removed_at };
            Migrate { emigration_id: *id, body }.encode(&mut self.gathered);
            return Gathered::Whole(self.gathered.len() - before);
        };
        let bytes = match namespace.storage.record_bytes(&guard, &mut self.scratch) {
            Ok(bytes) => bytes,
            Err(error) => {
                namespace.read_error(&guard, error);
                return Gathered::Unreadable;
            }
        };
        let Some(record) = FlatRecord::without_end(bytes) else {
            cf::warning_limited!(Migrate, "{{{}}} record {digest} is damaged", namespace.name());
            return Gathered::Unreadable;
        };
        drop(guard);
        let body = MigrateBody::Insert { insert_id, record: &record, removed_at };
        Migrate { emigration_id: *id, body }.encode(&mut self.gathered);
        Gathered::Whole(self.gathered.len() - before)
    }

    /// Sends the gathered messages.
    fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let emigration = self.emigration;
        while self.fabric.send(emigration.to, Channel::Bulk, &self.gathered) == Err(SendError::Full)
            && !emigration.is_stopped()
        {
            std::thread::sleep(FULL_PAUSE);
        }
        // Without a connection the messages are lost, and are sent again later.
        self.gathered.clear();
    }

    /// Waits until at most half of the permitted unacknowledged bytes and records are left.
    fn await_room(&mut self) {
        let emigration = self.emigration;
        loop {
            let mut window = emigration.window.lock();
            if !window.is_half_full() || emigration.is_stopped() {
                return;
            }
            emigration.acked.wait_for(&mut window, LOOK_PERIOD);
            drop(window);
            self.resend_due();
        }
    }

    /// Sends records again that have not been acknowledged for long, in their current state.
    fn resend_due(&mut self) {
        let (emigration, now) = (self.emigration, Instant::now());
        let window = emigration.window.lock();
        let is_due = |(_, sent): &(&u64, &Sent)| sent.resend_at <= now;
        let due = window.sent.iter().filter(is_due).take(RESENT_COUNT_MAX);
        let due: Vec<(u64, Digest)> = due.map(|(id, sent)| (*id, sent.digest)).collect();
        drop(window);
        for (insert_id, digest) in due {
            let size = match self.gather_surely(&digest, insert_id) {
                Gathered::Whole(size) => size,
                Gathered::Unreadable => 0,
                Gathered::Gone | Gathered::Left => {
                    emigration.window.lock().forget(insert_id);
                    continue;
                }
            };
            emigration.namespace.metrics.add(NamespaceCounter::MigrateRecordRetransmits, 1);
            let mut window = emigration.window.lock();
            if let Some(sent) = window.sent.get_mut(&insert_id) {
                let before = std::mem::replace(&mut sent.size, size);
                sent.resend_at = now + emigration.retransmit_period();
                window.bytes = window.bytes + size - before;
            }
        }
        self.flush();
    }

    /// Sleeps as `migrate-sleep` requires.
    fn pause(&mut self) {
        self.rest +=
            Duration::from_micros(self.emigration.namespace.config().params.migrate_sleep.get().into());
        if self.rest >= REST_MIN {
            self.flush();
            std::thread::sleep(std::mem::take(&mut self.rest));
        }
    }
}
