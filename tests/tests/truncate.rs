//! Truncation: records that were last updated before the moment disappear at once for every kind of reader
//! and do not come back, not even after a restart or a crash at any time. Newer records are not affected.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrospike_tests::client::Client;
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::server::{Server, stored_config_with, usual_config};
use ferrospike_tests::wire::{Message, Operation, field, info1, info2, operation, result};

const PATIENCE: Duration = Duration::from_secs(60);
/// Thresholds do not remove records of their own millisecond.
const NEXT_MILLISECOND: Duration = Duration::from_millis(3);
/// Bit of `info2`.
const CREATE_ONLY: u8 = 0x20;
/// Code of an operation.
const INCREMENT: u8 = 5;

fn request(set: &str, key: u32) -> Message {
    Message::on_record("test", set, &key.to_string())
}

fn write(set: &str, key: u32, value: i64) -> Message {
    Message { info2: info2::WRITE, ..request(set, key) }.with_operation(Operation::integer(
        operation::WRITE,
        "b",
        value,
    ))
}

fn put(client: &mut Client, set: &str, key: u32, value: i64) {
    assert_eq!(client.ask(&write(set, key, value)).unwrap().result, result::OK);
}

/// Generation and value of a record.
fn get(client: &mut Client, set: &str, key: u32) -> Option<(u32, i64)> {
    let message = Message { info1: info1::READ | info1::GET_ALL, ..request(set, key) };
    let answer = client.ask(&message).unwrap();
    match answer.result {
        result::OK => {
            let bytes = answer.bin("b").unwrap().try_into().unwrap();
            Some((answer.generation, i64::from_be_bytes(bytes)))
        }
        result::NOT_FOUND => None,
        other => panic!("result {other}"),
    }
}

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).unwrap()
}

fn truncate(client: &mut Client, set: &str) {
    thread::sleep(NEXT_MILLISECOND);
    assert_eq!(ask(client, &format!("truncate:namespace=test;set={set}")), "ok");
}

fn figure(client: &mut Client, set: &str, key: &str) -> String {
    let (request, separator) = match set {
        "" => ("namespace/test".to_owned(), ';'),
        set => (format!("sets/test/{set}"), ':'),
    };
    let answer = ask(client, &request);
    let found = answer.split([separator, ';']).find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned()
}

/// Waits until all truncated records of a set, or of the namespace, are removed; returns the number of records
/// left.
fn await_removal(client: &mut Client, set: &str) -> u64 {
    let start = Instant::now();
    while figure(client, set, "truncating") == "true" {
        assert!(start.elapsed() < PATIENCE, "the truncation never ends");
        thread::sleep(Duration::from_millis(2));
    }
    figure(client, set, "objects").parse().unwrap()
}

fn unix_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

#[test]
fn a_set_disappears_at_once_for_every_reader() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    let keys: Vec<String> = (0..300).map(|key| key.to_string()).collect();
    for key in 0..300 {
        put(client, "rig", key, 1);
        put(client, "rig", key, 2);
        put(client, "other", 1000 + key, 3);
    }
    truncate(client, "rig");
    // None of these commands waits for the walk.
    let batch = Message::get_all(keys.iter().map(String::as_str));
    client.send(&batch.encode()).unwrap();
    let mut rows = Vec::new();
    while !rows.last().is_some_and(Message::is_last) {
        rows.extend(client.receive().unwrap().messages().unwrap());
    }
    assert!(rows.len() == 301 && rows[..300].iter().all(|row| row.result == result::NOT_FOUND));
    let rows = client.scan("test").unwrap();
    assert!(rows.iter().all(|row| row.field(field::SET) == Some(b"other")) && rows.len() == 300);
    assert_eq!(get(client, "rig", 7), None);
    let exists = Message { info1: info1::READ | info1::GET_NO_BINS, ..request("rig", 7) };
    assert_eq!(client.ask(&exists).unwrap().result, result::NOT_FOUND);
    let update_only = Message { info2: info2::WRITE, info3: 8, ..request("rig", 7) }
        .with_operation(Operation::integer(operation::WRITE, "b", 5));
    assert_eq!(client.ask(&update_only).unwrap().result, result::NOT_FOUND);
    // The records can be created again.
    let create = Message { info2: info2::WRITE | CREATE_ONLY, ..write("rig", 8, 9) };
    assert_eq!(client.ask(&create).unwrap().result, result::OK);
    put(client, "rig", 9, 9);
    let increment = Message { info2: info2::WRITE, ..request("rig", 10) }
        .with_operation(Operation::integer(INCREMENT, "b", 9));
    assert_eq!(client.ask(&increment).unwrap().result, result::OK);
    assert_eq!(await_removal(client, "rig"), 3);
    for key in 8..=10 {
        assert_eq!(get(client, "rig", key), Some((1, 9)));
    }
    assert_eq!(client.scan("test").unwrap().len(), 303);
    assert_eq!(figure(client, "other", "truncate_lut"), "0");
    assert_eq!(figure(client, "", "objects"), "303");
    let lut = figure(client, "rig", "truncate_lut");
    assert_eq!(ask(client, "smd-show:module=truncate"), format!("test|rig={lut}"));
    server.await_log(&format!("{{test|rig}} truncating to {lut} on 4 threads"));
    server.await_log(&format!("{{test|rig}} done truncate to {lut} deleted "));
}

#[test]
fn a_namespace_is_truncated_and_no_other() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    let in_bar = |info1| Message { info1, ..Message::on_record("bar", "s", "1") };
    let put_bar = Message { info2: info2::WRITE, ..in_bar(0) };
    let put_bar = put_bar.with_operation(Operation::integer(operation::WRITE, "b", 1));
    assert_eq!(client.ask(&put_bar).unwrap().result, result::OK);
    for key in 0..100 {
        put(client, ["", "s", "t"][key as usize % 3], key, 1);
    }
    thread::sleep(NEXT_MILLISECOND);
    assert_eq!(ask(client, "truncate-namespace:namespace=test"), "ok");
    assert!(client.scan("test").unwrap().is_empty());
    put(client, "s", 500, 7);
    assert_eq!(await_removal(client, ""), 1);
    assert_eq!(get(client, "s", 500), Some((1, 7)));
    assert_eq!(client.ask(&in_bar(info1::READ | info1::GET_ALL)).unwrap().result, result::OK);
    let lut = figure(client, "", "truncate_lut");
    server.await_log(&format!("{{test}} done truncate to {lut} deleted 100"));
    assert_eq!(
        (figure(client, "s", "objects"), figure(client, "t", "objects")),
        ("1".to_owned(), "0".to_owned())
    );
    assert_eq!(ask(client, "truncate-namespace-undo:namespace=test"), "ok");
    assert_eq!(figure(client, "", "truncate_lut"), "0");
    assert_eq!(ask(client, "smd-show:module=truncate"), "<empty>");
}

#[test]
fn a_time_separates_old_records_from_new_ones() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    for key in 0..50 {
        put(client, "s", key, 1);
    }
    thread::sleep(NEXT_MILLISECOND);
    let moment = unix_nanos();
    thread::sleep(NEXT_MILLISECOND);
    for key in 40..80 {
        put(client, "s", key, 2);
    }
    assert_eq!(ask(client, &format!("truncate:namespace=test;set=s;lut={moment}")), "ok");
    assert_eq!(await_removal(client, "s"), 40);
    for key in 0..80 {
        let expected = match key {
            0..40 => None,
            40..50 => Some((2, 2)),
            _ => Some((1, 2)),
        };
        assert_eq!(get(client, "s", key), expected, "{key}");
    }
    // An earlier moment, in another notation, changes nothing.
    let lut = figure(client, "s", "truncate_lut");
    assert_eq!(
        ask(client, &format!("truncate:namespace=test;set=s;lut={:#x}", moment - 5_000_000_000)),
        "ok"
    );
    assert_eq!(figure(client, "s", "truncate_lut"), lut);
}

#[test]
fn wrong_parameters_are_refused() {
    let mut server = Server::start(&usual_config());
    server.allow("' answered with ERROR:");
    let mut client = server.connect();
    let future = unix_nanos() + 60_000_000_000;
    for (request, answer) in [
        ("truncate:", "ERROR:20:missing 'namespace'"),
        ("truncate:namespace=", "ERROR:20:missing 'namespace' value"),
        ("truncate:namespace=test", "ERROR:4:missing 'set'"),
        ("truncate:namespace=test;set=s;lut=", "ERROR:4:missing 'lut' value"),
        ("truncate:namespace=test;set=s;lut=123456789012345678901234", "ERROR:4:'lut' value too long"),
        ("truncate:namespace=test;set=s;lut=0", "ERROR:4:would truncate to 0"),
        ("truncate:namespace=test;set=s;lut=x", "ERROR:4:would truncate to 0"),
        ("truncate:namespace=test;set=s;lut=1262304000000999999", "ERROR:4:would truncate to 0"),
        ("truncate:namespace=test;set=s;lut=1262304000001000000", "ok"),
        ("truncate:namespace=test;set=s;lut=-1", "ERROR:4:would truncate in the future"),
        (&format!("truncate:namespace=test;set=s;lut={future}"), "ERROR:4:would truncate in the future"),
        ("truncate-namespace:namespace=test;set=s", "ERROR:4:unexpected set name"),
        ("truncate-namespace-undo:namespace=test;set=s", "ERROR:4:unexpected set name"),
        ("truncate-undo:namespace=test", "ERROR:4:missing 'set'"),
        ("truncate:namespace=nope;set=s", "ok"),
        ("truncate:namespace=test;set=nope", "ok"),
        ("truncate-undo:namespace=nope;set=never", "ok"),
    ] {
        assert_eq!(ask(&mut client, request), answer, "{request}");
    }
    let shown = ask(&mut client, "smd-show:module=truncate");
    assert!(shown.starts_with("test|s=1;nope|s=") && shown.contains(";test|nope="), "{shown}");
    server.await_log("{test|nope} truncate for nonexistent set");
    // The truncation does not apply to a set that is created later.
    put(&mut client, "nope", 1, 1);
    assert_eq!(figure(&mut client, "nope", "truncate_lut"), "0");
}

/// A namespace in a file, in folder `data`.
fn on_disk(data: &Path, lines: &[&str]) -> String {
    let file = format!("file {}/test.dat", data.display());
    stored_config_with("test", lines, "device", &[&file, "filesize 128M"])
}

#[test]
fn truncated_records_do_not_return_after_a_restart() {
    let data = fast_folder(128 << 20);
    let mut server = Server::start(&on_disk(data.path(), &["nsup-period 1"]));
    for kills in [false, true, false, true] {
        let mut client = server.connect();
        let client = &mut client;
        for key in 0..500 {
            put(client, "s", key, 1);
            put(client, "t", 1000 + key, 1);
        }
        thread::sleep(NEXT_MILLISECOND);
        let moment = unix_nanos();
        thread::sleep(NEXT_MILLISECOND);
        put(client, "t", 1000, 2);
        let last = put_many(client, 100..200);
        assert_eq!(ask(client, &format!("truncate:namespace=test;set=t;lut={moment}")), "ok");
        truncate(client, "s");
        put(client, "s", 1, 3);
        // Acknowledged writes are on disk after this.
        thread::sleep(Duration::from_millis(1_500));
        if kills {
            server.kill9();
        } else {
            server.stop();
        }
        server.restart();
        let mut client = server.connect();
        let client = &mut client;
        for key in 0..500 {
            assert_eq!(get(client, "s", key), (key == 1).then_some((1, 3)), "{key}");
            let other = get(client, "t", 1000 + key).map(|found| found.1);
            assert_eq!(other, (key == 0).then_some(2), "{key}");
        }
        assert_eq!(get(client, "u", 199).map(|found| found.1), Some(last));
        assert_eq!(client.scan("test").unwrap().len(), 102);
        assert_eq!(
            (figure(client, "s", "objects"), figure(client, "t", "objects")),
            ("1".to_owned(), "1".to_owned())
        );
        assert_ne!(figure(client, "s", "truncate_lut"), "0");
        // Records that came back from the disk are truncated in the next round.
        assert_eq!(ask(client, "truncate-undo:namespace=test;set=t"), "ok");
        assert_eq!(get(client, "t", 1000).map(|found| found.1), Some(2));
    }
}

fn put_many(client: &mut Client, keys: std::ops::Range<u32>) -> i64 {
    for key in keys {
        put(client, "u", key, 77);
    }
    77
}

#[test]
fn memory_without_files_keeps_the_threshold() {
    let mut server = Server::start(&usual_config());
    let mut client = server.connect();
    put(&mut client, "s", 1, 1);
    truncate(&mut client, "s");
    let lut = figure(&mut client, "s", "truncate_lut");
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "smd-show:module=truncate"), format!("test|s={lut}"));
    put(&mut client, "s", 1, 1);
    assert_eq!(get(&mut client, "s", 1), Some((1, 1)));
}

/// Writers continue while sets are truncated and the server is killed. A write that was acknowledged before
/// an acknowledged truncation never comes back.
#[test]
fn kills_during_truncation_bring_no_record_back() {
    let data = fast_folder(128 << 20);
    let config =
        on_disk(data.path(), &[]).replace("filesize 128M", "filesize 128M\n        commit-to-device true");
    let mut server = Server::start(&config);
    let sets: [OneSet; 3] = Default::default();
    for round in 0..6 {
        let address = server.address();
        thread::scope(|scope| {
            let writers =
                sets.iter().enumerate().map(|(number, set)| scope.spawn(move || set.write(address, number)));
            let writers: Vec<_> = writers.collect();
            let truncator = scope.spawn(|| truncate_on(address, &sets));
            thread::sleep(Duration::from_millis(300 + 130 * round));
            server.kill9();
            truncator.join().unwrap();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        server.restart();
        let mut client = server.connect();
        let mut found = 0;
        for (number, set) in sets.iter().enumerate() {
            let (truncated, acknowledged) = (set.truncated.load(Relaxed), set.acknowledged.load(Relaxed));
            for key in 0..KEYS {
                let Some((_, value)) = get(&mut client, &format!("s{number}"), key) else { continue };
                assert!(
                    value as u64 > truncated,
                    "round {round}, set {number}: {value} was truncated by {truncated}"
                );
                assert!(
                    value as u64 <= acknowledged + 1,
                    "round {round}, set {number}: {value} was never written"
                );
                found += 1;
            }
        }
        assert!(found > 0, "round {round}: nothing is left to look at");
        for (number, set) in sets.iter().enumerate() {
            // Existing records have survived all truncations. One more value may have been written last.
            set.truncated.store(set.acknowledged.fetch_add(2, Relaxed) + 1, Relaxed);
            truncate(&mut client, &format!("s{number}"));
        }
    }
}

const KEYS: u32 = 200;

/// A set with one writer. Its values increase.
#[derive(Default)]
struct OneSet {
    /// The last acknowledged value.
    acknowledged: AtomicU64,
    /// The last value acknowledged before the last acknowledged truncation.
    truncated: AtomicU64,
}

impl OneSet {
    /// Writes records until the server has ended.
    fn write(&self, address: SocketAddr, number: usize) {
        let mut client = Client::connect(address).unwrap();
        for key in (0..KEYS).cycle() {
            let value = self.acknowledged.load(Relaxed) + 1;
            let Ok(answer) = client.ask(&write(&format!("s{number}"), key, value as i64)) else { return };
            assert_eq!(answer.result, result::OK);
            self.acknowledged.store(value, Relaxed);
        }
    }
}

/// Truncates one set after another until the server has ended.
fn truncate_on(address: SocketAddr, sets: &[OneSet]) {
    let mut client = Client::connect(address).unwrap();
    for (number, set) in sets.iter().enumerate().cycle() {
        thread::sleep(Duration::from_millis(20));
        let acknowledged = set.acknowledged.load(Relaxed);
        thread::sleep(NEXT_MILLISECOND);
        match client.info_value(&format!("truncate:namespace=test;set=s{number}")) {
            Ok(answer) => assert_eq!(answer, "ok"),
            Err(_) => return,
        }
        set.truncated.store(acknowledged, Relaxed);
    }
}

/// A thread that failed restarts after a tenth of a second. Until then the walk must be reported as open.
#[test]
fn a_walk_that_fails_begins_again() {
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("thread truncate-0 failed on an internal error, and starts again");
    let mut client = server.connect();
    let client = &mut client;
    for set in ["s", ""] {
        let start = Instant::now();
        loop {
            (0..100).for_each(|key| put(client, "s", key, 1));
            server.inject_fault("truncate");
            thread::sleep(NEXT_MILLISECOND);
            let command = match set {
                "" => "truncate-namespace:namespace=test".to_owned(),
                set => format!("truncate:namespace=test;set={set}"),
            };
            assert_eq!(ask(client, &command), "ok");
            server.await_fault("truncate");
            let is_open = figure(client, set, "truncating") == "true";
            assert_eq!(get(client, "s", 1), None);
            assert_eq!(await_removal(client, set), 0);
            if is_open {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "the walk is never seen as open");
        }
    }
}

/// Truncations of many sets, one after another, share walks and threads.
#[test]
fn many_truncations_end_soon() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    for key in 0..2_000 {
        put(client, &format!("s{}", key % 500), key, 1);
    }
    thread::sleep(NEXT_MILLISECOND);
    for set in 0..500 {
        assert_eq!(ask(client, &format!("truncate:namespace=test;set=s{set}")), "ok");
    }
    let threads = fs::read_dir(format!("/proc/{}/task", server.process_id().unwrap())).unwrap().count();
    assert!(threads < 150, "{threads} threads");
    for set in 0..500 {
        assert_eq!(await_removal(client, &format!("s{set}")), 0);
    }
    assert!(client.scan("test").unwrap().is_empty());
}
