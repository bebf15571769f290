//! Partitions in memory: their state after a deal, and that no thread is in an isolated one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

use datamodel::device_header::PartitionEntry;
use datamodel::partition_version::PartitionVersion;

use super::partition::*;
use crate::config::params::storage::StorageParams;
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::storage::Storage;

const OWN: u64 = 0xA1;
const OTHER: u64 = 0xB2;
const KEY: u64 = 0xCEF1_4538_ACF3;
const LONG: Duration = Duration::from_secs(30);

fn storage() -> Storage {
    let params = StorageParams::default();
    params.data_size.set(512 << 20);
    Storage::memory(&Arc::new(params)).expect("address space")
}

fn id(number: usize) -> PartitionId {
    PartitionId::new(number).expect("a partition")
}

fn version(text: &str) -> PartitionVersion {
    text.parse().expect("a version")
}

/// Entries of which half have data, with various tree ids.
fn entries() -> Vec<PartitionEntry> {
    let entry = |number: usize| PartitionEntry {
        version: if number.is_multiple_of(2) {
            version("418540d296e5.0.mp-")
        } else {
            version("000000000000.0.-p-")
        },
        tree_id: (number % 64) as u8,
    };
    (0..PARTITION_COUNT).map(entry).collect()
}

fn row(partitions: &Partitions, number: usize) -> PartitionRow {
    let mut found = None;
    partitions.visit(|id, row| {
        if id.index() == number {
            found = Some(row.clone());
        }
    });
    found.expect("a row for each partition")
}

fn dealt() -> (Partitions, Storage) {
    let (partitions, storage) = (Partitions::load(OWN, &entries()), storage());
    partitions.deal_alone(&storage, KEY).expect("no headers to write");
    (partitions, storage)
}

#[test]
fn no_node_serves_partitions_before_they_are_distributed() {
    let partitions = Partitions::load(OWN, &entries());
    assert_eq!(partitions.stored_count(), PARTITION_COUNT / 2);
    for number in [0, 1] {
        assert_eq!(partitions.reserve(id(number), RecordAccess::Write).map(drop), Err(Refused::Unavailable));
    }
    let stored = row(&partitions, 6);
    assert_eq!((stored.version, stored.tree_id), (version("418540d296e5.0.-s-"), 6), "isolated");
    assert_eq!((stored.letter(OWN), row(&partitions, 7).letter(OWN)), ('Z', 'A'));
    assert_eq!((partitions.tree_id(id(6)), partitions.tree_id(id(71))), (6, 7));
    let figures = partitions.figures();
    assert_eq!((figures.unavailable, figures.replication_factor), (PARTITION_COUNT, 0));
    assert!(!figures.is_stable());
    assert_eq!(partitions.bitmaps(1), [[0; BITMAP_SIZE]]);
}

#[test]
fn a_single_node_serves_all_partitions_and_starts_empty_ones_anew() {
    let (partitions, _storage) = dealt();
    let expected = version("cef14538acf3.0.mp-");
    partitions.visit(|id, row| {
        assert_eq!((row.version, row.final_version), (expected, expected));
        let life_before = (id.index() % 64) as u8;
        let life = if id.index().is_multiple_of(2) { life_before } else { (life_before + 1) % 64 };
        assert_eq!((row.tree_id, partitions.tree_id(id)), (life, life), "partition {}", id.index());
        assert_eq!((row.letter(OWN), row.replica_index(OWN), row.working_master), ('S', Some(0), OWN));
        assert_eq!(
            partitions.reserve(id, RecordAccess::Write).map(|reservation| reservation.tree_id()),
            Ok(life)
        );
    });
    let figures = partitions.figures();
    assert_eq!((figures.fresh, figures.unavailable, figures.replication_factor), (PARTITION_COUNT / 2, 0, 1));
    assert!(figures.is_stable());
    assert_eq!(partitions.bitmaps(2), [[0xFF; BITMAP_SIZE], [0; BITMAP_SIZE]]);
}

/// A thread that finds a partition not served waits for the table; if the partition is served by then, it is not refused.
#[test]
fn a_partition_that_moves_is_never_unavailable() {
    let (partitions, storage) = dealt();
    let has_ended = AtomicBool::new(false);
    let refused_elsewhere = AtomicUsize::new(0);
    let judge = |refused: Result<(), Refused>| match refused {
        Ok(()) => {}
        Err(Refused::ServedBy(OTHER)) => _ = refused_elsewhere.fetch_add(1, Relaxed),
        Err(refused) => panic!("{refused:?}"),
    };
    let ask = || {
        let mut section = partitions.join_sections();
        while !has_ended.load(Relaxed) {
            for id in PartitionId::all() {
                judge(partitions.check_read(&mut section, id));
                judge(partitions.check_write(&mut section, id).map(drop));
                judge(partitions.judge_commit(id));
                section.leave();
                judge(partitions.reserve(id, RecordAccess::Write).map(drop));
            }
        }
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
        for turn in 0..100 {
            let master = if turn % 2 == 0 { OTHER } else { OWN };
            let give =
                |row: &mut PartitionRow| (row.working_master, row.proxy_destination) = (master, master);
            partitions.deal(&storage, 1, |_, row| give(row)).expect("no headers to write");
        }
        has_ended.store(true, Relaxed);
        askers.into_iter().for_each(|asker| asker.join().expect("a partition has a node at all times"));
    });
    assert!(refused_elsewhere.into_inner() > 0, "the partitions moved meanwhile");
}

/// The columns of `replicas` as the C server fills them, and the destination of requests that are not served here.
#[test]
fn a_node_of_several_answers_for_its_own_partitions() {
    let (partitions, storage) = dealt();
    let replica = |node, is_immigrating| Replica { node, is_immigrating };
    let deal = |number: usize, row: &mut PartitionRow| {
        (row.working_master, row.proxy_destination) = (OTHER, OTHER);
        row.replicas = vec![replica(OTHER, false), replica(OWN, false)];
        match number {
            // Replica, complete.
            0 => row.working_master = 0,
            // Replica that waits for data.
            1 => (row.working_master, row.pending_immigrations) = (0, 1),
            // Final master, while the other one still acts.
            2 => {
                row.replicas = vec![replica(OWN, true), replica(OTHER, false)];
                row.pending_immigrations = 1;
            }
            // Master with a replica that waits for data.
            3 => {
                row.replicas = vec![replica(OWN, false), replica(OTHER, true)];
                (row.working_master, row.pending_emigrations, row.pending_lead_emigrations) = (OWN, 1, 1);
            }
            // Acting master that is a replica in the end.
            4 => {
                (row.working_master, row.pending_emigrations) = (OWN, 1);
                row.replicas = vec![replica(OTHER, true), replica(OWN, false)];
            }
            // No replica.
            5 => {
                (row.working_master, row.replicas) = (0, vec![replica(OTHER, false)]);
                row.version = version("418540d296e5.0.-s-");
            }
            // A partition of no node.
            _ => (row.replicas, row.working_master, row.proxy_destination) = (Vec::new(), 0, 0),
        }
    };
    partitions.deal(&storage, 2, |id, row| deal(id.index(), row)).expect("no headers to write");
    let columns = partitions.bitmaps(3);
    let bits = |column: usize| (columns[column][0], columns[column][1..].iter().all(|byte| *byte == 0));
    assert_eq!((bits(0), bits(1)), ((0b0001_1000, true), (0b1001_1000, true)));
    assert_eq!(columns[2], [0; BITMAP_SIZE]);
    let served = |number| partitions.reserve(id(number), RecordAccess::Write).map(drop);
    for number in [0, 1, 2, 5] {
        assert_eq!(served(number), Err(Refused::ServedBy(OTHER)));
    }
    assert_eq!((served(3), served(4), served(6)), (Ok(()), Ok(()), Err(Refused::Unavailable)));
    let letters: String = (0..6).map(|number| row(&partitions, number).letter(OWN)).collect();
    assert_eq!(letters, "SDDSSZ");
    let figures = partitions.figures();
    assert_eq!((figures.pending_emigrations, figures.pending_lead_emigrations), (2, 1));
    assert_eq!((figures.pending_immigrations, figures.pending_migrations()), (2, 4));
    assert_eq!((figures.unavailable, figures.fresh), (PARTITION_COUNT - 6, 0));
    assert!(!figures.is_stable());

    partitions.deal_alone(&storage, KEY + 1).expect("no headers to write");
    assert!(partitions.figures().is_stable());
    assert_eq!(partitions.tree_id(id(5)), 6, "data that was kept goes on with its life");
}

#[test]
fn isolation_waits_for_reservations_and_lets_no_new_one_in() {
    let (partitions, _storage) = dealt();
    let held =
        [partitions.reserve(id(9), RecordAccess::Write), partitions.reserve(id(9), RecordAccess::Write)];
    assert!(!partitions.isolate(id(9), Duration::from_millis(5)));
    assert_eq!(partitions.reserve(id(9), RecordAccess::Write).map(drop), Err(Refused::Unavailable));
    assert!(partitions.reserve(id(10), RecordAccess::Write).is_ok(), "its neighbours go on");
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        assert!(partitions.isolate(id(9), LONG));
    });
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(partitions.isolate(id(9), Duration::ZERO), "nobody is in it any more");
}

#[test]
fn a_dropped_partition_begins_its_next_life_with_the_next_tree_id() {
    let (partitions, storage) = dealt();
    assert_eq!(partitions.tree_id(id(64)), 0);
    for life in 1..=130u8 {
        assert!(partitions.isolate(id(64), LONG));
        partitions.set_versions(&storage, &[(id(64), PartitionVersion::default())]).expect("no headers");
        assert_eq!(partitions.reserve(id(64), RecordAccess::Write).map(drop), Err(Refused::Unavailable));
        assert_eq!(partitions.stored_count(), PARTITION_COUNT - 1);
        assert_eq!(partitions.tree_id(id(64)), (life - 1) % 64, "an absent partition keeps the last one");
        partitions.set_versions(&storage, &[(id(64), version("cef14538acf3.0.mp-"))]).expect("no headers");
        assert_eq!(
            partitions.reserve(id(64), RecordAccess::Write).map(|reservation| reservation.tree_id()),
            Ok(life % 64)
        );
    }
}

#[test]
#[should_panic(expected = "a partition in service loses its data")]
fn a_partition_in_service_keeps_its_data() {
    let (partitions, storage) = dealt();
    let _ = partitions.set_versions(&storage, &[(id(1), PartitionVersion::default())]);
}

/// Threads enter partitions for a moment, as transactions do, while the cluster thread takes them out of service and
/// puts them back. In between no thread may be in one.
#[test]
fn no_thread_is_in_an_isolated_partition() {
    const PARTITIONS: usize = 4;
    let (partitions, storage) = dealt();
    let inside: [AtomicUsize; PARTITIONS] = Default::default();
    let (entered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (partitions, inside, stop, entered, refused) =
                (&partitions, &inside, &stop, &entered, &refused);
            scope.spawn(move || {
                let mut section = partitions.join_sections();
                for turn in thread.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let number = turn % PARTITIONS;
                    // Half of the threads reserve, the others look in sections.
                    let reservation =
                        (thread % 2 == 0).then(|| partitions.reserve(id(number), RecordAccess::Write));
                    let found = match &reservation {
                        Some(Ok(reservation)) => Ok(reservation.tree_id()),
                        Some(Err(why)) => Err(*why),
                        None => partitions.check_write(&mut section, id(number)),
                    };
                    match found {
                        Ok(tree_id) => {
                            inside[number].fetch_add(1, Relaxed);
                            assert!(tree_id < 64);
                            std::hint::spin_loop();
                            inside[number].fetch_sub(1, Relaxed);
                            entered.fetch_add(1, Relaxed);
                        }
                        Err(why) => {
                            assert_eq!(why, Refused::Unavailable);
                            refused.fetch_add(1, Relaxed);
                        }
                    }
                    section.leave();
                }
            });
        }
        let started = Instant::now();
        for number in (0..PARTITIONS).cycle() {
            if started.elapsed() > Duration::from_millis(300) && refused.load(Relaxed) > 100 {
                break;
            }
            assert!(partitions.isolate(id(number), LONG));
            for _ in 0..100 {
                assert_eq!(inside[number].load(Relaxed), 0);
            }
            partitions
                .set_versions(&storage, &[(id(number), PartitionVersion::default())])
                .expect("no headers");
            partitions.deal_alone(&storage, KEY).expect("no headers");
        }
        stop.store(true, Relaxed);
    });
    assert!(entered.load(Relaxed) > 100);
    assert!(
        (0..PARTITIONS).all(|number| partitions.isolate(id(number), Duration::ZERO)),
        "all were released"
    );
}

#[test]
fn clients_are_served_while_headers_are_written() {
    let (partitions, _storage) = dealt();
    let own = PartitionRow { version: version("0000deadbeef.0.mp-"), ..row(&partitions, 5) };
    let lost = PartitionRow { working_master: OTHER, proxy_destination: OTHER, ..row(&partitions, 7) };
    let mut written = Vec::new();
    let write = |entries: &[(PartitionId, PartitionEntry)]| {
        // A service thread does the same; with the table locked it would wait for as long as the disk takes.
        assert_eq!(partitions.figures().unavailable, 0);
        assert!(partitions.reserve(id(7), RecordAccess::Write).is_ok(), "nothing is shown yet");
        assert!(partitions.replicas_of_master(id(7), OWN).is_some_and(|others| others.is_empty()));
        written.extend(entries.iter().map(|(id, _)| id.index()));
        Ok(())
    };
    partitions.take_over_by(write, vec![(id(5), own), (id(7), lost)], Some(1)).expect("it is written");
    assert_eq!(written, [5]);
    let refused = partitions.reserve(id(7), RecordAccess::Write).map(drop);
    assert_eq!(refused, Err(Refused::ServedBy(OTHER)));
}

#[test]
fn a_write_that_is_about_to_commit_is_judged_again() {
    let (partitions, storage) = dealt();
    let mut section = partitions.join_commits();
    let change = |row: PartitionRow| {
        partitions.take_over(&storage, vec![(id(5), row)], None).expect("no headers to write");
    };
    let before = row(&partitions, 5);
    assert_eq!(partitions.judge_commit(id(5)), Ok(()));
    let committing = section.stay();
    // The cluster re-forms: the running commit is waited for, the next one waits.
    change(PartitionRow { holds_writes: true, ..before.clone() });
    let mut under_way = partitions.commits_under_way();
    assert_eq!((partitions.judge_commit(id(5)), under_way.is_over()), (Err(Refused::Held), false));
    drop(committing);
    assert!(under_way.is_over() && partitions.commits_under_way().is_over());
    // The mastership is handed over: writes under way may commit here.
    change(PartitionRow { is_handing_over: true, ..before.clone() });
    assert_eq!(partitions.judge_commit(id(5)), Ok(()));
    change(PartitionRow { is_handing_over: true, holds_writes: true, ..before.clone() });
    assert!(partitions.judge_commit(id(5)).is_err());
    change(PartitionRow { working_master: OTHER, proxy_destination: OTHER, ..before });
    assert_eq!(partitions.judge_commit(id(5)), Err(Refused::ServedBy(OTHER)));
}

#[test]
fn knowledge_of_duplicates_is_valid_for_its_rebalance_only() {
    let (partitions, storage) = dealt();
    let (none, before) = partitions.duplicates(id(5));
    assert!(none.is_empty() && !partitions.may_have_duplicates(id(5)));
    let changed = PartitionRow { duplicates: vec![OTHER], ..row(&partitions, 5) };
    let seen = AtomicUsize::new(0);
    let write = |_: &[(PartitionId, PartitionEntry)]| {
        // Neither is visible without the other.
        assert!(!partitions.may_have_duplicates(id(5)) && partitions.duplicates(id(5)).1 == before);
        seen.fetch_add(1, Relaxed);
        Ok(())
    };
    let renewed = PartitionRow { version: version("0000deadbeef.0.mp-"), ..changed };
    partitions.take_over_by(write, vec![(id(5), renewed.clone())], Some(2)).expect("it is written");
    let (nodes, after) = partitions.duplicates(id(5));
    assert_eq!((nodes, seen.load(Relaxed)), (vec![OTHER], 1));
    assert!(after != before && partitions.may_have_duplicates(id(5)));
    assert_eq!((partitions.duplicate_cutoff(id(5)).1, partitions.rebalance_number()), (after, after));
    // The end of a migration is no rebalance.
    partitions.take_over(&storage, vec![(id(5), renewed)], None).expect("no headers to write");
    assert_eq!(partitions.rebalance_number(), after);
}
