//! A server whose files the test damages: records with known values, and their places in the files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::device_file::{MAGIC, RECORD_MAGIC, WBLOCK_SIZE, record};
use crate::random::Random;
use crate::server::Server;
use crate::wire::{Message, Operation, digest, info2, operation, result};

/// Set of the records.
pub const SET: &str = "rig";
/// Number of records that [`fill`] writes.
pub const RECORDS: u32 = 40;

/// The name of record `number`.
pub fn key(number: u32) -> String {
    format!("key-{number}")
}

/// The value of record `number`, different for each.
pub fn value(number: u32) -> Vec<u8> {
    Random::new(number.into()).bytes(20_000 + number as usize * 16)
}

/// Writes the value of record `of` to record `number`. Returns the result.
pub fn put_other(client: &mut Client, number: u32, of: u32) -> u8 {
    client.ask(&Message::put(&key(number), value(of))).expect("an answer").result
}

/// Writes record `number`. Returns the result.
pub fn put(client: &mut Client, number: u32) -> u8 {
    put_other(client, number, number)
}

/// Writes all records, in order.
pub fn fill(client: &mut Client) {
    for number in 0..RECORDS {
        assert_eq!(put(client, number), result::OK, "record {number}");
    }
}

/// Reads record `number` and checks its value, if there is one. Returns the result.
pub fn get(client: &mut Client, number: u32) -> u8 {
    let answer = client.ask(&Message::get(&key(number))).expect("an answer");
    if answer.result == result::OK {
        assert!(answer.bin("b") == Some(&value(number)), "record {number} has another value");
    }
    answer.result
}

/// Fails unless all records exist except `missing`, for which the result must be `expected`.
pub fn check_all_but(client: &mut Client, missing: &[u32], expected: u8) {
    for number in 0..RECORDS {
        let wanted = if missing.contains(&number) { expected } else { result::OK };
        assert_eq!(get(client, number), wanted, "record {number}");
    }
}

/// Fails unless every record exists.
pub fn check_all(client: &mut Client) {
    check_all_but(client, &[], result::OK);
}

/// A write that replaces record `number` by a record with the value of `of` in bin `b`.
pub fn replacement(number: u32, of: u32, info3: u8) -> Message {
    Message { info2: info2::WRITE, info3, ..Message::on(&key(number)) }.with_operation(Operation::blob(
        operation::WRITE,
        "b",
        value(of),
    ))
}

/// A data file of a server.
#[derive(Clone, Debug)]
pub struct DataFile(pub PathBuf);

impl DataFile {
    /// `name` in the server's folder.
    pub fn of(server: &Server, name: &str) -> DataFile {
        DataFile(server.folder().join(name))
    }

    /// Its name in the server's log.
    pub fn name(&self) -> String {
        self.0.display().to_string()
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    /// The bytes of the file's header.
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        self.open().read_exact_at(&mut bytes, 0).expect("read a header");
        bytes
    }

    /// Writes `bytes` at `offset`, even while a server uses the file.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.open().write_all_at(bytes, offset).expect("damage a file");
    }

    /// Changes each byte of `place`.
    pub fn flip(&self, place: Range<u64>) {
        let mut bytes = vec![0; (place.end - place.start) as usize];
        self.open().read_exact_at(&mut bytes, place.start).expect("read what is damaged");
        bytes.iter_mut().for_each(|byte| *byte ^= 0xA5);
        self.overwrite(place.start, &bytes);
    }

    /// Sets the length of the file.
    pub fn truncate(&self, size: u64) {
        self.open().set_len(size).expect("cut a file");
    }

    /// The place of the newest copy of each record, in an undamaged file.
    pub fn places(&self) -> Places {
        let bytes = self.bytes();
        assert_eq!(bytes[..8], MAGIC.to_le_bytes());
        let mut newest = BTreeMap::new();
        let mut at = WBLOCK_SIZE;
        while at < bytes.len() {
            if !bytes[at..].starts_with(&RECORD_MAGIC.to_le_bytes()) {
                at += 16;
                continue;
            }
            let found = record(&bytes, at);
            at += found.size;
            let place = found.offset as u64..at as u64;
            let age = (found.last_update_time, found.generation);
            match newest.get(&found.digest) {
                Some((known, _)) if *known > age => {}
                _ => drop(newest.insert(found.digest, (age, place))),
            }
        }
        Places(newest.into_iter().map(|(digest, (_, place))| (digest, place)).collect())
    }

    fn open(&self) -> File {
        let file = File::options().read(true).write(true).open(&self.0);
        file.unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}

/// The places of the records in a file.
#[derive(Clone, Debug)]
pub struct Places(BTreeMap<[u8; 20], Range<u64>>);

impl Places {
    /// The place of record `number`, if it is in the file.
    pub fn find(&self, number: u32) -> Option<Range<u64>> {
        self.0.get(&digest(SET, &key(number))).cloned()
    }

    /// The place of record `number`.
    pub fn of(&self, number: u32) -> Range<u64> {
        self.find(number).unwrap_or_else(|| panic!("record {number} is in another file"))
    }

    /// The records in the file.
    pub fn numbers(&self) -> Vec<u32> {
        (0..RECORDS).filter(|number| self.find(*number).is_some()).collect()
    }
}

/// Fails unless one line of `log` contains all `words`. Returns that line.
pub fn line_with<'l>(log: &'l str, words: &[&str]) -> &'l str {
    let found = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
    found.unwrap_or_else(|| panic!("no line with {words:?} in:\n{log}"))
}

/// Whether a file exists at `path`.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
