//! Reads devices from the beginning to the end, and keeps the facts about the newest copy of each record.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cf::Digest;
use datamodel::device_header::{
    DeviceHeader, Flags, Found, HEADER_SIZE, HEADER_SPACE, HeaderError, PARTITION_COUNT, WBLOCK_SIZE,
};
use datamodel::encryption::{DeviceKey, Strength, UnitCipher};
use datamodel::flat::{FlatError, FlatRecord};
use datamodel::wblock_scan::{CopyAge, EndMark, Piece, WblockScan, starts_with_record};

/// Number of consecutive unused write blocks that end a scan.
const UNUSED_MAX: u32 = 10;

/// The newest copy of a record.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub age: CopyAge,
    /// Index of its device.
    pub device: usize,
    /// Offset on the device in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u32,
    /// Index of its set's name.
    pub set: usize,
    pub bin_count: u32,
    pub has_key: bool,
}

impl Stored {
    /// Whether it marks a deleted record.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.bin_count == 0
    }
}

/// Bytes that cannot be interpreted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub offset: u64,
    pub size: u64,
    pub reason: String,
}

/// Content of one write block.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wblock {
    /// Bytes of all copies.
    pub record_bytes: u64,
    /// Bytes of newest copies.
    pub live_bytes: u64,
}

/// Whether a device's encryption allows a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// The device is not encrypted.
    None,
    /// No key was given.
    Closed,
    /// The given key does not belong to the device.
    WrongKey,
    /// The given key belongs to the device.
    Open(Strength),
}

impl Lock {
    /// A message about the encryption, if there is one.
    #[must_use]
    pub const fn text(self) -> Option<&'static str> {
        match self {
            Lock::None => None,
            Lock::Closed => Some("encrypted; its records are not read without --key-file"),
            Lock::WrongKey => Some("encrypted, and the key does not open it; its records are not read"),
            Lock::Open(Strength::Aes128) => Some("encrypted by aes-128, opened by the key"),
            Lock::Open(Strength::Aes256) => Some("encrypted by aes-256, opened by the key"),
        }
    }
}

/// Content of one device.
#[derive(Debug)]
pub struct Device {
    pub path: PathBuf,
    pub size: u64,
    /// `None` for a fresh device.
    pub header: Result<Option<DeviceHeader>, HeaderError>,
    /// The kind of file, if it is not a device: it has neither a header nor a record.
    pub other_kind: Option<String>,
    pub lock: Lock,
    /// The write blocks read.
    pub wblocks: Vec<Wblock>,
    /// Number of write blocks on the device.
    pub wblock_count: u64,
    /// Copies of records, including older ones.
    pub copies: u64,
    /// Copies in partitions that the header marks as absent, or with an old tree id.
    pub dropped: u64,
    /// Nonzero bytes without a record's magic. They are left from earlier use, or damaged.
    pub stale_bytes: u64,
    pub damage: Vec<Damage>,
}

/// Content of all devices.
#[derive(Debug, Default)]
pub struct Inspection {
    pub devices: Vec<Device>,
    pub records: HashMap<Digest, Stored>,
    /// Names of sets. The first belongs to records without a set.
    pub sets: Vec<Vec<u8>>,
    set_ids: HashMap<Vec<u8>, usize>,
}

impl Inspection {
    /// Reads `paths`. With `all`, also reads the blocks after a run of unused ones.
    ///
    /// # Errors
    /// When a file cannot be opened, or its beginning cannot be read.
    pub fn of(paths: &[PathBuf], all: bool, key_file: Option<&Path>) -> io::Result<Self> {
        let fail = |path: &Path, error| io::Error::other(format!("{}: {error}", path.display()));
        let key = key_file.map(|path| std::fs::read(path).map_err(|error| fail(path, error))).transpose()?;
        let mut inspection = Inspection::default();
        inspection.set_id(b"");
        for path in paths {
            inspection.read_device(path, all, key.as_deref()).map_err(|error| fail(path, error))?;
        }
        for stored in inspection.records.values() {
            let wblock = wblock_at(stored.offset);
            inspection.devices[stored.device].wblocks[wblock].live_bytes += u64::from(stored.size);
        }
        Ok(inspection)
    }

    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.devices
            .iter()
            .all(|device| device.header.is_ok() && device.damage.is_empty() && device.lock != Lock::WrongKey)
    }

    fn read_device(&mut self, path: &Path, all: bool, key: Option<&[u8]>) -> io::Result<()> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            let what = "is a folder; name devices, data files, or the .smd files in a folder smd";
            return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
        }
        // The end of a block device is its size, as for a file.
        let size = file.seek(SeekFrom::End(0))?;
        let mut first_bytes = vec![0; size.min(HEADER_SIZE as u64) as usize];
        file.read_exact_at(&mut first_bytes, 0)?;
        let header = DeviceHeader::parse(&first_bytes).and_then(|found| match found {
            Found::Fresh => Ok(None),
            Found::Used(header) => header.check(&header.namespace, size).map(|()| Some(*header)),
        });
        let (lock, cipher) = open(header.as_ref().ok().and_then(Option::as_ref), key);
        let wblock_count = size.saturating_sub(HEADER_SPACE) / u64::from(WBLOCK_SIZE);
        let number = self.devices.len();
        self.devices.push(Device {
            path: path.to_owned(),
            size,
            header,
            other_kind: None,
            lock,
            wblocks: Vec::new(),
            wblock_count,
            copies: 0,
            dropped: 0,
            stale_bytes: 0,
            damage: Vec::new(),
        });
        if !matches!(lock, Lock::Closed | Lock::WrongKey) {
            self.read_wblocks(&file, all, cipher.as_ref());
        }
        let device = &mut self.devices[number];
        if matches!(device.header, Err(HeaderError::Short(_) | HeaderError::Foreign(_))) && device.copies == 0
        {
            device.other_kind = Some(kind_of(&first_bytes));
        }
        Ok(())
    }

    fn read_wblocks(&mut self, file: &File, all: bool, cipher: Option<&UnitCipher>) {
        let number = self.devices.len() - 1;
        let device = &self.devices[number];
        let pristine_offset = device.header.as_ref().ok().and_then(Option::as_ref);
        let pristine_offset = pristine_offset.map_or(0, |header| header.pristine_offset);
        let mut bytes = vec![0; WBLOCK_SIZE as usize];
        let mut unused = 0;
        for wblock in 0..device.wblock_count {
            let offset = HEADER_SPACE + wblock * u64::from(WBLOCK_SIZE);
            self.devices[number].wblocks.push(Wblock::default());
            if let Err(error) = file.read_exact_at(&mut bytes, offset) {
                let size = u64::from(WBLOCK_SIZE);
                self.devices[number].damage.push(Damage { offset, size, reason: error.to_string() });
                continue;
            }
            if let Some(cipher) = cipher {
                cipher.decrypt(offset, &mut bytes);
            }
            unused = if starts_with_record(&bytes) { 0 } else { unused + 1 };
            self.read_pieces(&bytes, offset);
            if !all && unused >= UNUSED_MAX && offset >= pristine_offset {
                break;
            }
        }
    }

    fn read_pieces(&mut self, bytes: &[u8], wblock_offset: u64) {
        let number = self.devices.len() - 1;
        let header = self.devices[number].header.as_ref().ok().and_then(Option::as_ref);
        let is_known = header.is_some_and(|header| wblock_offset < header.pristine_offset);
        let was_stopped_cleanly = header.is_some_and(|header| header.flags.contains(Flags::TRUSTED));
        let block = (wblock_offset / u64::from(WBLOCK_SIZE)) as u32;
        let mark = EndMark::new(header.map_or(0, |header| header.end_mark_key), block);
        for piece in WblockScan::new(bytes, mark) {
            match piece {
                Piece::Record { offset, record } => self.add(&record, wblock_offset + offset as u64),
                // A server may never have written to the block.
                Piece::Damage { offset: 0, size, reason: FlatError::Magic }
                    if !is_known && !holds_records(bytes, mark) =>
                {
                    self.devices[number].stale_bytes += size as u64;
                }
                Piece::Damage { offset, size, reason } => self.devices[number].damage.push(Damage {
                    offset: wblock_offset + offset as u64,
                    size: size as u64,
                    reason: reason.to_string(),
                }),
                Piece::Gap { offset, size } if was_stopped_cleanly => {
                    let reason = "zeros where records were".to_owned();
                    let offset = wblock_offset + offset as u64;
                    self.devices[number].damage.push(Damage { offset, size: size as u64, reason });
                }
                Piece::Gap { size, .. } | Piece::Stale { size, .. } => {
                    self.devices[number].stale_bytes += size as u64;
                }
            }
        }
    }

    fn add(&mut self, record: &FlatRecord<'_>, offset: u64) {
        let number = self.devices.len() - 1;
        let device = &mut self.devices[number];
        device.copies += 1;
        device.wblocks[wblock_at(offset)].record_bytes += record.size as u64;
        if let Ok(Some(header)) = &device.header {
            let partition = record.digest.le_u32_at(0) as usize % PARTITION_COUNT;
            let entry = header.partitions[partition];
            if !entry.version.has_data() || entry.tree_id != record.tree_id {
                device.dropped += 1;
                return;
            }
        }
        let age = CopyAge::of(record);
        if self.records.get(&record.digest).is_some_and(|known| !age.supersedes(known.age)) {
            return;
        }
        let stored = Stored {
            age,
            device: number,
            offset,
            size: record.size as u32,
            set: self.set_id(record.set_name),
            bin_count: record.bin_count,
            has_key: record.key.is_some(),
        };
        self.records.insert(record.digest, stored);
    }

    fn set_id(&mut self, name: &[u8]) -> usize {
        if let Some(id) = self.set_ids.get(name) {
            return *id;
        }
        let id = self.sets.len();
        self.sets.push(name.to_vec());
        self.set_ids.insert(name.to_vec(), id);
        id
    }
}

/// The cipher for a device with `header`, from the content of a key file.
fn open(header: Option<&DeviceHeader>, key: Option<&[u8]>) -> (Lock, Option<UnitCipher>) {
    let Some(wrapped) = header.and_then(|header| header.encrypted_key.as_ref()) else {
        return (Lock::None, None);
    };
    let Some(key) = key else { return (Lock::Closed, None) };
    let opened = Strength::ALL
        .into_iter()
        .find_map(|strength| Some((strength, DeviceKey::unwrap(wrapped, key, strength)?.cipher(strength))));
    match opened {
        Some((strength, cipher)) => (Lock::Open(strength), Some(cipher)),
        None => (Lock::WrongKey, None),
    }
}

/// Maximum number of characters of a text that are repeated.
const BEGINNING_SIZE: usize = 40;

/// The kind of a file that begins with `bytes` and is not a device.
fn kind_of(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(BEGINNING_SIZE)];
    let line = beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match std::str::from_utf8(line) {
        _ if bytes.is_empty() => "it is empty".to_owned(),
        Ok(line) if line.chars().all(|letter| !letter.is_control() || letter == '\t') => {
            format!("it is a text that begins with {line:?}")
        }
        _ => format!("it begins with the bytes {:02x?}", &beginning[..beginning.len().min(8)]),
    }
}

/// Whether a write block has at least one whole record.
fn holds_records(bytes: &[u8], mark: EndMark) -> bool {
    WblockScan::new(bytes, mark).any(|piece| matches!(piece, Piece::Record { .. }))
}

/// Index of the write block that holds `offset`, counted from the end of the header.
fn wblock_at(offset: u64) -> usize {
    ((offset - HEADER_SPACE) / u64::from(WBLOCK_SIZE)) as usize
}

#[cfg(test)]
mod tests {
    use datamodel::device_header::PartitionEntry;
    use datamodel::flat::NewRecord;
    use datamodel::partition_version::PartitionVersion;
    use datamodel::{Bin, Bins, Particle};

    use super::*;
    use crate::inspect::report;

    fn record(key: u8, generation: u16, tree_id: u8, bin_count: usize) -> Vec<u8> {
        let mut bins = Bins::new();
        for name in [&b"a"[..], b"b"].into_iter().take(bin_count) {
            bins.push(Bin { name, particle: Particle::Integer(7) });
        }
        let record = NewRecord {
            digest: Digest([key; 20]),
            last_update_time: 9,
            generation,
            void_time: 1,
            tree_id,
            set_name: b"set",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        flat
    }

    /// A file of two write blocks. The first has old copies, one of them damaged; the second has new ones.
    fn image() -> Vec<u8> {
        let mut header = DeviceHeader::fresh(b"bar", 1, 5, 0);
        header.partitions.fill(PartitionEntry { version: PartitionVersion::new(0xABC, 0), tree_id: 1 });
        let mut image = vec![0; 3 * WBLOCK_SIZE as usize];
        header.encode(&mut image);
        let mut first = [record(1, 1, 1, 1), record(2, 1, 1, 1), record(3, 1, 1, 1)].concat();
        first[record(1, 1, 1, 1).len() + 44] ^= 1;
        let second = [record(1, 2, 1, 2), record(4, 1, 2, 1), record(5, 1, 1, 0)].concat();
        for (block, bytes) in [(1, first), (2, second)] {
            image[block * WBLOCK_SIZE as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        image
    }

    #[test]
    fn newest_copies_garbage_and_damage_are_distinguished() {
        let path = std::env::temp_dir().join(format!("asd-inspect-test-{}", std::process::id()));
        std::fs::write(&path, image()).unwrap();
        let inspection = Inspection::of(std::slice::from_ref(&path), false, None);
        std::fs::remove_file(&path).unwrap();
        let inspection = inspection.unwrap();
        let device = &inspection.devices[0];
        assert!(!inspection.is_sound());
        assert_eq!((device.copies, device.dropped, device.damage.len()), (5, 1, 1));
        let first = u64::from(WBLOCK_SIZE);
        assert_eq!(device.damage[0].offset, first + record(1, 1, 1, 1).len() as u64);
        let mut keys: Vec<u8> = inspection.records.keys().map(|digest| digest.0[0]).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 3, 5]);
        assert_eq!(inspection.records[&Digest([1; 20])].offset, 2 * first);
        assert!(inspection.records[&Digest([5; 20])].is_tombstone());

        let mut text = Vec::new();
        report::text(&inspection, true, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("records: 2 live, 1 tombstones") && text.contains("damage: 1"), "{text}");
        let json = report::json(&inspection, true);
        assert_eq!(json["devices"][0]["header"]["partitions-with-data"], 4096);
        assert_eq!(json["list"][0]["generation"], 2);
        assert_eq!(json["devices"][0]["wblocks"]["live"], 2);
    }

    #[test]
    fn unwritten_blocks_are_no_damage_but_a_lost_start_is() {
        let path = std::env::temp_dir().join(format!("asd-inspect-start-{}", std::process::id()));
        for (has_records, damage) in [(true, 1), (false, 0)] {
            let mut image = image();
            let wblock_size = WBLOCK_SIZE as usize;
            if has_records {
                image[2 * wblock_size] ^= 1;
            } else {
                image[2 * wblock_size..].fill(7);
            }
            std::fs::write(&path, image).unwrap();
            let inspection = Inspection::of(std::slice::from_ref(&path), true, None).unwrap();
            std::fs::remove_file(&path).unwrap();
            let found = inspection.devices[0].damage.iter();
            assert_eq!(found.filter(|found| found.offset == 2 * wblock_size as u64).count(), damage);
        }
    }

    #[test]
    fn a_header_of_another_kind_is_an_answer() {
        let path = std::env::temp_dir().join(format!("asd-inspect-foreign-{}", std::process::id()));
        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        let inspection = Inspection::of(std::slice::from_ref(&path), true, None);
        std::fs::remove_file(&path).unwrap();
        let inspection = inspection.unwrap();
        assert_eq!(inspection.devices[0].header, Err(HeaderError::Short(10)));
        assert!(!inspection.is_sound());
        let mut text = Vec::new();
        report::text(&inspection, false, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!(
                "{}: 10 bytes, no device or data file of a namespace: it is a text that begins with \"#!/bin/sh\"; \
                 expected are devices and files of `storage-engine` in the configuration, or system metadata \
                 (WORK-DIRECTORY/smd/*.smd)\n",
                path.display()
            )
        );
        assert_eq!(kind_of(b""), "it is empty");
        assert_eq!(kind_of(b"\x7fELF\x02\x01"), "it begins with the bytes [7f, 45, 4c, 46, 02, 01]");
        let folder = Inspection::of(&[std::env::temp_dir()], true, None).unwrap_err().to_string();
        assert!(folder.contains("is a folder"), "{folder}");
    }

    #[test]
    fn a_device_whose_header_is_overwritten_is_still_a_device() {
        let path = std::env::temp_dir().join(format!("asd-inspect-overwritten-{}", std::process::id()));
        let mut image = image();
        image[..10].copy_from_slice(b"#!/bin/sh\n");
        std::fs::write(&path, image).unwrap();
        let inspection = Inspection::of(std::slice::from_ref(&path), true, None);
        std::fs::remove_file(&path).unwrap();
        let inspection = inspection.unwrap();
        let device = &inspection.devices[0];
        assert!(device.header.is_err() && device.other_kind.is_none() && device.copies > 0, "{device:?}");
    }
}
