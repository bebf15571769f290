//! Compresses replies frame by frame, with buffers that all threads share.
//!
//! # Locks
//! One mutex for the spare buffers of each kind, taken alone and briefly.

use std::sync::Arc;

use parking_lot::Mutex;
use proto::compressed::{Deflater, THRESHOLD};
use proto::frame::{FrameHeader, HEADER_SIZE};

use crate::metrics::CompressionFigures;

/// Largest number of spare inflaters, and of spare deflaters.
const SPARES_MAX: usize = 16;

/// Unused inflaters or deflaters.
#[derive(Default)]
pub(super) struct Spares<T>(Mutex<Vec<T>>);

impl<T: Default> Spares<T> {
    /// Runs `act` with a spare inflater or deflater.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        let spare = self.0.lock().pop();
        let mut used = spare.unwrap_or_default();
        let result = act(&mut used);
        let mut spares = self.0.lock();
        if spares.len() < SPARES_MAX {
            spares.push(used);
        }
        result
    }
}

/// Compresses the replies to a request that asked for it.
#[derive(Clone)]
pub(super) struct ReplyCompressor {
    pub(super) deflaters: Arc<Spares<Deflater>>,
    pub(super) figures: Arc<CompressionFigures>,
}

impl ReplyCompressor {
    /// Appends the whole frames in `frames` to `out`, compressed where that makes them smaller.
    pub(super) fn compress(&self, mut frames: &[u8], out: &mut Vec<u8>) {
        let mut small = Vec::new();
        while let Ok(Some(FrameHeader { body_size, .. })) = FrameHeader::parse(frames)
            && let Some((frame, behind)) = frames.split_at_checked(HEADER_SIZE + body_size)
        {
            let is_smaller = frame.len() > THRESHOLD && {
                let is_smaller = self.deflaters.with(|deflater| deflater.deflate(frame, &mut small));
                self.figures.note(frame.len(), is_smaller.then_some(small.len()));
                is_smaller
            };
            out.extend_from_slice(if is_smaller { &small } else { frame });
            frames = behind;
        }
        // The rest is empty unless a frame is incomplete.
        out.extend_from_slice(frames);
    }
}
