//! Scans beside writers: no writer waits for a scan, and records that exist all the time are found once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, Operation, field, info2, operation, result};

/// Number of records, all of them in one sprig.
const RECORDS: u32 = 180_000;
/// One in this many records stays. The others are deleted and rewritten.
const STAYING: u32 = 3;
/// Number of timed writes beside scans.
const WRITES: usize = 600;
/// Half of the writes must take less, whatever else the machine does. A write would take far longer if it
/// waited for the scan to pass its sprig, or some thousand records of it.
const WRITE_TIME_MAX: Duration = Duration::from_millis(3);

/// A request for record `number`. The digests have the same prefix, and their order is scattered.
fn on(number: u32) -> Message {
    let mut digest = [0; 20];
    digest[3..7].copy_from_slice(&number.wrapping_mul(0x9E37_79B1).to_be_bytes());
    digest[16..].copy_from_slice(&number.to_be_bytes());
    Message { info2: info2::WRITE, ..Message::default() }
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_field(field::DIGEST, &digest)
}

fn put(number: u32) -> Message {
    on(number).with_operation(Operation::blob(operation::WRITE, "b", vec![number as u8; 300]))
}

fn delete(number: u32) -> Message {
    let request = on(number);
    Message { info2: request.info2 | info2::DELETE, ..request }
}

fn load(server: &Server) {
    let mut client = server.connect();
    let numbers: Vec<u32> = (0..RECORDS).collect();
    for numbers in numbers.chunks(100) {
        let requests: Vec<u8> = numbers.iter().flat_map(|number| put(*number).encode()).collect();
        client.send(&requests).expect("send");
        for _ in numbers {
            assert_eq!(client.receive_message().expect("an answer").result, result::OK);
        }
    }
}

/// How often a scan found each record of the sprig.
fn scan(server: &Server) -> HashMap<u32, u32> {
    let mut found = HashMap::new();
    for record in server.connect().scan("test").expect("a whole scan") {
        let digest = record.field(field::DIGEST).expect("a digest");
        let number = u32::from_be_bytes(*digest.last_chunk().expect("20 bytes"));
        *found.entry(number).or_default() += 1;
    }
    found
}

#[test]
fn writers_do_not_wait_for_a_scan_and_it_finds_all_remaining_records() {
    let server = Server::start(&stored_config("test", "device", &["file {dir}/test.dat", "filesize 256M"]));
    load(&server);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanner = scope.spawn(|| {
            let mut scans = 0;
            while !is_done.load(Ordering::Relaxed) {
                let found = scan(&server);
                for number in (0..RECORDS).step_by(STAYING as usize) {
                    assert!(found.contains_key(&number), "record {number} is there and not found");
                }
                let twice = found.iter().find(|(_, times)| **times != 1);
                assert_eq!(twice, None, "number of a record, how often it was found");
                scans += 1;
            }
            scans
        });
        let mut client = server.connect();
        let mut times = Vec::new();
        for round in 0..WRITES as u32 {
            let number = (round * 7919) % (RECORDS / STAYING) * STAYING + 1 + round % 2;
            for request in [delete(number), put(number)] {
                let start = Instant::now();
                assert_eq!(client.ask(&request).expect("an answer").result, result::OK);
                times.push(start.elapsed());
            }
        }
        is_done.store(true, Ordering::Relaxed);
        let scans: u32 = scanner.join().expect("a scanner that found what it should");
        times.sort();
        let median = times[times.len() / 2];
        assert!(scans > 0 && median < WRITE_TIME_MAX, "a write took {median:?} beside {scans} scans");
    });
}
