//! The flat record: one format for memory stripes, devices and messages between nodes.
//!
//! ```text
//! offset  size  content (integers little-endian)
//!      0     4  magic 0x037AF201
//!      4     4  bits 0-18 size in 16-byte blocks, less 1; 19 has void-time; 20 has set; 21 has key; 22 has bins;
//!               23 compressed; 24 XDR write; 25 has extra flags; 26-31 tree id
//!      8    20  digest
//!     28     5  last-update-time, milliseconds since 2010-01-01
//!     33     2  generation, never 0
//!     35        optional, in this order: extra flags u8; void-time u32; set name size u8 and name;
//!               key size (varying) and key (particle type byte and bytes); number of bins (varying)
//!               then the bins: name size u8, name, particle (see `particle`)
//!               end mark u32: low 31 bits of the wyhash of digest and last-update-time
//!               zeros up to a multiple of 16
//! ```
//! A record with the flag *compressed* is packed, in a format that is specific to this server: see
//! [`packing`](crate::packing).
//!
//! Between name and particle a bin may have metadata: a byte of flags, always with 0x80, and the data that
//! they announce. A record that was created over a tombstone leaves a tombstone when it is deleted. Such a
//! record is marked by the byte 0x80 alone in its first bin. The C server ignores that byte and never writes
//! it.
//!
//! A varying number has 7 bits a byte, most significant first; a set top bit means that more bytes follow.

use cf::Digest;

use crate::bins::{self, BIN_COUNT_MAX, BIN_NAME_SIZE_MAX, Bin, Bins, TABLE_BINS_MIN};
use crate::budget::copy_steps;
use crate::flat_bytes::{take, take_chunk, take_varying, varying_size, write_varying};
use crate::packed::{Method, Packing};
use crate::particle::Particle;

pub use crate::flat_bytes::FlatError;

/// Unit of record sizes and offsets: every record starts and ends on a multiple of it.
pub const RBLOCK_SIZE: usize = 16;
/// First four bytes of a record.
pub const MAGIC: u32 = 0x037A_F201;
/// Bytes before the optional parts.
pub const HEADER_SIZE: usize = 35;
/// Bytes of the end mark.
pub const END_MARK_SIZE: usize = 4;
/// Longest set name in bytes.
pub const SET_NAME_SIZE_MAX: usize = 63;
/// So many bin lookups, or more, are faster in [loaded](FlatRecord::load_bins) bins than as walks over the record.
pub const LOOKUPS_TO_LOAD: u64 = 4;

const HAS_VOID_TIME: u32 = 1 << 19;
const HAS_SET: u32 = 1 << 20;
const HAS_KEY: u32 = 1 << 21;
const HAS_BINS: u32 = 1 << 22;
const IS_COMPRESSED: u32 = 1 << 23;
const HAS_EXTRA_FLAGS: u32 = 1 << 25;
const RBLOCKS_MASK: u32 = (1 << 19) - 1;
const TREE_ID_SHIFT: u32 = 26;
const BIN_HAS_METADATA: u8 = 0x80;
const BIN_HAS_LAST_UPDATE_TIME: u8 = 0x01;
const BIN_HAS_SOURCE_ID: u8 = 0x02;
const BIN_UNKNOWN_FLAGS: u8 = 0x5C;

/// Price of one bin in a walk over the bins.
const BIN_WALK_STEPS: u64 = 10;
/// The same with an entry in a table of names.
const BIN_TABLE_STEPS: u64 = 60;

/// A record's metadata and the bytes of its bins, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatRecord<'a> {
    pub digest: Digest,
    /// Milliseconds since 2010-01-01, 40 bits.
    pub last_update_time: u64,
    pub generation: u16,
    /// Seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
    pub tree_id: u8,
    /// Empty if the record is in no set.
    pub set_name: &'a [u8],
    /// Particle type byte and bytes.
    pub key: Option<&'a [u8]>,
    pub bin_count: u32,
    /// Whether a deletion of the record must leave a tombstone.
    pub leaves_tombstone: bool,
    /// Stored size in bytes, a multiple of 16.
    pub size: usize,
    /// How the bins of the record are packed, if they are. Compressed bins can be read only after the record
    /// is [unpacked](crate::packing::Unpacker).
    pub packing: Option<Packing<'a>>,
    /// The bytes of the bins, and everything after them.
    bins: &'a [u8],
}

// A move of more bytes would call memcpy, and each read moves the record.
const _: () = assert!(size_of::<FlatRecord<'_>>() <= 128);

impl<'a> FlatRecord<'a> {
    /// The size that the record at the start of `bytes` states. It is between 16 bytes and 8 MiB, and not
    /// verified.
    #[must_use]
    pub fn stated_size(bytes: &[u8]) -> Option<usize> {
        let flags = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        Some(((flags & RBLOCKS_MASK) as usize + 1) * RBLOCK_SIZE)
    }

    /// Reads the record at the start of `bytes`, but not its bins.
    ///
    /// # Errors
    /// When there is no record, or this version cannot read it.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FlatError> {
        let header = bytes.first_chunk::<HEADER_SIZE>().ok_or(FlatError::Size)?;
        if le_u32(header, 0) != MAGIC {
            return Err(FlatError::Magic);
        }
        Self::parse_whatever_magic(bytes)
    }

    /// Same as [`parse`](Self::parse), but ignores the magic. It is for bytes that must be a record because
    /// of their position. The caller must [verify](Self::verify) the record before using it.
    ///
    /// # Errors
    /// The errors of [`parse`](Self::parse) except `Magic`.
    #[inline]
    pub fn parse_whatever_magic(bytes: &'a [u8]) -> Result<Self, FlatError> {
        Self::parse_within(bytes, Self::stated_size(bytes).ok_or(FlatError::Size)?)
    }

    /// Number of bytes that a check of the record at the start of `bytes` hashes, whatever size the record
    /// states.
    pub(crate) fn hashed_size(bytes: &'a [u8]) -> usize {
        let record = Self::parse_within(bytes, bytes.len()).ok();
        record.and_then(|record| record.packing).map_or(0, |packing| packing.stored_size as usize)
    }

    /// The record at the start of `bytes` in the form that nodes send: without end mark and padding, and with
    /// the size of the remaining bytes. `None` if it is damaged.
    #[must_use]
    pub fn without_end(bytes: &'a [u8]) -> Option<Vec<u8>> {
        let record = Self::parse(bytes).ok()?;
        let mut bins = record.bins();
        bins.by_ref().try_for_each(|bin| bin.map(drop)).ok()?;
        let mut sent = bytes.get(..record.size - bins.bytes.len())?.to_vec();
        let rblocks = sent.len().div_ceil(RBLOCK_SIZE) as u32 - 1;
        let flags: &mut [u8; 4] = sent.get_mut(4..)?.first_chunk_mut()?;
        *flags = (u32::from_le_bytes(*flags) & !RBLOCKS_MASK | rblocks).to_le_bytes();
        Some(sent)
    }

    /// The end of the record at the start of `bytes`, computed from its parts; magic and stated size are
    /// ignored. `None` unless all parts can be read and the end mark fits.
    #[must_use]
    pub fn end_by_parts(bytes: &'a [u8]) -> Option<usize> {
        let record = Self::parse_within(bytes, bytes.len()).ok()?;
        let behind = record.behind_bins().ok()?;
        let mark = u32::from_le_bytes(*behind.first_chunk()?) & 0x7FFF_FFFF;
        let end = bytes.len() - behind.len() + END_MARK_SIZE;
        (mark == end_mark(&record.digest, record.last_update_time))
            .then(|| end.next_multiple_of(RBLOCK_SIZE))
            .filter(|end| *end <= bytes.len())
    }

    /// Reads the record in the first `size` bytes of `bytes`.
    #[inline]
    fn parse_within(bytes: &'a [u8], size: usize) -> Result<Self, FlatError> {
        let header = bytes.first_chunk::<HEADER_SIZE>().ok_or(FlatError::Size)?;
        let flags = le_u32(header, 4);
        let mut rest = bytes.get(HEADER_SIZE..size).ok_or(FlatError::Size)?;
        let mut digest = Digest::default();
        digest.0.copy_from_slice(&header[8..28]);
        let last_update_time = u64::from(le_u32(header, 28)) | u64::from(header[32]) << 32;
        let generation = u16::from_le_bytes([header[33], header[34]]);
        if generation == 0 {
            return Err(FlatError::Metadata);
        }
        if flags & HAS_EXTRA_FLAGS != 0 {
            return Err(FlatError::Unsupported);
        }
        let mut void_time = 0;
        if flags & HAS_VOID_TIME != 0 {
            void_time = u32::from_le_bytes(*take_chunk(&mut rest)?);
        }
        let mut set_name = &[][..];
        if flags & HAS_SET != 0 {
            let [name_size] = *take_chunk(&mut rest)?;
            if name_size == 0 || usize::from(name_size) > SET_NAME_SIZE_MAX {
                return Err(FlatError::Metadata);
            }
            set_name = take(&mut rest, usize::from(name_size))?;
        }
        let mut key = None;
        if flags & HAS_KEY != 0 {
            let key_size = take_varying(&mut rest)?;
            if key_size == 0 {
                return Err(FlatError::Metadata);
            }
            key = Some(take(&mut rest, key_size)?);
        }
        let mut bin_count = 0;
        if flags & HAS_BINS != 0 {
            let count = take_varying(&mut rest)?;
            if count == 0 || count > BIN_COUNT_MAX {
                return Err(FlatError::Metadata);
            }
            bin_count = count as u32;
        }
        let mut leaves_tombstone = bin_count > 0 && has_empty_metadata(rest);
        let mut packing = None;
        if flags & IS_COMPRESSED != 0 {
            if bin_count == 0 {
                return Err(FlatError::Metadata);
            }
            let (found, leaves) = Packing::take(&bytes[..size], &mut rest)?;
            (packing, leaves_tombstone) = (Some(found), leaves);
        }
        Ok(FlatRecord {
            digest,
            last_update_time,
            generation,
            void_time,
            tree_id: (flags >> TREE_ID_SHIFT) as u8,
            set_name,
            key,
            bin_count,
            leaves_tombstone,
            size,
            packing,
            bins: rest,
        })
    }

    /// The bins, in order; the iteration ends after the first damaged one. Compressed bins count as damaged.
    #[inline]
    #[must_use]
    pub fn bins(&self) -> FlatBins<'a> {
        let bytes = if self.is_compressed() { &[] } else { self.bins };
        FlatBins { bytes, left: self.bin_count as usize }
    }

    /// Whether the record must be unpacked before its bins can be read.
    #[inline]
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.packing.is_some_and(|packing| packing.method != Method::None)
    }

    /// The stored bytes of the bins, and everything after them.
    pub(crate) fn stored(&self) -> &'a [u8] {
        self.bins
    }

    /// Bytes from the first bin to the end of the record.
    pub(crate) fn bins_size(&self) -> usize {
        self.bins.len()
    }

    /// The end mark that belongs to the record.
    pub(crate) fn expected_end_mark(&self) -> u32 {
        end_mark(&self.digest, self.last_update_time)
    }

    /// The bytes after the bins. Each bin is checked; the bins of a packed record are checked by the
    /// checksum.
    fn behind_bins(&self) -> Result<&'a [u8], FlatError> {
        if let Some(packing) = &self.packing {
            packing.check(self.bins)?;
            return self.bins.get(packing.stored_size as usize..).ok_or(FlatError::Size);
        }
        let mut bins = self.bins();
        for bin in bins.by_ref() {
            bin?;
        }
        Ok(bins.bytes)
    }

    /// The value of bin `name`.
    ///
    /// # Errors
    /// When an earlier bin is damaged.
    pub fn bin(&self, name: &[u8]) -> Result<Option<Particle<'a>>, FlatError> {
        for bin in self.bins() {
            let bin = bin?;
            if bin.name == name {
                return Ok(Some(bin.particle));
            }
        }
        Ok(None)
    }

    /// Price of a bin lookup, or of any other walk to the last bin.
    #[must_use]
    pub const fn lookup_steps(&self) -> u64 {
        BIN_WALK_STEPS * self.bin_count as u64
    }

    /// Price of a copy of all bins into a reply.
    #[must_use]
    pub const fn copy_steps(&self) -> u64 {
        copy_steps(self.size) + BIN_WALK_STEPS * self.bin_count as u64
    }

    /// Price of [`load_bins`](Self::load_bins) and a lookup by name, for which many bins get a table.
    #[must_use]
    pub const fn load_steps(&self) -> u64 {
        let bin_steps = if self.bin_count < TABLE_BINS_MIN as u32 { BIN_WALK_STEPS } else { BIN_TABLE_STEPS };
        bin_steps * self.bin_count as u64
    }

    /// Price of `count` bin lookups, in loaded bins if there are [`LOOKUPS_TO_LOAD`] or more.
    #[must_use]
    pub const fn lookups_steps(&self, count: u64) -> u64 {
        if count < LOOKUPS_TO_LOAD {
            count * self.lookup_steps()
        } else {
            self.load_steps() + count * bins::lookup_steps(self.bin_count as usize)
        }
    }

    /// All bins, as changeable values.
    ///
    /// # Errors
    /// When one is damaged.
    pub fn load_bins(&self) -> Result<Bins<'a>, FlatError> {
        let mut bins = Bins::new();
        self.load_bins_into(&mut bins)?;
        Ok(bins)
    }

    /// Adds all bins to `bins` in place, because they are too large to be moved for each write.
    ///
    /// # Errors
    /// When one is damaged.
    #[inline]
    pub fn load_bins_into(&self, bins: &mut Bins<'a>) -> Result<(), FlatError> {
        for bin in self.bins() {
            bins.push(bin?);
        }
        Ok(())
    }

    /// Checks every bin and the end mark. A cold start does this before it accepts a record.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn verify(&self) -> Result<(), FlatError> {
        self.checked_end().map(drop)
    }

    /// The bytes after the bins, after the checks of [`verify`](Self::verify).
    fn checked_end(&self) -> Result<&'a [u8], FlatError> {
        let behind = self.behind_bins()?;
        let mark = behind.first_chunk().ok_or(FlatError::Size)?;
        if u32::from_le_bytes(*mark) & 0x7FFF_FFFF != self.expected_end_mark() {
            return Err(FlatError::EndMark);
        }
        // If a damaged size is too large, the record would include the records after it.
        if behind.len() < END_MARK_SIZE + RBLOCK_SIZE { Ok(behind) } else { Err(FlatError::Size) }
    }

    /// Same as [`verify`](Self::verify), and also checks that the bytes after the end mark are zeros. A
    /// client can then hardly have made the record.
    ///
    /// # Errors
    /// Same errors as [`verify`](Self::verify).
    pub fn verify_with_padding(&self) -> Result<(), FlatError> {
        let padding = self.checked_end()?.get(END_MARK_SIZE..).unwrap_or_default();
        if padding.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(FlatError::Size) }
    }
}

/// Iterator over the bins of a flat record.
#[derive(Clone, Debug)]
pub struct FlatBins<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> FlatBins<'a> {
    #[inline]
    fn take_bin(&mut self) -> Result<Bin<'a>, FlatError> {
        let mut rest = self.bytes;
        let [name_size] = *take_chunk(&mut rest)?;
        if usize::from(name_size) > BIN_NAME_SIZE_MAX {
            return Err(FlatError::Metadata);
        }
        let name = take(&mut rest, usize::from(name_size))?;
        if let Some(&flags) = rest.first()
            && flags & BIN_HAS_METADATA != 0
        {
            if flags & BIN_UNKNOWN_FLAGS != 0 {
                return Err(FlatError::Unsupported);
            }
            // A bin's own last-update-time and source are needed only for replication between clusters.
            let last_update_time_size = if flags & BIN_HAS_LAST_UPDATE_TIME != 0 { 5 } else { 0 };
            let source_id_size = usize::from(flags & BIN_HAS_SOURCE_ID != 0);
            take(&mut rest, 1 + last_update_time_size + source_id_size)?;
        }
        let (particle, rest) = Particle::split_flat(rest).map_err(|_| FlatError::Particle)?;
        self.bytes = rest;
        Ok(Bin { name, particle })
    }
}

impl<'a> Iterator for FlatBins<'a> {
    type Item = Result<Bin<'a>, FlatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let bin = self.take_bin();
        if bin.is_err() {
            self.left = 0;
        }
        Some(bin)
    }
}

/// A record that is about to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    pub digest: Digest,
    pub last_update_time: u64,
    pub generation: u16,
    pub void_time: u32,
    pub tree_id: u8,
    pub set_name: &'a [u8],
    pub key: Option<&'a [u8]>,
    /// See [`FlatRecord::leaves_tombstone`]. It has no effect without bins.
    pub leaves_tombstone: bool,
}

impl NewRecord<'_> {
    /// Number of bytes including the end mark. The record size limit applies to this number.
    #[must_use]
    pub fn size(&self, bins: &Bins<'_>) -> usize {
        let mut size = HEADER_SIZE + END_MARK_SIZE;
        if self.void_time != 0 {
            size += 4;
        }
        if !self.set_name.is_empty() {
            size += 1 + self.set_name.len();
        }
        if let Some(key) = self.key {
            size += varying_size(key.len()) + key.len();
        }
        if !bins.is_empty() {
            size += varying_size(bins.len()) + usize::from(self.leaves_tombstone);
        }
        size + bins.iter().map(|bin| 1 + bin.name.len() + bin.particle.flat_size()).sum::<usize>()
    }

    /// Writes the flat record with `bins`, end mark and padding to `out`, and replaces the content of `out`.
    /// `size` is the result of [`size`](Self::size).
    ///
    /// # Panics
    /// If the record has more blocks than the format allows; the record size limit excludes that.
    pub fn encode(&self, bins: &Bins<'_>, size: usize, out: &mut Vec<u8>) {
        let rblocks = size.div_ceil(RBLOCK_SIZE);
        assert!(rblocks - 1 <= RBLOCKS_MASK as usize, "record of {size} bytes exceeds the flat format");
        out.clear();
        out.reserve(rblocks * RBLOCK_SIZE);
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = (rblocks - 1) as u32
            | flag(self.void_time != 0, HAS_VOID_TIME)
            | flag(!self.set_name.is_empty(), HAS_SET)
            | flag(self.key.is_some(), HAS_KEY)
            | flag(!bins.is_empty(), HAS_BINS)
            | u32::from(self.tree_id) << TREE_ID_SHIFT;
        let mut header = [0; HEADER_SIZE];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&flags.to_le_bytes());
        header[8..28].copy_from_slice(&self.digest.0);
        header[28..33].copy_from_slice(&self.last_update_time.to_le_bytes()[..5]);
        header[33..].copy_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&header);
        if self.void_time != 0 {
            out.extend_from_slice(&self.void_time.to_le_bytes());
        }
        if !self.set_name.is_empty() {
            out.push(self.set_name.len() as u8);
            out.extend_from_slice(self.set_name);
        }
        if let Some(key) = self.key {
            write_varying(key.len(), out);
            out.extend_from_slice(key);
        }
        if !bins.is_empty() {
            write_varying(bins.len(), out);
        }
        let mut says_leaves_tombstone = self.leaves_tombstone;
        for bin in bins {
            out.push(bin.name.len() as u8);
            out.extend_from_slice(bin.name);
            if std::mem::take(&mut says_leaves_tombstone) {
                out.push(BIN_HAS_METADATA);
            }
            bin.particle.write_flat(out);
        }
        out.extend_from_slice(&end_mark(&self.digest, self.last_update_time).to_le_bytes());
        debug_assert_eq!(out.len(), size);
        out.resize(rblocks * RBLOCK_SIZE, 0);
    }
}

/// Sets in the header at the start of `record` whether the record is packed, and its `size` in bytes before
/// padding. `None` if the format cannot express that size.
pub(crate) fn set_packed(record: &mut [u8], size: usize, is_packed: bool) -> Option<()> {
    let rblocks =
        size.div_ceil(RBLOCK_SIZE).checked_sub(1).filter(|rblocks| *rblocks <= RBLOCKS_MASK as usize)?;
    let place = record.get_mut(4..)?.first_chunk_mut::<4>()?;
    let flags = u32::from_le_bytes(*place) & !(RBLOCKS_MASK | IS_COMPRESSED);
    let packed = if is_packed { IS_COMPRESSED } else { 0 };
    *place = (flags | rblocks as u32 | packed).to_le_bytes();
    Some(())
}

/// Whether the first of `bins` has metadata flags that announce no data.
#[inline]
fn has_empty_metadata(bins: &[u8]) -> bool {
    bins.first().is_some_and(|name_size| bins.get(1 + usize::from(*name_size)) == Some(&BIN_HAS_METADATA))
}

/// The mark at the end of a complete record. The top bit is reserved.
fn end_mark(digest: &Digest, last_update_time: u64) -> u32 {
    let mut hashed = [0; 25];
    hashed[..20].copy_from_slice(&digest.0);
    hashed[20..].copy_from_slice(&last_update_time.to_le_bytes()[..5]);
    cf::wyhash::hash64(&hashed) as u32 & 0x7FFF_FFFF
}

#[inline]
fn le_u32(header: &[u8; HEADER_SIZE], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::particle::BytesType;

    fn bins_of<'a>(names: &'a [Vec<u8>], value: &'a [u8]) -> Bins<'a> {
        let mut bins = Bins::new();
        for (n, name) in names.iter().enumerate() {
            let particle = match n % 3 {
                0 => Particle::Integer(n as i64),
                1 => Particle::Float(1.5),
                _ => Particle::Bytes(BytesType::Blob, Cow::Borrowed(value)),
            };
            bins.set(name, particle);
        }
        bins
    }

    fn encode(record: &NewRecord<'_>, bins: &Bins<'_>) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        record.encode(bins, record.size(bins), &mut out);
        out
    }

    /// Few lookups are walks, more of them are cheaper in loaded bins.
    #[test]
    fn lookups_are_priced_by_how_they_are_done() {
        for bin_count in [1, 10, 63, 64, 1_000] {
            let names: Vec<Vec<u8>> = (0..bin_count).map(|n| format!("b{n}").into_bytes()).collect();
            let bins = bins_of(&names, b"value");
            let record = NewRecord {
                digest: Digest([3; 20]),
                last_update_time: 77,
                generation: 1,
                void_time: 0,
                tree_id: 0,
                set_name: b"",
                key: None,
                leaves_tombstone: false,
            };
            let flat = encode(&record, &bins);
            let record = FlatRecord::parse(&flat).expect("a record");
            let prices: Vec<u64> = (0..200).map(|count| record.lookups_steps(count)).collect();
            assert_eq!(prices[..4], [0, 1, 2, 3].map(|count| count * record.lookup_steps()));
            let loaded = |count: u64| record.load_steps() + count * bins.lookup_steps();
            assert!((4..200).all(|count| prices[count as usize] == loaded(count)));
            assert!(prices[199] < 199 * record.lookup_steps());
        }
    }

    proptest! {
        #[test]
        fn encoded_records_are_read_back(
            digest: [u8; 20], last_update_time in 0u64..1 << 40, generation in 1u16.., void_time: u32,
            set in "[a-z]{0,63}", key in prop::option::of(prop::collection::vec(any::<u8>(), 1..300)),
            names in prop::collection::hash_set("[a-z]{0,15}", 0..20), value: Vec<u8>, tree_id in 0u8..64,
            leaves_tombstone: bool,
        ) {
            let names: Vec<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
            let bins = bins_of(&names, &value);
            let record = NewRecord {
                digest: Digest(digest), last_update_time, generation, void_time, tree_id,
                set_name: set.as_bytes(), key: key.as_deref(), leaves_tombstone,
            };
            let flat = encode(&record, &bins);
            prop_assert_eq!(flat.len() % RBLOCK_SIZE, 0);
            let read = FlatRecord::parse(&flat).unwrap();
            prop_assert_eq!(read.verify(), Ok(()));
            prop_assert_eq!(read.size, flat.len());
            prop_assert_eq!(read.leaves_tombstone, leaves_tombstone && !bins.is_empty());
            prop_assert_eq!((read.digest, read.last_update_time), (record.digest, last_update_time));
            prop_assert_eq!((read.generation, read.void_time, read.tree_id), (generation, void_time, tree_id));
            prop_assert_eq!((read.set_name, read.key), (record.set_name, record.key));
            prop_assert_eq!(format!("{:?}", read.load_bins().unwrap()), format!("{bins:?}"));
        }

        #[test]
        fn damaged_records_are_errors(at in 0usize..300, byte: u8, cut in 0usize..300) {
            let names: Vec<Vec<u8>> = (0..9u8).map(|n| vec![b'a' + n; 5]).collect();
            let bins = bins_of(&names, &[7; 40]);
            let record = NewRecord {
                digest: Digest([3; 20]), last_update_time: 77, generation: 1, void_time: 5, tree_id: 0,
                set_name: b"set", key: Some(&[3, b'k']), leaves_tombstone: byte % 2 == 0,
            };
            let mut flat = encode(&record, &bins);
            let at = at % flat.len();
            flat[at] = byte;
            flat.truncate(cut.max(1));
            if let Ok(read) = FlatRecord::parse(&flat) {
                let _ = read.verify();
                let _ = read.load_bins();
            }
        }
    }

    #[test]
    fn varying_numbers_are_most_significant_first() {
        for (value, bytes) in
            [(1, vec![1]), (127, vec![127]), (128, vec![0x81, 0]), (32_767, vec![0x81, 0xFF, 0x7F])]
        {
            let mut out = Vec::new();
            write_varying(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(take_varying(&mut &out[..]), Ok(value));
        }
        assert_eq!(take_varying(&mut &[0xFF; 9][..]), Err(FlatError::Metadata));
    }
}
