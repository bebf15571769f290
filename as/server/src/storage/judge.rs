//! Distinguishes damage from the traces of writes that a crash cut short, after all disks are loaded.
//! `suspect` explains the rules.

use datamodel::flat::FlatRecord;
use datamodel::wblock_scan::{Piece, WblockScan, is_zero};

use super::device::location_in;
use super::load::DiskLoad;
use super::read_buffer::DiskBuffer;
use super::suspect::Suspect;
use super::wblock::{WblockId, wblock_offset};
use super::{RBLOCK_SIZE, WBLOCK_SIZE};

impl DiskLoad<'_> {
    /// Judges the suspects after all disks are loaded, and reports those that are damage.
    pub(super) fn judge_suspects(&self) {
        let mut suspects = std::mem::take(&mut *self.suspects.lock());
        suspects.sort_unstable_by_key(|suspect| (suspect.block, suspect.offset));
        let mut scratch = DiskBuffer::new();
        for of_block in suspects.chunk_by(|a, b| a.block == b.block) {
            let id = of_block[0].block;
            let block = scratch.of_size(WBLOCK_SIZE as usize);
            if self.source.read_at(wblock_offset(id), block, 0..WBLOCK_SIZE as usize).is_err() {
                block.fill(0);
            }
            let block = &block[..WBLOCK_SIZE as usize];
            let live_end = self.live_end(id, block);
            for suspect in of_block {
                if suspect.offset < live_end || !is_cut_short(block, suspect, self.scan(id, block)) {
                    self.report_suspect(block, suspect);
                } else {
                    self.report_cut_short(suspect);
                }
            }
        }
    }

    /// The end of the last record in `block`, which has number `id`, that the index points to.
    fn live_end(&self, id: WblockId, block: &[u8]) -> usize {
        let mut live_end = 0;
        for piece in self.scan(id, block) {
            if let Piece::Record { offset, record } = piece {
                let place = location_in(self.device, id, offset, record.size);
                let element = self.context.index().get(&record.digest);
                if element.is_some_and(|element| element.location.same_place(place)) {
                    live_end = offset + record.size;
                }
            }
        }
        live_end
    }

    fn report_cut_short(&self, suspect: &Suspect) {
        cf::info_limited!(
            Storage,
            "{}: at offset {}: {} bytes were left out: they remain from an incomplete write, or from former records",
            self.source.path().display(),
            wblock_offset(suspect.block) + suspect.offset as u64,
            suspect.size
        );
    }
}

/// Whether a write that was cut short may have left `suspect` in `block`, where nothing after it is alive.
fn is_cut_short(block: &[u8], suspect: &Suspect, mut scan: WblockScan<'_>) -> bool {
    if suspect.reason.is_none() {
        return true;
    }
    let end = suspect.offset + suspect.size;
    let rest = block.get(suspect.offset..).unwrap_or_default();
    let size = FlatRecord::stated_size(rest).unwrap_or(suspect.size).min(rest.len());
    // The end of a record is never zeros; a torn record on unwritten bytes ends in zeros.
    let tail = &rest[size.saturating_sub(RBLOCK_SIZE as usize)..size];
    is_zero(tail) || !scan.is_end(end)
}
