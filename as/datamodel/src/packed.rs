//! The stored bins of a packed record: [`packing`](crate::packing) packs them and describes the format.

use cf::wyhash::hash64;

use crate::flat_bytes::{FlatError, take_chunk, take_varying};

/// Maximum size of a record's bins, in bytes.
const BINS_SIZE_MAX: usize = 8 << 20;
/// Bytes of the checksum.
pub(crate) const CHECKSUM_SIZE: usize = 8;
const METHOD_MASK: u8 = 0x03;
pub(crate) const LEAVES_TOMBSTONE: u8 = 0x80;

/// The way in which bins are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Method {
    /// The bins are not compressed.
    None = 0,
    Lz4 = 1,
    Snappy = 2,
    Zstd = 3,
}

impl Method {
    /// Approximate nanoseconds to unpack `size` bytes.
    #[must_use]
    pub const fn unpack_steps(self, size: usize) -> u64 {
        match self {
            Method::None => 0,
            Method::Lz4 => size as u64 / 2,
            Method::Snappy => size as u64,
            Method::Zstd => 2 * size as u64,
        }
    }
}

/// The position and method of the packing in a packed record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing<'a> {
    pub method: Method,
    /// The record up to the stored bins.
    pub(crate) head: &'a [u8],
    /// The offset of the packing in the record.
    pub(crate) start: u32,
    /// Size of the bins.
    pub original_size: u32,
    /// Size of the stored bins.
    pub stored_size: u32,
}

impl<'a> Packing<'a> {
    /// Reads the packing at the start of `rest`, which follows the number of bins of `record`, and advances
    /// `rest` to the stored bins. Also returns whether the record leaves a tombstone.
    pub(crate) fn take(record: &'a [u8], rest: &mut &'a [u8]) -> Result<(Self, bool), FlatError> {
        let position = |rest: &[u8]| record.len() - rest.len();
        let start = position(rest) as u32;
        let [flags] = *take_chunk(rest)?;
        let method = match flags & METHOD_MASK {
            0 => Method::None,
            1 => Method::Lz4,
            2 => Method::Snappy,
            _ => Method::Zstd,
        };
        if flags & !(METHOD_MASK | LEAVES_TOMBSTONE) != 0 {
            return Err(FlatError::Unsupported);
        }
        let original_size = take_varying(rest)?;
        let stored_size = take_varying(rest)?;
        take_chunk::<CHECKSUM_SIZE>(rest)?;
        let is_possible = original_size <= BINS_SIZE_MAX
            && stored_size <= original_size
            && (method != Method::None || stored_size == original_size);
        if !is_possible || stored_size > rest.len() {
            return Err(FlatError::Size);
        }
        let packing = Packing {
            method,
            head: &record[..position(rest)],
            start,
            original_size: original_size as u32,
            stored_size: stored_size as u32,
        };
        Ok((packing, flags & LEAVES_TOMBSTONE != 0))
    }

    /// Checks `stored` against the checksum. Bytes after the bins are ignored.
    pub(crate) fn check(&self, stored: &[u8]) -> Result<(), FlatError> {
        let stored = stored.get(..self.stored_size as usize).ok_or(FlatError::Size)?;
        let (checked, checksum) = self.head.split_last_chunk::<CHECKSUM_SIZE>().ok_or(FlatError::Size)?;
        if checksum_of(checked, stored) == *checksum { Ok(()) } else { Err(FlatError::Checksum) }
    }
}

pub(crate) fn checksum_of(head: &[u8], stored: &[u8]) -> [u8; CHECKSUM_SIZE] {
    let mut hashes = [0; 16];
    hashes[..8].copy_from_slice(&hash64(head).to_le_bytes());
    hashes[8..].copy_from_slice(&hash64(stored).to_le_bytes());
    hash64(&hashes).to_le_bytes()
}
