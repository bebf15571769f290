//! Tests of the table of write blocks.

use super::*;

const LOW_WATER: u32 = WBLOCK_SIZE / 2;

fn take(table: &WblockTable, for_defrag: bool) -> Option<WblockId> {
    table.take(if for_defrag { 0 } else { table.reserved() }, |_| true).map(|taken| taken.id())
}

fn close(table: &WblockTable, id: WblockId, low_water_bytes: u32) -> AfterFree {
    table.close(Taken { device: 0, id, number: 0, freed_after: 0 }, low_water_bytes)
}

/// Takes the block that waits for defrag, which must be `id`.
fn next(table: &WblockTable, id: WblockId) -> Emptying {
    let emptying = table.next_to_defrag(0).expect("it waits for defrag");
    assert_eq!(emptying.id(), id);
    emptying
}

#[test]
fn a_block_goes_through_its_life() {
    let table = WblockTable::new(0, 12, 1, Reuse::Newest);
    let id = take(&table, false).expect("11 blocks are free");
    table.begin_write(id, 6 << 20);
    table.begin_write(id, 1 << 20);
    table.end_write(id);
    table.end_write(id);
    assert_eq!(table.free_bytes(id, 1 << 20, LOW_WATER), AfterFree::Kept);
    assert_eq!(close(&table, id, LOW_WATER), AfterFree::Kept);
    assert_eq!(table.free_bytes(id, 4 << 20, LOW_WATER), AfterFree::Queued);
    assert_eq!(table.next_to_defrag(1), None);
    let emptying = next(&table, id);
    assert!(!table.block(id).begin_rewrite());
    assert_eq!(table.free_bytes(id, 2 << 20, LOW_WATER), AfterFree::Kept);
    assert_eq!(table.emptied(emptying), 0);
    table.check();
    assert_eq!((table.live_bytes(), table.free_count()), (0, 11));
}

#[test]
fn writers_leave_the_reserve_to_defrag() {
    let table = WblockTable::new(0, 1 + 8 + 2, 8, Reuse::Oldest);
    assert!(take(&table, false).is_some() && take(&table, false).is_some());
    assert_eq!(take(&table, false), None);
    for _ in 0..8 {
        assert!(take(&table, true).is_some());
    }
    assert_eq!(take(&table, true), None);
    table.check();
}

#[test]
fn of_few_blocks_writers_leave_one() {
    for (count, left) in [(4, 1), (FEW_BLOCKS as u32 - 1, 1), (FEW_BLOCKS as u32, 2), (64, 5)] {
        let table = WblockTable::new(0, count, 1, Reuse::Newest);
        assert_eq!(table.writers_leave(5), left, "of {count}");
        assert!(!table.is_short(5), "all of {count} are free");
    }
}

#[test]
fn a_block_whose_memory_is_given_back_is_free_meanwhile() {
    let table = WblockTable::new(0, 4, 0, Reuse::Newest);
    let id = take(&table, false).expect("free");
    assert_eq!(close(&table, id, 0), AfterFree::Freed);
    assert!(table.discard_idle(Duration::ZERO, |_| assert_eq!(table.free_count(), 3)));
    assert_eq!(table.free_count(), 3);
    table.check();
}

#[test]
fn the_block_that_was_freed_first_is_passed_over_while_it_may_not_be_taken() {
    let table = WblockTable::new(0, 4, 0, Reuse::Oldest);
    let ids: Vec<WblockId> = (0..3).map(|_| take(&table, false).expect("free")).collect();
    for id in &ids {
        assert_eq!(close(&table, *id, 0), AfterFree::Freed);
    }
    let taken = table.take(0, |id| id != ids[0]).expect("free");
    assert_eq!(taken.id(), ids[1]);
    assert!(table.take(0, |_| false).is_none());
    assert_eq!(take(&table, false), Some(ids[0]));
    table.check();
}

#[test]
fn a_block_that_dies_while_current_is_free_when_closed() {
    let table = WblockTable::new(0, 12, 1, Reuse::Newest);
    let id = take(&table, false).expect("free");
    table.begin_write(id, 100);
    table.end_write(id);
    assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
    assert_eq!(close(&table, id, LOW_WATER), AfterFree::Freed);
    table.check();
}

#[test]
fn a_block_is_kept_until_its_unreadable_records_are_removed() {
    let table = WblockTable::new(0, 12, 1, Reuse::Newest);
    let id = take(&table, false).expect("free");
    table.begin_write(id, 300);
    table.end_write(id);
    assert_eq!(close(&table, id, LOW_WATER), AfterFree::Queued);
    let emptying = next(&table, id);
    assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
    assert_eq!(table.emptied(emptying), 200);
    assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Kept);
    assert!(!table.queue_emptiest(WBLOCK_SIZE));
    assert_eq!(table.sweep(WBLOCK_SIZE), 0);
    assert!(table.next_to_defrag(0).is_none());
    assert_eq!(table.retry_kept(LOW_WATER), 1);
    let emptying = next(&table, id);
    assert_eq!(table.emptied(emptying), 100);
    assert_eq!(table.free_bytes(id, 100, LOW_WATER), AfterFree::Freed);
    table.check();
    let again = take(&table, false).expect("free");
    table.begin_write(again, 300);
    table.end_write(again);
    assert_eq!((again, close(&table, again, LOW_WATER)), (id, AfterFree::Queued), "it is as any other");
}

#[test]
fn a_record_that_waits_for_its_replacement_is_not_unreadable() {
    let table = WblockTable::new(0, 12, 1, Reuse::Newest);
    let id = take(&table, false).expect("free");
    table.begin_write(id, 300);
    table.end_write(id);
    close(&table, id, LOW_WATER);
    let emptying = next(&table, id);
    table.await_free(id, 200);
    table.await_free(id, 100);
    assert_eq!(table.emptied(emptying), 0);
    assert_eq!(table.free_awaited(id, 200, LOW_WATER), AfterFree::Kept);
    assert_eq!(table.next_to_defrag(0), None);
    assert_eq!(table.free_awaited(id, 100, LOW_WATER), AfterFree::Freed);
    table.check();
}

/// Runs itself in a separate process, which is to be aborted: the server would catch a panic and continue.
#[test]
fn freeing_more_than_is_alive_is_a_bug() {
    if std::env::var_os("ASD_TEST_AGAIN").is_some() {
        let _ = std::panic::catch_unwind(|| {
            let table = WblockTable::new(0, 12, 1, Reuse::Newest);
            let id = take(&table, false).expect("free");
            table.free_bytes(id, 16, LOW_WATER);
        });
        return;
    }
    let name = concat!(module_path!(), "::freeing_more_than_is_alive_is_a_bug");
    let name = name.split_once("::").expect("the crate's name comes first").1;
    let mut again = std::process::Command::new(std::env::current_exe().expect("a test's binary"));
    let output = again.args(["--exact", name]).env("ASD_TEST_AGAIN", "1").output().expect("it runs");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(6), "{output:?}");
}

#[test]
fn a_late_look_at_an_empty_block_does_not_free_it_once_it_is_filled_again() {
    let table = WblockTable::new(0, 4, 0, Reuse::Newest);
    let fill = || {
        let id = take(&table, false).expect("a free block");
        table.begin_write(id, 4096);
        table.end_write(id);
        assert_eq!(close(&table, id, 0), AfterFree::Kept);
        id
    };
    let id = fill();
    assert_eq!(table.free_bytes(id, 4096, 0), AfterFree::Freed);
    assert_eq!(fill(), id);
    // A thread that was descheduled since the block was empty checks it now.
    for low_water_bytes in [0, WBLOCK_SIZE] {
        let after = table.block(id).review_seen(0, low_water_bytes);
        assert_ne!(table.enqueue(id, after), AfterFree::Freed);
        assert_ne!(table.state(id), WblockState::Free);
        table.check();
    }
    assert_eq!(table.state(id), WblockState::Queued);
    assert_eq!(table.free_bytes(id, 4096, 0), AfterFree::Freed);
    table.check();
}
