//! The header of a device or data file, version 4: the namespace that owns the data, and the partitions that are valid.
//!
//! ```text
//! offset   size  content (integers little-endian)
//!      0      8  magic 0x4349747275730322 ─┐ prefix
//!      8      4  version 4                 │
//!     12     32  namespace, zero-padded    │
//!     44      4  devices of the namespace  │
//!     48      8  signature of the set      │
//!     56      4  flags                     │
//!     60      4  write block size          │
//!     64      4  eventual regime           │
//!     68      4  unused                    │
//!     72      4  roster generation         ┘
//!   4096  65536  4096 partition entries of 16 bytes: version u64, tree id u8, 7 unused
//!  69632      4  device id                 ─┐ unique part
//!  69636      4  unused                     │
//!  69640     64  key of encrypted data      │ see `encryption`
//!  69704     16  canary of encrypted data   │
//!  69720      8  pristine offset            ┘
//!  70656      8  magic "FERRORUN"           ─┐ this server's own, in bytes that the C server
//!  70664      4  number of runs, up to 128   │ zeroes when it starts
//!  70668      4  low bits of their wyhash    │
//!  70672   8 × n run numbers, newest first  │
//!  71696      8  magic "FERRODEV"           │
//!  71704      8  bytes of the device in use │
//!  71712      8  key of end marks           │
//!  71720      4  low bits of their wyhash   ┘
//! 131072  69632  a second copy of the partition entries, which the C server zeroes too: see `partition_copy`
//! 200704 131072  scratch of atomic updates, unused
//! 331776         zeros up to 8 MiB, where the first write block begins
//! ```
//! Prefix and partition entries are the same on all devices of a namespace. Each start draws a new signature.
//! If the signatures of two devices differ, they were not used together in the last run. Each start of this
//! server also adds a random run number to the headers that it writes. If one copy of a device was used
//! without the other, it still lists the newest run of the other. This module converts bytes and does no I/O.

use std::fmt;
use std::ops::Range;

use crate::encryption::{CANARY_SIZE, DEVICE_KEY_SIZE, WrappedKey};
use crate::partition_version::PartitionVersion;

/// The first eight bytes of a device in use.
pub const MAGIC: u64 = 0x4349_7472_7573_0322;
/// The version that this server writes and reads.
pub const VERSION: u32 = 4;
/// The version whose records lack the end mark. No server reads it any more.
const VERSION_WITHOUT_END_MARKS: u32 = 3;
/// Number of partitions of a namespace.
pub const PARTITION_COUNT: usize = 4096;
/// Largest number of devices or files of a namespace.
pub const DEVICE_COUNT_MAX: u32 = 128;
/// Size of a write block, and of the space reserved for the header.
pub const WBLOCK_SIZE: u32 = 8 << 20;
/// Space reserved for the header: the first write block begins after it.
pub const HEADER_SPACE: u64 = 8 << 20;
/// Number of bytes that decide whether a device is fresh. The header uses no others.
pub const HEADER_SIZE: usize = SCRATCH_OFFSET + SCRATCH_SIZE;
/// Bytes of the header that may be other than zero; a multiple of every device's transfer size.
pub const WRITTEN_SIZE: usize = UNIQUE_OFFSET + 4096;

const VERSION_OFFSET: usize = 8;
const NAMESPACE_OFFSET: usize = 12;
const NAMESPACE_SIZE: usize = 32;
const DEVICE_COUNT_OFFSET: usize = 44;
const SIGNATURE_OFFSET: usize = 48;
pub const FLAGS_OFFSET: usize = 56;
const WBLOCK_SIZE_OFFSET: usize = 60;
const REGIME_OFFSET: usize = 64;
const ROSTER_GENERATION_OFFSET: usize = 72;
/// Offset of the first partition entry.
pub const PARTITIONS_OFFSET: usize = 4096;
/// Bytes of a partition entry.
pub const PARTITION_ENTRY_SIZE: usize = 16;
/// Number of partition entries written together: 4096 bytes, the largest transfer unit of a device.
pub const PARTITION_GROUP_LEN: usize = 256;
/// Offset of the part that differs between devices.
pub const UNIQUE_OFFSET: usize = PARTITIONS_OFFSET + PARTITION_COUNT * PARTITION_ENTRY_SIZE;
pub const PRISTINE_OFFSET: usize = UNIQUE_OFFSET + 88;
/// Offset of the key of encrypted data; its canary follows.
pub const ENCRYPTED_KEY_OFFSET: usize = UNIQUE_OFFSET + 8;
const CANARY_OFFSET: usize = ENCRYPTED_KEY_OFFSET + DEVICE_KEY_SIZE;
/// Bytes of the unique part.
pub const UNIQUE_SIZE: usize = 96;
/// Bytes to write when the prefix has changed.
pub const PREFIX_BYTES: Range<usize> = 0..PARTITIONS_OFFSET;
/// Bytes to write when the unique part or the runs have changed.
pub const UNIQUE_BYTES: Range<usize> = UNIQUE_OFFSET..WRITTEN_SIZE;
const RUNS_OFFSET: usize = UNIQUE_OFFSET + 1024;
const RUNS_MAGIC: [u8; 8] = *b"FERRORUN";
const RUN_COUNT_OFFSET: usize = RUNS_OFFSET + 8;
const RUNS_HASH_OFFSET: usize = RUNS_OFFSET + 12;
const RUN_LIST_OFFSET: usize = RUNS_OFFSET + 16;
/// Number of run numbers kept.
pub const RUN_COUNT_MAX: usize = 128;
const OWN_OFFSET: usize = RUN_LIST_OFFSET + 8 * RUN_COUNT_MAX;
const OWN_MAGIC: [u8; 8] = *b"FERRODEV";
const OWN_SIZE_OFFSET: usize = OWN_OFFSET + 8;
const OWN_KEY_OFFSET: usize = OWN_OFFSET + 16;
const OWN_HASH_OFFSET: usize = OWN_OFFSET + 24;
/// The second copy of the partition entries, with its checksum block (the seal).
pub const COPY_BYTES: Range<usize> = 131_072..200_704;
/// The seal of the copy. It is written with each change.
pub const COPY_SEAL_BYTES: Range<usize> = 196_608..200_704;
/// The first bytes of the seal.
pub const COPY_MAGIC: [u8; 8] = *b"FERROPAR";
const SCRATCH_OFFSET: usize = UNIQUE_OFFSET + SCRATCH_SIZE;
const SCRATCH_SIZE: usize = 128 << 10;

const _: () = assert!(UNIQUE_OFFSET == 69_632 && SCRATCH_OFFSET == 200_704 && HEADER_SIZE == 331_776);
const _: () = assert!(HEADER_SIZE.is_multiple_of(4096) && WRITTEN_SIZE.is_multiple_of(4096));
const _: () = assert!(CANARY_OFFSET == 69_704 && CANARY_OFFSET + CANARY_SIZE == PRISTINE_OFFSET);
const _: () = assert!(OWN_OFFSET == 71_696 && OWN_HASH_OFFSET + 4 <= WRITTEN_SIZE);

/// Flags about the data as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Flags(pub u32);

impl Flags {
    /// The last shutdown was clean.
    pub const TRUSTED: Flags = Flags(0x01);
    /// Records have no bin names: a mode that no longer exists.
    pub const SINGLE_BIN: Flags = Flags(0x02);
    /// The records are encrypted.
    pub const ENCRYPTED: Flags = Flags(0x04);
    /// The namespace was strongly consistent.
    pub const STRONG_CONSISTENCY: Flags = Flags(0x08);
    /// Every write was on the device before it was acknowledged.
    pub const COMMIT_TO_DEVICE: Flags = Flags(0x10);

    const NAMES: [(Flags, &str); 5] = [
        (Flags::TRUSTED, "trusted"),
        (Flags::SINGLE_BIN, "single-bin"),
        (Flags::ENCRYPTED, "encrypted"),
        (Flags::STRONG_CONSISTENCY, "strong-consistency"),
        (Flags::COMMIT_TO_DEVICE, "commit-to-device"),
    ];

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These flags with `flags` set or cleared.
    #[must_use]
    pub const fn with(self, flags: Flags, set: bool) -> Self {
        Flags(if set { self.0 | flags.0 } else { self.0 & !flags.0 })
    }

    /// The names of the known flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartitionEntry {
    /// The version. The records of the partition are loaded if it says that the node has data.
    pub version: PartitionVersion,
    /// The tree id. Records with another tree id belong to a dropped copy. Absent partitions have a tree id
    /// too.
    pub tree_id: u8,
}

impl PartitionEntry {
    /// The offset of the entry of partition `id` in the header.
    #[must_use]
    pub const fn offset(id: usize) -> usize {
        PARTITIONS_OFFSET + id * PARTITION_ENTRY_SIZE
    }

    /// The bytes of the header to write when the entry of partition `id` has changed: its group.
    #[must_use]
    pub const fn group_bytes(id: usize) -> Range<usize> {
        let start = PartitionEntry::offset(id - id % PARTITION_GROUP_LEN);
        start..start + PARTITION_GROUP_LEN * PARTITION_ENTRY_SIZE
    }

    /// The stored form of the entry.
    #[must_use]
    pub fn encode(self) -> [u8; PARTITION_ENTRY_SIZE] {
        let mut bytes = [0; PARTITION_ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.version.0.to_le_bytes());
        bytes[8] = self.tree_id;
        bytes
    }
}

/// The header of a device in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceHeader {
    /// The namespace's name up to the first zero byte; not necessarily text.
    pub namespace: Vec<u8>,
    /// Number of devices of the namespace.
    pub device_count: u32,
    /// The signature, which is the same on all devices of a set.
    pub signature: u64,
    pub flags: Flags,
    /// Size of a write block in bytes.
    pub wblock_size: u32,
    /// Belongs to strong consistency; kept as it was.
    pub eventual_regime: u32,
    /// Belongs to strong consistency; kept as it was.
    pub roster_generation: u32,
    /// The entries of all [`PARTITION_COUNT`] partitions.
    pub partitions: Box<[PartitionEntry]>,
    /// The device's number in the set.
    pub device_id: u32,
    /// No write block from this offset on was ever used. It is 0 if that was never recorded.
    pub pristine_offset: u64,
    /// The last starts of this server in which it wrote to the device, newest first. Empty if another server
    /// wrote to it last.
    pub runs: Vec<u64>,
    /// Bytes of the device in use; 0 if another server wrote to it last.
    pub size: u64,
    /// The key of the marks at the end of write blocks; 0 if another server wrote to it last.
    pub end_mark_key: u64,
    /// The key that encrypts everything after the header, if the device is encrypted.
    pub encrypted_key: Option<WrappedKey>,
}

/// The kinds of device, distinguished by the first bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Only zeros, except perhaps for the second copy of the partition entries: a device that was never used, or was
    /// erased.
    Fresh,
    Used(Box<DeviceHeader>),
}

/// The reason why a device cannot be used as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Fewer bytes than a header; holds their number.
    Short(u64),
    /// The magic is missing, but some byte is not zero; holds the offset of the first one.
    Foreign(usize),
    /// A version without end marks.
    OldVersion,
    /// An unknown newer version.
    UnknownVersion(u32),
    /// More devices than allowed, or none.
    DeviceCount(u32),
    /// The signature is 0.
    NoSignature,
    /// A write block size that does not divide [`WBLOCK_SIZE`].
    WblockSize(u32),
    /// A device id out of range.
    DeviceId(u32),
    /// A mode that no longer exists.
    SingleBin,
    /// The data belongs to another namespace; holds that name and the configured one.
    Namespace { found: String, expected: String },
    /// The pristine offset is inside the header.
    PristineOffset(u64),
    /// Data ends beyond the device's end.
    Truncated { data_end: u64, size: u64 },
}

impl HeaderError {
    /// Whether these may be the bytes of a header, of a device with records, of which a few have changed.
    #[must_use]
    pub fn may_be_damage(&self) -> bool {
        match self {
            HeaderError::Foreign(_)
            | HeaderError::DeviceCount(_)
            | HeaderError::NoSignature
            | HeaderError::WblockSize(_)
            | HeaderError::DeviceId(_)
            | HeaderError::PristineOffset(_) => true,
            HeaderError::Short(_)
            | HeaderError::OldVersion
            | HeaderError::UnknownVersion(_)
            | HeaderError::SingleBin
            | HeaderError::Namespace { .. }
            | HeaderError::Truncated { .. } => false,
        }
    }

    /// The offset of the wrong bytes on the device.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let offset = match self {
            HeaderError::Foreign(offset) => *offset,
            HeaderError::Short(_) => 0,
            HeaderError::OldVersion | HeaderError::UnknownVersion(_) => VERSION_OFFSET,
            HeaderError::DeviceCount(_) => DEVICE_COUNT_OFFSET,
            HeaderError::NoSignature => SIGNATURE_OFFSET,
            HeaderError::WblockSize(_) => WBLOCK_SIZE_OFFSET,
            HeaderError::DeviceId(_) => UNIQUE_OFFSET,
            HeaderError::SingleBin => FLAGS_OFFSET,
            HeaderError::Namespace { .. } => NAMESPACE_OFFSET,
            HeaderError::PristineOffset(_) | HeaderError::Truncated { .. } => PRISTINE_OFFSET,
        };
        offset as u64
    }
}

/// The end of sentences about impossible content. The advice depends on the bytes after the header.
const DAMAGED: &str = "the header is damaged";

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Short(size) => {
                write!(f, "only {size} bytes, less than a header; restore the complete file, or remove it")
            }
            HeaderError::Foreign(_) => f.write_str("holds data that is not Aerospike's"),
            HeaderError::OldVersion => f.write_str(
                "format version 3 has no end marks and cannot be read; erase the device and let the cluster or a \
                 backup fill it again",
            ),
            HeaderError::UnknownVersion(version) => write!(
                f,
                "format version {version} is unknown, this server reads version {VERSION}; use the server that wrote \
                 it; if there is none, the header is damaged: restore it from a copy"
            ),
            HeaderError::DeviceCount(count) => {
                write!(f, "{count} devices where 1 to {DEVICE_COUNT_MAX} are possible; {DAMAGED}")
            }
            HeaderError::NoSignature => write!(f, "signature 0; {DAMAGED}"),
            HeaderError::WblockSize(size) => {
                write!(f, "write blocks of {size} bytes, which do not divide {WBLOCK_SIZE}; {DAMAGED}")
            }
            HeaderError::DeviceId(id) => {
                write!(f, "device id {id} where less than {DEVICE_COUNT_MAX} is possible; {DAMAGED}")
            }
            HeaderError::SingleBin => f.write_str(
                "single-bin data, a mode that no longer exists; erase the device and restore from a backup",
            ),
            HeaderError::Namespace { found, expected } => write!(
                f,
                "holds namespace {found:?}, not {expected:?}; check the configuration, or erase the device if the data of \
                 that namespace is not needed"
            ),
            HeaderError::PristineOffset(offset) => {
                write!(f, "data ends at {offset}, before it can begin; {DAMAGED}")
            }
            HeaderError::Truncated { data_end, size } => write!(
                f,
                "data reaches up to {data_end}, but only {size} bytes are there; restore the complete file, configure \
                 the size it had, or erase it if its data is not needed"
            ),
        }
    }
}

impl std::error::Error for HeaderError {}

impl DeviceHeader {
    /// Reads the header in `bytes`, the first [`HEADER_SIZE`] bytes of a device. Checks only that this version can read
    /// it: see [`check`](Self::check).
    ///
    /// # Errors
    /// `Short`, `Foreign`, `OldVersion`, `UnknownVersion`.
    pub fn parse(bytes: &[u8]) -> Result<Found, HeaderError> {
        let short = || HeaderError::Short(bytes.len() as u64);
        let bytes = bytes.get(..HEADER_SIZE).ok_or_else(short)?;
        if le_u64(bytes, 0) != MAGIC {
            return match bytes.iter().position(|byte| *byte != 0) {
                None => Ok(Found::Fresh),
                Some(_) if is_copy_all_that_is_left(bytes) => Ok(Found::Fresh),
                Some(offset) => Err(HeaderError::Foreign(offset)),
            };
        }
        match le_u32(bytes, VERSION_OFFSET) {
            VERSION => {}
            VERSION_WITHOUT_END_MARKS => return Err(HeaderError::OldVersion),
            other => return Err(HeaderError::UnknownVersion(other)),
        }
        let name = &bytes[NAMESPACE_OFFSET..NAMESPACE_OFFSET + NAMESPACE_SIZE];
        let entries = bytes[PARTITIONS_OFFSET..UNIQUE_OFFSET].chunks_exact(PARTITION_ENTRY_SIZE);
        let partition =
            |entry: &[u8]| PartitionEntry { version: PartitionVersion(le_u64(entry, 0)), tree_id: entry[8] };
        Ok(Found::Used(Box::new(DeviceHeader {
            namespace: name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
            device_count: le_u32(bytes, DEVICE_COUNT_OFFSET),
            signature: le_u64(bytes, SIGNATURE_OFFSET),
            flags: Flags(le_u32(bytes, FLAGS_OFFSET)),
            wblock_size: le_u32(bytes, WBLOCK_SIZE_OFFSET),
            eventual_regime: le_u32(bytes, REGIME_OFFSET),
            roster_generation: le_u32(bytes, ROSTER_GENERATION_OFFSET),
            partitions: entries.map(partition).collect(),
            device_id: le_u32(bytes, UNIQUE_OFFSET),
            pristine_offset: le_u64(bytes, PRISTINE_OFFSET),
            runs: parse_runs(bytes).unwrap_or_default(),
            size: own_field(bytes, OWN_SIZE_OFFSET),
            end_mark_key: own_field(bytes, OWN_KEY_OFFSET),
            encrypted_key: encrypted_key(bytes),
        })))
    }

    /// The header of a fresh device that becomes number `device_id` of `device_count`.
    #[must_use]
    pub fn fresh(namespace: &[u8], device_count: u32, signature: u64, device_id: u32) -> Self {
        DeviceHeader {
            namespace: namespace.to_vec(),
            device_count,
            signature,
            flags: Flags::default(),
            wblock_size: WBLOCK_SIZE,
            eventual_regime: 0,
            roster_generation: 0,
            partitions: vec![PartitionEntry::default(); PARTITION_COUNT].into(),
            device_id,
            pristine_offset: 0,
            runs: Vec::new(),
            size: 0,
            end_mark_key: 0,
            encrypted_key: None,
        }
    }

    /// What is known of the writes to the device in order of time, newest first: the runs of this server, or
    /// the last start of another server, which draws a signature each time.
    #[must_use]
    pub fn lineage(&self) -> Vec<u64> {
        if self.runs.is_empty() { vec![self.signature] } else { self.runs.clone() }
    }

    /// Checks that namespace `namespace` can use the device, which has `size` bytes.
    ///
    /// # Errors
    /// The first fault in the order of the header.
    pub fn check(&self, namespace: &[u8], size: u64) -> Result<(), HeaderError> {
        if self.namespace != namespace {
            let text = |name| String::from_utf8_lossy(name).into_owned();
            return Err(HeaderError::Namespace { found: text(&self.namespace), expected: text(namespace) });
        }
        if self.device_count == 0 || self.device_count > DEVICE_COUNT_MAX {
            return Err(HeaderError::DeviceCount(self.device_count));
        }
        if self.signature == 0 {
            return Err(HeaderError::NoSignature);
        }
        if self.wblock_size == 0 || !WBLOCK_SIZE.is_multiple_of(self.wblock_size) {
            return Err(HeaderError::WblockSize(self.wblock_size));
        }
        if self.device_id >= DEVICE_COUNT_MAX {
            return Err(HeaderError::DeviceId(self.device_id));
        }
        if self.flags.contains(Flags::SINGLE_BIN) {
            return Err(HeaderError::SingleBin);
        }
        match self.pristine_offset {
            0 => Ok(()),
            offset if offset < HEADER_SPACE => Err(HeaderError::PristineOffset(offset)),
            offset if offset > size => Err(HeaderError::Truncated { data_end: offset, size }),
            _ => Ok(()),
        }
    }

    /// Writes the header to the first [`WRITTEN_SIZE`] bytes of `bytes`; the rest up to [`HEADER_SPACE`] must be zeros.
    ///
    /// # Panics
    /// If `bytes` are too short, the namespace's name is too long, or the number of partition entries is wrong.
    pub fn encode(&self, bytes: &mut [u8]) {
        assert!(self.namespace.len() < NAMESPACE_SIZE && !self.namespace.contains(&0), "name for the header");
        assert_eq!(self.partitions.len(), PARTITION_COUNT, "partition entries of a header");
        let bytes = &mut bytes[..WRITTEN_SIZE];
        bytes.fill(0);
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(VERSION_OFFSET, &VERSION.to_le_bytes());
        put(NAMESPACE_OFFSET, &self.namespace);
        put(DEVICE_COUNT_OFFSET, &self.device_count.to_le_bytes());
        put(SIGNATURE_OFFSET, &self.signature.to_le_bytes());
        put(FLAGS_OFFSET, &self.flags.0.to_le_bytes());
        put(WBLOCK_SIZE_OFFSET, &self.wblock_size.to_le_bytes());
        put(REGIME_OFFSET, &self.eventual_regime.to_le_bytes());
        put(ROSTER_GENERATION_OFFSET, &self.roster_generation.to_le_bytes());
        for (id, entry) in self.partitions.iter().enumerate() {
            put(PartitionEntry::offset(id), &entry.encode());
        }
        put(UNIQUE_OFFSET, &self.device_id.to_le_bytes());
        put(PRISTINE_OFFSET, &self.pristine_offset.to_le_bytes());
        if let Some(WrappedKey { key, canary }) = &self.encrypted_key {
            put(ENCRYPTED_KEY_OFFSET, key);
            put(CANARY_OFFSET, canary);
        }
        if !self.runs.is_empty() {
            let runs: Vec<u8> =
                self.runs.iter().take(RUN_COUNT_MAX).flat_map(|run| run.to_le_bytes()).collect();
            put(RUNS_OFFSET, &RUNS_MAGIC);
            put(RUN_COUNT_OFFSET, &((runs.len() / 8) as u32).to_le_bytes());
            put(RUNS_HASH_OFFSET, &runs_hash(&runs).to_le_bytes());
            put(RUN_LIST_OFFSET, &runs);
        }
        if self.end_mark_key != 0 {
            put(OWN_OFFSET, &OWN_MAGIC);
            put(OWN_SIZE_OFFSET, &self.size.to_le_bytes());
            put(OWN_KEY_OFFSET, &self.end_mark_key.to_le_bytes());
            let hash = runs_hash(&[self.size.to_le_bytes(), self.end_mark_key.to_le_bytes()].concat());
            put(OWN_HASH_OFFSET, &hash.to_le_bytes());
        }
    }
}

/// The key in a header of encrypted data.
fn encrypted_key(bytes: &[u8]) -> Option<WrappedKey> {
    let key = *bytes.get(ENCRYPTED_KEY_OFFSET..)?.first_chunk()?;
    let canary = *bytes.get(CANARY_OFFSET..)?.first_chunk()?;
    Flags(le_u32(bytes, FLAGS_OFFSET)).contains(Flags::ENCRYPTED).then_some(WrappedKey { key, canary })
}

/// Whether `bytes`, the first [`HEADER_SIZE`] bytes of a device, hold only the second copy of the partition
/// entries, because an erasure removed everything else.
fn is_copy_all_that_is_left(bytes: &[u8]) -> bool {
    let others = bytes[..COPY_BYTES.start].iter().chain(&bytes[COPY_BYTES.end..]);
    bytes[COPY_SEAL_BYTES].starts_with(&COPY_MAGIC) && others.into_iter().all(|byte| *byte == 0)
}

/// The run numbers in a header, if it has them and they are intact.
fn parse_runs(bytes: &[u8]) -> Option<Vec<u64>> {
    let count = le_u32(bytes, RUN_COUNT_OFFSET) as usize;
    if !bytes.get(RUNS_OFFSET..)?.starts_with(&RUNS_MAGIC) || count > RUN_COUNT_MAX {
        return None;
    }
    let runs = bytes.get(RUN_LIST_OFFSET..RUN_LIST_OFFSET + 8 * count)?;
    (runs_hash(runs) == le_u32(bytes, RUNS_HASH_OFFSET))
        .then(|| (0..count).map(|at| le_u64(runs, 8 * at)).collect())
}

/// A number that only this server writes; 0 if it is missing or damaged.
fn own_field(bytes: &[u8], at: usize) -> u64 {
    let is_there = bytes[OWN_OFFSET..].starts_with(&OWN_MAGIC)
        && runs_hash(&bytes[OWN_SIZE_OFFSET..OWN_HASH_OFFSET]) == le_u32(bytes, OWN_HASH_OFFSET);
    if is_there { le_u64(bytes, at) } else { 0 }
}

fn runs_hash(runs: &[u8]) -> u32 {
    cf::wyhash::hash64(runs) as u32
}

/// Whether a device and its shadow have the same header, apart from the pristine offset, which only the
/// device has. The data of the device then need not be copied from the shadow.
#[must_use]
pub fn same_but_for_pristine_offset(a: &[u8], b: &[u8]) -> bool {
    let parts = |bytes: &[u8]| -> Option<[Box<[u8]>; 2]> {
        Some([bytes.get(..PRISTINE_OFFSET)?.into(), bytes.get(PRISTINE_OFFSET + 8..HEADER_SIZE)?.into()])
    };
    parts(a).is_some_and(|a| parts(b).is_some_and(|b| a == b))
}

/// The little-endian u32 at one of the constant offsets, all of which are inside a header.
fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Same as [`le_u32`].
fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests;
