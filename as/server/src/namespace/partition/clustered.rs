//! Changes of partitions by a rebalance and by migrations, on a node in a cluster with others.

use cf::Digest;
use cf::clock::monotonic_nanos;
use cf::sys::block::BlockError;
use smallvec::SmallVec;

use super::{
    Acquire, Duration, ISOLATION_POLL_PERIOD, Instant, PartitionEntry, PartitionReservation, PartitionRow,
    PartitionWord, Partitions, PublishedReplicas, RecordAccess, Refused, Relaxed, Release,
};
use crate::index::PartitionId;
use crate::namespace::{Cause, Namespace};
use crate::storage::{ReadBuffer, Storage};

/// Nodes that have a partition.
pub(crate) type ReplicaNodes = SmallVec<[u64; 3]>;

/// The nodes of `published` except node `own`.
fn others_of(published: Option<&PublishedReplicas>, own: u64) -> ReplicaNodes {
    let nodes = published.into_iter().flat_map(|replicas| replicas.nodes.iter().copied());
    nodes.filter(|node| *node != own).collect()
}

impl Partitions {
    /// Whether other nodes should have the records of a partition too.
    #[inline]
    pub(crate) fn has_other_replicas(&self, id: PartitionId) -> bool {
        self.partitions[id.index()].load().0 & PartitionWord::OTHERS != 0
    }

    /// The replicas of a partition except node `own`. Takes no lock, because each commit calls it.
    pub(crate) fn other_replicas(&self, id: PartitionId, own: u64) -> ReplicaNodes {
        others_of(self.replicas[id.index()].load().as_deref(), own)
    }

    /// Checks a write again before it commits under the record's lock. When it began, this node was the working
    /// master of the partition. While the mastership is handed over, such writes may still commit; while the cluster
    /// re-forms, they may not. The thread is in a section of [commits](Self::join_commits) from before this call
    /// until after the commit.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub(crate) fn judge_commit(&self, id: PartitionId) -> Result<(), Refused> {
        if self.served.serves_writes(id.index()).is_some() && self.is_current() {
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
        if ends_here && self.is_current() {
            return Ok(());
        }
        self.refusal(id, RecordAccess::Write).map_or(Ok(()), Err)
    }

    /// As [`other_replicas`](Self::other_replicas), if `own` is still the working master.
    pub(crate) fn replicas_of_master(&self, id: PartitionId, own: u64) -> Option<ReplicaNodes> {
        let published = self.replicas[id.index()].load();
        let working_master = match &*published {
            Some(replicas) => replicas.working_master,
            None => self.table.lock().rows[id.index()].working_master,
        };
        (working_master == own).then(|| others_of(published.as_deref(), own))
    }

    /// Whether other nodes may have newer copies of records of a partition.
    #[inline]
    pub(crate) fn may_have_duplicates(&self, id: PartitionId) -> bool {
        self.has_duplicates.load(Acquire)
            && self.partitions[id.index()].observe().0 & PartitionWord::DUPLICATES != 0
    }

    /// Notes that the record of `digest`, whose sprig the caller has locked, is removed at `time`: earlier copies come
    /// too late. A single node gets no copies.
    #[inline]
    pub(crate) fn note_removal(&self, digest: &Digest, time: u64) {
        if !self.is_of_node_alone() {
            self.late_copies.note_removal(digest, time);
        }
    }

    /// Time of the last removal of a record of `digest`, if it is known: copies last updated before it come too late.
    #[inline]
    pub(crate) fn removed_at(&self, digest: &Digest) -> Option<u64> {
        self.late_copies.removed_at(digest)
    }

    /// Removed records of a partition, with the times.
    pub(crate) fn removals_of(&self, id: PartitionId) -> Vec<(Digest, u64)> {
        self.late_copies.of_partition(id)
    }

    /// Number of removed records of a partition that are known.
    pub(crate) fn removal_count_of(&self, id: PartitionId) -> usize {
        self.late_copies.count_of(id)
    }

    /// The nodes that may have newer copies of records of a partition, and the number of the rebalance that determined
    /// them.
    pub(crate) fn duplicates(&self, id: PartitionId) -> (Vec<u64>, u64) {
        let table = self.table.lock();
        (table.rows[id.index()].duplicates.clone(), table.rebalances)
    }

    /// The last-update-time, in milliseconds since 2010, after which records of a partition are known to be the newest,
    /// and the number of the rebalance that determined it.
    pub(crate) fn duplicate_cutoff(&self, id: PartitionId) -> (u64, u64) {
        let table = self.table.lock();
        (table.rows[id.index()].duplicate_resolution_cutoff_ms, table.rebalances)
    }

    /// The number of the last rebalance.
    pub(crate) fn rebalance_number(&self) -> u64 {
        self.table.lock().rebalances
    }

    /// The state of the partitions is valid until [`serve_until`](Self::serve_until) says otherwise: no other node is known
    /// that could take over.
    pub(crate) const NO_END: u64 = u64::MAX - 1;

    /// Sets how long the state of the partitions is valid, in milliseconds of the monotonic clock. If the process does
    /// not run for that long, other nodes may have taken over its partitions, and it serves none until the cluster
    /// thread has run.
    pub(crate) fn serve_until(&self, monotonic_ms: u64) {
        self.served_until_ms.store(monotonic_ms, Release);
    }

    /// Sets the least last-update-time of records written from now on, in milliseconds since 2010: other nodes may have
    /// written until then.
    pub(crate) fn write_not_before(&self, ms: u64) {
        self.update_floor_ms.fetch_max(ms, Release);
    }

    /// The last-update-time of a record written at `now`.
    #[inline]
    pub(crate) fn update_time(&self, now: u64) -> u64 {
        now.max(self.update_floor_ms.load(Acquire))
    }

    /// Whether this node runs without a cluster.
    pub(crate) fn is_of_node_alone(&self) -> bool {
        self.served_until_ms.load(Relaxed) == u64::MAX
    }

    /// Whether the state of the partitions is still valid.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        let until_ms = self.served_until_ms.load(Acquire);
        until_ms >= Self::NO_END || monotonic_nanos() / 1_000_000 <= until_ms
    }

    /// Reserves a partition of which this node is a replica or the master, for receiving a copy of a record.
    pub(crate) fn reserve_as_replica(&self, id: PartitionId) -> Option<PartitionReservation<'_>> {
        let reserved = self.reserve_data(id).filter(|_| self.is_current());
        reserved.filter(|reservation| reservation.word.0 & PartitionWord::REPLICA != 0)
    }

    /// Reserves a partition that has data here.
    pub(crate) fn reserve_data(&self, id: PartitionId) -> Option<PartitionReservation<'_>> {
        let partition = &self.partitions[id.index()];
        let word = partition.reserve();
        let reservation = PartitionReservation { partition, word };
        (!word.is_isolated()).then_some(reservation)
    }

    /// Applies the cluster's decisions about some partitions; tree ids and regimes are kept. A partition that loses its
    /// data is out of service at once; its records exist and may be read until it has been [left](Self::await_left) and
    /// they are removed. With a `replication_factor` this is a rebalance. Only the cluster thread calls this.
    ///
    /// # Errors
    /// When the versions cannot be written to the headers of `storage`. Then only partitions taken out of service have
    /// changed.
    pub(crate) fn take_over(
        &self,
        storage: &Storage,
        rows: Vec<(PartitionId, PartitionRow)>,
        replication_factor: Option<u32>,
    ) -> Result<(), BlockError> {
        self.take_over_by(|entries| storage.write_partitions(entries), rows, replication_factor)
    }

    /// As [`take_over`](Self::take_over); `write` writes versions to the headers.
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
                    self.served.publish(id.index(), partition.isolate());
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

    /// Waits until no reservation of the partition is left and every thread has left the section it was in at the
    /// call, or until `deadline`. Returns whether all have left. Call it after the partition is out of service.
    pub(crate) fn await_left(&self, id: PartitionId, deadline: Instant) -> bool {
        while self.partitions[id.index()].observe().reservations() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ISOLATION_POLL_PERIOD);
        }
        self.sections.await_left(deadline)
    }

    /// Longest single wait for a partition that is out of service.
    pub(crate) const LEAVING_TIME_MAX: Duration = Duration::from_secs(10);
}

impl Namespace {
    /// Removes all records of a partition that is out of service and unused; returns their number. Their copies on
    /// devices do not come back, because they belong to an ended life of the partition.
    pub(crate) fn remove_partition(&self, id: PartitionId) -> u64 {
        let (mut count, mut scratch) = (0, ReadBuffer::new());
        let mut cursor = self.index.cursor(id, None);
        while let Some(portion) = cursor.next_portion(|_| true) {
            for found in portion {
                let swept = self.sweep_out(&found.digest, &mut scratch, |_| Some(Cause::PartitionLeft));
                count += u64::from(matches!(swept, Some((_, _, Ok(_)))));
            }
        }
        count
    }
}
