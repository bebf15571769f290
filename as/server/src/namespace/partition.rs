//! The partitions of a namespace on this node: the nodes that serve each, the version of its data, and its users.
//!
//! There are two halves. A word for each partition holds what every transaction must know (this node's role, tree id)
//! and counts the reservations, so that reserving is one atomic operation that sees both at once. Transactions on
//! service threads need no reservation: they are in a [section](super::sections). The rows behind the lock hold the
//! rest (versions, replicas, migrations); only the cluster thread changes them, and info commands read them.
//!
//! Each word has a cache line of its own. Threads with different records rarely meet in one of 4096 lines, while a
//! common counter, or several words in a line, would move from processor to processor with every transaction. The words
//! take 256 KiB per namespace, which stay in the second-level cache.
//!
//! A partition that gains data is written to the device headers before the change takes effect here, so a device
//! never holds records of a partition that its header lacks. Other changes of versions are written together, a little
//! later. A start treats every version as incomplete and not master, so after a crash a copy can only count as older
//! than it is.

mod clustered;
mod row;
mod word;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cf::sys::block::BlockError;
use datamodel::device_header::PartitionEntry;
use datamodel::partition_version::PartitionVersion;
use parking_lot::{Mutex, MutexGuard};

use super::Namespace;
use super::late_copies::LateCopies;
use super::sections::{Leaving, Section, Sections};
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::storage::Storage;
use row::PublishedReplicas;
pub(crate) use row::{PartitionFigures, PartitionRow, Replica};
use word::{PartitionWord, WordOfPartition};
pub(crate) use word::{QueryAccess, RecordAccess};

/// Tree ids count up to here and start again; a record on a device has six bits for its own.
const TREE_ID_COUNT: u8 = word::TREE_ID_COUNT;
/// The state of all partitions for transactions in sections.
type ServedTable = word::ServedTable<{ PARTITION_COUNT / 64 }, PARTITION_COUNT>;
/// The family of the data that a rebalance makes or keeps.
const FAMILY_COMMON: u8 = 0;
/// Bytes of a bitmap with a bit for each partition.
pub(crate) const BITMAP_SIZE: usize = PARTITION_COUNT / 8;
/// Least time between writes of changes to the device headers that need not be written at once. Migrations make
/// hundreds of them in a second, and each write takes two syncs of each disk.
const STORE_PERIOD: Duration = Duration::from_millis(100);
/// Time between checks whether the last reservation is released. Waking a waiter would make releasing more than a
/// decrement.
const ISOLATION_POLL_PERIOD: Duration = Duration::from_millis(1);

/// The reason why a partition cannot be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// No node serves it, or this node does not know yet which.
    Unavailable,
    /// That node serves it.
    ServedBy(u64),
    /// This node serves it, but no write may begin now.
    Held,
}

/// Protects a partition: while it exists, the partition's records are not dropped.
#[derive(Debug)]
pub(crate) struct PartitionReservation<'a> {
    partition: &'a WordOfPartition,
    word: PartitionWord,
}

impl PartitionReservation<'_> {
    /// The tree id of records written under this reservation.
    #[inline]
    pub(crate) fn tree_id(&self) -> u8 {
        self.word.tree_id()
    }

    /// Whether another thread takes the partition out of service and waits for this reservation.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.partition.load().is_isolated()
    }
}

impl Drop for PartitionReservation<'_> {
    #[inline]
    fn drop(&mut self) {
        self.partition.release();
    }
}

struct Table {
    rows: Box<[PartitionRow]>,
    figures: PartitionFigures,
    /// Number of partitions of which other nodes may have newer copies.
    with_duplicates: usize,
    /// Number of rebalances. It changes together with the rows, so that findings about duplicates from before a
    /// rebalance are not used after it.
    rebalances: u64,
}

/// State of the thread that changes partitions.
#[derive(Default)]
struct Changing {
    /// Partitions whose new state is not in the device headers yet.
    unstored: Vec<PartitionId>,
    /// When such states were last written.
    stored_at: Option<Instant>,
}

/// The header entry of a partition.
fn entry_of(row: &PartitionRow) -> PartitionEntry {
    PartitionEntry { version: row.version, tree_id: row.tree_id }
}

/// The partitions of one namespace.
pub(crate) struct Partitions {
    own_node: u64,
    partitions: Box<[WordOfPartition]>,
    /// The replicas of each partition for commits, read without lock or count; `None` without other replicas.
    replicas: Box<[ArcSwapOption<PublishedReplicas>]>,
    served: Box<ServedTable>,
    sections: Sections,
    /// Sections of the threads that commit.
    commits: Sections,
    /// Whether other nodes may have newer copies of some partition.
    has_duplicates: AtomicBool,
    /// Milliseconds of the monotonic clock after which other nodes may have taken over. `u64::MAX` for a single node.
    served_until_ms: AtomicU64,
    /// Milliseconds since 2010: the least last-update-time of records written from now on, whatever the clock shows.
    update_floor_ms: AtomicU64,
    late_copies: LateCopies,
    /// Held while partitions change and device headers are written; taken before `table`, and never by a thread that
    /// serves clients.
    changing: Mutex<Changing>,
    table: Mutex<Table>,
}

impl Partitions {
    /// The partitions on node `own_node`, not 0, from its device headers: they have their data, but are not in
    /// service until they are [dealt](Self::deal). This node is master of none of them any more, and other nodes may
    /// have written since.
    pub(crate) fn load(own_node: u64, entries: &[PartitionEntry]) -> Self {
        assert_eq!(entries.len(), PARTITION_COUNT, "entries of all partitions");
        let row = |entry: &PartitionEntry| PartitionRow {
            version: entry.version.isolated(),
            // A header may hold any byte here.
            tree_id: entry.tree_id % TREE_ID_COUNT,
            ..PartitionRow::default()
        };
        let rows: Box<[PartitionRow]> = entries.iter().map(row).collect();
        let partitions =
            rows.iter().map(|row| WordOfPartition::new(PartitionWord::of(row, own_node))).collect();
        let replicas =
            rows.iter().map(|row| ArcSwapOption::new(PublishedReplicas::of(row, own_node))).collect();
        let mut figures = PartitionFigures::default();
        rows.iter().for_each(|row| figures.add(row));
        let words = rows.iter().map(|row| PartitionWord::of(row, own_node));
        let served = ServedTable::new(words);
        Partitions {
            own_node,
            replicas,
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

    /// The node that this table belongs to.
    pub(crate) fn own_node(&self) -> u64 {
        self.own_node
    }

    /// The tree id of records of partition `id`.
    #[inline]
    pub(crate) fn tree_id(&self, id: PartitionId) -> u8 {
        self.partitions[id.index()].load().tree_id()
    }

    /// Reserves a partition that this node serves; dropping the reservation releases it.
    ///
    /// # Errors
    /// When another node serves it, or none.
    #[inline]
    pub(crate) fn reserve(
        &self,
        id: PartitionId,
        access: RecordAccess,
    ) -> Result<PartitionReservation<'_>, Refused> {
        let partition = &self.partitions[id.index()];
        loop {
            let word = partition.reserve();
            if word.serves(access) && self.is_current() {
                return Ok(PartitionReservation { partition, word });
            }
            partition.release();
            if let Some(refused) = self.refusal(id, access) {
                return Err(refused);
            }
        }
    }

    /// Reserves a partition for a query; dropping the reservation releases it. `None` if queries do not read it here.
    pub(crate) fn reserve_for_query(
        &self,
        id: PartitionId,
        access: QueryAccess,
    ) -> Option<PartitionReservation<'_>> {
        let partition = &self.partitions[id.index()];
        let word = partition.reserve();
        let reservation = PartitionReservation { partition, word };
        (word.serves_query(access) && self.is_current()).then_some(reservation)
    }

    /// Registers a thread that carries out transactions in [sections](super::sections).
    pub(crate) fn join_sections(&self) -> Section {
        self.sections.join()
    }

    /// Registers a thread that commits.
    pub(crate) fn join_commits(&self) -> Section {
        self.commits.join()
    }

    /// The commits under way. Called after the flag that forbids new writes is visible; later commits are
    /// [judged](Self::judge_commit).
    pub(crate) fn commits_under_way(&self) -> Leaving {
        self.commits.leaving()
    }

    /// Checks, for a transaction in `section`, whether this node answers reads of a partition. The thread enters the
    /// section unless it is inside. The partition's records are not dropped until the thread leaves.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub(crate) fn check_read(&self, section: &mut Section, id: PartitionId) -> Result<(), Refused> {
        section.enter();
        while !(self.served.serves_reads(id.index()) && self.is_current()) {
            if let Some(refused) = self.refusal(id, RecordAccess::Read) {
                return Err(refused);
            }
        }
        Ok(())
    }

    /// As [`check_read`](Self::check_read), for a write. Returns the tree id.
    ///
    /// # Errors
    /// As [`check_read`](Self::check_read).
    #[inline]
    pub(crate) fn check_write(&self, section: &mut Section, id: PartitionId) -> Result<u8, Refused> {
        section.enter();
        loop {
            let tree_id = self.served.serves_writes(id.index()).filter(|_| self.is_current());
            if let Some(tree_id) = tree_id {
                return Ok(tree_id);
            }
            if let Some(refused) = self.refusal(id, RecordAccess::Write) {
                return Err(refused);
            }
        }
    }

    /// Why this node does not serve a partition to a thread that has just seen so without a lock. `None` if it does by
    /// now: the table may have changed while the thread waited for it.
    #[cold]
    fn refusal(&self, id: PartitionId, access: RecordAccess) -> Option<Refused> {
        let table = self.table.lock();
        if self.partitions[id.index()].observe().serves(access) && self.is_current() {
            return None;
        }
        let row = &table.rows[id.index()];
        let mut node = if row.working_master == 0 { row.proxy_destination } else { row.working_master };
        if access == RecordAccess::Write && row.is_handing_over && node == self.own_node {
            node = row.replicas.first().map_or(0, |replica| replica.node);
        }
        if row.replicas.is_empty() || node == 0 || !self.is_current() {
            return Some(Refused::Unavailable);
        }
        if node == self.own_node {
            let waits = access == RecordAccess::Write && row.holds_writes;
            return Some(if waits { Refused::Held } else { Refused::Unavailable });
        }
        Some(Refused::ServedBy(node))
    }

    /// Takes a partition out of service as [`take_over`](Self::take_over) does, and waits for at most `longest` until
    /// no thread is in it; returns whether all have left. For tests.
    #[cfg(test)]
    pub(crate) fn isolate(&self, id: PartitionId, longest: Duration) -> bool {
        self.served.publish(id.index(), self.partitions[id.index()].isolate());
        self.await_left(id, Instant::now() + longest)
    }

    /// Applies a rebalance with `replication_factor`: `change` updates the row of each partition. A partition whose
    /// version gains data begins a new life with the next tree id. Only the cluster thread calls this.
    ///
    /// # Errors
    /// When the versions cannot be written to the headers of `storage`. Then nothing changes.
    ///
    /// # Panics
    /// If a partition that is not isolated loses its data.
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

    /// Deals all partitions to this node: it is the working master of each. As no other node has data of them, its data
    /// is complete and begins a history under `cluster_key`.
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

    /// Gives partitions new versions: first in the headers of `storage`, then here. For tests; the cluster thread uses
    /// [`take_over`](Self::take_over).
    ///
    /// # Errors
    /// When the headers cannot be written. Then nothing changes.
    ///
    /// # Panics
    /// If a partition that is not isolated loses its data.
    #[cfg(test)]
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

    /// Replaces the rows of `changed`. Header entries are written at once if `stores_now`, or if a partition gains
    /// data; otherwise [`store_versions`](Self::store_versions) writes them. The table is not locked while `write`
    /// writes the headers: clients are served meanwhile.
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
                    let is_isolated = self.partitions[id.index()].observe().is_isolated();
                    assert!(is_isolated, "a partition in service loses its data");
                }
                _ => {}
            }
        }
        // Most changes concern only migrations, with nothing to store.
        let is_other =
            |(id, row): &&(PartitionId, PartitionRow)| entry_of(row) != entry_of(&table.rows[id.index()]);
        let others = changed.iter().filter(is_other);
        if stores_now {
            let others = others.map(|(id, row)| (*id, entry_of(row)));
            // The latest changes come last.
            let before = changing.unstored.iter().map(|id| (*id, entry_of(&table.rows[id.index()])));
            let entries: Vec<_> = before.chain(others).collect();
            // No other thread changes the table.
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
            self.replicas[id.index()].store(PublishedReplicas::of(&row, self.own_node));
            table.rows[id.index()] = row;
            partition.publish(word);
            self.served.publish(id.index(), word);
        }
        Ok(locked)
    }

    /// As [`store_versions`](Self::store_versions), but not sooner than [`STORE_PERIOD`] after the last write.
    ///
    /// # Errors
    /// As [`store_versions`](Self::store_versions).
    pub(crate) fn store_versions_if_due(&self, storage: &Storage, now: Instant) -> Result<(), BlockError> {
        let mut changing = self.changing.lock();
        let is_early = changing.stored_at.is_some_and(|at| now.saturating_duration_since(at) < STORE_PERIOD);
        if is_early || changing.unstored.is_empty() {
            return Ok(());
        }
        changing.stored_at = Some(now);
        drop(changing);
        self.store_versions(storage)
    }

    /// Writes changed header entries that are not written yet. Only the cluster thread calls this.
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

    /// The sums over the partitions.
    pub(crate) fn figures(&self) -> PartitionFigures {
        self.table.lock().figures
    }

    /// Number of partitions with data on this node.
    pub(crate) fn stored_count(&self) -> usize {
        self.table.lock().rows.iter().filter(|row| row.version.has_data()).count()
    }

    /// Calls `visit` with all rows of one moment. The cluster thread waits meanwhile.
    pub(crate) fn visit(&self, mut visit: impl FnMut(PartitionId, &PartitionRow)) {
        let table = self.table.lock();
        PartitionId::all().zip(&table.rows).for_each(|(id, row)| visit(id, row));
    }

    /// For each of the first `columns` replicas: a bitmap of the partitions that clients should ask this node for. The
    /// bit of a partition is in byte number / 8, the first of eight in the highest bit.
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
