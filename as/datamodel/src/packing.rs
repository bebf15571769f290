//! Packed records: their bins are compressed, or have a checksum, or both. The C server marks its own
//! compressed records with the same flag (`compressed`), in a format that is not public; the format here is
//! specific to this server.
//!
//! ```text
//! after the number of bins, in place of the bins:
//! size  content (integers little-endian)
//!    1  bits 0-1 method: 0 none, 1 LZ4 block, 2 raw Snappy, 3 Zstandard frame; 7 removal leaves a tombstone
//!    v  size of the bins (varying)
//!    v  size of the stored bins (varying)
//!    8  checksum: wyhash of two wyhashes: of the record up to here, and of the stored bins
//!    s  the stored bins
//! ```
//! Metadata, set and key stay readable. End mark and padding follow as in every record. The size in the
//! header is that of the packed record. A record is compressed only if that saves a block of 16 bytes. Every
//! record with bins on an encrypted device is packed, because a changed byte there turns 16 bytes into noise,
//! which the checksum detects.

use crate::flat::{END_MARK_SIZE, FlatError, FlatRecord, RBLOCK_SIZE, set_packed};
use crate::flat_bytes::write_varying;
use crate::packed::{CHECKSUM_SIZE, LEAVES_TOMBSTONE, checksum_of};
pub use crate::packed::{Method, Packing};

/// How to pack records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackSettings {
    pub method: Method,
    /// The acceleration of LZ4, at least 1.
    pub acceleration: u32,
    /// The level of Zstandard: 1 to 9.
    pub level: u32,
    /// Whether records that are not compressed get a checksum.
    pub has_checksum: bool,
}

impl PackSettings {
    /// Approximate nanoseconds to pack `size` bytes.
    #[must_use]
    pub const fn pack_steps(&self, size: usize) -> u64 {
        let size = size as u64;
        match self.method {
            Method::None => 0,
            Method::Lz4 | Method::Snappy => 3 * size,
            Method::Zstd => (4 + 3 * self.level as u64) * size,
        }
    }
}

/// Packs records. Its memory is reused.
#[derive(Default)]
pub struct Packer {
    stored: Vec<u8>,
    packed: Vec<u8>,
    snappy: Option<snap::raw::Encoder>,
    /// The compressor, with its current level.
    zstd: Option<(u32, zstd::bulk::Compressor<'static>)>,
}

impl Packer {
    /// Packs the flat record `plain`, whose end mark ends at `size`. Returns whether it was packed; otherwise
    /// the record stays as it is.
    pub fn pack(&mut self, plain: &[u8], size: usize, settings: &PackSettings) -> bool {
        self.try_pack(plain, size, settings).is_some()
    }

    /// The last packed record.
    #[must_use]
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    fn try_pack(&mut self, plain: &[u8], size: usize, settings: &PackSettings) -> Option<()> {
        let record = FlatRecord::parse(plain).ok()?;
        if record.bin_count == 0 || record.packing.is_some() {
            return None;
        }
        let bins_at = plain.len() - record.bins_size();
        let bins = plain.get(bins_at..size.checked_sub(END_MARK_SIZE)?)?;
        let stored_size = self.compress(bins, settings).filter(|stored_size| {
            let saved = bins.len().saturating_sub(stored_size + 1 + 4 + 4 + CHECKSUM_SIZE);
            saved >= RBLOCK_SIZE
        });
        let (method, stored) = match stored_size {
            Some(stored_size) => (settings.method, &self.stored[..stored_size]),
            None if settings.has_checksum => (Method::None, bins),
            None => return None,
        };
        let out = &mut self.packed;
        out.clear();
        out.extend_from_slice(&plain[..bins_at]);
        out.push(method as u8 | if record.leaves_tombstone { LEAVES_TOMBSTONE } else { 0 });
        write_varying(bins.len(), out);
        write_varying(stored.len(), out);
        let size = out.len() + CHECKSUM_SIZE + stored.len() + END_MARK_SIZE;
        set_packed(out, size, true)?;
        let checksum = checksum_of(out, stored);
        out.extend_from_slice(&checksum);
        out.extend_from_slice(stored);
        out.extend_from_slice(&record.expected_end_mark().to_le_bytes());
        out.resize(size.next_multiple_of(RBLOCK_SIZE), 0);
        Some(())
    }

    /// Compresses `bins` to the start of `stored` if that makes them smaller. Returns the new size.
    fn compress(&mut self, bins: &[u8], settings: &PackSettings) -> Option<usize> {
        let size_max = match settings.method {
            Method::None => return None,
            Method::Lz4 => lz4::block::compress_bound(bins.len()).ok()?,
            Method::Snappy => snap::raw::max_compress_len(bins.len()),
            Method::Zstd => bins.len(),
        };
        if self.stored.len() < size_max {
            self.stored.resize(size_max, 0);
        }
        let room = &mut self.stored[..size_max];
        let size = match settings.method {
            Method::None => None,
            Method::Lz4 => {
                let mode = lz4::block::CompressionMode::FAST(settings.acceleration.max(1) as i32);
                lz4::block::compress_to_buffer(bins, Some(mode), false, room).ok()
            }
            Method::Snappy => {
                self.snappy.get_or_insert_with(snap::raw::Encoder::new).compress(bins, room).ok()
            }
            Method::Zstd => {
                if self.zstd.as_ref().is_none_or(|(level, _)| *level != settings.level) {
                    let made = zstd::bulk::Compressor::new(settings.level as i32).ok()?;
                    self.zstd = Some((settings.level, made));
                }
                let (_, compressor) = self.zstd.as_mut()?;
                // This fails if the room is too small.
                compressor.compress_to_buffer(bins, room).ok()
            }
        };
        size.filter(|size| *size < bins.len())
    }
}

/// Unpacks records. Its memory is reused.
#[derive(Default)]
pub struct Unpacker {
    plain: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unpacker of {} bytes", self.plain.len())
    }
}

impl Unpacker {
    /// The unpacked form of `record`.
    ///
    /// # Errors
    /// When the stored bins are damaged.
    pub fn unpack(&mut self, record: &FlatRecord<'_>) -> Result<&[u8], FlatError> {
        let packing = record.packing.as_ref().ok_or(FlatError::Unsupported)?;
        let stored = record.stored();
        packing.check(stored)?;
        let stored = &stored[..packing.stored_size as usize];
        let out = &mut self.plain;
        out.clear();
        out.extend_from_slice(packing.head.get(..packing.start as usize).ok_or(FlatError::Size)?);
        let start = out.len();
        let size = start + packing.original_size as usize + END_MARK_SIZE;
        set_packed(out, size, false).ok_or(FlatError::Size)?;
        out.resize(start + packing.original_size as usize, 0);
        let room = &mut out[start..];
        let unpacked_size = match packing.method {
            Method::None => {
                room.copy_from_slice(stored);
                Some(stored.len())
            }
            Method::Lz4 => {
                lz4::block::decompress_to_buffer(stored, Some(packing.original_size as i32), room).ok()
            }
            Method::Snappy => snap::raw::Decoder::new().decompress(stored, room).ok(),
            Method::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                self.zstd.as_mut().and_then(|zstd| zstd.decompress_to_buffer(stored, room).ok())
            }
        };
        if unpacked_size != Some(packing.original_size as usize) {
            return Err(FlatError::Checksum);
        }
        out.extend_from_slice(&record.expected_end_mark().to_le_bytes());
        out.resize(size.next_multiple_of(RBLOCK_SIZE), 0);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use cf::Digest;
    use cf::wyhash::hash64;
    use proptest::prelude::*;

    use super::*;
    use crate::bins::{Bin, Bins};
    use crate::flat::NewRecord;
    use crate::particle::{BytesType, Particle};

    const METHODS: [Method; 4] = [Method::None, Method::Lz4, Method::Snappy, Method::Zstd];

    fn settings(method: Method) -> PackSettings {
        PackSettings { method, acceleration: 1, level: 3, has_checksum: true }
    }

    /// A flat record with one bin, and the end of its end mark.
    fn record(value: &[u8], leaves_tombstone: bool) -> (Vec<u8>, usize) {
        let new = NewRecord {
            digest: Digest([7; 20]),
            last_update_time: 1_234_567,
            generation: 9,
            void_time: 77,
            tree_id: 3,
            set_name: b"set",
            key: Some(b"\x03key"),
            leaves_tombstone,
        };
        let mut bins = Bins::new();
        bins.push(Bin { name: b"bin", particle: Particle::Bytes(BytesType::Blob, value.into()) });
        let (size, mut out) = (new.size(&bins), Vec::new());
        new.encode(&bins, size, &mut out);
        (out, size)
    }

    fn text(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n / 50) as u8).collect()
    }

    #[test]
    fn packed_records_are_unpacked_unchanged() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for method in METHODS {
            for (size, leaves) in [(10, false), (200, true), (5_000, false), (1 << 20, true)] {
                let (plain, end) = record(&text(size), leaves);
                assert!(packer.pack(&plain, end, &settings(method)));
                let packed = packer.packed().to_vec();
                let parsed = FlatRecord::parse(&packed).expect("a record");
                assert_eq!(
                    (parsed.size, parsed.leaves_tombstone),
                    (packed.len(), leaves),
                    "{method:?} {size}"
                );
                let known = FlatRecord::parse(&plain).expect("a record");
                assert_eq!((parsed.digest, parsed.generation, parsed.void_time), (known.digest, 9, 77));
                assert_eq!((parsed.set_name, parsed.key, parsed.bin_count), (known.set_name, known.key, 1));
                assert_eq!(parsed.verify_with_padding(), Ok(()));
                assert_eq!(FlatRecord::end_by_parts(&packed), Some(packed.len()));
                let is_compressed = method != Method::None && size > 100;
                assert_eq!(packed.len() < plain.len(), is_compressed);
                assert_eq!(parsed.packing.map(|packing| packing.method != Method::None), Some(is_compressed));
                assert_eq!(parsed.bins().count(), 1);
                assert_eq!(parsed.bins().all(|bin| bin.is_ok()), !is_compressed);
                assert_eq!(unpacker.unpack(&parsed).expect("whole"), plain, "{method:?} {size}");
            }
        }
    }

    #[test]
    fn records_that_do_not_shrink_stay_unchanged() {
        let noise: Vec<u8> = (0..100_u64).flat_map(|n| hash64(&n.to_le_bytes()).to_le_bytes()).collect();
        let (plain, end) = record(&noise, false);
        for method in METHODS {
            let bare = PackSettings { has_checksum: false, ..settings(method) };
            assert!(!Packer::default().pack(&plain, end, &bare));
        }
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_detected(
            method in prop::sample::select(METHODS.to_vec()),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
            size in 1..3_000_usize,
        ) {
            let (plain, end) = record(&text(size), false);
            let mut packer = Packer::default();
            prop_assert!(packer.pack(&plain, end, &settings(method)));
            let mut packed = packer.packed().to_vec();
            let padding = packed.len() - packed.iter().rposition(|byte| *byte != 0).expect("a mark") - 1;
            let at = at.index(packed.len() - padding.min(RBLOCK_SIZE));
            packed[at] ^= change;
            // The top bit of the end mark is not used.
            let is_told = match FlatRecord::parse(&packed) {
                Ok(record) => record.verify().is_err() || Unpacker::default().unpack(&record).is_err(),
                Err(_) => true,
            };
            let is_spare_bit = change == 0x80 && at >= packed.len() - 20;
            prop_assert!(is_told || is_spare_bit, "byte {at}");
        }

        #[test]
        fn any_bytes_behind_a_header_are_unpacked_or_refused(
            method in 0..4_u8,
            original_size in 0..70_000_usize,
            stored in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            // The record is packed as the server does it, with a valid checksum and invalid content.
            let (plain, _) = record(b"x", false);
            let bins_at = plain.len() - FlatRecord::parse(&plain).expect("a record").bins_size();
            let mut out = plain[..bins_at].to_vec();
            out.push(method);
            write_varying(original_size, &mut out);
            write_varying(stored.len(), &mut out);
            let size = out.len() + CHECKSUM_SIZE + stored.len() + END_MARK_SIZE;
            set_packed(&mut out, size, true).expect("small");
            let checksum = checksum_of(&out, &stored);
            out.extend_from_slice(&checksum);
            out.extend_from_slice(&stored);
            out.resize(size.next_multiple_of(RBLOCK_SIZE), 0);
            if let Ok(record) = FlatRecord::parse(&out) {
                let _ = Unpacker::default().unpack(&record);
            }
        }
    }
}
