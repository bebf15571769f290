//! The state of a partition as transactions see it: a word, and a bit or a byte for those in sections.
//!
//! `tests/loom` runs the code of this file through all orders of its steps. So it uses nothing of the rest of the
//! crate.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, AtomicU64};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, AtomicU64};

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Tree ids count up to here and begin again.
pub(super) const TREE_ID_COUNT: u8 = 64;

/// Access of a transaction to records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordAccess {
    Read,
    Write,
}

/// The partitions that a query reads on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QueryAccess {
    /// Partitions of which this node is the working master: each partition is read on one node of the cluster.
    Master,
    /// Partitions of which this node has all records.
    Full,
    /// Partitions of which this node has all records, or some.
    Relaxed,
}

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

/// A partition's word, on a cache line of its own.
#[repr(align(64))]
pub(super) struct WordOfPartition(AtomicU64);

impl WordOfPartition {
    pub(super) fn new(word: PartitionWord) -> Self {
        WordOfPartition(AtomicU64::new(word.0))
    }

    /// The present word.
    #[inline]
    pub(super) fn load(&self) -> PartitionWord {
        PartitionWord(self.0.load(Relaxed))
    }

    /// The present word, for a thread that relies on what others did before they changed it.
    #[inline]
    pub(super) fn observe(&self) -> PartitionWord {
        PartitionWord(self.0.load(Acquire))
    }

    /// Takes over everything except the reservations from `word`.
    pub(super) fn publish(&self, word: PartitionWord) {
        let mut now = self.0.load(Relaxed);
        while let Err(changed) =
            self.0.compare_exchange_weak(now, now & PartitionWord::RESERVATIONS | word.0, AcqRel, Relaxed)
        {
            now = changed;
        }
    }

    /// Allows no new reservation. Returns the word as it is from now on.
    pub(super) fn isolate(&self) -> PartitionWord {
        PartitionWord(self.0.fetch_or(PartitionWord::ISOLATED, AcqRel) | PartitionWord::ISOLATED)
    }

    /// Counts a reservation, whatever the word says, and returns the word. The count comes before the check, so that
    /// either an isolating thread sees the reservation, or this thread sees the isolation.
    #[inline]
    pub(super) fn reserve(&self) -> PartitionWord {
        let word = PartitionWord(self.0.fetch_add(1, Acquire));
        debug_assert!(word.reservations() < PartitionWord::RESERVATIONS, "reservations are released");
        word
    }

    /// Releases a reservation.
    #[inline]
    pub(super) fn release(&self) {
        let before = PartitionWord(self.0.fetch_sub(1, Release));
        debug_assert!(before.reservations() > 0, "a reservation is released once");
    }
}

impl std::fmt::Debug for WordOfPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.load().fmt(f)
    }
}

/// The same state in small tables that rarely change, for transactions in sections, which count nothing. Reads use a
/// bitmap of so few cache lines that it stays in the first-level cache. Partitions have numbers below `PARTITIONS` =
/// 64 × `READ_WORDS`.
pub(super) struct ServedTable<const READ_WORDS: usize, const PARTITIONS: usize> {
    /// By partition, whether reads are answered here.
    reads: [AtomicU64; READ_WORDS],
    /// By partition, the tree id, and [`WRITES`](Self::WRITES) if writes may begin here.
    writes: [AtomicU8; PARTITIONS],
}

impl<const READ_WORDS: usize, const PARTITIONS: usize> ServedTable<READ_WORDS, PARTITIONS> {
    const WRITES: u8 = 1 << 7;

    pub(super) fn new(words: impl Iterator<Item = PartitionWord>) -> Box<Self> {
        let table = Box::new(ServedTable {
            reads: std::array::from_fn(|_| AtomicU64::new(0)),
            writes: std::array::from_fn(|_| AtomicU8::new(0)),
        });
        words.enumerate().for_each(|(number, word)| table.publish(number, word));
        table
    }

    /// Takes over the state in `word`. One thread at a time.
    pub(super) fn publish(&self, number: usize, word: PartitionWord) {
        let (bits, bit) = self.reads_of(number);
        if word.serves(RecordAccess::Read) {
            bits.fetch_or(bit, Release);
        } else {
            bits.fetch_and(!bit, Release);
        }
        let writes = if word.serves(RecordAccess::Write) { Self::WRITES } else { 0 };
        self.writes[number].store(word.tree_id() | writes, Release);
    }

    #[inline]
    fn reads_of(&self, number: usize) -> (&AtomicU64, u64) {
        (&self.reads[number / 64 % READ_WORDS], 1 << (number % 64))
    }

    #[inline]
    pub(super) fn serves_reads(&self, number: usize) -> bool {
        let (bits, bit) = self.reads_of(number);
        bits.load(Acquire) & bit != 0
    }

    /// The tree id, if writes may begin here.
    #[inline]
    pub(super) fn serves_writes(&self, number: usize) -> Option<u8> {
        let byte = self.writes[number].load(Acquire);
        (byte & Self::WRITES != 0).then_some(byte & (TREE_ID_COUNT - 1))
    }
}
