//! Partitions: a thread that reserves a partition, or works on it in a section, keeps access to its records
//! until it leaves. A thread that sees a published state also sees all changes made before the publication.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::explore;
use crate::section_word::{SectionWord, hide};
use crate::word::{PartitionWord, RecordAccess, WordOfPartition};

/// The smallest possible table.
type ServedTable = crate::word::ServedTable<1, 2>;

const SERVED: u64 = PartitionWord::READS | PartitionWord::WRITES;

/// A partition word with these flags and this tree id.
fn word(flags: u64, tree_id: u64) -> PartitionWord {
    PartitionWord(flags | tree_id << PartitionWord::TREE_ID_SHIFT)
}

/// A partition, and its records.
struct Partition {
    word: WordOfPartition,
    records: UnsafeCell<u32>,
}

impl Partition {
    fn new(word: PartitionWord) -> Arc<Self> {
        Arc::new(Partition { word: WordOfPartition::new(word), records: UnsafeCell::new(7) })
    }

    /// The steps of a pool transaction; returns whether the partition was in service.
    fn transact(&self) -> bool {
        let is_served = self.word.reserve().serves(RecordAccess::Read);
        if is_served {
            self.records.with(|_| ());
        }
        self.word.release();
        is_served
    }

    /// The steps of the cluster thread for a partition that the node does not keep.
    fn drop_records(&self) {
        self.word.isolate();
        while self.word.observe().reservations() > 0 {
            thread::yield_now();
        }
        self.records.with_mut(|_| ());
    }
}

fn spawn<T: 'static>(of: &Arc<T>, act: impl FnOnce(&T) + 'static) -> thread::JoinHandle<()> {
    let of = Arc::clone(of);
    thread::spawn(move || act(&of))
}

#[test]
fn records_are_dropped_when_the_partition_is_not_reserved() {
    explore(3, || {
        let partition = Partition::new(word(SERVED, 1));
        let one = spawn(&partition, |partition| _ = partition.transact());
        let another = spawn(&partition, |partition| _ = partition.transact());
        partition.drop_records();
        one.join().expect("it ends");
        another.join().expect("it ends");
        assert!(!partition.transact(), "it is out of service");
        assert_eq!(partition.word.load().reservations(), 0);
    });
}

#[test]
fn reservations_outlast_a_publication() {
    explore(4, || {
        let partition = Partition::new(word(SERVED, 1));
        let worker = spawn(&partition, |partition| {
            assert!(partition.transact());
            assert!(partition.transact());
        });
        partition.word.publish(word(SERVED | PartitionWord::OTHERS, 1));
        partition.word.publish(word(SERVED | PartitionWord::MASTER, 1));
        worker.join().expect("it ends");
        assert_eq!(partition.word.load(), word(SERVED | PartitionWord::MASTER, 1));
    });
}

/// The case is a partition that gets data again: its next life begins with the records that were stored
/// before.
#[test]
fn a_thread_that_finds_a_partition_in_service_sees_all_earlier_changes() {
    explore(4, || {
        let partition = Partition::new(word(PartitionWord::ISOLATED, 1));
        let worker = spawn(&partition, |partition| {
            let seen = partition.word.reserve();
            if seen.serves(RecordAccess::Write) {
                assert_eq!(seen.tree_id(), 2);
                partition.records.with(|_| ());
            }
            partition.word.release();
        });
        partition.records.with_mut(|_| ());
        partition.word.publish(word(SERVED, 2));
        worker.join().expect("it ends");
    });
}

/// The table, the word of a thread that works on the table's partitions, and the records of these partitions.
struct Shown {
    table: Box<ServedTable>,
    thread: SectionWord,
    records: [UnsafeCell<u32>; 2],
}

fn shown(words: [PartitionWord; 2]) -> Arc<Shown> {
    Arc::new(Shown {
        table: ServedTable::new(words.into_iter()),
        thread: SectionWord::default(),
        records: [UnsafeCell::new(7), UnsafeCell::new(7)],
    })
}

#[test]
fn records_are_dropped_when_every_thread_has_left_its_section() {
    explore(3, || {
        let shown = shown([word(SERVED, 1), word(SERVED, 1)]);
        let worker = spawn(&shown, |shown| {
            for _ in 0..2 {
                shown.thread.enter();
                if shown.table.serves_reads(0) {
                    shown.records[0].with(|_| ());
                }
                if shown.table.serves_writes(0).is_some() {
                    shown.records[0].with(|_| ());
                }
                shown.thread.leave();
            }
        });
        shown.table.publish(0, word(SERVED | PartitionWord::ISOLATED, 1));
        hide();
        let seen = shown.thread.state();
        while !shown.thread.has_left(seen) {
            thread::yield_now();
        }
        shown.records[0].with_mut(|_| ());
        worker.join().expect("it ends");
        assert!(shown.table.serves_reads(1), "the other one is as it was");
    });
}

/// The case is a partition that is removed and added again with another tree id. The other partition in the
/// same word of the bitmap does not change.
#[test]
fn a_write_sees_the_tree_id_of_the_life_that_it_is_in() {
    explore(4, || {
        let shown = shown([word(PartitionWord::ISOLATED, 1), word(SERVED, 5)]);
        let worker = spawn(&shown, |shown| {
            if let Some(tree_id) = shown.table.serves_writes(0) {
                assert_eq!(tree_id, 2);
                shown.records[0].with(|_| ());
            }
            if shown.table.serves_reads(0) {
                shown.records[0].with(|_| ());
            }
            assert!(shown.table.serves_reads(1));
            assert_eq!(shown.table.serves_writes(1), Some(5));
        });
        shown.records[0].with_mut(|_| ());
        shown.table.publish(0, word(SERVED, 2));
        worker.join().expect("it ends");
    });
}
