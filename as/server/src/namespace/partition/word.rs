//! The state of a partition as transactions see it: a word, and a bit or a byte for those in sections.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::*};

use super::{PartitionRow, QueryAccess, RecordAccess, TREE_ID_COUNT};
use crate::index::{PARTITION_COUNT, PartitionId};

/// State of a partition for transactions, and the number of its reservations:
///
/// ```text
/// bits 0-31  reservations
///     32-37  tree id
///     38     writes may begin here
///     39     isolated: nobody may reserve it
///     40     reads are answered here
///     41     this node is a replica, or the master
///     42     others are too
///     43     others may have newer copies of its records
///     44     this node is the working master
///     45     it has all records
///     46     it has records
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartitionWord(pub(super) u64);

impl PartitionWord {
    pub(super) const RESERVATIONS: u64 = (1 << 32) - 1;
    pub(super) const TREE_ID_SHIFT: u32 = 32;
    pub(super) const WRITES: u64 = 1 << 38;
    pub(super) const ISOLATED: u64 = 1 << 39;
    pub(super) const READS: u64 = 1 << 40;
    pub(super) const REPLICA: u64 = 1 << 41;
    pub(super) const OTHERS: u64 = 1 << 42;
    pub(super) const DUPLICATES: u64 = 1 << 43;
    pub(super) const MASTER: u64 = 1 << 44;
    pub(super) const FULL: u64 = 1 << 45;
    pub(super) const DATA: u64 = 1 << 46;

    /// The word of a row, without reservations.
    pub(super) fn of(row: &PartitionRow, own_node: u64) -> Self {
        let facts = [
            (Self::WRITES, row.serves_writes(own_node)),
            (Self::READS, row.serves_reads(own_node)),
            (Self::REPLICA, row.replica_index(own_node).is_some()),
            (Self::OTHERS, row.replicas.iter().any(|replica| replica.node != own_node)),
            (Self::DUPLICATES, !row.duplicates.is_empty()),
            (Self::MASTER, row.working_master == own_node),
            (Self::FULL, row.is_full(own_node)),
            (Self::DATA, row.version.has_data()),
        ];
        let flags = facts.iter().filter(|(_, is_true)| *is_true).fold(0, |flags, (flag, _)| flags | flag);
        PartitionWord(u64::from(row.tree_id) << Self::TREE_ID_SHIFT | flags)
    }

    pub(super) const fn reservations(self) -> u64 {
        self.0 & Self::RESERVATIONS
    }

    pub(super) const fn tree_id(self) -> u8 {
        (self.0 >> Self::TREE_ID_SHIFT) as u8 & (TREE_ID_COUNT - 1)
    }

    pub(super) const fn is_isolated(self) -> bool {
        self.0 & Self::ISOLATED != 0
    }

    /// Whether this node carries out transactions with this access on the partition.
    pub(super) const fn serves(self, access: RecordAccess) -> bool {
        let wanted = match access {
            RecordAccess::Read => Self::READS,
            RecordAccess::Write => Self::WRITES,
        };
        self.0 & (wanted | Self::ISOLATED) == wanted
    }

    /// Whether queries read the partition here.
    pub(super) const fn serves_query(self, access: QueryAccess) -> bool {
        let wanted = match access {
            QueryAccess::Master => Self::MASTER,
            QueryAccess::Full => Self::FULL,
            QueryAccess::Relaxed => Self::FULL | Self::DATA,
        };
        self.0 & wanted != 0 && !self.is_isolated()
    }
}

/// The same state for transactions in [sections](crate::namespace::sections), which count nothing, in small tables that
/// rarely change. Reads use a bitmap of so few cache lines that it stays in the first-level cache.
pub(super) struct ServedTable {
    /// By partition, whether reads are answered here.
    reads: [AtomicU64; PARTITION_COUNT / 64],
    /// By partition, the tree id, and [`WRITES`](Self::WRITES) if writes may begin here.
    writes: [AtomicU8; PARTITION_COUNT],
}

impl ServedTable {
    const WRITES: u8 = 1 << 7;

    pub(super) fn new(words: impl Iterator<Item = (PartitionId, PartitionWord)>) -> Box<Self> {
        let table = Box::new(ServedTable {
            reads: std::array::from_fn(|_| AtomicU64::new(0)),
            writes: std::array::from_fn(|_| AtomicU8::new(0)),
        });
        words.for_each(|(id, word)| table.publish(id, word));
        table
    }

    /// Takes over the state in `word`. One thread at a time.
    pub(super) fn publish(&self, id: PartitionId, word: PartitionWord) {
        let (bits, bit) = self.reads_of(id);
        if word.serves(RecordAccess::Read) {
            bits.fetch_or(bit, Release);
        } else {
            bits.fetch_and(!bit, Release);
        }
        let writes = if word.serves(RecordAccess::Write) { Self::WRITES } else { 0 };
        self.writes[id.index()].store(word.tree_id() | writes, Release);
    }

    #[inline]
    fn reads_of(&self, id: PartitionId) -> (&AtomicU64, u64) {
        (&self.reads[id.index() / 64 % (PARTITION_COUNT / 64)], 1 << (id.index() % 64))
    }

    #[inline]
    pub(super) fn serves_reads(&self, id: PartitionId) -> bool {
        let (bits, bit) = self.reads_of(id);
        bits.load(Acquire) & bit != 0
    }

    /// The tree id, if writes may begin here.
    #[inline]
    pub(super) fn serves_writes(&self, id: PartitionId) -> Option<u8> {
        let byte = self.writes[id.index()].load(Acquire);
        (byte & Self::WRITES != 0).then_some(byte & (TREE_ID_COUNT - 1))
    }
}
