//! The life of a write block, and the reservation of places in it.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::block_state::{AfterFree, BlockState, FillMark, WblockState};
use crate::explore;

const SIZE: u32 = 16;

/// A block, the number of times that it became free, and its contents.
struct Block {
    state: BlockState,
    freed: Mutex<u32>,
    record: UnsafeCell<u32>,
}

/// A current block with `records` records.
fn filled(records: u32) -> Arc<Block> {
    let state = BlockState::default();
    assert!(state.take());
    for _ in 0..records {
        state.begin_write(SIZE);
        state.end_write();
    }
    Arc::new(Block { state, freed: Mutex::new(0), record: UnsafeCell::new(0) })
}

impl Block {
    fn note(&self, after: AfterFree) {
        if after == AfterFree::Freed {
            *self.freed.lock().expect("no thread panics") += 1;
        }
    }

    /// The steps of a thread that has replaced a record.
    fn free_record(&self, low_water_bytes: u32) {
        let before = self.state.free_bytes(SIZE);
        assert!(before >= SIZE);
        let after = self.state.review_seen(before - SIZE, low_water_bytes);
        self.note(after);
    }

    fn close(&self) {
        assert!(self.state.close());
        let after = self.state.review(0);
        self.note(after);
    }

    fn times_freed(&self) -> u32 {
        *self.freed.lock().expect("no thread panics")
    }

    fn assert_free(&self) {
        assert_eq!((self.state.state(), self.state.live_bytes()), (WblockState::Free, 0));
        assert_eq!(self.times_freed(), 1);
    }
}

fn spawn(block: &Arc<Block>, act: impl FnOnce(&Block) + 'static) -> thread::JoinHandle<()> {
    let block = Arc::clone(block);
    thread::spawn(move || act(&block))
}

#[test]
fn a_block_that_dies_while_it_is_closed_becomes_free_once() {
    explore(4, || {
        let block = filled(1);
        let writer = spawn(&block, Block::close);
        block.free_record(0);
        writer.join().expect("it ends");
        block.assert_free();
    });
}

#[test]
fn threads_that_free_the_last_records_free_the_block_once() {
    explore(3, || {
        let block = filled(2);
        let closing = spawn(&block, Block::close);
        let freeing = spawn(&block, |block| block.free_record(0));
        block.free_record(0);
        closing.join().expect("it ends");
        freeing.join().expect("it ends");
        block.assert_free();
    });
}

#[test]
fn a_block_that_dies_while_defrag_has_it_becomes_free_once() {
    explore(4, || {
        let block = filled(2);
        block.close();
        block.free_record(2 * SIZE);
        assert_eq!(block.state.state(), WblockState::Queued);
        let defrag = spawn(&block, |block| {
            if block.state.begin_emptying() {
                block.state.set_kept(block.state.lasting_bytes() != 0);
                assert!(block.state.end_emptying());
                let after = block.state.review(0);
                block.note(after);
            }
        });
        block.free_record(2 * SIZE);
        defrag.join().expect("it ends");
        block.assert_free();
    });
}

#[test]
fn defrag_and_a_rewrite_in_place_keep_out_of_each_others_way() {
    explore(4, || {
        let block = filled(2);
        block.close();
        block.free_record(2 * SIZE);
        let defrag = spawn(&block, |block| {
            assert!(block.state.begin_emptying());
            block.record.with(|_| ());
        });
        if block.state.begin_rewrite() {
            block.record.with_mut(|_| ());
            block.state.end_write();
        }
        defrag.join().expect("it ends");
        assert!(!block.state.begin_rewrite());
    });
}

#[test]
fn a_late_look_does_not_free_a_block_that_was_taken_again() {
    explore(3, || {
        let block = filled(1);
        block.close();
        // A second review of the emptied block, by a thread that did not get a processor until now.
        let late = spawn(&block, |block| {
            let after = block.state.review_seen(0, 0);
            block.note(after);
        });
        block.free_record(0);
        if block.state.take() {
            block.state.begin_write(SIZE);
            block.state.end_write();
            block.close();
            late.join().expect("it ends");
            assert_eq!(block.state.state(), WblockState::Used);
            block.free_record(0);
            assert_eq!(block.times_freed(), 2);
        } else {
            late.join().expect("it ends");
            assert_eq!(block.times_freed(), 1);
        }
        assert_eq!((block.state.state(), block.state.live_bytes()), (WblockState::Free, 0));
    });
}

/// A buffer of two records, and the stream that reserves its places.
#[derive(Default)]
struct Buffer {
    block: BlockState,
    mark: FillMark,
    position: Mutex<u32>,
    records: [UnsafeCell<u32>; 2],
}

impl Buffer {
    /// The steps of `OpenBlock::reserve` and `Device::append`.
    fn append(&self) {
        let mut position = self.position.lock().expect("no thread panics");
        let place = *position;
        self.block.begin_write(SIZE);
        *position += SIZE;
        self.mark.reserve(*position);
        drop(position);
        self.records[(place / SIZE) as usize].with_mut(|_| ());
        self.block.end_write();
    }

    /// The steps of a flush.
    fn flush(&self) {
        let end = self.mark.complete(&self.block);
        self.records[..(end / SIZE) as usize].iter().for_each(|record| record.with(|_| ()));
        self.mark.set_flushed(end);
    }
}

#[test]
fn a_flush_reads_only_places_whose_writers_are_done() {
    explore(3, || {
        let buffer = Arc::new(Buffer::default());
        assert!(buffer.block.take());
        let threads: Vec<_> = [Buffer::append as fn(&Buffer), Buffer::append]
            .into_iter()
            .map(|act| {
                let buffer = Arc::clone(&buffer);
                thread::spawn(move || act(&buffer))
            })
            .collect();
        buffer.flush();
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        buffer.flush();
        assert_eq!((buffer.mark.flushed(), buffer.block.live_bytes()), (2 * SIZE, 2 * SIZE));
    });
}
