//! Deletes, durable deletes, expiry, overwrites and touches over a hundred restarts, some clean and some
//! after crashes: no durably deleted record comes back, no record disappears, and the count of tombstones is
//! exact.
//!
//! One connection changes a few hundred records of a namespace that commits each write. [`History`] knows the
//! allowed states after a restart; `asd-inspect` reports the tombstones in the file.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrospike_tests::client::Client;
use ferrospike_tests::device_file::EPOCH_SECONDS;
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::history::{Act, Found, History, Key, ask_for_room, perform, read};
use ferrospike_tests::programs::built;
use ferrospike_tests::random::Random;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{Message, digest, result};
use serde_json::Value;

const RECORDS: u64 = 200;
const ACTS_PER_ROUND: u64 = 80;
const SIZES: (u64, u64) = (100, 60_000);
/// The set of the records; see [`Key`].
const SET: &str = "rig";

/// Seconds since 2010.
fn now() -> u32 {
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - EPOCH_SECONDS) as u32
}

/// The records, and which of them are tombstones or cover a tombstone.
struct Model {
    records: Vec<(Key, History)>,
    tombstones: BTreeSet<u64>,
    /// Records that were tombstones, or got a shorter time to live. Once they are deleted or expired, they
    /// are tombstones again.
    once_buried: BTreeSet<u64>,
    with_expiry: bool,
    random: Random,
}

impl Model {
    fn new(deletes_are_durable: bool, with_expiry: bool) -> Model {
        let record = |id| (Key { id, sizes: SIZES }, History::new(deletes_are_durable));
        let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
        report(&format!("seed: {seed}"));
        Model {
            records: (0..RECORDS).map(record).collect(),
            tombstones: BTreeSet::new(),
            once_buried: BTreeSet::new(),
            with_expiry,
            random: Random::new(seed),
        }
    }

    /// Applies an operation to one record.
    fn act(&mut self, client: &mut Client) {
        let at = self.random.within(0..RECORDS) as usize;
        let (key, history) = &mut self.records[at];
        if let Some(Found { void_time, .. }) = history.now()
            && void_time != 0
        {
            match now() {
                // Whether the record exists depends on the moment within the second.
                now if now.abs_diff(void_time) <= 1 => return,
                now if now > void_time => history.expire(Instant::now()),
                _ => {}
            }
        }
        let ttl =
            if self.with_expiry && self.random.chance(30) { self.random.within(1..8) as u32 } else { 0 };
        let is_there = history.now().is_some();
        let number = history.next_number();
        match self.random.within(0..100) {
            0..10 => {
                let answer = client.ask(&read("test", key)).unwrap();
                let found = (answer.result == result::OK).then(|| Found::from_answer(key, &answer));
                assert_eq!(found, history.now(), "{key:?}");
            }
            10..20 if is_there => self.perform(client, at, Act::Delete),
            20..35 if is_there => {
                self.perform(client, at, Act::DeleteDurably);
            }
            35..45 if is_there => self.perform(client, at, Act::Touch { ttl }),
            45..60 if is_there => {
                // On a fast machine it is recreated within the same millisecond.
                self.perform(client, at, if number % 2 == 0 { Act::Delete } else { Act::DeleteDurably });
                self.perform(client, at, Act::Put { number, ttl });
            }
            // Expired records exist until nsup removes them.
            60..65 if history.is_deleted_durably() => {
                for act in [Act::Delete, Act::DeleteDurably] {
                    assert_eq!(client.ask(&act.message("test", key)).unwrap().result, result::NOT_FOUND);
                }
            }
            _ => self.perform(client, at, Act::Put { number, ttl }),
        }
    }

    fn perform(&mut self, client: &mut Client, at: usize, act: Act) {
        let (key, history) = &mut self.records[at];
        let before = history.now().map(|found| found.void_time);
        perform(client, "test", (key, history), act).expect("a server that runs");
        if let (Some(before), Some(after)) = (before, history.now().map(|found| found.void_time))
            && after != 0
            && (before == 0 || before > after)
        {
            // The older copies of the record live longer than the record.
            self.once_buried.insert(key.id);
        }
        if history.is_deleted_durably() {
            self.tombstones.insert(key.id);
            self.once_buried.insert(key.id);
        } else if matches!(act, Act::Put { .. }) {
            self.tombstones.remove(&key.id);
        } else if act == Act::Delete && self.once_buried.contains(&key.id) {
            self.tombstones.insert(key.id);
        }
    }

    /// Whether a record that is not certainly a tombstone may be one, because it has or may have expired.
    fn may_be_tombstone(&self, key: &Key, history: &History) -> bool {
        self.once_buried.contains(&key.id)
            && !self.tombstones.contains(&key.id)
            && history.now().is_none_or(|found| found.void_time != 0)
    }

    /// Fails unless the count of tombstones is right, and, if no record expires, the count of records.
    fn check_figures(&self, client: &mut Client) {
        let certain = self.tombstones.len();
        let uncertain =
            self.records.iter().filter(|(key, history)| self.may_be_tombstone(key, history)).count();
        let tombstones = certain as u64..=(certain + uncertain) as u64;
        for (name, key) in [
            ("namespace/test".to_owned(), "tombstones"),
            (format!("sets/test/{SET}"), "tombstones"),
            ("statistics".to_owned(), "tombstones"),
        ] {
            let figure = client.figure(&name, key).unwrap();
            assert!(tombstones.contains(&figure), "{name}: {figure}, not {tombstones:?}");
        }
        if !self.with_expiry {
            let objects = self.records.iter().filter(|(_, history)| history.now().is_some()).count() as u64;
            assert_eq!(client.figure("namespace/test", "objects").unwrap(), objects);
            assert_eq!(client.figure(&format!("sets/test/{SET}"), "objects").unwrap(), objects);
            assert_eq!(client.figure("statistics", "objects").unwrap(), objects);
        }
    }

    /// Reads the tombstones in the file, between an end of the server and its next start.
    fn look_for_tombstones(&mut self, file: &Path) {
        let by_digest: BTreeMap<String, u64> =
            self.records.iter().map(|(key, _)| (hex(&digest(SET, &key.name())), key.id)).collect();
        let document = inspect(file);
        let list = document["list"].as_array().unwrap();
        let tombstones = list.iter().filter(|line| line["tombstone"] == true);
        let found: BTreeSet<u64> =
            tombstones.map(|line| by_digest[line["digest"].as_str().unwrap()]).collect();
        let needed =
            self.records.iter().filter(|(_, history)| history.is_deleted_durably()).map(|(key, _)| key.id);
        for id in needed {
            assert!(found.contains(&id), "the tombstone of key-{id} is lost");
        }
        self.tombstones = found;
    }

    /// Fails unless every record is in an allowed state, after a start.
    fn judge(&mut self, server: &Server, round: u64) {
        let mut client = server.connect();
        let answers = client.scan("test").unwrap();
        let mut found: BTreeMap<&[u8], &Message> =
            answers.iter().map(|answer| (Found::digest(answer), answer)).collect();
        for (key, history) in &mut self.records {
            let answer = found.remove(&digest(SET, &key.name())[..]);
            let found = answer.map(|answer| Found::from_answer(key, answer));
            if let Err(why) = history.judge(found, Instant::now(), now()) {
                panic!("round {round}, {}: {why}", key.name());
            }
        }
        assert!(found.is_empty(), "unknown records {:02x?}", found.keys());
        self.check_figures(&mut client);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The output of `asd-inspect` about a file. Damage in the file is no failure.
fn inspect(file: &Path) -> Value {
    let output = Command::new(built("asd-inspect").unwrap()).args(["--json", "--records"]).arg(file).output();
    let output = output.expect("asd-inspect; `make checked` builds it");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A namespace `test` on a file of 128 MiB that commits each write.
fn start(engine: &str, lines: &[&str], folder: &Path) -> Server {
    let file = format!("file {}", folder.join("test.dat").display());
    let storage = [&file, "filesize 128M", "commit-to-device true", "stop-writes-avail-pct 0"];
    let mut server = Server::start(&stored_config_with("test", lines, engine, &storage));
    server.allow("damaged and left out: ").allow("were not loaded");
    // This happens only briefly, until defrag has made room.
    server.allow("out of space");
    server
}

fn restarts(engine: &str, lines: &[&str], rounds: u64, mut model: Model) {
    let folder = fast_folder(128 << 20);
    let file = folder.path().join("test.dat");
    let mut server = start(engine, lines, folder.path());
    for round in 0..rounds {
        let mut client = server.connect();
        for _ in 0..ACTS_PER_ROUND {
            model.act(&mut client);
        }
        model.check_figures(&mut client);
        if model.random.chance(50) {
            server.stop();
        } else {
            server.kill9();
        }
        model.look_for_tombstones(&file);
        server.restart();
        model.judge(&server, round);
    }
}

#[test]
fn no_record_returns_or_disappears_over_a_hundred_restarts() {
    restarts("device", &["nsup-period 1"], 100, Model::new(false, true));
}

#[test]
fn with_durable_deletes_every_delete_lasts() {
    restarts("device", &["durable-deletes true"], 30, Model::new(true, false));
}

#[test]
fn a_namespace_in_memory_restarts_from_its_file_as_well() {
    restarts("memory", &[], 30, Model::new(false, false));
}

/// Waits until the number of tombstones is `expected`.
fn await_tombstones(client: &mut Client, expected: u64) {
    let start = Instant::now();
    loop {
        let count = client.figure("namespace/test", "tombstones").unwrap();
        if count == expected {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{count} tombstones, not {expected}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn put(client: &mut Client, key: &Key, number: u64) {
    let put = Act::Put { number, ttl: 0 };
    assert_eq!(ask_for_room(client, &put.message("test", key)).unwrap().result, result::OK);
}

fn delete_durably(client: &mut Client, key: &Key) {
    assert_eq!(client.ask(&Act::DeleteDurably.message("test", key)).unwrap().result, result::OK);
}

#[test]
fn the_raider_takes_tombstones_that_nothing_needs_and_leaves_the_others() {
    let folder = fast_folder(128 << 20);
    let lines = ["tomb-raider-period 1", "tomb-raider-eligible-age 0"];
    let mut server = start("device", &lines, folder.path());
    let mut client = server.connect();
    let key = |id| Key { id, sizes: (10_000, 10_000) };
    (0..50).for_each(|id| put(&mut client, &key(id), 1));
    (0..50).for_each(|id| delete_durably(&mut client, &key(id)));
    // The records of the tombstones are still in the file.
    thread::sleep(Duration::from_millis(3500));
    await_tombstones(&mut client, 50);
    server.kill9();
    server.restart();
    let mut client = server.connect();
    await_tombstones(&mut client, 50);
    thread::sleep(Duration::from_millis(2500));
    await_tombstones(&mut client, 50);
    // One of the records is written again, so its tombstone and its older value are no longer needed.
    put(&mut client, &key(7), 2);
    await_tombstones(&mut client, 49);

    // Everything in the file is overwritten, and the tombstones are removed.
    let large = |id| Key { id, sizes: (900_000, 900_000) };
    let start = Instant::now();
    for number in 1.. {
        (1000..1040).for_each(|id| put(&mut client, &large(id), number));
        let count = client.figure("namespace/test", "tombstones").unwrap();
        if count == 0 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{count} tombstones after {number} rounds");
    }
    for _ in 0..2 {
        server.kill9();
        server.restart();
        let mut client = server.connect();
        for id in 0..50 {
            let answer = client.ask(&read("test", &key(id))).unwrap();
            if id == 7 {
                assert_eq!(Found::from_answer(&key(id), &answer).number, 2);
            } else {
                assert_eq!(answer.result, result::NOT_FOUND, "key-{id} came back");
            }
        }
        // A record that was removed only from the index is found again, and removed again.
        await_tombstones(&mut client, 0);
    }
    assert!(server.log().contains("tomb-raid-done"));
}

/// A record was deleted durably, rewritten, and removed without a trace. It does not come back in its first
/// form, although this form is still in the file and all traces of the later ones have been overwritten.
#[test]
fn values_from_before_a_durable_delete_never_come_back() {
    let folder = fast_folder(128 << 20);
    let mut server = start("device", &["nsup-period 1"], folder.path());
    let mut client = server.connect();
    let small = |id| Key { id, sizes: (100, 100) };
    let (deleted, expired, live) = (small(1), small(2), small(3));
    for key in [&deleted, &expired, &live] {
        put(&mut client, key, 1);
    }
    // The records share their block with records that prevent defrag from emptying it.
    let large = |id| Key { id, sizes: (900_000, 900_000) };
    (10..18).for_each(|id| put(&mut client, &large(id), 1));
    for key in [&deleted, &expired, &live] {
        delete_durably(&mut client, key);
    }
    put(&mut client, &deleted, 2);
    put(&mut client, &live, 2);
    let short_lived = Act::Put { number: 2, ttl: 1 }.message("test", &expired);
    assert_eq!(ask_for_room(&mut client, &short_lived).unwrap().result, result::OK);
    await_tombstones(&mut client, 1);
    assert_eq!(client.ask(&Act::Delete.message("test", &deleted)).unwrap().result, result::OK);
    await_tombstones(&mut client, 2);
    for round in 0..3 {
        for number in 1..10 {
            (1000..1020).for_each(|id| put(&mut client, &large(id), round * 10 + number));
        }
        if round == 1 {
            server.stop();
        } else {
            server.kill9();
        }
        server.restart();
        client = server.connect();
        for key in [&deleted, &expired] {
            let answer = client.ask(&read("test", key)).unwrap();
            assert_eq!(answer.result, result::NOT_FOUND, "round {round}: {} came back", key.name());
        }
        let answer = client.ask(&read("test", &live)).unwrap();
        assert_eq!(Found::from_answer(&live, &answer).number, 2);
        await_tombstones(&mut client, 2);
    }
}

#[test]
fn the_raider_waits_for_the_age() {
    let folder = fast_folder(128 << 20);
    let lines = ["tomb-raider-period 1", "tomb-raider-eligible-age 3600"];
    let server = start("memory", &lines, folder.path());
    let mut client = server.connect();
    let key = Key { id: 1, sizes: (100, 100) };
    put(&mut client, &key, 1);
    delete_durably(&mut client, &key);
    thread::sleep(Duration::from_millis(2500));
    await_tombstones(&mut client, 1);
}

#[test]
fn without_files_tombstones_are_removed_by_age() {
    let lines = ["tomb-raider-period 1", "tomb-raider-eligible-age 0"];
    let server = Server::start(&stored_config_with("test", &lines, "memory", &["data-size 512M"]));
    let mut client = server.connect();
    let key = Key { id: 1, sizes: (100, 100) };
    for number in 1..4 {
        put(&mut client, &key, number);
        delete_durably(&mut client, &key);
        assert_eq!(client.ask(&read("test", &key)).unwrap().result, result::NOT_FOUND);
        await_tombstones(&mut client, 0);
        assert_eq!(client.figure(&format!("sets/test/{SET}"), "data_used_bytes").unwrap(), 0);
    }
}

/// Limits the size of the server's files to `bytes`. Writes beyond it fail.
fn limit_files(server: &Server, bytes: &str) {
    let id = server.process_id().unwrap().to_string();
    let status = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(status.unwrap().success(), "prlimit");
}

/// A record that replaced a tombstone leaves a tombstone when it expires, and a failed disk does not accept
/// that.
#[test]
fn records_that_expire_while_the_disk_fails_are_removed_later() {
    if !Command::new("prlimit").arg("--fsize").output().is_ok_and(|output| output.status.success()) {
        return report("SKIPPED: this system has no prlimit, so no disk failed");
    }
    let folder = fast_folder(128 << 20);
    let mut server = start("device", &["nsup-period 1"], folder.path());
    server.allow("raise the limit").allow("can be written to again").allow("its device failed");
    let mut client = server.connect();
    let (key, other) = (Key { id: 1, sizes: (100, 100) }, Key { id: 2, sizes: (100, 100) });
    put(&mut client, &key, 1);
    delete_durably(&mut client, &key);
    assert_eq!(
        client.ask(&Act::Put { number: 2, ttl: 10 }.message("test", &key)).unwrap().result,
        result::OK
    );
    limit_files(&server, "4000000");
    let refused = client.ask(&Act::Put { number: 1, ttl: 0 }.message("test", &other)).unwrap().result;
    assert_eq!(refused, result::UNKNOWN);
    server.await_log("a record cannot be removed");
    limit_files(&server, "unlimited");
    server.await_log("can be written to again");
    await_tombstones(&mut client, 1);
}
