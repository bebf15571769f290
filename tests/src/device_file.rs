//! An independent reader of the files that hold records: header, write blocks, flat records.
//!
//! It does not use the server's own reader, as [`wire`](crate::wire) does not use the server's parser. All
//! integers are little-endian. Unexpected content panics, because the file comes from the server under test.
//!
//! The first 8 MiB are the header, whose parts are at the offsets below; write blocks of 8 MiB follow. A
//! block holds records one after another, each on a multiple of 16 bytes:
//! `magic u32 | size and flags u32 | digest 20 | last-update-time 5 | generation u16 | [void-time u32] | [length u8, set] | [length varying, key] | count varying | bins | end mark u32 | zeros`.

use std::fs;
use std::path::Path;

/// Size of a write block, and of the header.
pub const WBLOCK_SIZE: usize = 8 << 20;
/// First bytes of a header.
pub const MAGIC: u64 = 0x4349_7472_7573_0322;
/// First bytes of a record.
pub const RECORD_MAGIC: u32 = 0x037A_F201;
/// Header flag: the server stopped cleanly.
pub const TRUSTED: u32 = 1;
/// Seconds between the epochs of Unix and of void-times.
pub const EPOCH_SECONDS: u64 = 1_262_304_000;

const PARTITIONS: std::ops::Range<usize> = 4096..69632;
/// The second copy of the partition entries, and its checksum.
const PARTITION_COPY: std::ops::Range<usize> = 131_072..196_896;
const UNIQUE: usize = 69632;
const RUNS: usize = UNIQUE + 1024;
const OWN: usize = RUNS + 16 + 8 * 128;
const RECORD_HEADER_SIZE: usize = 35;
const HAS_VOID_TIME: u32 = 1 << 19;
const HAS_SET: u32 = 1 << 20;
const HAS_KEY: u32 = 1 << 21;
const HAS_BINS: u32 = 1 << 22;
/// Flags for compression, XDR writes and extra flags, which this server never sets.
const NEVER_SET: u32 = 1 << 23 | 1 << 24 | 1 << 25;

/// Content of a device header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub namespace: String,
    pub device_count: u32,
    pub signature: u64,
    pub flags: u32,
    pub wblock_size: u32,
    /// Version and tree id of each partition.
    pub partitions: Vec<(u64, u8)>,
    pub device_id: u32,
    pub pristine_offset: u64,
    /// The run numbers that this server adds at each start, newest first.
    pub runs: Vec<u64>,
    /// Bytes in use, and the key of the end marks of blocks. Only this server writes them; otherwise they are
    /// 0.
    pub size: u64,
    pub end_mark_key: u64,
}

/// Reads the header of a file and checks that all unused bytes are zero.
pub fn header(file: &[u8]) -> Header {
    assert_eq!(u64_at(file, 0), MAGIC, "magic");
    let name = &file[12..44];
    let length = name.iter().position(|byte| *byte == 0).expect("a zero behind the name");
    let partitions = file[PARTITIONS].chunks_exact(16).map(|entry| {
        assert_eq!(entry[9..], [0; 7]);
        (u64_at(entry, 0), entry[8])
    });
    let run_count = if file[RUNS..].starts_with(b"FERRORUN") { u32_at(file, RUNS + 8) as usize } else { 0 };
    assert!(run_count <= 128);
    let runs_end = if run_count == 0 { RUNS } else { RUNS + 16 + 8 * run_count };
    let own_end = if file[OWN..].starts_with(b"FERRODEV") { OWN + 28 } else { OWN };
    let unused = [
        &name[length..],
        &file[64..4096],
        &file[UNIQUE + 4..UNIQUE + 88],
        &file[UNIQUE + 96..RUNS],
        &file[runs_end..OWN],
        &file[own_end..PARTITION_COPY.start],
        &file[PARTITION_COPY.end..WBLOCK_SIZE],
    ];
    for (number, part) in unused.iter().enumerate() {
        assert!(part.iter().all(|byte| *byte == 0), "unused part {number} of the header");
    }
    Header {
        version: u32_at(file, 8),
        namespace: String::from_utf8(name[..length].to_vec()).expect("a name of plain text"),
        device_count: u32_at(file, 44),
        signature: u64_at(file, 48),
        flags: u32_at(file, 56),
        wblock_size: u32_at(file, 60),
        partitions: partitions.collect(),
        device_id: u32_at(file, UNIQUE),
        pristine_offset: u64_at(file, UNIQUE + 88),
        size: if own_end == OWN { 0 } else { u64_at(file, OWN + 8) },
        end_mark_key: if own_end == OWN { 0 } else { u64_at(file, OWN + 16) },
        runs: (0..run_count).map(|at| u64_at(file, RUNS + 16 + 8 * at)).collect(),
    }
}

/// A record in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatRecord {
    /// Its offset in the file, in bytes.
    pub offset: usize,
    /// Its size in bytes, a multiple of 16.
    pub size: usize,
    pub tree_id: u8,
    pub digest: [u8; 20],
    /// Milliseconds since 2010-01-01.
    pub last_update_time: u64,
    pub generation: u16,
    /// Seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
    pub set: Vec<u8>,
    /// Particle type and bytes.
    pub key: Option<Vec<u8>>,
    /// Name, particle type and flat bytes of each bin. A tombstone has none.
    pub bins: Vec<(Vec<u8>, u8, Vec<u8>)>,
    /// Whether zeros follow. The C server leaves old bytes when it writes a record over its predecessor.
    pub is_padded_with_zeros: bool,
}

/// The records, in order, of a file in which no block was used twice. Checks that nothing is between the
/// records, and that only the block's end mark follows them.
pub fn records(file: &[u8]) -> Vec<FlatRecord> {
    let mut records = Vec::new();
    for block in (WBLOCK_SIZE..file.len()).step_by(WBLOCK_SIZE) {
        let end = block + WBLOCK_SIZE;
        let mut at = block;
        while at < end && u32_at(file, at) == RECORD_MAGIC {
            let record = record(&file[..end], at);
            at += record.size;
            records.push(record);
        }
        if at < end && file[at..].starts_with(b"ENDBLOCK") {
            at += 16;
        }
        assert!(
            file[at..end].iter().all(|byte| *byte == 0),
            "zeros behind the last record, from offset {at}"
        );
    }
    records
}

/// Reads the file at `path` and its records.
pub fn records_of(path: &Path) -> Vec<FlatRecord> {
    records(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The record at offset `offset` of `file`, with all parts checked.
pub fn record(file: &[u8], offset: usize) -> FlatRecord {
    let flags = u32_at(file, offset + 4);
    let size = ((flags & 0x7_ffff) as usize + 1) * 16;
    let bytes = &file[offset..offset + size];
    assert_eq!(u32_at(bytes, 0), RECORD_MAGIC, "magic at {offset}");
    assert_eq!(flags & NEVER_SET, 0, "flags at {offset}");
    let mut digest = [0; 20];
    digest.copy_from_slice(&bytes[8..28]);
    let mut last_update_time = [0; 8];
    last_update_time[..5].copy_from_slice(&bytes[28..33]);
    let mut cursor = Cursor { bytes, at: RECORD_HEADER_SIZE };
    let void_time = if flags & HAS_VOID_TIME == 0 { 0 } else { u32_at(cursor.take(4), 0) };
    let set = if flags & HAS_SET == 0 { Vec::new() } else { cursor.named().to_vec() };
    let key = (flags & HAS_KEY != 0).then(|| {
        let size = cursor.varying();
        cursor.take(size).to_vec()
    });
    let bin_count = if flags & HAS_BINS == 0 { 0 } else { cursor.varying() };
    let bins = (0..bin_count).map(|_| cursor.bin()).collect();
    let mark = u32_at(cursor.take(4), 0);
    assert_eq!(mark, end_mark(&bytes[8..33]), "end mark of the record at {offset}");
    let padding = &bytes[cursor.at..];
    assert!(padding.len() < 16, "size of the record at {offset}");
    FlatRecord {
        offset,
        size,
        tree_id: (flags >> 26) as u8,
        digest,
        last_update_time: u64::from_le_bytes(last_update_time),
        generation: u16::from_le_bytes([bytes[33], bytes[34]]),
        void_time,
        set,
        key,
        bins,
        is_padded_with_zeros: padding.iter().all(|byte| *byte == 0),
    }
}

/// The end mark of a record: the low 31 bits of the wyhash of the 25 bytes of its digest and last-update-time.
fn end_mark(hashed: &[u8]) -> u32 {
    const SECRET: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
    const SEED: u64 = 0x0002_9fbb_14cc_886f;
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    assert_eq!(hashed.len(), 25);
    let seed = mix(u64_at(hashed, 0) ^ SECRET[1], u64_at(hashed, 8) ^ SEED ^ SECRET[0]);
    let hash = mix(SECRET[1] ^ 25, mix(u64_at(hashed, 9) ^ SECRET[1], u64_at(hashed, 17) ^ seed));
    hash as u32 & 0x7fff_ffff
}

/// Reads parts of a record in order.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> &'a [u8] {
        self.at += size;
        &self.bytes[self.at - size..self.at]
    }

    /// A text that follows its length, which is one byte.
    fn named(&mut self) -> &'a [u8] {
        let size = self.take(1)[0];
        self.take(size.into())
    }

    /// A number of seven bits per byte, most significant bits first. The last byte has its top bit clear.
    fn varying(&mut self) -> usize {
        let mut value = 0;
        loop {
            let byte = self.take(1)[0];
            value = value << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn bin(&mut self) -> (Vec<u8>, u8, Vec<u8>) {
        let name = self.named().to_vec();
        let particle = self.take(1)[0];
        let start = self.at;
        let size = match particle {
            1 => usize::from(self.take(1)[0]),
            2 => 8,
            17 => 1,
            3 | 4 | 7..=12 | 18..=20 | 23 => u32_at(self.take(4), 0) as usize,
            other => panic!("particle type {other} of bin {}", String::from_utf8_lossy(&name)),
        };
        self.take(size);
        (name, particle, self.bytes[start..self.at].to_vec())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}
