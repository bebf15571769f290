//! A namespace in which every write block is partly garbage accepts writes: when few blocks are free, defrag
//! empties the emptiest ones, whatever `defrag-lwm-pct` says, and writers wait for it. No write is refused,
//! and write amplification stays low.
//!
//! The file has 768 MiB, or the size in `FRAGMENTATION_MB`. It is in memory if there is room.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use ferrospike_tests::client::Client;
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::figures::{Figures, figures};
use ferrospike_tests::random::Random;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{self, Message, field, info1, result};

/// Size of a value, and of its record in the file, in bytes.
const VALUE_SIZE: usize = 1_400;
const RECORD_SIZE: u64 = 1_456;
const CONNECTIONS: u64 = 4;
/// Requests that a connection sends before it reads answers.
const WINDOW: usize = 32;
/// Amount of updated bytes, as a multiple of the file size.
const FACTOR: u64 = 3;

fn file_size_mb() -> u64 {
    std::env::var("FRAGMENTATION_MB").map_or(768, |size| size.parse().expect("a number"))
}

/// Whether a result means that the write was refused.
fn is_refused(result: u8) -> bool {
    assert!(
        [result::OK, result::OUT_OF_SPACE, result::DEVICE_OVERLOAD, result::TIMEOUT].contains(&result),
        "result {result}"
    );
    result != result::OK
}

fn put(id: u64, value: &[u8]) -> Message {
    Message::put(&id.to_string(), value.to_vec())
}

/// Writes records in the order of `ids`. Returns the number of refused writes.
fn write(client: &mut Client, value: &[u8], mut ids: impl Iterator<Item = u64>) -> u64 {
    let mut refused = 0;
    loop {
        let window: Vec<u64> = ids.by_ref().take(WINDOW).collect();
        if window.is_empty() {
            return refused;
        }
        let requests: Vec<u8> = window.iter().flat_map(|id| put(*id, value).encode()).collect();
        client.send(&requests).unwrap();
        for _ in window {
            refused += u64::from(is_refused(client.receive_message().unwrap().result));
        }
    }
}

/// As [`write`], in batches.
fn write_by_batches(client: &mut Client, value: &[u8], mut ids: impl Iterator<Item = u64>) -> u64 {
    let mut refused = 0;
    loop {
        let window: Vec<u64> = ids.by_ref().take(10 * WINDOW).collect();
        if window.is_empty() {
            return refused;
        }
        client.send(&batch(&window, value).encode()).unwrap();
        let mut answered = 0;
        'batch: loop {
            for message in client.receive().unwrap().messages().unwrap() {
                if message.is_last() {
                    assert!(!is_refused(message.result));
                    break 'batch;
                }
                answered += 1;
                refused += u64::from(is_refused(message.result));
            }
        }
        assert_eq!(answered, window.len());
    }
}

/// A batch that writes a value to each of these records.
fn batch(ids: &[u64], value: &[u8]) -> Message {
    const ROW_HAS_INFO: u8 = 2;
    const ROW_HAS_GENERATION: u8 = 4;
    const RESPOND_ALL_KEYS: u8 = 4;
    let mut rows = (ids.len() as u32).to_be_bytes().to_vec();
    rows.push(RESPOND_ALL_KEYS);
    for (row, id) in (0u32..).zip(ids) {
        let mut request = put(*id, value);
        rows.extend(row.to_be_bytes());
        rows.extend(wire::digest("rig", &id.to_string()));
        rows.push(ROW_HAS_INFO | ROW_HAS_GENERATION);
        rows.extend([request.info1, request.info2, request.info3, 0, 0]);
        request.fields.retain(|field| field.0 != field::DIGEST);
        rows.extend(&request.body()[wire::MESSAGE_HEADER_SIZE - 4..]);
    }
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &rows)
}

/// Bytes that the server has written to files.
fn written_bytes(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", server.process_id().unwrap())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

/// A server with a file that is filled to `used_pct`, and the number of its records.
fn filled(used_pct: u64) -> (tempfile::TempDir, Server, u64) {
    let size_mb = file_size_mb();
    let folder = fast_folder(size_mb << 20);
    let (file, size) = (format!("file {}/test.dat", folder.path().display()), format!("filesize {size_mb}M"));
    let server = Server::start(&stored_config("test", "device", &[&file, &size, "stop-writes-used-pct 90"]));
    let count = (size_mb << 20) * used_pct / 100 / RECORD_SIZE;
    let value = Random::new(1).bytes(VALUE_SIZE);
    assert_eq!(write(&mut server.connect(), &value, 0..count), 0, "filling");
    let used = server.connect().figure("namespace/test", "data_used_bytes").unwrap();
    assert_eq!(used, count * RECORD_SIZE);
    (folder, server, count)
}

/// Updates random records until `FACTOR` times the file size is written. Returns the number of refused
/// writes, and the bytes written to the file per updated byte.
fn update(server: &Server, count: u64) -> (u64, f64) {
    let each = (file_size_mb() << 20) * FACTOR / RECORD_SIZE / CONNECTIONS;
    let (refused, before, started) = (AtomicU64::new(0), written_bytes(server), Instant::now());
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let refused = &refused;
            scope.spawn(move || {
                let mut random = Random::new(connection + 2);
                let value = random.bytes(VALUE_SIZE);
                let ids = (0..each).map(|_| random.within(0..count));
                let client = &mut server.connect();
                let of_connection = if connection == 0 {
                    write_by_batches(client, &value, ids)
                } else {
                    write(client, &value, ids)
                };
                refused.fetch_add(of_connection, Relaxed);
            });
        }
    });
    let written = written_bytes(server) - before;
    let amplification = written as f64 / (each * CONNECTIONS * RECORD_SIZE) as f64;
    let refused = refused.into_inner();
    report(&format!("{refused} refused, {amplification:.2} bytes written for each, {:?}", started.elapsed()));
    (refused, amplification)
}

/// Fails if updates at `used_pct` are refused, or write more than `amplification_max` bytes per updated byte.
/// Also fails unless all records exist afterwards, and after a restart.
fn check(used_pct: u64, amplification_max: f64) -> (tempfile::TempDir, Server, Figures) {
    let (folder, mut server, count) = filled(used_pct);
    let (refused, amplification) = update(&server, count);
    let now = figures(&mut server.connect(), "namespace/test");
    let kept = ["defrag_above_lwm", "room_waits", "data_avail_pct", "storage-engine.file[0].defrag_reads"];
    report(&format!("at {used_pct} %: {:?}", kept.map(|name| (name, now[name]))));
    assert_eq!(refused, 0, "writes were refused at {used_pct} % of use");
    assert!(amplification <= amplification_max, "{amplification} bytes written for each at {used_pct} %");
    server.stop();
    server.restart();
    let objects = server.connect().figure("namespace/test", "objects").unwrap();
    assert_eq!(objects, count);
    (folder, server, now)
}

#[test]
fn nothing_changes_at_40_percent_of_use() {
    let (_folder, _server, now) = check(40, 2.5);
    assert_eq!(now["defrag_above_lwm"], 0);
}

#[test]
fn nothing_is_refused_at_60_percent_of_use() {
    let (_folder, _server, _) = check(60, 2.5);
}

#[test]
fn nothing_is_refused_at_80_percent_of_use() {
    let (_folder, server, now) = check(80, 5.0);
    assert!(now["defrag_above_lwm"] > 0 && now["room_waits"] > 0, "{now:?}");
    assert!(server.log().contains("defrag empties the emptiest ones, above defrag-lwm-pct too"));
}

/// The values have 4 MiB, in a plain file. Freed blocks need a sync there, so writers wait for the disk.
#[test]
fn large_records_are_not_refused() {
    let server = Server::start(
        &stored_config("test", "device", &["file {dir}/test.dat", "filesize 512M", "max-write-cache 64M"])
            .replace("storage-engine", "max-record-size 8M\n    storage-engine"),
    );
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let (server, refused) = (&server, &refused);
            scope.spawn(move || {
                let value = Random::new(connection).bytes(4 << 20);
                let ids = (0..60).map(|at| connection * 100 + at % 8);
                refused.fetch_add(write(&mut server.connect(), &value, ids), Relaxed);
            });
        }
    });
    let waits = server.connect().figure("namespace/test", "room_waits").unwrap();
    report(&format!("{waits} requests waited"));
    assert_eq!(refused.into_inner(), 0);
}
