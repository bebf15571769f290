//! Random damage: the test changes bytes of a file, in the partition table of its header and in its records.
//! The server starts, and all other records are unchanged.
//!
//! `FERROSPIKE_SOAK_SEED` changes the damage.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use ferrospike_tests::damage::{DataFile, RECORDS, fill, key, value};
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::random::{Random, soak_seed};
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, result};

const ROUNDS: u64 = 24;
/// Largest number of places that are damaged together, and of bytes at each.
const PLACES_MAX: u64 = 6;
const SIZE_MAX: u64 = 600;
/// The partition table, and its second copy with its checksum.
const TABLES: [Range<u64>; 2] = [4_096..69_632, 131_072..196_896];

/// Changes random bytes of `file`, which has records at `places`. Returns the damaged records.
fn damage(file: &DataFile, places: &BTreeMap<u32, Range<u64>>, random: &mut Random) -> Vec<u32> {
    // Only one of the two tables is damaged at a time.
    let table = &TABLES[random.within(0..2) as usize];
    if random.chance(50) {
        let at = random.within(table.clone());
        file.flip(at..at + 1);
    }
    let all = places.values().map(|place| place.start).min().unwrap()
        ..places.values().map(|place| place.end).max().unwrap();
    let mut hit = Vec::new();
    for _ in 0..random.within(1..PLACES_MAX + 1) {
        let (at, size) = (random.within(all.clone()), random.within(1..SIZE_MAX));
        let range = at..(at + size).min(all.end);
        hit.extend(
            places
                .iter()
                .filter(|(_, place)| place.start < range.end && range.start < place.end)
                .map(|(number, _)| *number),
        );
        file.flip(range);
    }
    hit
}

#[test]
fn undamaged_records_exist_after_any_damage() {
    let seed = soak_seed().max(1);
    let folder = fast_folder(128 << 20);
    let path = format!("file {}/test.dat", folder.path().display());
    let mut server =
        Server::start(&stored_config("test", "device", &[&path, "filesize 128M", "defrag-lwm-pct 1"]));
    // The log reports all damage.
    server.allow("");
    let file = DataFile(folder.path().join("test.dat"));
    for is_clean in [true, false] {
        fill(&mut server.connect());
        server.stop();
        if !is_clean {
            server.restart();
            server.kill9();
        }
        let whole = file.bytes();
        let places = file.places();
        let places: BTreeMap<u32, Range<u64>> =
            (0..RECORDS).map(|number| (number, places.of(number))).collect();
        for round in 0..ROUNDS {
            let mut random = Random::new(seed << 16 ^ round << 1 ^ u64::from(is_clean));
            let hit = damage(&file, &places, &mut random);
            server.restart();
            let mut client = server.connect();
            for number in (0..RECORDS).filter(|number| !hit.contains(number)) {
                let answer = client.ask(&Message::get(&key(number))).unwrap();
                let is_whole = answer.result == result::OK && answer.bin("b") == Some(&value(number));
                assert!(
                    is_whole,
                    "seed {seed}, round {round}, record {number} of {hit:?}: {}",
                    answer.result
                );
            }
            server.kill9();
            fs::write(&file.0, &whole).unwrap();
        }
        server.restart();
    }
}
