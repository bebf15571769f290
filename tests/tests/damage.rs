//! Files that are damaged at rest or while the server runs: intact records are served, lost records are
//! reported with file, offset and advice, and unusable files are refused and left unchanged.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::ops::Range;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::damage::{
    DataFile, Places, RECORDS, SET, check_all, check_all_but, fill, get, key, line_with, put, replacement,
    value,
};
use ferrospike_tests::device_file::WBLOCK_SIZE;
use ferrospike_tests::random::Random;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, Operation, digest, field, info1, info2, info3, operation, result};

const FILE: [&str; 4] = ["file {dir}/test.dat", "filesize 128M", "defrag-lwm-pct 1", "post-write-cache 0"];

/// A server that has written all records to its file and has been stopped.
fn stopped(engine: &str) -> (Server, DataFile) {
    let storage = if engine == "memory" { &FILE[..3] } else { &FILE[..] };
    let mut server = Server::start(&stored_config("test", engine, storage));
    fill(&mut server.connect());
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    (server, file)
}

/// Fails unless the server refuses to start on `file`, with all of `words` in the reason, and leaves it
/// unchanged.
fn check_refused(server: &mut Server, file: &DataFile, words: &[&str]) {
    let before = file.bytes();
    let log = server.refusal();
    let line = line_with(&log, &[&[": CRITICAL (", &file.name()], words].concat());
    assert!(line.contains(';'), "it says what to do: {line}");
    assert!(file.bytes() == before, "the file was changed");
}

#[test]
fn a_damaged_header_is_refused_with_its_place() {
    let (mut server, file) = stopped("device");
    for (place, offset) in [
        (0..8, 0),
        (8..12, 8),
        (44..48, 44),
        (60..64, 60),
        (69_632..69_636, 69_632),
        (69_720..69_728, 69_720),
    ] {
        file.flip(place.clone());
        let records = format!("yet there are records, the first at offset {WBLOCK_SIZE}; restore the header");
        let told = match offset {
            8 => "the header is damaged: restore it",
            69_720 => "restore the complete file",
            _ => &records,
        };
        check_refused(&mut server, &file, &[&format!("at offset {offset}: "), told]);
        file.flip(place);
    }
    file.overwrite(48, &[0; 8]);
    check_refused(&mut server, &file, &["at offset 48: ", "signature 0"]);
    file.overwrite(48, &[7; 8]);
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_file_of_another_namespace_is_refused() {
    let (mut server, file) = stopped("device");
    server.configure(&stored_config("other", "device", &FILE));
    check_refused(&mut server, &file, &["at offset 12: ", "holds namespace \"test\", not \"other\""]);
    server.configure(&stored_config("test", "device", &FILE));
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn unknown_versions_are_refused() {
    let (mut server, file) = stopped("device");
    for (version, words) in [(3u32, "no end marks"), (5, "format version 5 is unknown")] {
        file.overwrite(8, &version.to_le_bytes());
        check_refused(&mut server, &file, &["at offset 8: ", words]);
    }
    file.overwrite(8, &4u32.to_le_bytes());
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn something_else_is_not_overwritten() {
    for head in [&b"#!/bin/sh\nexec true\n"[..], &[0xEB, 0x63, 0x90]] {
        let (mut server, file) = stopped("device");
        file.overwrite(0, &vec![0; WBLOCK_SIZE]);
        file.overwrite(512, head);
        check_refused(&mut server, &file, &["at offset 512: ", "not Aerospike's"]);
    }
}

#[test]
fn a_short_file_is_refused() {
    let (mut server, file) = stopped("device");
    let whole = file.bytes();
    for size in [5_000, 10 << 20] {
        file.truncate(size);
        check_refused(&mut server, &file, &["restore"]);
        file.overwrite(0, &whole[..24 << 20]);
    }
    server.restart();
    check_all(&mut server.connect());
}

/// A killed server with records in many blocks, and its file.
fn killed_with_blocks() -> (Server, DataFile) {
    let storage = ["file {dir}/test.dat", "filesize 256M", "defrag-lwm-pct 1", "post-write-cache 0"];
    let mut server = Server::start(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    for number in 0..LARGE_RECORDS {
        while client.ask(&large(number)).unwrap().result == result::DEVICE_OVERLOAD {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // All records are on disk after at most a second.
    std::thread::sleep(Duration::from_millis(1500));
    server.kill9();
    let file = DataFile::of(&server, "test.dat");
    (server, file)
}

const LARGE_RECORDS: u32 = 150;

fn large(number: u32) -> Message {
    Message::put(&key(number), vec![number as u8; 900_000])
}

/// The numbers of the large records that are served.
fn served(client: &mut Client) -> Vec<u32> {
    (0..LARGE_RECORDS)
        .filter(|number| client.ask(&Message::get(&key(*number))).unwrap().result == result::OK)
        .collect()
}

#[test]
fn a_hole_hides_no_records_and_is_reported() {
    let (mut server, file) = killed_with_blocks();
    let places = file.places();
    server.allow("a hole").allow("damaged and left out").allow("were not loaded");
    // The damage covers two whole blocks.
    let (start, size) = (5 * WBLOCK_SIZE as u64, 2 * WBLOCK_SIZE);
    file.overwrite(start, &vec![0; size]);
    server.restart();
    let hole = format!("{}: at offset {start}: a hole: {size} bytes hold nothing", file.name());
    line_with(&server.log(), &[": WARNING (", &hole, "though they were in use; restore"]);
    server.kill9();
    // The damage begins and ends in the middle of records, not at the edges of blocks.
    let (start, end) = (3 * WBLOCK_SIZE as u64 + 3_000_016, 15 * WBLOCK_SIZE as u64 + 2_000_064);
    file.overwrite(start, &vec![0; (end - start) as usize]);
    let intact: Vec<u32> = (0..LARGE_RECORDS)
        .filter(|number| {
            let place = places.of(*number);
            place.end <= start || place.start >= end
        })
        .collect();
    assert!((40..70).contains(&intact.len()), "{}", intact.len());
    server.restart();
    assert_eq!(served(&mut server.connect()), intact);
    line_with(&server.log(), &[": WARNING (", &file.name(), "a hole: ", "though they were in use; restore"]);
    line_with(&server.log(), &[": WARNING (", &file.name(), "a hole: zeros where records were; restore"]);
}

#[test]
fn an_erased_header_is_refused_while_there_are_records() {
    let (mut server, file) = stopped("device");
    let head = file.bytes()[..1 << 20].to_vec();
    for size in [128 << 10, 1 << 20] {
        file.overwrite(0, &vec![0; size]);
        check_refused(&mut server, &file, &["restore"]);
        file.overwrite(0, &head);
    }
    server.restart();
    check_all(&mut server.connect());
    // An operator can choose to start empty.
    server.stop();
    file.overwrite(0, &vec![0; 1 << 20]);
    server.configure(&stored_config("test", "device", &[&FILE[..], &["cold-start-empty true"]].concat()));
    server.allow("of a former use were erased");
    server.restart();
    assert_eq!(server.connect().figure("namespace/test", "objects").unwrap(), 0);
}

#[test]
fn a_file_that_was_cut_after_a_crash_is_refused() {
    let (mut server, file) = killed_with_blocks();
    file.truncate(130 << 20);
    check_refused(&mut server, &file, &["the file was cut", "truncate -s 268435456"]);
    // If the operator follows the advice, the remaining records are served.
    file.truncate(256 << 20);
    server.allow("damaged and left out").allow("a hole").allow("were not loaded");
    server.restart();
    assert!(served(&mut server.connect()).len() > 120);
}

#[test]
fn a_torn_record_at_the_end_of_a_crash_is_no_damage() {
    let (mut server, file) = killed_with_blocks();
    let place = file.places().of(LARGE_RECORDS - 1);
    let cut = (place.start + 300_000) / 512 * 512;
    file.overwrite(cut, &vec![0; (place.end + 4096 - cut) as usize]);
    server.restart();
    assert_eq!(served(&mut server.connect()).len(), LARGE_RECORDS as usize - 1);
    line_with(&server.log(), &[": INFO (", &file.name(), "they remain from an incomplete write"]);
    server.stop();
}

/// Damages record 7 while the server is stopped. The other records must be found, and the log must report the
/// lost one.
fn check_damage_at_rest(engine: &str, damage: impl Fn(&Range<u64>) -> Range<u64>, identifies: bool) {
    let (mut server, file) = stopped(engine);
    let place = file.places().of(7);
    file.flip(damage(&place));
    server.allow("damaged and left out: ").allow("1 damaged places, ");
    server.restart();
    let offset = format!("{}: at offset {}: ", file.name(), place.start);
    let log = server.log();
    let line = line_with(
        &log,
        &[": WARNING (", &offset, "damaged and left out: ", "restore what was there from a backup"],
    );
    assert_eq!(line.contains(&format!("of set '{SET}'")), identifies, "{line}");
    let mut client = server.connect();
    check_all_but(&mut client, &[7], result::NOT_FOUND);
    assert_eq!(client.figure("namespace/test", "objects").unwrap(), u64::from(RECORDS) - 1);
    assert_eq!(put(&mut client, 7), result::OK);
    server.stop();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_record_without_its_magic_is_reported_and_the_others_are_loaded() {
    check_damage_at_rest("device", |place| place.start..place.start + 4, true);
    check_damage_at_rest("memory", |place| place.start..place.start + 1, true);
}

#[test]
fn a_record_with_a_wrong_size_is_reported_and_the_others_are_loaded() {
    check_damage_at_rest("device", |place| place.start + 4..place.start + 5, true);
}

#[test]
fn a_record_with_a_wrong_digest_or_end_mark_is_reported() {
    check_damage_at_rest("device", |place| place.start + 10..place.start + 11, true);
    // The value of record 7 has 20,112 bytes. It follows 35 bytes of header, 4 of set, 1 of count, 2 of name
    // and 5 of particle.
    check_damage_at_rest("device", |place| place.start + 47 + 20_112..place.start + 47 + 20_116, true);
}

#[test]
fn a_record_whose_start_is_lost_is_reported() {
    check_damage_at_rest("device", |place| place.start..place.start + 64, false);
}

#[test]
fn damage_over_several_records_costs_those_only() {
    let (mut server, file) = stopped("device");
    let places = file.places();
    file.flip(places.of(10).start + 9..places.of(13).start + 3);
    server.allow("damaged and left out: ").allow("were not loaded");
    server.restart();
    let size = places.of(14).start - places.of(10).start;
    let damage = format!("{}: at offset {}: ", file.name(), places.of(10).start);
    line_with(&server.log(), &[&damage, &format!("{size} bytes, perhaps of several records, are damaged")]);
    line_with(&server.log(), &[&format!("1 damaged places, {size} bytes in all, were not loaded")]);
    check_all_but(&mut server.connect(), &[10, 11, 12, 13], result::NOT_FOUND);
}

#[test]
fn a_lost_block_costs_its_records_only() {
    let mut server = Server::start(&stored_config("test", "device", &FILE));
    let mut client = server.connect();
    fill(&mut client);
    // This moves records 0 to 4 to the second block.
    let large = |number: u32| Message::put(&format!("large-{number}"), vec![number as u8; 1_000_000]);
    for number in 0..8 {
        assert_eq!(client.ask(&large(number)).unwrap().result, result::OK);
    }
    for number in 0..5 {
        assert_eq!(client.ask(&replacement(number, number, 0)).unwrap().result, result::OK);
    }
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let places = file.places();
    let block = WBLOCK_SIZE as u64..2 * WBLOCK_SIZE as u64;
    let lost: Vec<u32> = (0..RECORDS).filter(|number| block.contains(&places.of(*number).start)).collect();
    assert_eq!(lost, (5..RECORDS).collect::<Vec<_>>());
    file.overwrite(block.start, &Random::new(5).bytes(WBLOCK_SIZE));
    server.allow("damaged and left out: ").allow("were not loaded");
    server.restart();
    let damage = format!("{}: at offset {}: ", file.name(), block.start);
    line_with(&server.log(), &[": WARNING (", &damage, " bytes, perhaps of several records, are damaged"]);
    let mut client = server.connect();
    check_all_but(&mut client, &lost, result::NOT_FOUND);
    assert!(lost.iter().all(|number| put(&mut client, *number) == result::OK));
    server.stop();
    server.restart();
    check_all(&mut server.connect());
}

/// A running server. Its records 3, 5, 7 and 9 were damaged, each in a different part.
fn damaged_under_it() -> (Server, DataFile, Places) {
    let (mut server, file) = stopped("device");
    let places = file.places();
    server.restart();
    for (number, part) in [(3, 0..4), (5, 4..8), (7, 10..14), (9, 42..47)] {
        let start = places.of(number).start;
        file.flip(start + part.start..start + part.end);
    }
    (server, file, places)
}

#[test]
fn reads_of_damaged_records_are_errors_and_others_succeed() {
    let (mut server, file, places) = damaged_under_it();
    let mut client = server.connect();
    check_all_but(&mut client, &[3, 5, 7, 9], result::UNKNOWN);
    // A request that needs no bins needs no disk.
    let exists = Message { info1: info1::READ | info1::GET_NO_BINS, ..Message::on(&key(3)) };
    assert_eq!(client.ask(&exists).unwrap().result, result::OK);
    // The log reports each damaged record, with its place.
    server.allow("replace it or delete it");
    let log = server.log().to_lowercase();
    for number in [3, 5, 7, 9] {
        let digest: String = digest(SET, &key(number)).iter().map(|byte| format!("{byte:02x}")).collect();
        let place = format!("at offset {} of {}: ", places.of(number).start, file.name()).to_lowercase();
        line_with(&log, &[": warning (", &digest, &place, "replace it or delete it"]);
    }
}

#[test]
fn writes_that_need_the_old_bins_of_a_damaged_record_are_errors() {
    let (mut server, ..) = damaged_under_it();
    server.allow("replace it or delete it");
    let mut client = server.connect();
    let other_bin = |number| {
        Message::write(&key(number)).with_operation(Operation::integer(operation::WRITE, "other", 1))
    };
    let append = |number| {
        Message::write(&key(number)).with_operation(Operation::blob(operation::APPEND, "b", vec![1]))
    };
    let touch = |number| Message::write(&key(number)).with_operation(Operation::bare(operation::TOUCH, ""));
    for number in [3, 5, 7, 9] {
        for request in [other_bin(number), append(number), touch(number)] {
            assert_eq!(client.ask(&request).unwrap().result, result::UNKNOWN, "record {number}");
        }
        let create = Message { info2: info2::WRITE | info2::CREATE_ONLY, ..other_bin(number) };
        assert_eq!(client.ask(&create).unwrap().result, result::EXISTS);
    }
    check_all_but(&mut client, &[3, 5, 7, 9], result::UNKNOWN);
}

#[test]
fn damaged_records_can_be_replaced() {
    let (mut server, ..) = damaged_under_it();
    server.allow("replace it or delete it");
    let mut client = server.connect();
    for (number, how) in
        [(3, info3::CREATE_OR_REPLACE), (5, REPLACE_ONLY), (7, info3::CREATE_OR_REPLACE), (9, REPLACE_ONLY)]
    {
        let wrong = Message {
            info2: info2::WRITE | info2::GENERATION,
            generation: 9,
            ..replacement(number, number, how)
        };
        assert_eq!(client.ask(&wrong).unwrap().result, result::GENERATION);
        let answer = client.ask(&replacement(number, number, how)).unwrap();
        assert_eq!((answer.result, answer.generation), (result::OK, 2), "record {number}");
    }
    check_all(&mut client);
    server.stop();
    // The newer copies of the damaged records are used.
    server.allow("damaged and left out: ").allow("were not loaded");
    server.restart();
    check_all(&mut server.connect());
}
const REPLACE_ONLY: u8 = 0x20;

#[test]
fn damaged_records_can_be_deleted() {
    for durable in [0, info2::DURABLE_DELETE] {
        let (mut server, ..) = damaged_under_it();
        server.allow("replace it or delete it");
        let mut client = server.connect();
        for number in [3, 5, 7, 9] {
            let delete =
                Message { info2: info2::WRITE | info2::DELETE | durable, ..Message::on(&key(number)) };
            assert_eq!(client.ask(&delete).unwrap().result, result::OK, "record {number}");
            assert_eq!(get(&mut client, number), result::NOT_FOUND);
        }
        let figure = |client: &mut Client, name| client.figure("namespace/test", name).unwrap();
        assert_eq!(figure(&mut client, "objects"), u64::from(RECORDS) - 4);
        assert_eq!(figure(&mut client, "tombstones"), if durable == 0 { 0 } else { 4 });
        server.stop();
        server.allow("damaged and left out: ").allow("were not loaded");
        server.restart();
        check_all_but(&mut server.connect(), &[3, 5, 7, 9], result::NOT_FOUND);
    }
}

/// The stored key of a damaged record is lost, so the key in a request counts.
#[test]
fn damaged_records_with_a_key_can_be_replaced_and_deleted() {
    let mut server = Server::start(&stored_config("test", "device", &FILE));
    let mut client = server.connect();
    let user_key = |number| [&[3], key(number).as_bytes()].concat();
    let with_key = |message: Message, number| message.with_field(field::KEY, &user_key(number));
    for number in 0..RECORDS {
        let put = with_key(Message::put(&key(number), value(number)), number);
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let places = file.places();
    server.restart();
    for number in 1..5 {
        file.flip(places.of(number).start..places.of(number).start + 4);
    }
    server.allow("replace it or delete it");
    let mut client = server.connect();
    let ask = |client: &mut Client, message: Message| client.ask(&message).unwrap().result;
    assert_eq!(ask(&mut client, replacement(1, 1, info3::CREATE_OR_REPLACE)), result::OK);
    assert_eq!(ask(&mut client, with_key(replacement(2, 2, info3::CREATE_OR_REPLACE), 2)), result::OK);
    assert_eq!(ask(&mut client, with_key(Message::delete(&key(3)), 3)), result::OK);
    let durably =
        Message { info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE, ..Message::on(&key(4)) };
    assert_eq!(ask(&mut client, durably), result::OK);
    check_all_but(&mut client, &[3, 4], result::NOT_FOUND);
    let found = client.scan("test").unwrap();
    let keyed = found.iter().filter(|message| message.field(field::KEY).is_some()).count();
    assert_eq!((found.len(), keyed), (RECORDS as usize - 2, RECORDS as usize - 3));
}

/// The block of a damaged record is kept and the others are emptied. The log reports it once.
#[test]
fn defrag_continues_in_spite_of_damage() {
    let storage = [&FILE[..], &["stop-writes-avail-pct 0"]].concat();
    let mut server = Server::start(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    let large = |number: u32, byte: u8| Message::put(&format!("large-{number}"), vec![byte; 900_000]);
    // Each of four blocks has ten records that are kept and some that are deleted.
    for block in 0..4 {
        for number in block * 10..block * 10 + 10 {
            assert_eq!(put(&mut client, number), result::OK);
        }
        for number in 0..9 {
            assert_eq!(client.ask(&large(block * 9 + number, 1)).unwrap().result, result::OK);
        }
    }
    for number in 0..36 {
        assert_eq!(client.ask(&Message::delete(&format!("large-{number}"))).unwrap().result, result::OK);
    }
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let place = file.places().of(12);
    // The deleted records are back, as on the C server.
    server.restart();
    let mut client = server.connect();
    for number in 0..36 {
        client.ask(&Message::delete(&format!("large-{number}"))).unwrap();
    }
    file.flip(place.start..place.start + 4);
    server.allow("cannot be read: ").allow("replace it or delete it");
    let set = "set-config:context=namespace;id=test;defrag-lwm-pct=60";
    assert_eq!(client.info_value(set).unwrap(), "ok");
    let offset = place.start / WBLOCK_SIZE as u64 * WBLOCK_SIZE as u64;
    let kept = format!("{}: at offset {offset}: the write block is kept", file.name());
    server.await_log(&kept);
    let queue =
        |client: &mut Client| client.figure("namespace/test", "storage-engine.file[0].defrag_q").unwrap();
    let started = Instant::now();
    while queue(&mut client) > 0 {
        assert!(started.elapsed().as_secs() < 60, "defrag does not come to an end");
        std::thread::sleep(Duration::from_millis(10));
    }
    check_all_but(&mut client, &[12], result::UNKNOWN);
    assert_eq!(server.log().matches(&kept).count(), 1);
    // The block becomes free when its damaged record is written again.
    let free =
        |client: &mut Client| client.figure("namespace/test", "storage-engine.file[0].free_wblocks").unwrap();
    assert_eq!(put(&mut client, 0), result::OK);
    let before = free(&mut client);
    assert_eq!(client.ask(&replacement(12, 12, info3::CREATE_OR_REPLACE)).unwrap().result, result::OK);
    assert_eq!(free(&mut client), before + 1);
    check_all(&mut client);
}

#[test]
fn a_damaged_partition_table_is_taken_from_its_second_copy() {
    for is_clean in [true, false] {
        let (mut server, file) = stopped("device");
        if !is_clean {
            server.restart();
            server.kill9();
        }
        server.allow("are damaged, and taken from their second copy");
        // These are entries of the first, the second and the last group; a version and a tree id.
        for place in [4096, 4096 + 16 * 300 + 8, 69_632 - 16] {
            file.flip(place..place + 1);
        }
        server.restart();
        check_all(&mut server.connect());
        for (offset, partitions) in [(4096, "0 to 255"), (8192, "256 to 511"), (65_536, "3840 to 4095")] {
            let offset = format!("at offset {offset}: ");
            line_with(&server.log(), &[": WARNING (", &file.name(), &offset, partitions, "second copy"]);
        }
        // The entries were rewritten, so nothing is damaged any more.
        server.kill9();
        let before = server.log().matches("second copy").count();
        server.restart();
        check_all(&mut server.connect());
        assert_eq!(server.log().matches("second copy").count(), before);
    }
}

#[test]
fn damage_of_the_second_copy_is_harmless_and_damage_of_both_is_reported() {
    let (mut server, file) = stopped("device");
    for place in [131_072 + 16 * 300, 196_608, 196_630, 196_880] {
        file.flip(place..place + 1);
        server.restart();
        check_all(&mut server.connect());
        server.stop();
    }
    server.allow("are damaged, and so is their second copy").allow("were not loaded");
    file.flip(4096..4097);
    file.flip(131_072..131_073);
    server.restart();
    line_with(&server.log(), &[": WARNING (", &file.name(), "at offset 4096: ", "compare with a backup"]);
}

/// In a damaged record, the header of a list or map announces more elements than there are.
#[test]
fn lists_with_a_wrong_header_are_bounded_and_reported() {
    const CDT_READ: u8 = 3;
    const LIST: u8 = 20;
    let mut server = Server::start(&stored_config("test", "device", &FILE));
    let lists = [("short", 20u32, vec![0xDC, 0, 20]), ("long", 70_000, vec![0xDD, 0, 1, 0x11, 0x70])];
    for (name, count, head) in &lists {
        let list = [head.clone(), vec![0x2A; *count as usize]].concat();
        let write = Operation { particle: LIST, ..Operation::blob(operation::WRITE, "l", list) };
        let put = Message { info2: info2::WRITE, ..Message::on(name) }.with_operation(write);
        assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    }
    // Size, by index from the front and the back, by rank, by value, and a range.
    let requests: [&[u8]; 6] = [
        &[0x91, 16],
        &[0x93, 19, 5, 0],
        &[0x93, 19, 5, 0xFF],
        &[0x93, 21, 5, 0],
        &[0x93, 22, 5, 0x2A],
        &[0x93, 18, 0, 2],
    ];
    let read = |name: &str, request: &[u8]| {
        let read = Operation::blob(CDT_READ, "l", request.to_vec());
        Message { info1: info1::READ, ..Message::on(name) }.with_operation(read)
    };
    let answer = server.connect().ask(&read("long", requests[0])).unwrap();
    assert_eq!((answer.result, answer.bin("l")), (result::OK, Some(&70_000u64.to_be_bytes()[..])));
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let bytes = file.bytes();
    for (_, _, head) in &lists {
        let start = [head.clone(), vec![0x2A; 20]].concat();
        let at = bytes.windows(start.len()).position(|window| window == start).unwrap() as u64;
        file.overwrite(at + 1, &vec![0xFF; head.len() - 1]);
    }
    drop(bytes);
    server.allow("announces more elements than there are");
    server.restart();
    let (mut client, started) = (server.connect(), Instant::now());
    for (name, _, _) in &lists {
        let digest: String = digest(SET, name).iter().map(|byte| format!("{byte:02x}")).collect();
        line_with(&server.log(), &[": WARNING (", &file.name(), &digest, "bin 'l'"]);
        for request in requests {
            let answer = client.ask(&read(name, request)).unwrap();
            assert!(answer.result != result::OK && answer.bin("l").is_none(), "{name} {request:?}");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // The records can be rewritten.
    assert_eq!(client.ask(&Message::put("short", vec![1])).unwrap().result, result::OK);
}
