//! The server is killed at random moments while an index is built, a module is registered or a set is
//! truncated. Afterwards the index has all records, the module is the old or the new one, and truncated
//! records do not come back. A restart with indexes of many records gives the same answers.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::random::Random;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{
    Message, Operation, field, index_range, info2, integer_range, operation, particle, result,
};

const LIST: u8 = 1;
/// Number of rounds of each test.
const ROUNDS: u64 = 5;

fn config(engine: &str) -> String {
    stored_config_with("test", &[], engine, &["file {dir}/test.dat", "filesize 512M"])
}

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).unwrap()
}

fn put(set: &str, key: u32) -> Message {
    let list = vec![0x93, key as u8 & 0x7f, (key / 7) as u8 & 0x7f, 5];
    Message { info2: info2::WRITE, ..Message::on_record("test", set, &key.to_string()) }
        .with_operation(Operation::integer(operation::WRITE, "n", i64::from(key)))
        .with_operation(Operation::string(operation::WRITE, "s", &format!("text {}", key % 100)))
        .with_operation(Operation {
            particle: particle::LIST,
            value: list,
            ..Operation::bare(operation::WRITE, "l")
        })
}

fn fill(client: &mut Client, set: &str, keys: std::ops::Range<u32>) {
    for keys in keys.collect::<Vec<u32>>().chunks(200) {
        let requests: Vec<u8> = keys.iter().flat_map(|key| put(set, *key).encode()).collect();
        client.send(&requests).unwrap();
        for _ in keys {
            assert_eq!(client.receive_message().unwrap().result, result::OK);
        }
    }
}

fn create(client: &mut Client, definition: &str) {
    assert_eq!(ask(client, &format!("sindex-create:namespace=test;{definition}")), "ok");
}

fn await_indexes(client: &mut Client) {
    let start = Instant::now();
    while ask(client, "sindex-list").contains(":state=WO") {
        assert!(start.elapsed() < PATIENCE, "still being filled");
        thread::sleep(Duration::from_millis(5));
    }
}

fn scan(set: &str) -> Message {
    Message::scan("test").with_field(field::SET, set.as_bytes())
}

fn in_range(set: &str, low: i64, high: i64) -> Message {
    scan(set).with_field(field::INDEX_RANGE, &integer_range("n", low, high))
}

/// Digests and numbers of the records in an answer. Each record must occur once.
fn rows(client: &mut Client, request: &Message) -> BTreeMap<Vec<u8>, Vec<u8>> {
    client.send(&request.encode()).unwrap();
    let mut found = BTreeMap::new();
    for message in client.take_rows().unwrap() {
        let number = message.bin("n").unwrap().to_vec();
        assert!(found.insert(message.field(field::DIGEST).unwrap().to_vec(), number).is_none());
    }
    found
}

/// Waits for a random time up to `longest`.
fn pause(random: &mut Random, longest: Duration) {
    thread::sleep(Duration::from_micros(random.within(0..longest.as_micros() as u64)));
}

#[test]
fn an_index_is_complete_after_a_kill_while_it_was_built() {
    for engine in ["memory", "device"] {
        let mut server = Server::start(&config(engine));
        let mut client = server.connect();
        fill(&mut client, "s", 0..20_000);
        // Everything is on disk after this pause.
        thread::sleep(Duration::from_millis(1_500));
        let mut random = Random::new(7);
        for round in 0..ROUNDS {
            let mut client = server.connect();
            let name = format!("set=s;indexname=n{round};indexdata=n,numeric");
            create(&mut client, &name);
            pause(&mut random, Duration::from_millis(60));
            server.kill9();
            server.restart();
            let mut client = server.connect();
            let listed = ask(&mut client, "sindex-list");
            assert!(listed.contains("indexname=n") && listed.contains(":state=RW"), "{listed}");
            let all = rows(&mut client, &scan("s"));
            assert_eq!(all.len(), 20_000);
            assert!(rows(&mut client, &in_range("s", i64::MIN, i64::MAX)) == all, "{engine}, round {round}");
            // The next round creates it again, beside the existing indexes.
            assert_eq!(
                ask(&mut client, &format!("sindex-delete:namespace=test;set=s;indexname=n{round}")),
                "ok"
            );
        }
    }
}

fn module(version: u64) -> String {
    format!("-- {}\nfunction version() return {version} end\n", "x".repeat(version as usize % 5 * 3_000))
}

/// The version of the module, and the result of a call of it.
fn version(client: &mut Client) -> Option<u64> {
    let answer = ask(client, "udf-get:filename=m.lua");
    let content = answer.split(';').find_map(|part| part.strip_prefix("content="))?;
    let text = String::from_utf8(BASE64_STANDARD.decode(content).unwrap()).unwrap();
    let version: u64 = text.split("return ").nth(1)?.split(' ').next()?.parse().unwrap();
    assert_eq!(text, module(version), "it is whole");
    let call = Message { info2: info2::WRITE, ..Message::on_record("test", "s", "1") }
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, b"version")
        .with_field(field::UDF_ARGUMENTS, &[0x90]);
    let called = client.ask(&call).unwrap();
    assert_eq!(called.result, result::OK);
    assert_eq!(called.bin("SUCCESS").unwrap(), (version as i64).to_be_bytes());
    Some(version)
}

#[test]
fn a_module_is_the_old_or_the_new_one_after_a_kill() {
    let mut server = Server::start(&config("device"));
    let mut random = Random::new(11);
    let (mut acknowledged, mut sent) = (0, 0);
    for round in 0..ROUNDS * 2 {
        let mut client = server.connect();
        let until = Instant::now() + Duration::from_micros(random.within(500..40_000));
        while Instant::now() < until {
            sent += 1;
            let content = BASE64_STANDARD.encode(module(sent));
            let command = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
            assert_eq!(ask(&mut client, &command), "ok");
            acknowledged = sent;
        }
        // One more registration is in progress.
        sent += 1;
        let content = BASE64_STANDARD.encode(module(sent));
        let command = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
        client.send(&ferrospike_tests::wire::info_request(&command)).unwrap();
        pause(&mut random, Duration::from_millis(4));
        server.kill9();
        server.restart();
        let found = version(&mut server.connect()).unwrap_or(0);
        assert!(
            found == acknowledged || found == sent,
            "round {round}: {found}, not {acknowledged} or {sent}"
        );
        (acknowledged, sent) = (found, sent);
    }
    report(&format!("{sent} modules in {} rounds", ROUNDS * 2));
}

#[test]
fn truncated_records_do_not_return_after_a_kill() {
    for engine in ["memory", "device"] {
        let mut server = Server::start(&config(engine));
        let mut random = Random::new(13);
        for round in 0..ROUNDS as u32 {
            let mut client = server.connect();
            let keys = round * 10_000..round * 10_000 + 5_000;
            fill(&mut client, "s", keys.clone());
            fill(&mut client, "kept", keys);
            thread::sleep(Duration::from_millis(1_300));
            let before = rows(&mut client, &scan("s")).len();
            assert!(before >= 5_000);
            let is_acknowledged = random.chance(60);
            client.send(&ferrospike_tests::wire::info_request("truncate:namespace=test;set=s")).unwrap();
            if is_acknowledged {
                assert_eq!(client.receive().unwrap().body.last(), Some(&b'\n'));
                pause(&mut random, Duration::from_millis(20));
            } else {
                pause(&mut random, Duration::from_millis(3));
            }
            server.kill9();
            server.restart();
            let mut client = server.connect();
            let left = rows(&mut client, &scan("s")).len();
            let is_right = if is_acknowledged { left == 0 } else { left == 0 || left == before };
            assert!(
                is_right,
                "{engine}, round {round}: {left} of {before} records, acknowledged: {is_acknowledged}"
            );
            let start = Instant::now();
            while ask(&mut client, "sets/test/s").contains("truncating=true") {
                assert!(start.elapsed() < PATIENCE, "the truncation never ends");
            }
            assert_eq!(rows(&mut client, &scan("kept")).len(), (round as usize + 1) * 5_000);
            // Later records are not affected, not even by a further start.
            fill(&mut client, "s", 900_000..900_100);
            thread::sleep(Duration::from_millis(1_300));
            server.stop();
            server.restart();
            assert_eq!(rows(&mut server.connect(), &scan("s")).len(), left + 100);
            let mut client = server.connect();
            thread::sleep(Duration::from_millis(3));
            assert_eq!(ask(&mut client, "truncate:namespace=test;set=s"), "ok");
        }
    }
}

#[test]
fn answers_are_the_same_after_a_restart_with_three_indexes() {
    const COUNT: u32 = 100_000;
    let mut server = Server::start(&config("memory"));
    let mut client = server.connect();
    create(&mut client, "set=s;indexname=n;indexdata=n,numeric");
    create(&mut client, "indexname=s;indexdata=s,string");
    create(&mut client, "set=s;indexname=l;indextype=list;indexdata=l,numeric");
    fill(&mut client, "s", 0..COUNT);
    fill(&mut client, "t", 0..1_000);
    // Plain deletes do not survive a restart.
    for key in (0..COUNT).step_by(97) {
        let delete = Message {
            info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE,
            ..Message::on_record("test", "s", &key.to_string())
        };
        assert_eq!(client.ask(&delete).unwrap().result, result::OK);
    }
    await_indexes(&mut client);
    let text = index_range("s", particle::STRING, &[b"text 42"]);
    let elements = integer_range("l", 3, 4);
    let questions = [
        scan("s"),
        in_range("s", 20_000, 49_999),
        in_range("s", i64::MIN, i64::MAX),
        scan("s").with_field(field::INDEX_RANGE, &text),
        scan("t").with_field(field::INDEX_RANGE, &text),
        scan("s").with_field(field::INDEX_RANGE, &elements).with_field(field::INDEX_TYPE, &[LIST]),
    ];
    let answers = |client: &mut Client| questions.each_ref().map(|question| rows(client, question));
    let entries = |client: &mut Client| {
        ["n", "s", "l"].map(|name| {
            client.figure(&format!("sindex-stat:namespace=test;indexname={name}"), "entries").unwrap()
        })
    };
    let (before, entries_before) = (answers(&mut client), entries(&mut client));
    assert!(before.iter().all(|rows| !rows.is_empty()));
    assert_eq!(before[0].len(), before[2].len());
    server.stop();
    let start = Instant::now();
    server.restart();
    let took = start.elapsed();
    let mut client = server.connect();
    assert!(answers(&mut client) == before, "other answers");
    assert_eq!(entries(&mut client), entries_before);
    report(&format!("{COUNT} records and three indexes are there again after {took:?}"));
}
