//! Places in write blocks, reserved for records that are being written.
//!
//! Opening a block requires the proof that it was taken, and its places are assigned one after the other, so
//! no two [`Reservation`]s overlap. No thread reads a place before its reservation ends, because no index
//! element points there and a flush waits for the block's writers.
//!
//! # Locking
//! An [`OpenBlock`] is used under its stream's lock; a reservation outlives that lock.

pub(super) mod place;

use std::sync::Arc;

use super::buffer::WriteBuffer;
use super::stripe::Stripe;
use super::wblock::{Taken, WblockTable};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};
use crate::index::Location;
use place::ReservedPlace;

/// The sources of appended records. Each fills a write block of its own, so that records of similar lifetime
/// stay together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Write = 0,
    Defrag = 1,
}
pub(super) const STREAM_COUNT: usize = 2;

/// The block that a stream fills.
pub(super) struct OpenBlock {
    taken: Taken,
    /// Bytes assigned so far.
    position: u32,
    /// The buffer; only on a disk.
    buffer: Option<Arc<WriteBuffer>>,
}

impl OpenBlock {
    /// Opens a block in memory.
    pub(super) fn in_memory(taken: Taken) -> Self {
        OpenBlock { taken, position: 0, buffer: None }
    }

    /// Opens a block that is written to disk from `buffer`.
    pub(super) fn buffered(taken: Taken, buffer: Arc<WriteBuffer>) -> Self {
        assert!(buffer.is_for(&taken), "a buffer is for the block that was taken");
        OpenBlock { taken, position: 0, buffer: Some(buffer) }
    }

    pub(super) fn buffer(&self) -> Option<&WriteBuffer> {
        self.buffer.as_deref()
    }

    /// Ends filling the block.
    pub(super) fn into_taken(self) -> Taken {
        self.taken
    }

    /// Whether `size` more bytes fit.
    pub(super) fn has_room(&self, size: u32) -> bool {
        size <= WBLOCK_SIZE - self.position
    }

    /// Reserves the next `size` bytes, whose writer counts as busy until the reservation is dropped.
    pub(super) fn reserve<'d>(&mut self, wblocks: &'d WblockTable, size: u32) -> Reservation<'d> {
        assert!(
            size.is_multiple_of(RBLOCK_SIZE) && size > 0 && self.has_room(size),
            "a record fits its block"
        );
        assert_eq!(self.taken.device(), wblocks.device(), "a block belongs to one table");
        let (id, offset) = (self.taken.id(), self.position);
        // The writer must be announced before the mark moves, so that a flush that sees the new mark waits
        // for the writer.
        wblocks.begin_write(id, size);
        self.position += size;
        let place = ReservedPlace::new(wblocks, id, offset, size);
        if let Some(buffer) = &self.buffer {
            buffer.follow(&place);
        }
        Reservation { place, buffer: self.buffer.clone() }
    }
}

/// A reserved place, with its buffer.
pub(super) struct Reservation<'d> {
    place: ReservedPlace<'d>,
    /// The buffer; only on a disk.
    buffer: Option<Arc<WriteBuffer>>,
}

impl Reservation<'_> {
    /// Copies a record to the place: into `stripe`, if the device has one, or else into the buffer.
    pub(super) fn fill(&mut self, stripe: Option<&Stripe>, record: &[u8]) {
        match (stripe, &self.buffer) {
            (Some(stripe), _) => stripe.fill(&mut self.place, record),
            (None, Some(buffer)) => buffer.fill(&mut self.place, record),
            (None, None) => unreachable!("a block is in a stripe or has a buffer"),
        }
    }

    pub(super) fn location(&self) -> Location {
        self.place.location()
    }
}
