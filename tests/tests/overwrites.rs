//! Overwrites without end: a file that is filled to 80 % gets ten times its size in new values of its
//! records. It always accepts writes, and loses no record and no write block.
//!
//! The file has 640 MiB, which is hardly more than needed. Of its 80 write blocks one is the header, 64 hold
//! records, eight are for defrag and two are being filled, which leaves five. It is in memory if there is
//! room, so that the test measures the server and not a disk. Most passes overwrite the records in the same
//! order, so that whole blocks become garbage. In one pass the order is random, and defrag must make all the
//! room by moving live records.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::random::Random;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, result};

const FILE_SIZE: u64 = 640 << 20;
const WBLOCK_SIZE: u64 = 8 << 20;
/// The share of the file that the records fill.
const FILL_PCT: u64 = 80;
/// Amount of overwritten bytes, as a multiple of the file size.
const FACTOR: u64 = 10;
/// Smallest and largest size of a value, in bytes.
const SIZES: (u64, u64) = (100_000, 160_000);
const CONNECTIONS: u64 = 2;
/// Requests that a connection sends before it reads answers.
const WINDOW: usize = 16;
/// The number of the pass in random order.
const RANDOM_PASS: u64 = 6;
/// Pause before a refused write is repeated.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest time that a write may be refused while defrag makes room.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes from which values are cut. To generate each value would take longer than to store it.
fn noise() -> Vec<u8> {
    Random::new(1).bytes((1 << 20) + SIZES.1 as usize)
}

/// Value number `number` of record `id`.
fn value(noise: &[u8], id: u64, number: u64) -> Vec<u8> {
    let (size, at) = (size(id, number) as usize, Random::new(number << 20 ^ id).within(0..1 << 20) as usize);
    let mut value = [id.to_le_bytes(), number.to_le_bytes()].concat();
    value.extend(&noise[at..at + size - value.len()]);
    value
}

/// Size of the value in bytes.
fn size(id: u64, number: u64) -> u64 {
    Random::new(id << 20 ^ number).within(SIZES.0..SIZES.1)
}

fn name(id: u64) -> String {
    format!("overwritten-{id}")
}

/// The records of one connection, each with the number of its value.
struct Writer {
    records: Vec<(u64, u64)>,
    random: Random,
}

/// The counts of all connections.
#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    /// Writes that were repeated, because there was no room or the disk was behind.
    refused: AtomicU64,
}

impl Writer {
    /// Writes a new value to every record.
    fn pass(&mut self, client: &mut Client, noise: &[u8], counts: &Counts, in_order: bool) {
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        if !in_order {
            for at in (1..order.len()).rev() {
                order.swap(at, self.random.within(0..at as u64 + 1) as usize);
            }
        }
        for window in order.chunks(WINDOW) {
            let mut pending = window.to_vec();
            pending.iter().for_each(|at| self.records[*at].1 += 1);
            let start = Instant::now();
            while !pending.is_empty() {
                assert!(start.elapsed() < PATIENCE, "no room any more");
                pending = self.write(client, noise, &pending);
                if !pending.is_empty() {
                    counts.refused.fetch_add(pending.len() as u64, Relaxed);
                    thread::sleep(PAUSE);
                }
            }
            let sizes = window.iter().map(|at| size(self.records[*at].0, self.records[*at].1));
            counts.bytes.fetch_add(sizes.sum(), Relaxed);
        }
    }

    /// Writes records together. Returns those for which the server currently has no room.
    fn write(&self, client: &mut Client, noise: &[u8], chosen: &[usize]) -> Vec<usize> {
        for at in chosen {
            let (id, number) = self.records[*at];
            client.send(&Message::put(&name(id), value(noise, id, number)).encode()).unwrap();
        }
        let mut refused = Vec::new();
        for at in chosen {
            match client.receive_message().unwrap().result {
                result::OK => {}
                result::OUT_OF_SPACE | result::DEVICE_OVERLOAD => refused.push(*at),
                other => panic!("record {}: result {other}", self.records[*at].0),
            }
        }
        refused
    }

    /// Fails unless every record has its value.
    fn check(&self, address: SocketAddr, noise: &[u8]) {
        let mut client = Client::connect(address).unwrap();
        for (id, number) in &self.records {
            let answer = client.ask(&Message::get(&name(*id))).unwrap();
            assert!(answer.bin("b") == Some(&value(noise, *id, *number)), "record {id}: {}", answer.result);
        }
    }
}

/// Runs all writers at once, each on its own connection.
fn together(server: &Server, writers: &mut [Writer], work: impl Fn(&mut Writer, &mut Client) + Sync) {
    let address = server.address();
    thread::scope(|scope| {
        for writer in writers {
            let work = &work;
            scope.spawn(move || work(writer, &mut Client::connect_patiently(address, PATIENCE).unwrap()));
        }
    });
}

/// Fails if the server reports that it accepts no writes before `is_done`.
fn watch_for_stop(server: &Server, is_done: &AtomicBool) {
    let mut client = server.connect();
    while !is_done.load(Relaxed) {
        let figures = client.info_value("namespace/test").unwrap();
        assert!(figures.contains("stop_writes=false"), "{figures}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A figure of the file.
fn of_file(client: &mut Client, name: &str) -> u64 {
    client.figure("namespace/test", &format!("storage-engine.file[0].{name}")).unwrap()
}

/// Fails unless the server has exactly the records, and they fill the file as expected.
fn check_accounts(server: &Server, writers: &[Writer]) {
    let mut client = server.connect();
    let count: usize = writers.iter().map(|writer| writer.records.len()).sum();
    assert_eq!(client.figure("namespace/test", "objects").unwrap(), count as u64);
    let records = writers.iter().flat_map(|writer| &writer.records);
    // There are 35 bytes of header, set, number of bins, name and type of the bin, and end mark; in units of
    // 16 bytes.
    let stored = |(id, number): &(u64, u64)| (size(*id, *number) + 51).next_multiple_of(16);
    let expected: u64 = records.map(stored).sum();
    assert_eq!(of_file(&mut client, "used_bytes"), expected);
    assert!(expected * 100 / FILE_SIZE >= FILL_PCT - 1, "{expected} bytes of {FILE_SIZE}");
}

#[test]
fn ten_times_the_file_is_overwritten_at_80_percent_without_a_stop_or_a_loss() {
    let (started, noise) = (Instant::now(), noise());
    let folder = fast_folder(FILE_SIZE);
    let file = format!("file {}/test.dat", folder.path().display());
    let storage =
        [&file, "filesize 640M", "stop-writes-used-pct 90", "stop-writes-avail-pct 0", "post-write-cache 0"];
    let mut server = Server::start(&stored_config("test", "device", &storage));
    // This happens only briefly, until defrag has made room.
    server.allow("out of space");
    let count = FILE_SIZE * FILL_PCT / 100 / ((SIZES.0 + SIZES.1) / 2 + 60);
    let mut writers: Vec<Writer> = (0..CONNECTIONS)
        .map(|number| Writer {
            records: (0..count).filter(|id| id % CONNECTIONS == number).map(|id| (id, 0)).collect(),
            random: Random::new(number),
        })
        .collect();
    let counts = Counts::default();
    together(&server, &mut writers, |writer, client| writer.pass(client, &noise, &counts, true));
    check_accounts(&server, &writers);
    report(&format!("filled after {:?}", started.elapsed()));
    let filled = counts.bytes.swap(0, Relaxed);
    let passes = (FACTOR * FILE_SIZE).div_ceil(filled);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| watch_for_stop(&server, &is_done));
        for pass in 1..=passes {
            let in_order = pass != RANDOM_PASS;
            together(&server, &mut writers, |writer, client| writer.pass(client, &noise, &counts, in_order));
        }
        is_done.store(true, Relaxed);
    });
    let (bytes, refused) = (counts.bytes.into_inner(), counts.refused.into_inner());
    assert!(bytes >= FACTOR * FILE_SIZE * 99 / 100, "{bytes} bytes");
    let mut client = server.connect();
    report(&format!(
        "{bytes} bytes overwritten in {passes} passes, {refused} writes tried again, {} blocks defragged, after {:?}",
        of_file(&mut client, "defrag_reads"),
        started.elapsed()
    ));
    check_accounts(&server, &writers);
    for _ in 0..2 {
        together(&server, &mut writers, |writer, _| writer.check(server.address(), &noise));
        server.stop();
        server.restart();
        check_accounts(&server, &writers);
    }

    // When no record is left, every block is free again, except those being filled.
    let mut client = server.connect();
    for id in 0..count {
        assert_eq!(client.ask(&Message::delete(&name(id))).unwrap().result, result::OK);
    }
    let blocks = FILE_SIZE / WBLOCK_SIZE - 1;
    let start = Instant::now();
    while of_file(&mut client, "free_wblocks") < blocks - 2 || of_file(&mut client, "used_bytes") > 0 {
        let free = of_file(&mut client, "free_wblocks");
        assert!(start.elapsed() < PATIENCE, "{free} of {blocks} blocks are free in an empty file");
        thread::sleep(Duration::from_millis(20));
    }
    report(&format!("done after {:?}", started.elapsed()));
}
