//! What transactions see of a partition: a word, and a byte for those in sections.

use super::{PartitionRow, QueryAccess, RecordAccess, TREE_ID_COUNT};

/// What a transaction must know of a partition, and how many have reserved it:
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
///     44     copies may come in from others
///     45     this node is the working master
///     46     it has all records
///     47     it has records
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
    pub(super) const AWAITS_COPIES: u64 = 1 << 44;
    pub(super) const MASTER: u64 = 1 << 45;
    pub(super) const FULL: u64 = 1 << 46;
    pub(super) const DATA: u64 = 1 << 47;

    /// Without reservations.
    pub(super) fn of(row: &PartitionRow, own_node: u64) -> Self {
        let facts = [
            (Self::WRITES, row.serves_writes(own_node)),
            (Self::READS, row.serves_reads(own_node)),
            (Self::REPLICA, row.replica_index(own_node).is_some()),
            (Self::OTHERS, row.replicas.iter().any(|replica| replica.node != own_node)),
            (Self::DUPLICATES, !row.duplicates.is_empty()),
            (Self::AWAITS_COPIES, row.awaits_copies()),
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

    /// Whether this node carries out such transactions on the partition.
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

/// The same for transactions in [sections](crate::namespace::sections), which count nothing: a byte for each partition, in a table that
/// is small and hardly ever changes. Bits 0-5 are the tree id, bit 6 says that writes may begin here, bit 7 that reads are
/// answered here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ServedByte(pub(super) u8);

impl ServedByte {
    pub(super) const WRITES: u8 = 1 << 6;
    pub(super) const READS: u8 = 1 << 7;

    pub(super) const fn of(word: PartitionWord) -> Self {
        let writes = if word.serves(RecordAccess::Write) { Self::WRITES } else { 0 };
        let reads = if word.serves(RecordAccess::Read) { Self::READS } else { 0 };
        ServedByte(word.tree_id() | writes | reads)
    }

    pub(super) const fn serves(self, access: RecordAccess) -> bool {
        let wanted = match access {
            RecordAccess::Read => Self::READS,
            RecordAccess::Write => Self::WRITES,
        };
        self.0 & wanted != 0
    }

    pub(super) const fn tree_id(self) -> u8 {
        self.0 & (TREE_ID_COUNT - 1)
    }
}
