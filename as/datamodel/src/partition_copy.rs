//! A second copy of the partition entries in a device header, in bytes that the C server does not read and zeroes at
//! its start.
//!
//! ```text
//! offset   size  content (integers little-endian)
//! 131072  65536  4096 partition entries as at 4096
//! 196608      8  magic "FERROPAR"
//! 196616      8  number of the run that wrote it
//! 196624   16×8  wyhash of each group of entries as it is to be
//! 196752   16×8  wyhash of each group as it was before
//! 196880      8  key of end marks
//! 196888      8  wyhash of the 280 bytes from the magic on
//! 196896         zeros up to 200704
//! ```
//! The copy is written to the device before the entries themselves. After a crash between the two writes, a
//! group is old or torn, and the copy has its new state. A group in any other state was damaged. The copy is
//! valid only if it was written in the newest run of the header, because it lacks the changes that another
//! server has written since. It also holds the key of end marks.
//!
//! This module only converts bytes, and does no I/O.

use std::ops::Range;

use crate::device_header::{
    COPY_BYTES, COPY_MAGIC, COPY_SEAL_BYTES, DeviceHeader, HEADER_SIZE, PARTITION_COUNT,
    PARTITION_ENTRY_SIZE, PARTITION_GROUP_LEN, PARTITIONS_OFFSET, PartitionEntry,
};
use crate::partition_version::PartitionVersion;

/// Number of groups of partition entries.
const GROUP_COUNT: usize = PARTITION_COUNT / PARTITION_GROUP_LEN;
const GROUP_SIZE: usize = PARTITION_GROUP_LEN * PARTITION_ENTRY_SIZE;
const RUN_OFFSET: usize = COPY_SEAL_BYTES.start + 8;
const NEXT_OFFSET: usize = COPY_SEAL_BYTES.start + 16;
const BEFORE_OFFSET: usize = NEXT_OFFSET + 8 * GROUP_COUNT;
const KEY_OFFSET: usize = BEFORE_OFFSET + 8 * GROUP_COUNT;
const HASH_OFFSET: usize = KEY_OFFSET + 8;

const _: () = assert!(COPY_BYTES.start + PARTITION_COUNT * PARTITION_ENTRY_SIZE == COPY_SEAL_BYTES.start);
const _: () = assert!(HASH_OFFSET == 196_888 && COPY_BYTES.end <= HEADER_SIZE);

/// The result of a repair of a header's partition entries from the copy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mended {
    /// First partitions of the groups that were damaged and have been restored from the copy.
    pub restored: Vec<usize>,
    /// First partitions of the groups that are damaged in both places. These groups are left unchanged.
    pub lost: Vec<usize>,
}

/// The place of the copy of the group of entries that is at `main` of the header.
#[must_use]
pub fn copy_of_group(main: &Range<usize>) -> Range<usize> {
    let distance = COPY_BYTES.start - PARTITIONS_OFFSET;
    main.start + distance..main.end + distance
}

/// Writes the copy of the entries of `header` to its place in `bytes`, the first bytes of a device. `before`
/// are the entries that are on the device.
///
/// # Panics
/// If `bytes` are too short.
pub fn encode(header: &DeviceHeader, before: &[PartitionEntry], bytes: &mut [u8]) {
    let next = entries_to_bytes(&header.partitions);
    bytes[COPY_BYTES].fill(0);
    bytes[COPY_BYTES.start..COPY_SEAL_BYTES.start].copy_from_slice(&next);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(COPY_SEAL_BYTES.start, &COPY_MAGIC);
    put(RUN_OFFSET, &header.runs.first().copied().unwrap_or(0).to_le_bytes());
    put(NEXT_OFFSET, &hashes(&next));
    put(BEFORE_OFFSET, &hashes(&entries_to_bytes(before)));
    put(KEY_OFFSET, &header.end_mark_key.to_le_bytes());
    let hash = cf::wyhash::hash64(&bytes[COPY_SEAL_BYTES.start..HASH_OFFSET]);
    bytes[HASH_OFFSET..HASH_OFFSET + 8].copy_from_slice(&hash.to_le_bytes());
}

/// Repairs the partition entries of `header`, which was read from `bytes`, from their copy. Also repairs its
/// key of end marks if that is damaged.
#[must_use]
pub fn mend(bytes: &[u8], header: &mut DeviceHeader) -> Mended {
    let mut mended = Mended::default();
    let Some(bytes) = bytes.get(..HEADER_SIZE).filter(|bytes| is_whole(bytes)) else { return mended };
    if header.end_mark_key == 0 {
        header.end_mark_key = le_u64(bytes, KEY_OFFSET);
    }
    if header.runs.first() != Some(&le_u64(bytes, RUN_OFFSET)) {
        return mended;
    }
    for first in (0..PARTITION_COUNT).step_by(PARTITION_GROUP_LEN) {
        let main = PartitionEntry::group_bytes(first);
        let (next, before) = (listed(bytes, NEXT_OFFSET, first), listed(bytes, BEFORE_OFFSET, first));
        let found = cf::wyhash::hash64(&bytes[main.clone()]);
        if found == next {
            continue;
        }
        let copy = &bytes[copy_of_group(&main)];
        if cf::wyhash::hash64(copy) == next {
            let entries = copy.chunks_exact(PARTITION_ENTRY_SIZE).map(entry_of);
            header.partitions[first..first + PARTITION_GROUP_LEN]
                .copy_from_slice(&entries.collect::<Vec<_>>());
            // A group in its old state was about to be written.
            mended.restored.extend((found != before).then_some(first));
        } else {
            mended.lost.extend((found != before).then_some(first));
        }
    }
    mended
}

/// Whether the seal of a copy exists and is intact.
fn is_whole(bytes: &[u8]) -> bool {
    bytes[COPY_SEAL_BYTES].starts_with(&COPY_MAGIC)
        && cf::wyhash::hash64(&bytes[COPY_SEAL_BYTES.start..HASH_OFFSET]) == le_u64(bytes, HASH_OFFSET)
}

fn entries_to_bytes(entries: &[PartitionEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.encode()).collect()
}

fn entry_of(bytes: &[u8]) -> PartitionEntry {
    PartitionEntry {
        version: PartitionVersion(le_u64(bytes, 0)),
        tree_id: bytes.get(8).copied().unwrap_or(0),
    }
}

fn hashes(entries: &[u8]) -> Vec<u8> {
    entries.chunks_exact(GROUP_SIZE).flat_map(|group| cf::wyhash::hash64(group).to_le_bytes()).collect()
}

/// The hash for the group of partition `first` in the list that begins at `list`.
fn listed(bytes: &[u8], list: usize, first: usize) -> u64 {
    le_u64(bytes, list + 8 * (first / PARTITION_GROUP_LEN))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_header::Found;

    fn entry(number: u64) -> PartitionEntry {
        PartitionEntry { version: PartitionVersion(number), tree_id: 1 }
    }

    /// A header whose entries have this number, with a copy. The entries on the device before had number 1.
    fn written(number: u64) -> (DeviceHeader, Vec<u8>) {
        let mut header = DeviceHeader::fresh(b"test", 1, 7, 0);
        (header.runs, header.end_mark_key) = (vec![9, 8], 77);
        let before = vec![entry(1); PARTITION_COUNT];
        header.partitions = vec![entry(number); PARTITION_COUNT].into();
        let mut bytes = vec![0; HEADER_SIZE];
        header.encode(&mut bytes);
        encode(&header, &before, &mut bytes);
        (header, bytes)
    }

    /// The header and the repair at a start with `bytes`.
    fn read(bytes: &[u8]) -> (DeviceHeader, Mended) {
        let Ok(Found::Used(mut header)) = DeviceHeader::parse(bytes) else { panic!("a header") };
        let mended = mend(bytes, &mut header);
        (*header, mended)
    }

    #[test]
    fn a_damaged_group_is_taken_from_the_copy() {
        let (header, bytes) = written(2);
        assert_eq!(read(&bytes), (header.clone(), Mended::default()));
        for id in [0, 255, 256, 4095] {
            let mut damaged = bytes.clone();
            damaged[PARTITIONS_OFFSET + 16 * id] ^= 4;
            let mended = Mended { restored: vec![id / 256 * 256], lost: vec![] };
            assert_eq!(read(&damaged), (header.clone(), mended));
        }
    }

    #[test]
    fn damage_of_the_copy_is_harmless_and_damage_of_both_is_reported() {
        let (header, bytes) = written(2);
        for at in (COPY_BYTES.start..HASH_OFFSET + 8).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(read(&damaged), (header.clone(), Mended::default()), "byte {at}");
        }
        let mut damaged = bytes;
        damaged[PARTITIONS_OFFSET + 16 * 300] ^= 4;
        damaged[COPY_BYTES.start + 16 * 400] ^= 4;
        let (found, mended) = read(&damaged);
        assert_eq!(mended, Mended { restored: vec![], lost: vec![256] });
        assert_eq!(found.partitions[301], entry(2), "the others are as they are");
    }

    #[test]
    fn a_crash_before_the_entries_are_written_is_no_damage() {
        let (header, bytes) = written(2);
        let (_, old) = written(1);
        let mut torn = bytes.clone();
        torn[..COPY_BYTES.start].copy_from_slice(&old[..COPY_BYTES.start]);
        assert_eq!(read(&torn), (header, Mended::default()), "what was about to be written is in the copy");
        // The write of the copy itself was interrupted.
        torn[COPY_BYTES.start + 512..COPY_BYTES.start + GROUP_SIZE]
            .copy_from_slice(&old[COPY_BYTES.start + 512..COPY_BYTES.start + GROUP_SIZE]);
        let (found, mended) = read(&torn);
        assert_eq!(
            (found.partitions[0], found.partitions[300], mended),
            (entry(1), entry(2), Mended::default())
        );
    }

    #[test]
    fn later_changes_of_another_server_are_kept() {
        let (_, bytes) = written(2);
        let mut other = DeviceHeader::fresh(b"test", 1, 7, 0);
        other.partitions = vec![entry(5); PARTITION_COUNT].into();
        for runs in [vec![], vec![10, 9]] {
            other.runs = runs;
            let mut again = bytes.clone();
            other.encode(&mut again);
            other.end_mark_key = 77;
            assert_eq!(read(&again), (other.clone(), Mended::default()), "but for the key");
            other.end_mark_key = 0;
        }
    }

    #[test]
    fn an_erased_header_is_seen_by_its_copy() {
        let (_, mut bytes) = written(2);
        bytes[..COPY_BYTES.start].fill(0);
        assert_eq!(DeviceHeader::parse(&bytes), Ok(Found::Fresh));
        bytes[70_000] = 1;
        assert!(DeviceHeader::parse(&bytes).is_err());
    }
}
