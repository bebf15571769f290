//! A transaction with its inputs, what it may wait for, and how it reaches its record.
//!
//! # Locks
//! The lock of the record's sprig. A service thread does not sleep for it, because another thread may hold it while
//! it copies a large record or changes many index entries. The service thread gives up after a few microseconds, and
//! the request runs [in the pool](Wait::Lock).

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::flat::FlatRecord;
use proto::ResultCode;
use proto::message::{Request, info1};
use proto::peer::NodeId;
use proto::reply::{ReplyHeader, ReplyWriter};

use super::context::TransactionContext;
use super::filter::CompiledFilter;
use super::wait::{Patience, RecordKey, Wait};
use crate::fabric;
use crate::index::{NotLocked, PartitionId, ReadGuard, RecordMeta, WriteGuard};
use crate::metrics::{Operation, Origin};
use crate::namespace::{Inside, Namespace, Refused, Section};
use crate::storage::{FETCHES_MAX, ReadBuffer};
use crate::udf::TimeLimit;

/// The reason why a transaction failed, and what is reported of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) result: ResultCode,
    pub(super) generation: u16,
    pub(super) void_time: u32,
}

impl From<ResultCode> for Failure {
    fn from(result: ResultCode) -> Self {
        Failure { result, generation: 0, void_time: 0 }
    }
}

/// Steps, of about a nanosecond each, that a request may take on a service thread.
pub(crate) const INLINE_STEPS: u64 = 200_000;

/// The kind of thread that a transaction runs on.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A service thread, or another thread that carries out a short request in the same way: on the record, under the
    /// lock.
    Service,
    /// A thread of a pool, which may take as long as `limit` says.
    Pool { limit: TimeLimit },
}

/// A transaction with its inputs.
pub(super) struct Call<'a> {
    pub(super) context: &'a TransactionContext,
    pub(super) place: Place,
    pub(super) namespace: &'a Namespace,
    pub(super) request: &'a Request<'a>,
    pub(super) digest: Digest,
    /// The tree id of its partition, which marks its records; 0 in reads.
    pub(super) tree_id: u8,
    pub(super) now: StoredMillis,
    pub(super) origin: Origin,
    /// The filter that applies: the request's own or that of its batch.
    pub(super) filter: Option<&'a CompiledFilter<'a>>,
    /// A further check of the record before it is changed.
    pub(super) check: Option<&'a dyn RecordCheck>,
    /// The request's row number in a batch; its reply has that number and no frame of its own.
    pub(super) row: Option<u32>,
    /// The budget of its work.
    pub(super) budget: &'a Budget<'a>,
    pub(super) patience: Patience<'a>,
    /// Whether this transaction has the turn for the next write of the record.
    pub(super) has_turn: bool,
    /// Whether it has lost to other writers of the record. It then reserves the record at once.
    pub(super) has_lost: bool,
}

impl<'a> Call<'a> {
    /// The record, for reading, if there is one.
    ///
    /// # Errors
    /// When its lock is not free and the thread may not sleep for it; the transaction [waits](Self::wait_of_failed).
    #[inline]
    pub(super) fn get(&self) -> Result<Option<ReadGuard<'a>>, ResultCode> {
        let found = self.namespace.index.get_within(&self.digest, self.patience.lock_wait);
        found.map_err(|_| self.meets_lock())
    }

    /// The record, for changing, if there is one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[inline]
    pub(super) fn get_exclusive(&self) -> Result<Option<WriteGuard<'a>>, ResultCode> {
        let found = self.namespace.index.get_exclusive_within(&self.digest, self.patience.lock_wait);
        found.map_err(|_| self.meets_lock())
    }

    /// The record, for changing, created if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `Unknown` if the index is full.
    #[inline]
    pub(super) fn get_or_create(&self) -> Result<WriteGuard<'a>, ResultCode> {
        let found = self.namespace.index.get_or_create_within(&self.digest, self.patience.lock_wait);
        found.map(|(guard, _)| guard).map_err(|not_locked| match not_locked {
            NotLocked::Busy => self.meets_lock(),
            NotLocked::Full => {
                cf::warning_limited!(Index, "{{{}}} primary index is full", self.namespace.name());
                ResultCode::Unknown
            }
        })
    }

    /// Notes that another thread has the lock of the record's sprig. Returns a placeholder that is never sent to a
    /// client.
    #[cold]
    fn meets_lock(&self) -> ResultCode {
        self.must_wait(Wait::Lock(self.record_key()))
    }

    /// Notes what the transaction has to wait for before it changes anything. Returns a placeholder that is never
    /// sent to a client.
    pub(super) fn must_wait(&self, wait: Wait) -> ResultCode {
        self.patience.refused.set(Some(wait));
        ResultCode::Timeout
    }

    /// Checks that there is room for the data that the transaction is going to store.
    ///
    /// # Errors
    /// When there is none now; the transaction [waits](Self::wait_of_failed) if it may.
    #[inline]
    pub(super) fn check_room(&self) -> Result<(), ResultCode> {
        self.check_disk()?;
        let may_go_first = self.row.is_some() || matches!(self.place, Place::Pool { .. });
        if self.namespace.storage.must_wait_for_room(&self.digest, may_go_first) {
            return Err(self.lacks_room());
        }
        Ok(())
    }

    /// Checks that the record can be written to disk, if the thread would have to wait for that.
    ///
    /// # Errors
    /// When its disk does not answer; the transaction [waits](Self::wait_of_failed) if it may.
    #[inline]
    pub(super) fn check_disk(&self) -> Result<(), ResultCode> {
        let storage = &self.namespace.storage;
        if self.row.is_none() || !storage.commits() {
            return Ok(());
        }
        let stuck = storage.stuck_device_of(&self.digest);
        self.patience.stuck_device.set(stuck);
        if stuck.is_none() { Ok(()) } else { Err(ResultCode::Timeout) }
    }

    /// Notes that there is no room now. Returns the result for a client.
    pub(super) fn lacks_room(&self) -> ResultCode {
        self.patience.lacks_room.set(true);
        ResultCode::DeviceOverload
    }

    /// The wait of a failed transaction. It waits if its record was locked, reserved or not in memory, its partition
    /// is served by another node, writes of the partition are held, a disk does not answer, or there is no room on
    /// its device or for its reply. `None` if it failed for another reason, or may not wait. A record that was not in
    /// memory is read here, when the transaction holds no guard any more.
    #[inline]
    pub(super) fn wait_of_failed(&self, read: &mut ReadBuffer) -> Option<Wait> {
        if self.fetch(read) {
            return Some(Wait::Fetched);
        }
        let Patience { may_wait, lacks_room, stuck_device, lacking_reply_size, refused, .. } = &self.patience;
        if let Some(wait) = refused.take() {
            return Some(wait);
        }
        if let Some(device) = read.take_stuck().or(stuck_device.get()) {
            return may_wait.then(|| Wait::Disk { namespace: self.namespace.position(), device });
        }
        match lacking_reply_size.get() {
            0 => (*may_wait && lacks_room.get()).then(|| Wait::Room(self.record_key())),
            size => Some(Wait::ReplyRoom(size)),
        }
    }

    /// Reads the record from its disk, if it was not in memory; returns whether to look it up again.
    #[inline]
    pub(super) fn fetch(&self, read: &mut ReadBuffer) -> bool {
        read.is_unread() && self.fetch_unread(read)
    }

    #[cold]
    fn fetch_unread(&self, read: &mut ReadBuffer) -> bool {
        let fetch_count = &self.patience.fetch_count;
        fetch_count.set(fetch_count.get() + 1);
        if fetch_count.get() > FETCHES_MAX {
            return false;
        }
        // The gathered replica writes are sent first, because they need not wait for the disk.
        fabric::send_gathered();
        self.namespace.storage.fetch(read)
    }

    /// The wait of a transaction whose result is not valid because its budget ran out on a service thread. In a pool
    /// the budget ends at the deadline, so there the result is final.
    #[inline]
    pub(super) fn wait_of_exhausted(&self) -> Option<Wait> {
        (self.budget.is_exhausted() && matches!(self.place, Place::Service)).then_some(Wait::Pool)
    }

    /// The key of the record in tables for all namespaces.
    #[inline]
    pub(super) fn record_key(&self) -> RecordKey {
        RecordKey { namespace: self.namespace.position(), digest: self.digest }
    }

    /// Whether a change of the record must wait: a pool thread has reserved the record, or another change is on its way
    /// to replicas. The caller holds the record's sprig lock.
    #[inline]
    pub(super) fn is_reserved(&self) -> bool {
        let key = self.record_key();
        self.context.waits.is_reserved(&key) || self.is_busy(&key)
    }

    /// Whether another change of the record is on its way to replicas, or has its turn first.
    #[inline]
    pub(super) fn is_busy(&self, key: &RecordKey) -> bool {
        let replicas = &self.context.replicas;
        if self.has_turn { replicas.is_in_flight(key) } else { replicas.is_busy(key) }
    }

    /// Checks that the transaction may commit its change of `record`. Since it began, the partition may have moved to
    /// another node, may be about to move, or other nodes may have newer copies. The caller holds the record's sprig
    /// lock, and keeps the returned value until it has committed.
    ///
    /// # Errors
    /// `Unavailable` in each of these cases; nothing has changed, and the transaction [waits](Self::wait_of_failed).
    #[inline]
    pub(super) fn begin_commit<'b>(
        &self,
        record: &RecordMeta,
        commits: &'b mut [Section],
    ) -> Result<Option<Inside<'b>>, ResultCode> {
        let partitions = &self.namespace.partitions;
        if partitions.is_of_node_alone() {
            return Ok(None);
        }
        let inside = commits[self.namespace.position()].stay();
        let id = PartitionId::of(&self.digest);
        match partitions.judge_commit(id) {
            Ok(()) if !partitions.may_have_duplicates(id) => Ok(Some(inside)),
            Ok(()) => {
                let local = record.exists().then(|| record.last_update_time());
                let Some(wait) = self.wait_of_duplicates_of(local) else { return Ok(Some(inside)) };
                self.patience.refused.set(Some(wait));
                Err(ResultCode::Unavailable)
            }
            Err(refused) => {
                self.patience.refused.set(wait_of_refused(refused).ok());
                Err(ResultCode::Unavailable)
            }
        }
    }

    /// The wait of a transaction, if other nodes may have a newer copy of its record.
    #[inline]
    pub(super) fn wait_of_duplicates(&self) -> Option<Wait> {
        if !self.namespace.partitions.may_have_duplicates(PartitionId::of(&self.digest)) {
            return None;
        }
        match self.get() {
            Ok(found) => self.wait_of_duplicates_of(found.map(|guard| guard.last_update_time())),
            Err(_) => self.patience.refused.take(),
        }
    }

    /// The same for a record last updated at `local`, if it exists here. The caller may hold its sprig lock.
    #[cold]
    pub(super) fn wait_of_duplicates_of(&self, local: Option<u64>) -> Option<Wait> {
        // Queries read only partitions without duplicates.
        let is_of_query = matches!(self.origin, Origin::OpsSub | Origin::UdfSub);
        let key = self.record_key();
        let waits =
            !is_of_query && self.context.duplicates.must_resolve(self.namespace, self.request, (&key, local));
        waits.then_some(Wait::Duplicates(key))
    }

    /// Starts the reply at the end of `out`.
    #[inline]
    pub(super) fn start_reply<'o>(&self, out: &'o mut Vec<u8>) -> ReplyWriter<'o> {
        if self.row.is_some() { ReplyWriter::unframed(out) } else { ReplyWriter::framed(out) }
    }

    /// The header of the reply.
    #[inline]
    pub(super) fn header(&self, result: ResultCode, generation: u16, void_time: u32) -> ReplyHeader {
        ReplyHeader {
            generation: u32::from(generation),
            void_time,
            transaction_ttl: self.row.unwrap_or(0),
            ..ReplyHeader::result(result)
        }
    }

    /// Appends a reply without bins.
    #[inline]
    pub(super) fn reply_header_only(
        &self,
        out: &mut Vec<u8>,
        result: ResultCode,
        generation: u16,
        void_time: u32,
    ) {
        self.start_reply(out).finish(&self.header(result, generation, void_time));
    }

    /// Counts the result of the transaction by its origin.
    #[inline]
    pub(super) fn count(&self, operation: Operation, result: ResultCode) {
        let metrics = &self.namespace.metrics;
        metrics.count(self.origin, operation, result);
        if self.request.info1 & info1::XDR != 0 && operation != Operation::Read {
            let is_direct = self.origin == Origin::Client;
            let shipped = if is_direct { Origin::XdrClient } else { Origin::XdrFromProxy };
            metrics.count(shipped, operation, result);
        }
    }
}

/// A check of a record before it is changed, under its lock.
pub(crate) trait RecordCheck {
    /// Whether the command applies to this record.
    ///
    /// # Errors
    /// When that cannot be determined.
    fn passes(&self, record: &FlatRecord<'_>, budget: &Budget<'_>) -> Result<bool, ResultCode>;
}

/// The wait of a request whose partition this node does not serve now.
///
/// # Errors
/// The result for the client if it does not wait.
pub(super) fn wait_of_refused(refused: Refused) -> Result<Wait, ResultCode> {
    match refused {
        Refused::Unavailable => Err(ResultCode::Unavailable),
        Refused::ServedBy(node) => Ok(Wait::OtherNode(NodeId(node))),
        Refused::Held => Ok(Wait::Hold),
    }
}
