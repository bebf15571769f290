//! What a rebalance and migrations change in the partitions of a node that is in a cluster with others.

use cf::Digest;
use cf::clock::monotonic_nanos;
use cf::sys::block::BlockError;

use super::{
    Acquire, Duration, ISOLATION_POLL_PERIOD, Instant, PartitionEntry, PartitionReservation, PartitionRow,
    PartitionWord, Partitions, RecordAccess, Refused, Relaxed, Release,
};
use crate::index::PartitionId;
use crate::namespace::{Cause, Change, Namespace};
use crate::storage::Storage;

impl Partitions {
    /// Whether other nodes are to have the records of a partition too.
    #[inline]
    pub(crate) fn has_other_replicas(&self, id: PartitionId) -> bool {
        self.partitions[id.index()].word(Relaxed).0 & PartitionWord::OTHERS != 0
    }

    /// The replicas of a partition but for node `own`.
    pub(crate) fn other_replicas(&self, id: PartitionId, own: u64) -> Vec<u64> {
        let table = self.table.lock();
        let nodes = table.rows[id.index()].replicas.iter().map(|replica| replica.node);
        nodes.filter(|node| *node != own).collect()
    }

    /// Judges a write again that began when this node was the working master of a partition, and is about to commit under the
    /// record's lock. While the mastership is handed over, writes that are under way end here; while the cluster forms anew they
    /// do not. The thread is among those that [commit](Self::join_commits) from before this call until the commit is done.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub(crate) fn judge_commit(&self, id: PartitionId) -> Result<(), Refused> {
        if self.served.serves_writes(id).is_some() && self.is_current() {
            return Ok(());
        }
        self.judge_without_new_writes(id)
    }

    #[cold]
    fn judge_without_new_writes(&self, id: PartitionId) -> Result<(), Refused> {
        let table = self.table.lock();
        let row = &table.rows[id.index()];
        let ends_here = row.working_master == self.own_node && row.is_handing_over && !row.holds_writes;
        drop(table);
        if ends_here && self.is_current() { Ok(()) } else { Err(self.refusal(id, RecordAccess::Write)) }
    }

    /// As [`other_replicas`](Self::other_replicas), as long as `own` is the working master.
    pub(crate) fn replicas_of_master(&self, id: PartitionId, own: u64) -> Option<Vec<u64>> {
        let is_master = self.table.lock().rows[id.index()].working_master == own;
        is_master.then(|| self.other_replicas(id, own))
    }

    /// Whether other nodes may have newer copies of records of a partition.
    #[inline]
    pub(crate) fn may_have_duplicates(&self, id: PartitionId) -> bool {
        self.has_duplicates.load(Acquire)
            && self.partitions[id.index()].word(Acquire).0 & PartitionWord::DUPLICATES != 0
    }

    /// The record of `digest`, whose sprig the caller has locked, is removed at `time`: copies of before are late. A node alone
    /// gets no copies.
    #[inline]
    pub(crate) fn note_removal(&self, digest: &Digest, time: u64) {
        if !self.is_of_node_alone() {
            self.late_copies.note_removal(digest, time);
        }
    }

    /// When a record of `digest` was last removed, if that is known: copies that were last updated before are late.
    #[inline]
    pub(crate) fn removed_at(&self, digest: &Digest) -> Option<u64> {
        self.late_copies.removed_at(digest)
    }

    /// What was removed from a partition, and when.
    pub(crate) fn removals_of(&self, id: PartitionId) -> Vec<(Digest, u64)> {
        self.late_copies.of_partition(id)
    }

    /// The nodes that may have newer copies of records of a partition, and the number of the rebalance that says so.
    pub(crate) fn duplicates(&self, id: PartitionId) -> (Vec<u64>, u64) {
        let table = self.table.lock();
        (table.rows[id.index()].duplicates.clone(), table.rebalances)
    }

    /// The last-update-time, in milliseconds since 2010, after which records of a partition are known to be the newest, and the
    /// number of the rebalance that says so.
    pub(crate) fn duplicate_cutoff(&self, id: PartitionId) -> (u64, u64) {
        let table = self.table.lock();
        (table.rows[id.index()].duplicate_resolution_cutoff_ms, table.rebalances)
    }

    /// The number of the last rebalance.
    pub(crate) fn rebalance_number(&self) -> u64 {
        self.table.lock().rebalances
    }

    /// What the cluster thread says holds until then, in milliseconds of the monotonic clock. Should the process not run
    /// for so long, others may have taken its partitions over, and it serves none until the cluster thread has looked.
    pub(crate) fn serve_until(&self, monotonic_ms: u64) {
        self.served_until_ms.store(monotonic_ms, Release);
    }

    /// Other nodes may have written until then, in milliseconds since 2010: what is written here is not earlier.
    pub(crate) fn write_not_before(&self, ms: u64) {
        self.update_floor_ms.fetch_max(ms, Release);
    }

    /// The last-update-time of what is written at `now`.
    #[inline]
    pub(crate) fn update_time(&self, now: u64) -> u64 {
        now.max(self.update_floor_ms.load(Acquire))
    }

    /// Whether the node looks for no others.
    pub(crate) fn is_of_node_alone(&self) -> bool {
        self.served_until_ms.load(Relaxed) == u64::MAX
    }

    /// Whether what the partitions say still holds.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        let until_ms = self.served_until_ms.load(Acquire);
        until_ms == u64::MAX || monotonic_nanos() / 1_000_000 <= until_ms
    }

    /// Reserves a partition of which this node is a replica or the master, for a copy of a record.
    pub(crate) fn reserve_as_replica(&self, id: PartitionId) -> Option<PartitionReservation<'_>> {
        let reserved = self.reserve_data(id).filter(|_| self.is_current());
        reserved.filter(|reservation| reservation.word.0 & PartitionWord::REPLICA != 0)
    }

    /// Reserves a partition that has data here.
    pub(crate) fn reserve_data(&self, id: PartitionId) -> Option<PartitionReservation<'_>> {
        let partition = &self.partitions[id.index()];
        let word = PartitionWord(partition.word.fetch_add(1, Acquire));
        let reservation = PartitionReservation { partition, id, word };
        (!word.is_isolated()).then_some(reservation)
    }

    /// Takes over what the cluster says of some partitions; tree ids and regimes are kept. One that loses its data is out of
    /// service at once; its records are still there, and may still be looked at, until they have been
    /// [left](Self::await_left) and removed. With a `replication_factor` it is a rebalance. The cluster thread only.
    ///
    /// # Errors
    /// When the versions cannot be written to the headers of `storage`. Then nothing changes but what is out of service.
    pub(crate) fn take_over(
        &self,
        storage: &Storage,
        rows: Vec<(PartitionId, PartitionRow)>,
        replication_factor: Option<u32>,
    ) -> Result<(), BlockError> {
        self.take_over_by(|entries| storage.write_partitions(entries), rows, replication_factor)
    }

    /// As [`take_over`](Self::take_over); `write` brings versions to the headers.
    pub(in crate::namespace) fn take_over_by(
        &self,
        write: impl FnOnce(&[(PartitionId, PartitionEntry)]) -> Result<(), BlockError>,
        mut rows: Vec<(PartitionId, PartitionRow)>,
        replication_factor: Option<u32>,
    ) -> Result<(), BlockError> {
        let mut changing = self.changing.lock();
        let table = self.table.lock();
        let mut fresh = 0;
        for (id, row) in &mut rows {
            let before = &table.rows[id.index()];
            row.tree_id = before.tree_id;
            row.regime = before.regime;
            match (before.version.has_data(), row.version.has_data()) {
                (true, false) => {
                    let partition = &self.partitions[id.index()];
                    let word = partition.word.fetch_or(PartitionWord::ISOLATED, super::AcqRel);
                    self.served.publish(*id, PartitionWord(word | PartitionWord::ISOLATED));
                }
                (false, true) => fresh += 1,
                _ => {}
            }
        }
        drop(table);
        let mut table = self.change(&mut changing, write, rows, replication_factor.is_some())?;
        if let Some(replication_factor) = replication_factor {
            table.figures.fresh = fresh;
            table.figures.replication_factor = replication_factor;
            table.figures.initial_emigrations = table.figures.pending_emigrations;
            table.figures.initial_immigrations = table.figures.pending_immigrations;
            table.rebalances += 1;
        }
        Ok(())
    }

    /// Waits until nobody has a reservation of a partition and every thread has left the section that it was in when this was
    /// called, or until `deadline`; returns whether they have. Called when what must not be found any more is not served.
    pub(crate) fn await_left(&self, id: PartitionId, deadline: Instant) -> bool {
        while self.partitions[id.index()].word(Acquire).reservations() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ISOLATION_POLL_PERIOD);
        }
        self.sections.await_left(deadline)
    }

    /// How long a partition that is out of service is waited for at a time.
    pub(crate) const LEAVING_TIME_MAX: Duration = Duration::from_secs(10);
}

impl Namespace {
    /// Removes all records of a partition that is out of service and that nobody uses; returns how many. Nothing is left of
    /// them: records on devices belong to a life of the partition that has ended.
    pub(crate) fn remove_partition(&self, id: PartitionId) -> u64 {
        let mut count = 0;
        let mut cursor = self.index.cursor(id, None);
        while let Some(portion) = cursor.next_portion(|_| true) {
            for found in portion {
                if let Some(guard) = self.index.get_exclusive(&found.digest)
                    && self.commit(guard, &Change::Gone, Cause::PartitionLeft).is_ok()
                {
                    count += 1;
                }
            }
        }
        count
    }
}
