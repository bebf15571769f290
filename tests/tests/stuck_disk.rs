//! A disk that does not answer reads delays the batches, queries and long requests that need it, and no
//! others. Threads that hang have substitutes, and later requests wait without a thread.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{run, take_answer};
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, info1, info2, info3, operation, particle, result,
};

/// A point that every read of a record from a disk passes.
const READ: &str = "read-record";
const KEYS: usize = 200;
/// Number of rows of a batch that batch threads process.
const ROWS: usize = 3_000;
/// Longest time for requests that need no disk. A disk counts as stuck after one second.
const SOON: Duration = Duration::from_secs(8);

/// A server with few threads. Its namespace `test` is on a disk that does not answer; `bar` is in memory.
fn start() -> Server {
    let config = stored_config("test", "device", &["file {dir}/data", "filesize 256M"]).replacen(
        "service {",
        "service {\n    batch-index-threads 2\n    query-threads-limit 4",
        1,
    );
    let memory = "namespace bar {\n    replication-factor 1\n    storage-engine memory {\n        data-size 512M\n    }\n}\n";
    let mut server = Server::start_with_faults(&[config.as_str(), memory].concat());
    let fill = |server: &Server, namespace: &[u8]| {
        let mut client = server.connect();
        for key in 0..KEYS {
            let mut put = Message::put(&key.to_string(), vec![7; 100]);
            put.fields[0].1 = namespace.to_vec();
            assert_eq!(client.ask(&put).unwrap().result, result::OK);
        }
    };
    fill(&server, b"test");
    // The last block is continued after a start. If other records have filled it, no buffer has these
    // records.
    let mut client = server.connect();
    for key in 0..20 {
        let filler = Message::on_record("test", "fill", &format!("fill-{key}"));
        let put = Message { info2: info2::WRITE, ..filler }.with_operation(Operation {
            particle: particle::BLOB,
            value: vec![7; 900_000],
            ..Operation::bare(operation::WRITE, "b")
        });
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    drop(client);
    server.stop();
    server.restart();
    fill(&server, b"bar");
    server.allow("the disk does not answer").allow("cannot start a query");
    server.stall(READ);
    server
}

/// A batch that reads all the records, some of them several times.
fn batch(namespace: &str) -> Message {
    let mut value = (ROWS as u32).to_be_bytes().to_vec();
    value.push(0);
    for row in 0..ROWS {
        value.extend((row as u32).to_be_bytes());
        value.extend(digest("rig", &(row % KEYS).to_string()));
        value.extend([0, info1::READ | info1::GET_ALL, 0, 1, 0, 0]);
        value.extend((namespace.len() as u32 + 1).to_be_bytes());
        value.push(field::NAMESPACE);
        value.extend(namespace.as_bytes());
    }
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

/// Clients that have sent `request`.
fn waiting(server: &Server, count: usize, request: &Message) -> Vec<Client> {
    let request = request.encode();
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&request).unwrap();
    }
    clients
}

/// The answer to a client's scan: the number of records, and the last result. A refused scan has no last
/// message.
fn scanned(client: &mut Client) -> (usize, u8) {
    let mut records = 0;
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() || message.result == result::FORBIDDEN {
                return (records, message.result);
            }
            records += 1;
        }
    }
}

/// A scan of the records in this test's set.
fn scan_of(namespace: &str) -> Message {
    Message::scan(namespace).with_field(field::SET, b"rig")
}

fn scan(server: &Server, namespace: &str) -> (usize, u8) {
    scanned(&mut waiting(server, 1, &scan_of(namespace))[0])
}

fn can_stall() -> bool {
    let can = cfg!(debug_assertions) && std::env::var_os("ASD").is_none();
    if !can {
        report("skipped: no faults can be injected into this build");
    }
    can
}

#[test]
fn batches_of_other_namespaces_continue() {
    if !can_stall() {
        return;
    }
    let server = start();
    // There are more batches than batch threads.
    let stuck = waiting(&server, 6, &batch("test"));
    let (mut other, started) = (server.connect(), Instant::now());
    // The first batches wait until the threads are known to hang, which takes longer than a batch may take by
    // default.
    let patient = Message { transaction_ttl: 10_000, ..batch("bar") };
    for _ in 0..10 {
        assert_eq!(run(&mut other, &patient), (ROWS, result::OK));
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    server.await_log("the disk does not answer");
    // Later batches hold no thread, and end at their deadline.
    let late = Message { transaction_ttl: 2_000, ..batch("test") };
    let late = waiting(&server, 6, &late);
    let started = Instant::now();
    for mut client in late {
        assert_eq!(take_answer(&mut client).1, result::TIMEOUT);
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(run(&mut other, &batch("bar")), (ROWS, result::OK));
    server.release(READ);
    for mut client in stuck {
        // Rows after a row that took so long are overdue.
        let (records, last) = take_answer(&mut client);
        assert!(matches!(last, result::OK | result::TIMEOUT), "{records} records, result {last}");
    }
    server.await_log("the disk answers again");
    assert_eq!(run(&mut other, &batch("test")), (ROWS, result::OK));
}

#[test]
fn queries_of_other_namespaces_continue() {
    if !can_stall() {
        return;
    }
    let server = start();
    let stuck = waiting(&server, 4, &scan_of("test"));
    server.await_log("the disk does not answer");
    let started = Instant::now();
    for _ in 0..5 {
        // Other queries get a thread only when the server has detected the hanging threads.
        let mut last = (0, 0);
        while last != (KEYS, result::OK) {
            assert!(started.elapsed() < SOON, "{last:?}");
            last = scan(&server, "bar");
        }
    }
    // Further scans of the disk get no thread, while other scans do.
    for mut client in waiting(&server, 8, &scan_of("test")) {
        assert_eq!(scanned(&mut client), (0, result::FORBIDDEN));
    }
    assert_eq!(scan(&server, "bar"), (KEYS, result::OK));
    server.release(READ);
    let mut complete = 0;
    for mut client in stuck {
        match scanned(&mut client) {
            (KEYS, result::OK) => complete += 1,
            refused => assert_eq!(refused, (0, result::FORBIDDEN)),
        }
    }
    assert!(complete > 0, "a query that waited has found everything");
}

/// A record is read from the disk without its lock, so a write of it does not wait for the read.
#[test]
fn writers_of_records_that_are_being_read_continue() {
    if !can_stall() {
        return;
    }
    let server = start();
    let mut stuck = waiting(&server, 3, &scan_of("test"));
    // By then the reads hang.
    server.await_log("the disk does not answer");
    let (mut client, started) = (server.connect(), Instant::now());
    for key in 0..KEYS {
        // The write does not need the record that it replaces.
        let replace =
            Message { info3: info3::CREATE_OR_REPLACE, ..Message::put(&key.to_string(), vec![8; 90]) };
        assert_eq!(client.ask(&replace).unwrap().result, result::OK, "record {key}");
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    server.release(READ);
    let complete = stuck.iter_mut().map(scanned).filter(|scanned| *scanned == (KEYS, result::OK)).count();
    assert!(complete > 0, "a query finds all records, though they changed while they were read");
}
