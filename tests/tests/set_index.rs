//! Indexes of sets (`enable-index`): they are built beside clients and at a start, used by queries, and
//! correct after any change of records.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{figures, texts};
use ferrospike_tests::server::{Server, stored_config_with, usual_config};
use ferrospike_tests::wire::{Message, Operation, digest, field, info1, info2, operation, result};

/// Fields of queries.
const DIGEST_ARRAY: u8 = 12;
const SAMPLE_MAX: u8 = 13;

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).unwrap()
}

fn switch(client: &mut Client, set: &str, is_on: bool) {
    let request = format!("set-config:context=namespace;id=test;set={set};enable-index={is_on}");
    assert_eq!(ask(client, &request), "ok");
}

fn of_set(client: &mut Client, set: &str) -> BTreeMap<String, String> {
    texts(client, &format!("sets/test/{set}"))
}

fn await_populated(client: &mut Client, set: &str) {
    let start = Instant::now();
    while of_set(client, set)["index_populating"] == "true" {
        assert!(start.elapsed() < PATIENCE, "still being populated");
        thread::sleep(Duration::from_millis(2));
    }
}

fn record(set: &str, key: u32) -> Message {
    Message::on_record("test", set, &key.to_string())
}

fn put(set: &str, key: u32) -> Message {
    Message { info2: info2::WRITE, ..record(set, key) }.with_operation(Operation::integer(
        operation::WRITE,
        "n",
        i64::from(key),
    ))
}

fn fill(client: &mut Client, set: &str, keys: impl Iterator<Item = u32>) {
    let keys: Vec<u32> = keys.collect();
    for keys in keys.chunks(200) {
        let requests: Vec<u8> = keys.iter().flat_map(|key| put(set, *key).encode()).collect();
        client.send(&requests).unwrap();
        for _ in keys {
            assert_eq!(client.receive_message().unwrap().result, result::OK);
        }
    }
}

/// How often each record was returned.
fn rows(client: &mut Client, request: &Message) -> BTreeMap<Vec<u8>, u32> {
    client.send(&request.encode()).unwrap();
    let mut found = BTreeMap::new();
    for message in client.take_rows().unwrap() {
        *found.entry(message.field(field::DIGEST).unwrap().to_vec()).or_default() += 1;
    }
    found
}

fn query(set: &str) -> Message {
    Message::scan("test").with_field(field::SET, set.as_bytes())
}

/// Checks that queries with and without bins return exactly the records of `keys`, each once.
fn expect(client: &mut Client, set: &str, keys: impl Iterator<Item = u32>) {
    let expected: BTreeMap<Vec<u8>, u32> =
        keys.map(|key| (digest(set, &key.to_string()).to_vec(), 1)).collect();
    assert!(rows(client, &query(set)) == expected, "with bins");
    let without_bins = Message { info1: info1::READ | info1::GET_NO_BINS, ..query(set) };
    assert!(rows(client, &without_bins) == expected, "without bins");
}

/// Shortest time of a query of an empty or small set.
fn query_time(client: &mut Client, set: &str) -> Duration {
    let times = (0..5).map(|_| {
        let start = Instant::now();
        rows(client, &query(set));
        start.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn queries_use_the_index_of_a_set() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    fill(client, "crowd", 0..150_000);
    fill(client, "few", 0..500);
    let unused = figures(client, "namespace/test")["set_index_used_bytes"];
    let slow = query_time(client, "few");
    switch(client, "few", true);
    await_populated(client, "few");
    let figures_now = of_set(client, "few");
    assert_eq!((&*figures_now["enable-index"], &*figures_now["objects"]), ("true", "500"));
    let used = figures(client, "namespace/test")["set_index_used_bytes"];
    assert!(unused == 0 && used > 500 * 6, "{used}");
    server.await_log("{test|few} done populating set-index");
    let fast = query_time(client, "few");
    assert!(fast * 2 < slow, "{fast:?} by the index, {slow:?} without");
    expect(client, "few", 0..500);

    // The changes are updates, deletes, rewritten records, and records of other sets.
    fill(client, "few", 100..600);
    for key in 0..50 {
        let delete = Message { info2: info2::WRITE | info2::DELETE, ..record("few", key) };
        assert_eq!(client.ask(&delete).unwrap().result, result::OK);
    }
    expect(client, "few", 50..600);
    fill(client, "few", 10..20);
    expect(client, "few", (10..20).chain(50..600));

    // The records are queried in pages.
    let partition = |digest: &[u8]| u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF;
    let all: Vec<Vec<u8>> = rows(client, &query("few")).into_keys().collect();
    let one = all[0].clone();
    let mut rest = query("few").with_field(DIGEST_ARRAY, &one);
    rest.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
    let expected = all.iter().filter(|digest| partition(digest) == partition(&one) && **digest < one);
    assert!(rows(client, &rest).keys().eq(expected));
    let some = query("few").with_field(SAMPLE_MAX, &20u64.to_be_bytes());
    assert_eq!(rows(client, &some).len(), 20);

    // The index is switched off: the records are still found, and the memory is freed.
    switch(client, "few", false);
    assert_eq!(figures(client, "namespace/test")["set_index_used_bytes"], 0);
    expect(client, "few", (10..20).chain(50..600));
    assert_eq!(of_set(client, "few")["enable-index"], "false");
}

#[test]
fn an_index_is_right_while_it_is_built_and_after_truncation_and_expiry() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let client = &mut client;
    fill(client, "s", 0..60_000);
    for round in 0..4 {
        switch(client, "s", true);
        // These writes run beside the builder.
        let (from, to) = (60_000 + round * 1_000, 61_000 + round * 1_000);
        fill(client, "s", from..to);
        let kept = rows(client, &query("s"));
        assert!(kept.len() == to as usize && kept.values().all(|times| *times == 1));
        if round % 2 == 0 {
            await_populated(client, "s");
            expect(client, "s", 0..to);
        }
        switch(client, "s", false);
    }
    switch(client, "s", true);
    await_populated(client, "s");
    assert_eq!(of_set(client, "s")["index_populating"], "false");
    thread::sleep(Duration::from_millis(3));
    assert_eq!(ask(client, "truncate:namespace=test;set=s"), "ok");
    expect(client, "s", 0..0);
    fill(client, "s", 5..10);
    let start = Instant::now();
    while of_set(client, "s")["truncating"] == "true" {
        assert!(start.elapsed() < PATIENCE, "the truncation never ends");
        thread::sleep(Duration::from_millis(2));
    }
    expect(client, "s", 5..10);
    let own = figures(client, "namespace/test")["set_index_used_bytes"];
    let short_lived = |key| Message { record_ttl: 1, ..put("s", key) };
    for key in 100..200 {
        assert_eq!(client.ask(&short_lived(key)).unwrap().result, result::OK);
    }
    assert!(figures(client, "namespace/test")["set_index_used_bytes"] > own);
    while of_set(client, "s")["objects"] != "5" {
        assert!(start.elapsed() < PATIENCE, "they never expire");
        thread::sleep(Duration::from_millis(50));
    }
    expect(client, "s", 5..10);
    let now = figures(client, "namespace/test")["set_index_used_bytes"];
    assert!(now < own + 4_096 * 40, "{now} bytes, {own} before");
}

#[test]
fn an_index_is_there_after_a_start() {
    let lines = ["set listed {", "enable-index true", "}", "set other {", "enable-index false", "}"];
    let mut server = Server::start(&stored_config_with(
        "test",
        &lines,
        "device",
        &["file {dir}/test.dat", "filesize 128M"],
    ));
    let mut client = server.connect();
    assert_eq!(of_set(&mut client, "listed")["enable-index"], "true");
    fill(&mut client, "listed", 0..2_000);
    fill(&mut client, "other", 0..2_000);
    expect(&mut client, "listed", 0..2_000);
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(of_set(&mut client, "listed")["index_populating"], "false");
    assert!(figures(&mut client, "namespace/test")["set_index_used_bytes"] > 2_000 * 6);
    expect(&mut client, "listed", 0..2_000);
    expect(&mut client, "other", 0..2_000);
    // A change at run time is not kept over a restart.
    switch(&mut client, "other", true);
    await_populated(&mut client, "other");
    thread::sleep(Duration::from_millis(1_500));
    server.kill9();
    server.restart();
    let mut client = server.connect();
    assert_eq!(of_set(&mut client, "other")["enable-index"], "false");
    expect(&mut client, "listed", 0..2_000);
    expect(&mut client, "other", 0..2_000);
}
