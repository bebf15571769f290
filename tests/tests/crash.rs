//! kill -9 under write load: acknowledged writes exist after the next start, and the server never returns a value that
//! was not written.
//!
//! Several connections write, delete, delete durably and rewrite their own records, one after another or with
//! many requests sent together, while the server is killed at any moment: under load, while it loads, while
//! it stops. The same file is used in every round and overwritten many times, so that defrag and the tomb
//! raider run. [`History`] knows the allowed states.
//!
//! `FERROSPIKE_CRASH_ROUNDS` multiplies the rounds of each test; `FERROSPIKE_SOAK_SEED` changes the requests.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrospike_tests::client::Client;
use ferrospike_tests::device_file::EPOCH_SECONDS;
use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::history::{Act, Found, History, Key, perform, perform_together, read};
use ferrospike_tests::random::{Random, soak_seed};
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{digest, result};
use nix::sys::signal::Signal;

const CONNECTIONS: u64 = 6;
const KEYS_PER_CONNECTION: u64 = 300;
/// Largest number of requests sent together.
const BURST_MAX: u64 = 40;
/// `flush-max-ms` of namespaces that do not commit each write.
const FLUSH_MAX: Duration = Duration::from_millis(200);
/// Additional time until a record is on disk, because writes are slow on a busy machine.
const FLUSH_MARGIN: Duration = Duration::from_millis(2_500);
const FILE: [&str; 3] = ["file {data}/test.dat", "filesize 128M", NO_STOP];
/// Writes must not stop, because defrag may lag behind briefly on such a small file.
const NO_STOP: &str = "stop-writes-avail-pct 0";
/// Tombstones are removed as soon as they are not needed.
const RAIDER: [&str; 2] = ["tomb-raider-period 1", "tomb-raider-eligible-age 0"];

/// The records of one connection.
struct Writer {
    records: Vec<(Key, History)>,
    random: Random,
}

impl Writer {
    fn new(number: u64, deletes_are_durable: bool) -> Writer {
        let ids = number * KEYS_PER_CONNECTION..(number + 1) * KEYS_PER_CONNECTION;
        let record = |id| (Key { id, sizes: (1_000, 20_000) }, History::new(deletes_are_durable));
        Writer { records: ids.map(record).collect(), random: Random::new((soak_seed() << 32) | (number + 1)) }
    }

    /// Runs until the server has ended.
    fn run(&mut self, address: SocketAddr, written: &AtomicU64) {
        let Ok(mut client) = Client::connect(address) else { return };
        while self.step(&mut client, written).is_some() {}
    }

    /// Reads, writes or deletes one record, and sometimes rewrites it at once.
    fn step(&mut self, client: &mut Client, written: &AtomicU64) -> Option<()> {
        let at = self.random.within(0..self.records.len() as u64) as usize;
        let choice = self.random.within(0..100);
        if choice >= 70 {
            return self.burst(at, client, written);
        }
        let (key, history) = &mut self.records[at];
        match choice {
            0..20 => {
                let answer = client.ask(&read("test", key)).ok()?;
                let found = (answer.result != result::NOT_FOUND).then(|| {
                    assert_eq!(answer.result, result::OK, "{key:?}: read");
                    Found::from_answer(key, &answer)
                });
                assert_eq!(found, history.now(), "{key:?} as long as the server runs");
            }
            20..35 if history.now().is_some() => {
                let act = if choice < 28 { Act::Delete } else { Act::DeleteDurably };
                perform(client, "test", (key, history), act)?;
                if self.random.chance(60) {
                    let act = Act::Put { number: history.next_number(), ttl: 0 };
                    perform(client, "test", (key, history), act)?;
                }
            }
            _ => {
                let act = Act::Put { number: history.next_number(), ttl: 0 };
                perform(client, "test", (key, history), act)?;
                written.fetch_add(10_000, Relaxed);
            }
        }
        Some(())
    }

    /// Writes records from number `first` on, and deletes some, without waiting for answers, so that many
    /// requests are in progress when the server ends.
    fn burst(&mut self, first: usize, client: &mut Client, written: &AtomicU64) -> Option<()> {
        let count = self.random.within(2..BURST_MAX) as usize;
        let mut acts: Vec<_> = Vec::with_capacity(count);
        for (key, history) in self.records.iter_mut().skip(first).take(count) {
            let act = match self.random.within(0..100) {
                0..8 if history.now().is_some() => Act::Delete,
                8..16 if history.now().is_some() => Act::DeleteDurably,
                _ => Act::Put { number: history.next_number(), ttl: 0 },
            };
            acts.push((&*key, history, act));
        }
        perform_together(client, "test", &mut acts)?;
        written.fetch_add(10_000 * acts.len() as u64, Relaxed);
        Some(())
    }
}

/// Seconds since 2010.
fn now() -> u32 {
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - EPOCH_SECONDS) as u32
}

/// Fails unless the server's records are in allowed states.
fn judge(server: &Server, writers: &mut [Writer], certain_until: Instant, round: u64) {
    let mut client = server.connect();
    let answers = client.scan("test").unwrap();
    assert_eq!(client.figure("namespace/test", "objects").unwrap(), answers.len() as u64);
    let mut found: BTreeMap<&[u8], _> =
        answers.iter().map(|answer| (Found::digest(answer), answer)).collect();
    let mut failures = Vec::new();
    for (key, history) in writers.iter_mut().flat_map(|writer| &mut writer.records) {
        let answer = found.remove(&digest("rig", &key.name())[..]);
        let found = answer.map(|answer| Found::from_answer(key, answer));
        if let Err(why) = history.judge(found, certain_until, now()) {
            failures.push(format!("round {round}, {}: {why}", key.name()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} records are not as they must be:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(found.is_empty(), "unknown records {:02x?}", found.keys());
}

/// The storage of a namespace.
struct Setting<'a> {
    lines: &'a [&'a str],
    engine: &'a str,
    storage: &'a [&'a str],
    commits: bool,
    deletes_are_durable: bool,
    rounds: u64,
}

fn crash(setting: &Setting<'_>) {
    let flush_max = format!("flush-max-ms {}", FLUSH_MAX.as_millis());
    let commit = if setting.commits { "commit-to-device true" } else { flush_max.as_str() };
    let storage = [setting.storage, &[commit]].concat();
    let lines = [&RAIDER[..], setting.lines].concat();
    let data = fast_folder(512 << 20);
    let config = stored_config_with("test", &lines, setting.engine, &storage);
    let mut server = Server::start(&config.replace("{data}", data.path().to_str().unwrap()));
    // A kill may cut the last write in the middle. It was the write of a record that was not acknowledged.
    server.allow("damaged and left out: ").allow("were not loaded");
    server.allow("out of space");
    // The kill may happen between the writes of the header to a disk and to its shadow.
    server.allow("is out of date, because ");
    let mut writers: Vec<Writer> =
        (0..CONNECTIONS).map(|number| Writer::new(number, setting.deletes_are_durable)).collect();
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    report(&format!("seed of the moments of death: {seed}"));
    let mut random = Random::new(seed);
    let factor = std::env::var("FERROSPIKE_CRASH_ROUNDS").map_or(1, |text| text.parse().unwrap());
    let written = AtomicU64::new(0);
    for round in 0..setting.rounds * factor {
        let shortest = if setting.commits { 150 } else { 2_600 };
        let load = Duration::from_millis(random.within(shortest..shortest + 900));
        let address = server.address();
        let certain_until = thread::scope(|scope| {
            for writer in &mut writers {
                let written = &written;
                scope.spawn(move || writer.run(address, written));
            }
            thread::sleep(load);
            let is_clean = end(&mut server, &mut random);
            let ended = Instant::now();
            if setting.commits || is_clean {
                ended
            } else {
                ended.checked_sub(FLUSH_MAX + FLUSH_MARGIN).unwrap()
            }
        });
        if random.chance(20) {
            server.start_and_kill9(Duration::from_millis(random.within(1..60)));
        }
        server.restart();
        judge(&server, &mut writers, certain_until, round);
    }
    server.check_log();
    report(&format!("{} MB were written", written.into_inner() / 1_000_000));
}

/// Ends the server in one of several ways. Returns whether it was asked to stop and had enough time.
fn end(server: &mut Server, random: &mut Random) -> bool {
    match random.within(0..10) {
        0 => {
            server.stop();
            return true;
        }
        1 => {
            server.signal(Signal::SIGTERM);
            thread::sleep(Duration::from_millis(random.within(0..40)));
        }
        _ => {}
    }
    server.kill9();
    false
}

#[test]
fn with_commit_to_device_nothing_acknowledged_is_lost() {
    crash(&Setting {
        lines: &[],
        engine: "device",
        storage: &[&FILE[..], &["post-write-cache 0", "read-page-cache true"]].concat(),
        commits: true,
        deletes_are_durable: false,
        rounds: 7,
    });
}

#[test]
fn with_durable_deletes_no_record_returns() {
    crash(&Setting {
        lines: &["durable-deletes true"],
        engine: "device",
        storage: &["file {dir}/test.dat", "filesize 128M", NO_STOP, "direct-files true", "flush-size 64K"],
        commits: true,
        deletes_are_durable: true,
        rounds: 3,
    });
}

#[test]
fn without_commit_nothing_older_than_the_flush_window_is_lost() {
    crash(&Setting {
        lines: &[],
        engine: "device",
        storage: &[&FILE[..], &["post-write-cache 16M"]].concat(),
        commits: false,
        deletes_are_durable: false,
        rounds: 5,
    });
}

#[test]
fn with_two_files_and_shadows_nothing_acknowledged_is_lost() {
    crash(&Setting {
        lines: &[],
        engine: "device",
        storage: &[
            "file {data}/one.dat {data}/one-shadow.dat",
            "file {data}/two.dat {data}/two-shadow.dat",
            "filesize 128M",
            NO_STOP,
        ],
        commits: true,
        deletes_are_durable: false,
        rounds: 3,
    });
}

/// Any file can be used as a key.
const ENCRYPTED: &str = concat!("encryption-key-file ", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

#[test]
fn encrypted_and_compressed_nothing_acknowledged_is_lost() {
    crash(&Setting {
        lines: &[],
        engine: "device",
        storage: &[
            "file {data}/one.dat {data}/one-shadow.dat",
            "filesize 192M",
            NO_STOP,
            ENCRYPTED,
            "encryption aes-256",
            "compression zstd",
            "compression-level 1",
            "post-write-cache 0",
        ],
        commits: true,
        deletes_are_durable: false,
        rounds: 4,
    });
}

#[test]
fn encrypted_memory_with_a_file_loses_nothing_older_than_the_flush_window() {
    crash(&Setting {
        lines: &[],
        engine: "memory",
        storage: &[&FILE[..], &[ENCRYPTED, "compression lz4", "direct-files true"]].concat(),
        commits: false,
        deletes_are_durable: false,
        rounds: 2,
    });
}

#[test]
fn memory_with_a_file_loses_nothing_committed() {
    crash(&Setting {
        lines: &[],
        engine: "memory",
        storage: &FILE,
        commits: true,
        deletes_are_durable: false,
        rounds: 3,
    });
}

#[test]
fn memory_with_a_file_loses_nothing_older_than_the_flush_window() {
    crash(&Setting {
        lines: &[],
        engine: "memory",
        storage: &FILE,
        commits: false,
        deletes_are_durable: false,
        rounds: 2,
    });
}
