//! The partitions of a namespace on this node: who serves each, the version of its data, and who is using it.
//!
//! There are two halves. A word for each partition says what every transaction must know (this node's part in it,
//! tree id) and counts the reservations, so that reserving is one atomic operation which sees both at once.
//! Transactions on service threads do not even that: they are in a [section](super::sections). The rows behind the
//! lock say the rest (versions, replicas, migrations); the cluster thread alone changes them, info answers read
//! them.
//!
//! Each word has a cache line of its own. Threads with different records hardly ever meet in one of 4096 lines, while a
//! counter for all, or several words in a line, would go from processor to processor with every transaction. It is
//! 256 KiB for a namespace, which stay in the second-level cache.
//!
//! A partition that comes by data is in the device headers before that counts here: no record of a partition can be on a
//! device whose header does not know of the partition. Versions that change otherwise are written a little later, together:
//! a start takes any version for incomplete and no master, so what a crash takes back are only copies that count as older
//! than they are.

mod clustered;
mod word;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use cf::sys::block::BlockError;
use datamodel::device_header::PartitionEntry;
use datamodel::partition_version::PartitionVersion;
use parking_lot::{Mutex, MutexGuard};

use super::Namespace;
use super::late_copies::LateCopies;
use super::sections::{Leaving, Section, Sections};
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::storage::Storage;
use word::{PartitionWord, ServedTable};

/// Tree ids count up to here and begin again; a record on a device has six bits for its own.
const TREE_ID_COUNT: u8 = 64;
/// The family of the data that a rebalance makes or keeps.
const FAMILY_COMMON: u8 = 0;
/// Bytes of a bitmap with a bit for each partition.
pub(crate) const BITMAP_SIZE: usize = PARTITION_COUNT / 8;
/// Between looks whether the last reservation has gone. To be waited for, releasing would have to do more than count.
const ISOLATION_POLL_PERIOD: Duration = Duration::from_millis(1);

/// A replica of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replica {
    pub(crate) node: u64,
    /// It waits for data; the working master answers for it meanwhile.
    pub(crate) is_immigrating: bool,
}

/// All that is known of a partition. What a node alone does not have (duplicates, migrations) is empty or 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PartitionRow {
    pub(crate) version: PartitionVersion,
    /// The version once all migrations are done.
    pub(crate) final_version: PartitionVersion,
    /// Marks the records of this life of the partition on devices: what has another one belongs to a life that has
    /// ended. Absent partitions have one too, that of their last life.
    pub(crate) tree_id: u8,
    /// For strong consistency.
    pub(crate) regime: u32,
    /// In the order of succession; none while the partition is unavailable.
    pub(crate) replicas: Vec<Replica>,
    /// The working master as far as it is this node or the final master is; 0 otherwise.
    pub(crate) working_master: u64,
    /// Where requests go that this node does not serve.
    pub(crate) proxy_destination: u64,
    pub(crate) duplicates: Vec<u64>,
    /// This node gives its mastership up: no write begins here any more.
    pub(crate) is_handing_over: bool,
    /// Writes may not begin now, though this node is master.
    pub(crate) holds_writes: bool,
    /// Milliseconds since 2010: what was written later needs no duplicate resolution.
    pub(crate) duplicate_resolution_cutoff_ms: u64,
    pub(crate) pending_emigrations: u32,
    pub(crate) pending_lead_emigrations: u32,
    pub(crate) pending_immigrations: u32,
}

impl PartitionRow {
    /// The place of `node` among the replicas.
    pub(crate) fn replica_index(&self, node: u64) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.node == node)
    }

    /// Whether writes may begin on `node`, whose row this is.
    fn serves_writes(&self, node: u64) -> bool {
        self.working_master == node && node != 0 && !self.is_handing_over && !self.holds_writes
    }

    /// Whether `node`, whose row this is, answers reads: as the working master, or as a replica that has all its records.
    fn serves_reads(&self, node: u64) -> bool {
        if self.working_master != 0 {
            return self.working_master == node;
        }
        self.replica_index(node) > Some(0) && self.pending_immigrations == 0
    }

    /// Whether clients are to ask `node`, whose row this is, for replica number `column` of a partition that has
    /// `replication_factor` of them.
    fn is_served_by(&self, node: u64, column: usize, replication_factor: u32) -> bool {
        let place = self.replica_index(node);
        if self.working_master == node {
            let is_immigrating = self.replicas.get(column).is_some_and(|replica| replica.is_immigrating);
            return column == 0 || place == Some(column) || is_immigrating;
        }
        column > 0
            && place == Some(column)
            && self.pending_immigrations == 0
            && column < replication_factor as usize
    }

    /// Whether `node`, whose row this is, has all records of the partition, as far as is known.
    fn is_full(&self, node: u64) -> bool {
        let is_acting_master = self.working_master == node && self.duplicates.is_empty();
        self.pending_immigrations == 0 && (self.replica_index(node).is_some() || is_acting_master)
    }

    /// One letter for what this node has of the partition: `S`ynchronous or `D`esynchronous replica; else `A`bsent,
    /// data (`Z`), or something else (`X`).
    pub(crate) fn letter(&self, own_node: u64) -> char {
        match self.replica_index(own_node) {
            Some(_) if self.pending_immigrations == 0 => 'S',
            Some(_) => 'D',
            None if self.version.is_null() => 'A',
            None if self.version.has_data() => 'Z',
            None => 'X',
        }
    }
}

/// What a transaction does with records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordAccess {
    Read,
    Write,
}

/// Of which partitions a query reads the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QueryAccess {
    /// Of those that this node is the working master of: of all nodes one reads each.
    Master,
    /// Of those that it has all records of.
    Full,
    /// Of those that it has all records of, or some.
    Relaxed,
}

/// A word on a cache line of its own.
#[repr(align(64))]
struct Partition {
    word: AtomicU64,
}

impl Partition {
    fn word(&self, order: std::sync::atomic::Ordering) -> PartitionWord {
        PartitionWord(self.word.load(order))
    }

    /// Takes over all but the reservations from `word`.
    fn publish(&self, word: PartitionWord) {
        let mut now = self.word.load(Relaxed);
        while let Err(changed) =
            self.word.compare_exchange_weak(now, now & PartitionWord::RESERVATIONS | word.0, AcqRel, Relaxed)
        {
            now = changed;
        }
    }

    fn release(&self) {
        let before = PartitionWord(self.word.fetch_sub(1, Release));
        debug_assert!(before.reservations() > 0, "a reservation is released once");
    }
}

/// Why a partition is not reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// No node serves it, or this one has yet to learn which.
    Unavailable,
    /// This node serves it.
    ServedBy(u64),
    /// This node does, but no write may begin now.
    Held,
}

/// Keeps a partition as it is: while it exists, the partition's records are not dropped.
#[derive(Debug)]
pub(crate) struct PartitionReservation<'a> {
    partition: &'a Partition,
    id: PartitionId,
    word: PartitionWord,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.word(Relaxed).fmt(f)
    }
}

impl PartitionReservation<'_> {
    /// The mark of records that are written under this reservation.
    #[inline]
    pub(crate) fn tree_id(&self) -> u8 {
        self.word.tree_id()
    }

    /// Whether somebody takes the partition out of service, and waits for this reservation.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.partition.word(Relaxed).is_isolated()
    }

    /// The same reservation, for a transaction that is put aside; `namespace` is the one that it was made in.
    #[cfg_attr(not(test), expect(dead_code, reason = "transactions that wait for replicas will call it"))]
    pub(crate) fn keep(self, namespace: Arc<Namespace>) -> KeptReservation {
        let own = &namespace.partitions.partitions[self.id.index()];
        assert!(std::ptr::eq(own, self.partition), "a reservation of another namespace");
        // It is counted once more, as this one is released at once. Isolation sees one of the two at any moment.
        own.word.fetch_add(1, Relaxed);
        KeptReservation { namespace, id: self.id }
    }
}

impl Drop for PartitionReservation<'_> {
    #[inline]
    fn drop(&mut self) {
        self.partition.release();
    }
}

/// A [`PartitionReservation`] that borrows nothing.
pub(crate) struct KeptReservation {
    namespace: Arc<Namespace>,
    id: PartitionId,
}

impl Drop for KeptReservation {
    fn drop(&mut self) {
        self.namespace.partitions.partitions[self.id.index()].release();
    }
}

/// Sums over the partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PartitionFigures {
    /// Replicas of each partition; 0 before the first rebalance.
    pub(crate) replication_factor: u32,
    /// For strong consistency.
    pub(crate) regime: u32,
    /// How many began empty with the last rebalance.
    pub(crate) fresh: usize,
    pub(crate) unavailable: usize,
    pub(crate) pending_emigrations: u64,
    pub(crate) pending_lead_emigrations: u64,
    pub(crate) pending_immigrations: u64,
    /// What was pending after the last rebalance.
    pub(crate) initial_emigrations: u64,
    pub(crate) initial_immigrations: u64,
}

impl PartitionFigures {
    fn add(&mut self, row: &PartitionRow) {
        self.unavailable += usize::from(row.replicas.is_empty());
        self.pending_emigrations += u64::from(row.pending_emigrations);
        self.pending_lead_emigrations += u64::from(row.pending_lead_emigrations);
        self.pending_immigrations += u64::from(row.pending_immigrations);
    }

    fn subtract(&mut self, row: &PartitionRow) {
        self.unavailable -= usize::from(row.replicas.is_empty());
        self.pending_emigrations -= u64::from(row.pending_emigrations);
        self.pending_lead_emigrations -= u64::from(row.pending_lead_emigrations);
        self.pending_immigrations -= u64::from(row.pending_immigrations);
    }

    /// Migrations to be done until this node has what it is to have, and the others what it is to give them.
    pub(crate) fn pending_migrations(&self) -> u64 {
        self.pending_emigrations + self.pending_immigrations
    }

    /// Whether every partition is served and none is under way.
    pub(crate) fn is_stable(&self) -> bool {
        self.unavailable == 0 && self.pending_migrations() == 0
    }
}

struct Table {
    rows: Box<[PartitionRow]>,
    figures: PartitionFigures,
    /// Partitions of which others may have newer copies.
    with_duplicates: usize,
    /// Counts rebalances: it changes with the rows, so that nothing that was found out about duplicates before one counts for
    /// those of after it.
    rebalances: u64,
}

/// What the thread that changes partitions has to itself.
#[derive(Default)]
struct Changing {
    /// Partitions of which the device headers do not say yet what they are to say.
    unstored: Vec<PartitionId>,
}

/// What the headers are to say of a partition.
fn entry_of(row: &PartitionRow) -> PartitionEntry {
    PartitionEntry { version: row.version, tree_id: row.tree_id }
}

/// The partitions of one namespace.
pub(crate) struct Partitions {
    own_node: u64,
    partitions: Box<[Partition]>,
    served: Box<ServedTable>,
    sections: Sections,
    /// The threads that commit.
    commits: Sections,
    /// There is a partition of which others may have newer copies.
    has_duplicates: AtomicBool,
    /// Milliseconds of the monotonic clock: later than that others may have taken over. `u64::MAX` for a node alone.
    served_until_ms: AtomicU64,
    /// Milliseconds since 2010: no record is written with an earlier last-update-time, whatever the clock says.
    update_floor_ms: AtomicU64,
    late_copies: LateCopies,
    /// Held while partitions change, and device headers are written; taken before `table`, and by no thread that serves clients.
    changing: Mutex<Changing>,
    table: Mutex<Table>,
}

impl Partitions {
    /// The partitions on node `own_node`, not 0, as its device headers remember them: with their data, but in nobody's
    /// service until they are [dealt](Self::deal). What was master is so no longer, and others may have written since.
    pub(crate) fn load(own_node: u64, entries: &[PartitionEntry]) -> Self {
        assert_eq!(entries.len(), PARTITION_COUNT, "entries of all partitions");
        let row = |entry: &PartitionEntry| PartitionRow {
            version: entry.version.isolated(),
            // A header may hold any byte.
            tree_id: entry.tree_id % TREE_ID_COUNT,
            ..PartitionRow::default()
        };
        let rows: Box<[PartitionRow]> = entries.iter().map(row).collect();
        let partitions = rows
            .iter()
            .map(|row| Partition { word: AtomicU64::new(PartitionWord::of(row, own_node).0) })
            .collect();
        let mut figures = PartitionFigures::default();
        rows.iter().for_each(|row| figures.add(row));
        let words = rows.iter().map(|row| PartitionWord::of(row, own_node));
        let served = ServedTable::new(PartitionId::all().zip(words));
        Partitions {
            own_node,
            partitions,
            served,
            sections: Sections::default(),
            commits: Sections::default(),
            has_duplicates: AtomicBool::new(false),
            served_until_ms: AtomicU64::new(u64::MAX),
            update_floor_ms: AtomicU64::new(0),
            late_copies: LateCopies::default(),
            changing: Mutex::default(),
            table: Mutex::new(Table { rows, figures, with_duplicates: 0, rebalances: 0 }),
        }
    }

    /// The node whose table this is.
    pub(crate) fn own_node(&self) -> u64 {
        self.own_node
    }

    /// The mark of records of partition `id`.
    #[inline]
    pub(crate) fn tree_id(&self, id: PartitionId) -> u8 {
        self.partitions[id.index()].word(Relaxed).tree_id()
    }

    /// Reserves a partition that this node serves, until what is given is dropped.
    ///
    /// # Errors
    /// When it is another node's, or nobody's.
    #[inline]
    pub(crate) fn reserve(
        &self,
        id: PartitionId,
        access: RecordAccess,
    ) -> Result<PartitionReservation<'_>, Refused> {
        let partition = &self.partitions[id.index()];
        // Counted before it is looked at, so that whoever isolates the partition sees one or the other.
        let word = PartitionWord(partition.word.fetch_add(1, Acquire));
        debug_assert!(word.reservations() < PartitionWord::RESERVATIONS, "reservations are released");
        if word.serves(access) && self.is_current() {
            return Ok(PartitionReservation { partition, id, word });
        }
        partition.release();
        Err(self.refusal(id, access))
    }

    /// Reserves a partition for a query, until what is given is dropped; `None` if queries do not read it here.
    pub(crate) fn reserve_for_query(
        &self,
        id: PartitionId,
        access: QueryAccess,
    ) -> Option<PartitionReservation<'_>> {
        let partition = &self.partitions[id.index()];
        let word = PartitionWord(partition.word.fetch_add(1, Acquire));
        let reservation = PartitionReservation { partition, id, word };
        (word.serves_query(access) && self.is_current()).then_some(reservation)
    }

    /// For a thread that carries out transactions in [sections](super::sections).
    pub(crate) fn join_sections(&self) -> Section {
        self.sections.join()
    }

    /// For a thread that commits.
    pub(crate) fn join_commits(&self) -> Section {
        self.commits.join()
    }

    /// The commits that are under way, when it is shown that no write may begin: others will be [judged](Self::judge_commit).
    pub(crate) fn commits_under_way(&self) -> Leaving {
        self.commits.leaving()
    }

    /// Looks whether this node answers reads of a partition, as a transaction in `section` does, which the thread enters if it
    /// is not inside. Until it leaves, the partition's records are not dropped.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub(crate) fn look_for_read(&self, section: &mut Section, id: PartitionId) -> Result<(), Refused> {
        section.enter();
        if self.served.serves_reads(id) && self.is_current() {
            return Ok(());
        }
        Err(self.refusal(id, RecordAccess::Read))
    }

    /// As [`look_for_read`](Self::look_for_read), for a write. Returns the tree id.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub(crate) fn look_for_write(&self, section: &mut Section, id: PartitionId) -> Result<u8, Refused> {
        section.enter();
        let tree_id = self.served.serves_writes(id).filter(|_| self.is_current());
        tree_id.ok_or_else(|| self.refusal(id, RecordAccess::Write))
    }

    #[cold]
    fn refusal(&self, id: PartitionId, access: RecordAccess) -> Refused {
        let table = self.table.lock();
        let row = &table.rows[id.index()];
        let mut node = if row.working_master == 0 { row.proxy_destination } else { row.working_master };
        if access == RecordAccess::Write && row.is_handing_over && node == self.own_node {
            node = row.replicas.first().map_or(0, |replica| replica.node);
        }
        if row.replicas.is_empty() || node == 0 || !self.is_current() {
            return Refused::Unavailable;
        }
        if node == self.own_node {
            let waits = access == RecordAccess::Write && row.holds_writes;
            return if waits { Refused::Held } else { Refused::Unavailable };
        }
        Refused::ServedBy(node)
    }

    /// Takes a partition out of service: lets no new reservation in, and waits for those that there are. Returns
    /// whether all had gone after `longest`; if not, it stays isolated and may be waited for again. It is in
    /// service again when it is dealt or gets a version with data. The cluster thread only.
    #[cfg_attr(not(test), expect(dead_code, reason = "the cluster thread will call it"))]
    pub(crate) fn isolate(&self, id: PartitionId, longest: Duration) -> bool {
        let partition = &self.partitions[id.index()];
        let before = partition.word.fetch_or(PartitionWord::ISOLATED, AcqRel);
        self.served.publish(id, PartitionWord(before | PartitionWord::ISOLATED));
        let deadline = Instant::now() + longest;
        while partition.word(Acquire).reservations() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ISOLATION_POLL_PERIOD);
        }
        self.sections.await_left(deadline)
    }

    /// Has `change` make the row of each partition what a rebalance with `replication_factor` says; the version is what
    /// counts for the data: where there was none, a new life begins with the next tree id. The cluster thread only.
    ///
    /// # Errors
    /// When the versions cannot be written to the headers of `storage`. Then nothing changes.
    ///
    /// # Panics
    /// If a partition loses its data that is not isolated.
    pub(crate) fn deal(
        &self,
        storage: &Storage,
        replication_factor: u32,
        mut change: impl FnMut(PartitionId, &mut PartitionRow),
    ) -> Result<(), BlockError> {
        let mut changing = self.changing.lock();
        let table = self.table.lock();
        let changed = PartitionId::all().map(|id| {
            let mut row = table.rows[id.index()].clone();
            change(id, &mut row);
            (id, row)
        });
        let changed: Vec<_> = changed.collect();
        let is_fresh = |(id, row): &&(PartitionId, PartitionRow)| {
            row.version.has_data() && !table.rows[id.index()].version.has_data()
        };
        let fresh = changed.iter().filter(is_fresh).count();
        drop(table);
        let mut table =
            self.change(&mut changing, |entries| storage.write_partitions(entries), changed, true)?;
        table.figures.fresh = fresh;
        table.figures.replication_factor = replication_factor;
        Ok(())
    }

    /// Deals all partitions to this node: it is the working master of each, and as nobody else has data of them,
    /// what it has is complete and begins a history under `cluster_key`.
    ///
    /// # Errors
    /// When the headers of `storage` cannot be written. Then nothing changes.
    pub(crate) fn deal_alone(&self, storage: &Storage, cluster_key: u64) -> Result<(), BlockError> {
        let node = self.own_node;
        let version = PartitionVersion::new(cluster_key, FAMILY_COMMON).with_master(true);
        self.deal(storage, 1, |_, row| {
            *row = PartitionRow {
                version,
                final_version: version,
                tree_id: row.tree_id,
                regime: row.regime,
                replicas: vec![Replica { node, is_immigrating: false }],
                working_master: node,
                proxy_destination: node,
                ..PartitionRow::default()
            };
        })
    }

    /// Gives partitions new versions, as migrations and drops do: in the headers of `storage`, each group of partitions
    /// written once, then here. The cluster thread only.
    ///
    /// # Errors
    /// When the headers cannot be written. Then nothing changes.
    ///
    /// # Panics
    /// If a partition loses its data that is not isolated.
    #[cfg_attr(not(test), expect(dead_code, reason = "migrations will call it"))]
    pub(crate) fn set_versions(
        &self,
        storage: &Storage,
        versions: &[(PartitionId, PartitionVersion)],
    ) -> Result<(), BlockError> {
        let mut changing = self.changing.lock();
        let table = self.table.lock();
        let changed = versions
            .iter()
            .map(|&(id, version)| (id, PartitionRow { version, ..table.rows[id.index()].clone() }))
            .collect();
        drop(table);
        self.change(&mut changing, |entries| storage.write_partitions(entries), changed, true).map(drop)
    }

    /// Puts `changed` in the place of the rows there were. What the headers are to say of them is written at once if
    /// `stores_now`, or if a partition comes by data; else it is left to [`store_versions`](Self::store_versions). The table is
    /// not locked while `write` brings that to the headers: clients are served meanwhile.
    fn change(
        &self,
        changing: &mut Changing,
        write: impl FnOnce(&[(PartitionId, PartitionEntry)]) -> Result<(), BlockError>,
        mut changed: Vec<(PartitionId, PartitionRow)>,
        mut stores_now: bool,
    ) -> Result<MutexGuard<'_, Table>, BlockError> {
        let table = self.table.lock();
        for (id, row) in &mut changed {
            let had_data = table.rows[id.index()].version.has_data();
            match (had_data, row.version.has_data()) {
                (false, true) => {
                    row.tree_id = (row.tree_id + 1) % TREE_ID_COUNT;
                    stores_now = true;
                }
                (true, false) => {
                    let is_isolated = self.partitions[id.index()].word(Acquire).is_isolated();
                    assert!(is_isolated, "a partition in service loses its data");
                }
                _ => {}
            }
        }
        // Most changes are of what migrates where, and nothing to store.
        let is_other =
            |(id, row): &&(PartitionId, PartitionRow)| entry_of(row) != entry_of(&table.rows[id.index()]);
        let others = changed.iter().filter(is_other);
        if stores_now {
            let others = others.map(|(id, row)| (*id, entry_of(row)));
            // What has changed since comes last.
            let before = changing.unstored.iter().map(|id| (*id, entry_of(&table.rows[id.index()])));
            let entries: Vec<_> = before.chain(others).collect();
            // Nobody else changes what is in it.
            drop(table);
            if !entries.is_empty() {
                write(&entries)?;
            }
            changing.unstored.clear();
        } else {
            changing.unstored.extend(others.map(|(id, _)| *id));
            drop(table);
        }
        let mut locked = self.table.lock();
        let table = &mut *locked;
        for (id, row) in changed {
            let partition = &self.partitions[id.index()];
            let mut word = PartitionWord::of(&row, self.own_node);
            if !row.version.has_data() {
                word.0 |= PartitionWord::ISOLATED;
            }
            table.figures.subtract(&table.rows[id.index()]);
            table.figures.add(&row);
            if !row.version.has_data() {
                self.late_copies.forget(id);
            }
            let had_duplicates = !table.rows[id.index()].duplicates.is_empty();
            table.with_duplicates -= usize::from(had_duplicates);
            table.with_duplicates += usize::from(!row.duplicates.is_empty());
            self.has_duplicates.store(table.with_duplicates != 0, Release);
            table.rows[id.index()] = row;
            partition.publish(word);
            self.served.publish(id, word);
        }
        Ok(locked)
    }

    /// Writes what the headers are to say of partitions that have changed, if that is still to be done. The cluster thread
    /// only.
    ///
    /// # Errors
    /// When the headers cannot be written.
    pub(crate) fn store_versions(&self, storage: &Storage) -> Result<(), BlockError> {
        let mut changing = self.changing.lock();
        if changing.unstored.is_empty() {
            return Ok(());
        }
        self.change(&mut changing, |entries| storage.write_partitions(entries), Vec::new(), true).map(drop)
    }

    /// The sums.
    pub(crate) fn figures(&self) -> PartitionFigures {
        self.table.lock().figures
    }

    /// Number of partitions that this node has data of.
    pub(crate) fn stored_count(&self) -> usize {
        self.table.lock().rows.iter().filter(|row| row.version.has_data()).count()
    }

    /// Shows all rows, as they are at one moment. The cluster thread waits meanwhile.
    pub(crate) fn visit(&self, mut visit: impl FnMut(PartitionId, &PartitionRow)) {
        let table = self.table.lock();
        PartitionId::all().zip(&table.rows).for_each(|(id, row)| visit(id, row));
    }

    /// For each of the first `columns` replicas: a bitmap of the partitions that clients are to ask this node for.
    /// The bit of a partition is in byte number / 8, the first of eight the highest.
    pub(crate) fn bitmaps(&self, columns: usize) -> Vec<[u8; BITMAP_SIZE]> {
        let table = self.table.lock();
        let replication_factor = table.figures.replication_factor;
        let bitmap = |column| {
            let mut bitmap = [0; BITMAP_SIZE];
            for (number, row) in table.rows.iter().enumerate() {
                if row.is_served_by(self.own_node, column, replication_factor) {
                    bitmap[number / 8] |= 0x80 >> (number % 8);
                }
            }
            bitmap
        };
        (0..columns).map(bitmap).collect()
    }
}

impl Namespace {
    /// Deals all partitions to this node, under `cluster_key`.
    ///
    /// # Errors
    /// When the versions cannot be written to the device headers.
    pub(crate) fn deal_alone(&self, cluster_key: u64) -> Result<(), BlockError> {
        self.partitions.deal_alone(&self.storage, cluster_key)?;
        cf::info!(
            Partition,
            "{{{}}} rebalanced: expected-migrations (0,0,0) fresh-partitions {}",
            self.name(),
            self.partitions.figures().fresh
        );
        Ok(())
    }
}
