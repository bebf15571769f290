//! Secondary indexes: they are created, queried, kept up to date, and available again after a restart.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{await_figures, expect_moved, figures};
use ferrospike_tests::server::{Server, stored_config, usual_config};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, index_range, info2, info3, integer_range, operation, result,
};

/// Fields and bits that only queries use.
const JOB_ID: u8 = 7;
const RECORDS_PER_SECOND: u8 = 10;
const DIGEST_ARRAY: u8 = 12;
const SAMPLE_MAX: u8 = 13;
const BVAL_ARRAY: u8 = 15;
const SHORT_QUERY: u8 = 4;
/// Results that only queries have.
const QUERY_ABORTED: u8 = 15;
const INDEX_NOT_FOUND: u8 = 201;
const INDEX_NOT_READABLE: u8 = 203;
/// The number of `indextype` list.
const LIST: u8 = 1;
/// Particle types.
const GEOJSON: u8 = 23;
const LIST_PARTICLE: u8 = 20;

fn create(client: &mut Client, arguments: &str) {
    let answer = client.info_value(&format!("sindex-create:namespace=test;{arguments}")).unwrap();
    assert_eq!(answer, "ok", "{arguments}");
}

/// Waits until all indexes can be queried.
fn await_ready(client: &mut Client) {
    let start = Instant::now();
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < PATIENCE, "still being filled");
        thread::sleep(Duration::from_millis(5));
    }
}

fn put(key: u32, value: i64) -> Message {
    Message::write(&key.to_string()).with_operation(Operation::integer(operation::WRITE, "n", value))
}

fn fill(client: &mut Client, count: u32, value: impl Fn(u32) -> i64) {
    for keys in (0..count).collect::<Vec<u32>>().chunks(200) {
        let requests: Vec<u8> = keys.iter().flat_map(|key| put(*key, value(*key)).encode()).collect();
        client.send(&requests).unwrap();
        for _ in keys {
            assert_eq!(client.receive_message().unwrap().result, result::OK);
        }
    }
}

/// A memory limit stops writes, because filling the index further would only use more memory.
#[test]
fn an_index_for_which_there_is_no_memory_fails() {
    let mut server = Server::usual();
    server.allow("breached stop-writes limit").allow("is not filled, as a limit of memory is breached");
    let mut client = server.connect();
    fill(&mut client, 100, i64::from);
    let budget = "set-config:context=namespace;id=test;indexes-memory-budget=1000";
    assert_eq!(client.info_value(budget).unwrap(), "ok");
    server.await_log("breached stop-writes limit (indexes-memory)");
    create(&mut client, "set=rig;indexname=n;indexdata=n,numeric");
    await_ready(&mut client);
    let list = client.info_value("sindex-list").unwrap();
    assert!(list.contains(":indexname=n:") && list.contains(":state=ERROR"), "{list}");
    client.send(&query(&integer_range("n", 0, 10)).encode()).unwrap();
    let (records, last) = take_answer(&mut client);
    assert_eq!((records.len(), last), (0, INDEX_NOT_READABLE));
    assert_eq!(client.info_value("sindex-delete:namespace=test;indexname=n").unwrap(), "ok");
}

fn query(range: &[u8]) -> Message {
    Message::scan("test").with_field(field::SET, b"rig").with_field(field::INDEX_RANGE, range)
}

/// The records of an answer, and the last result. A refused query has one message.
fn take_answer(client: &mut Client) -> (Vec<Message>, u8) {
    let mut records = Vec::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() || message.result != result::OK {
                return (records, message.result);
            }
            records.push(message);
        }
    }
}

/// The records of an answer by digest, with the number of times that each was returned, and the last result.
fn rows(client: &mut Client, request: &Message) -> (HashMap<Vec<u8>, u32>, u8) {
    client.send(&request.encode()).unwrap();
    let (messages, last) = take_answer(client);
    let mut found = HashMap::new();
    for message in messages {
        *found.entry(message.field(field::DIGEST).unwrap().to_vec()).or_default() += 1;
    }
    (found, last)
}

fn digests(keys: impl Iterator<Item = u32>) -> BTreeSet<Vec<u8>> {
    keys.map(|key| digest("rig", &key.to_string()).to_vec()).collect()
}

/// Checks that the answer has exactly the records of `keys`, each once.
fn expect(client: &mut Client, request: &Message, keys: impl Iterator<Item = u32>) {
    let (found, last) = rows(client, request);
    assert_eq!(last, result::OK);
    assert!(found.values().all(|times| *times == 1), "a record came twice");
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), digests(keys));
}

#[test]
fn ranges_texts_lists_and_places_are_found() {
    let server = Server::usual();
    let mut client = server.connect();
    let client = &mut client;
    fill(client, 500, |key| i64::from(key) - 250);
    for key in 0..100u32 {
        let point = format!(r#"{{"type":"Point","coordinates":[{}.0,10.0]}}"#, key % 60);
        let geojson = [&[0, 0, 0], point.as_bytes()].concat();
        let write = Message::write(&key.to_string())
            .with_operation(Operation::string(operation::WRITE, "s", &format!("text {}", key % 7)))
            .with_operation(Operation {
                particle: GEOJSON,
                value: geojson,
                ..Operation::bare(operation::WRITE, "g")
            })
            .with_operation(Operation {
                particle: LIST_PARTICLE,
                value: vec![0x93, key as u8 % 10, 50, key as u8 % 10 + 1],
                ..Operation::bare(operation::WRITE, "l")
            });
        assert_eq!(client.ask(&write).unwrap().result, result::OK);
    }
    create(client, "set=rig;indexname=n;indexdata=n,numeric");
    create(client, "indexname=s;indexdata=s,string");
    create(client, "set=rig;indexname=l;indextype=list;indexdata=l,numeric");
    create(client, "set=rig;indexname=g;indexdata=g,geo2dsphere");
    await_ready(client);
    expect(client, &query(&integer_range("n", -10, 10)), 240..=260);
    expect(client, &query(&integer_range("n", i64::MIN, -200)), 0..=50);
    expect(client, &query(&integer_range("n", 7, 7)), 257..=257);
    expect(client, &query(&integer_range("n", 1_000, 2_000)), 0..0);
    expect(client, &query(&index_range("s", 3, &["text 3".as_bytes()])), (0..100).filter(|key| key % 7 == 3));
    let in_list = |low, high| query(&integer_range("l", low, high)).with_field(field::INDEX_TYPE, &[LIST]);
    expect(client, &in_list(50, 50), 0..100);
    // Each record has two or three elements in the range.
    expect(client, &in_list(0, 60), 0..100);
    expect(client, &in_list(3, 4), (0..100).filter(|key| (2..=4).contains(&(key % 10))));
    let circle = r#"{"type":"AeroCircle","coordinates":[[20.0,10.0],250000]}"#;
    expect(
        client,
        &query(&index_range("g", GEOJSON, &[circle.as_bytes()])),
        (0..100).filter(|key| (18..=22).contains(&(key % 60))),
    );
    // These values have no index.
    assert_eq!(client.ask(&query(&integer_range("other", 1, 2))).unwrap().result, INDEX_NOT_FOUND);
    assert_eq!(client.ask(&query(&integer_range("l", 1, 2))).unwrap().result, INDEX_NOT_FOUND);
    // The index follows changes.
    assert_eq!(client.ask(&put(257, 9_999)).unwrap().result, result::OK);
    assert_eq!(client.ask(&Message::delete("258")).unwrap().result, result::OK);
    let expiring = Message { record_ttl: 1, ..put(259, 9) };
    assert_eq!(client.ask(&expiring).unwrap().result, result::OK);
    expect(client, &query(&integer_range("n", 7, 9)), 259..=259);
    await_figures(client, "sindex-stat:namespace=test;indexname=n", |figures| figures["entries"] == 498);
    expect(client, &query(&integer_range("n", 7, 9)), 0..0);
    expect(client, &query(&integer_range("n", 9_999, 9_999)), 257..=257);
}

#[test]
fn pages_continue_after_the_last_record() {
    let server = Server::usual();
    let mut client = server.connect();
    let client = &mut client;
    // The records are in few partitions, and many have the same value.
    fill(client, 2_000, |key| i64::from(key % 5));
    create(client, "set=rig;indexname=n;indexdata=n,numeric");
    await_ready(client);
    let mut found: BTreeMap<u16, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    let partition_of = |digest: &[u8]| u16::from_le_bytes([digest[0], digest[1]]) & 0xfff;
    let mut request = query(&integer_range("n", 1, 3)).with_field(SAMPLE_MAX, &150u64.to_be_bytes());
    let mut pages = 0;
    loop {
        client.send(&request.encode()).unwrap();
        let (messages, last) = take_answer(client);
        assert_eq!(last, result::OK);
        assert!(messages.len() <= 150);
        if messages.is_empty() {
            break;
        }
        pages += 1;
        for message in messages {
            let digest = message.field(field::DIGEST).unwrap().to_vec();
            let bval = i64::from_le_bytes(*message.field(BVAL_ARRAY).unwrap().first_chunk().unwrap());
            found.entry(partition_of(&digest)).or_default().push((bval, digest));
        }
        // Partitions that were in progress continue after their last record. The others start at their
        // beginning.
        let rest: Vec<u8> =
            (0..4096u16).filter(|id| !found.contains_key(id)).flat_map(u16::to_le_bytes).collect();
        let lasts: Vec<&(i64, Vec<u8>)> = found.values().filter_map(|rows| rows.last()).collect();
        let digests: Vec<u8> = lasts.iter().flat_map(|last| last.1.clone()).collect();
        let bvals: Vec<u8> = lasts.iter().flat_map(|last| last.0.to_le_bytes()).collect();
        request
            .fields
            .retain(|(kind, _)| ![field::PARTITION_ID_ARRAY, DIGEST_ARRAY, BVAL_ARRAY].contains(kind));
        request = request
            .with_field(field::PARTITION_ID_ARRAY, &rest)
            .with_field(DIGEST_ARRAY, &digests)
            .with_field(BVAL_ARRAY, &bvals);
    }
    assert!(pages >= 8, "{pages} pages");
    assert!(found.values().all(|rows| rows.is_sorted()), "by key, then by digest");
    let all: Vec<Vec<u8>> = found.into_values().flatten().map(|(_, digest)| digest).collect();
    let once: BTreeSet<Vec<u8>> = all.iter().cloned().collect();
    assert_eq!((all.len(), once), (1_200, digests((0..2_000).filter(|key| (1..=3).contains(&(key % 5))))));
}

/// A record gets a value before the end of the last page. It was not on that page, although its new value is
/// within it.
#[test]
fn a_record_that_changes_between_pages_is_not_lost() {
    let server = Server::usual();
    let mut client = server.connect();
    let client = &mut client;
    create(client, "set=rig;indexname=l;indextype=list;indexdata=l,numeric");
    await_ready(client);
    // All records are in partition 16, in the order of their numbers.
    let digest_of = |record: u8| {
        let mut digest = [7u8; 20];
        digest[..3].copy_from_slice(&[16, 0, record]);
        digest
    };
    let put = |client: &mut Client, record: u8, values: &[u8]| {
        let list = [&[0x90 | values.len() as u8][..], values].concat();
        let write = Message { info2: info2::WRITE, ..Message::default() }
            .with_field(field::NAMESPACE, b"test")
            .with_field(field::SET, b"rig")
            .with_field(field::DIGEST, &digest_of(record))
            .with_operation(Operation {
                particle: LIST_PARTICLE,
                value: list,
                ..Operation::bare(operation::WRITE, "l")
            });
        assert_eq!(client.ask(&write).unwrap().result, result::OK);
    };
    // The records of a page, each with the value for which it was returned.
    let page = |client: &mut Client, last: Option<(u8, i64)>, max: u64| -> Vec<(u8, i64)> {
        let mut request = query(&integer_range("l", 0, 100)).with_field(field::INDEX_TYPE, &[LIST]);
        request.fields.retain(|(kind, _)| *kind != field::PARTITION_ID_ARRAY);
        let request = request.with_field(SAMPLE_MAX, &max.to_be_bytes());
        let request = match last {
            None => request.with_field(field::PARTITION_ID_ARRAY, &16u16.to_le_bytes()),
            Some((record, value)) => request
                .with_field(DIGEST_ARRAY, &digest_of(record))
                .with_field(BVAL_ARRAY, &value.to_le_bytes()),
        };
        client.send(&request.encode()).unwrap();
        let (messages, last) = take_answer(client);
        assert_eq!(last, result::OK);
        let row = |message: &Message| {
            let value = message.field(BVAL_ARRAY).unwrap().first_chunk().unwrap();
            (message.field(field::DIGEST).unwrap()[2], i64::from_le_bytes(*value))
        };
        messages.iter().map(row).collect()
    };
    put(client, 0, &[20]);
    put(client, 1, &[50]);
    put(client, 2, &[30, 60]);
    assert_eq!(page(client, None, 1), [(0, 20)]);
    put(client, 1, &[10, 50]);
    // A record is once on a page, and again on the next page if it has a value there.
    assert_eq!(page(client, Some((0, 20)), 100), [(2, 30), (1, 50)]);
    assert_eq!(page(client, Some((1, 50)), 100), [(2, 60)]);
    assert_eq!(page(client, None, 100), [(1, 10), (0, 20), (2, 30)]);
}

/// Each query returns the records whose value stays in the range, once, whatever else changes.
#[test]
fn queries_during_writes_are_exact() {
    const KEYS: u32 = 3_000;
    let server = Server::usual();
    let mut client = server.connect();
    // Every third record stays in the range. Some of the others are never in it.
    fill(
        &mut client,
        KEYS,
        |key| if key % 3 == 0 { i64::from(key) } else { -1 - i64::from(key % 2) * 1_000_000 },
    );
    create(&mut client, "set=rig;indexname=n;indexdata=n,numeric");
    await_ready(&mut client);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..2u32 {
            let (server, is_done) = (&server, &is_done);
            scope.spawn(move || {
                let (mut writer, mut n) = (server.connect(), thread + 1);
                while !is_done.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let key = (n >> 8) % KEYS;
                    let request = match (key % 3, n >> 4 & 3) {
                        // The value changes to another one in the range.
                        (0, _) => put(key, i64::from(n >> 12)),
                        // The record enters and leaves the range, and is deleted and rewritten.
                        (1, 0) => Message::delete(&key.to_string()),
                        (1, 1) => put(key, 5),
                        _ => put(key, -7 - i64::from(n & 0xff)),
                    };
                    writer.ask(&request).unwrap();
                }
            });
        }
        let staying = digests((0..KEYS).step_by(3));
        let never = digests((0..KEYS).filter(|key| key % 3 == 2));
        let mut dropped = 0;
        for round in 0..40 {
            let (found, last) = rows(&mut client, &query(&integer_range("n", 0, i64::MAX)));
            assert_eq!(last, result::OK);
            let twice = found.iter().find(|(_, times)| **times != 1);
            assert_eq!(twice, None, "round {round}");
            let missing = staying.iter().filter(|digest| !found.contains_key(*digest)).count();
            assert_eq!(missing, 0, "round {round}: records that were there all the time");
            assert_eq!(never.iter().filter(|digest| found.contains_key(*digest)).count(), 0, "round {round}");
            if round % 8 == 7 {
                // The index is dropped and rebuilt beside the writers, and while it is queried.
                let mut other = server.connect();
                other.send(&query(&integer_range("n", 0, i64::MAX)).encode()).unwrap();
                assert_eq!(client.info_value("sindex-delete:namespace=test;indexname=n").unwrap(), "ok");
                let (part, last) = take_answer(&mut other);
                assert!(last == result::OK || last == INDEX_NOT_FOUND, "{last}");
                dropped += usize::from(part.len() < staying.len());
                create(&mut client, "set=rig;indexname=n;indexdata=n,numeric");
                await_ready(&mut client);
            }
        }
        is_done.store(true, Ordering::Relaxed);
        ferrospike_tests::report(&format!("{dropped} of 5 queries were ended by the drop of their index"));
    });
}

#[test]
fn indexes_are_there_again_after_a_stop_and_a_kill() {
    let config = stored_config("test", "device", &["file {dir}/test.dat", "filesize 256M"]);
    let mut server = Server::start(&config);
    let mut client = server.connect();
    fill(&mut client, 5_000, |key| i64::from(key % 100));
    create(&mut client, "set=rig;indexname=n;indexdata=n,numeric");
    create(&mut client, "indexname=all;indexdata=n,numeric");
    create(&mut client, "set=rig;indexname=gone;indexdata=other,string");
    await_ready(&mut client);
    assert_eq!(client.info_value("sindex-delete:namespace=test;indexname=gone").unwrap(), "ok");
    let list = client.info_value("sindex-list:namespace=test").unwrap();
    assert_eq!(list.split(';').count(), 2);
    for _ in 0..2 {
        expect(
            &mut client,
            &query(&integer_range("n", 10, 11)),
            (0..5_000).filter(|key| matches!(key % 100, 10 | 11)),
        );
        server.stop();
        server.restart();
        client = server.connect();
        // All indexes are filled before clients are served.
        assert_eq!(client.info_value("sindex-list:namespace=test").unwrap(), list);
    }
    expect(&mut client, &query(&integer_range("n", 99, 99)), (0..5_000).filter(|key| key % 100 == 99));
    // The server is killed while another index is being filled, or just after.
    create(&mut client, "set=rig;indexname=new;indextype=list;indexdata=n,numeric");
    create(&mut client, "set=rig;indexname=newer;indextype=mapvalues;indexdata=n,numeric");
    server.kill9();
    server.restart();
    client = server.connect();
    let list = client.info_value("sindex-list:namespace=test").unwrap();
    assert!(list.contains("indexname=newer:") && !list.contains(":state=WO"), "{list}");
    let stored: BTreeSet<Vec<u8>> =
        client.scan("test").unwrap().iter().map(|row| row.field(field::DIGEST).unwrap().to_vec()).collect();
    let (found, _) = rows(&mut client, &query(&integer_range("n", 0, 1_000)));
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), stored);
    // The query is without a set, by the other index.
    let mut of_all = query(&integer_range("n", 0, 1_000));
    of_all.fields.retain(|(kind, _)| *kind != field::SET);
    let (found, _) = rows(&mut client, &of_all);
    assert_eq!(found.len(), stored.len());
}

#[test]
fn errors_of_commands_name_the_cause() {
    let mut server = Server::usual();
    server.allow("sindex");
    let mut client = server.connect();
    create(&mut client, "set=rig;indexname=n;indexdata=n,numeric");
    for (request, expected) in [
        ("sindex-create:ns=test;set=rig;indexname=n;indexdata=n,NUMERIC", "ok"),
        (
            "sindex-create:ns=test;indexname=n;indexdata=n,string",
            "ERROR:200:'indexname' already exists with different definition",
        ),
        ("sindex-create:ns=test;indexname=x;indexdata=n", "ERROR:4:'indexdata' missing bin type"),
        ("sindex-create:ns=test;indexname=x;indexdata=,string", "ERROR:4:'indexdata' missing bin name"),
        ("sindex-create:ns=test;indexdata=n,string", "ERROR:4:missing 'indexname'"),
        ("sindex-create:indexname=x;indexdata=n,string", "ERROR:20:missing 'namespace'"),
        (
            "sindex-create:ns=test;indexname=x;context=!;indexdata=n,string",
            "ERROR:4:'context' invalid base64",
        ),
        (
            "sindex-create:ns=test;indexname=x;context=khIB;indexdata=n,string",
            "ERROR:4:'context' invalid cdt context",
        ),
        ("sindex-exists:ns=test;indexname=n", "true"),
        ("sindex-exists:ns=test;indexname=x", "false"),
        ("sindex-stat:ns=test;indexname=x", "ERROR:201:no index"),
        ("sindex-delete:ns=test;indexname=x", "ok"),
        ("sindex-list:b64=maybe", "ERROR:4:bad b64"),
        (
            "sindex-list:ns=test",
            "ns=test:indexname=n:set=rig:bin=n:type=numeric:indextype=default:context=null:state=RW",
        ),
    ] {
        assert_eq!(client.info_value(request).unwrap(), expected, "{request}");
    }
    // A second name for the same index renames it.
    create(&mut client, "set=rig;indexname=m;indexdata=n,numeric");
    let list = client.info_value("sindex-list:ns=test").unwrap();
    assert!(list.contains(":indexname=m:") && !list.contains(";"), "{list}");
}

#[test]
fn indexes_and_their_queries_are_counted() {
    let mut server = Server::start(&usual_config());
    server.allow("(query)").allow("(rw)");
    let mut client = server.connect();
    let client = &mut client;
    fill(client, 300, |key| i64::from(key % 10));
    let unused = figures(client, "namespace/test")["sindex_used_bytes"];
    create(client, "set=rig;indexname=n;indexdata=n,numeric");
    create(client, "set=rig;indexname=g;indexdata=g,geo2dsphere");
    await_ready(client);
    assert_eq!(unused, 0);
    assert!(figures(client, "namespace/test")["sindex_used_bytes"] > 300 * 14);
    assert_eq!(figures(client, "sets/test/rig")["sindexes"], 2);
    let all = query(&integer_range("n", 0, 9));
    let before = figures(client, "namespace/test");
    assert_eq!(rows(client, &all).0.len(), 300);
    expect_moved(client, &before, &["si_query_long_basic_complete"]);
    let before = figures(client, "namespace/test");
    let short = Message { info1: all.info1 | SHORT_QUERY, ..all.clone() };
    assert_eq!(rows(client, &short).0.len(), 300);
    expect_moved(client, &before, &["si_query_short_basic_complete"]);
    // At twenty records per second, the query would take fifteen seconds.
    let slow = |id: u64| {
        all.clone().with_field(RECORDS_PER_SECOND, &20u32.to_be_bytes()).with_field(JOB_ID, &id.to_be_bytes())
    };
    let before = figures(client, "namespace/test");
    let mut other = server.connect();
    other.send(&slow(78).encode()).unwrap();
    await_job(
        client,
        ":sindex-name=n:n-pids-requested=4096:n-keyds-requested=0:rps=20:active-threads=1:status=active(ok):",
    );
    assert_eq!(client.info_value("query-abort:id=78").unwrap(), "ok");
    assert_eq!(take_answer(&mut other).1, QUERY_ABORTED);
    expect_moved(client, &before, &["si_query_long_basic_abort"]);
    let before = figures(client, "namespace/test");
    other.send(&slow(79).encode()).unwrap();
    await_job(
        client,
        "trid=79:ns=test:set=rig:sindex-name=n:n-pids-requested=4096:n-keyds-requested=0:rps=20:active-threads=1",
    );
    drop(other);
    expect_moved(client, &before, &["si_query_long_basic_error"]);
}

fn await_job(client: &mut Client, text: &str) {
    let start = Instant::now();
    while !client.info_value("query-show").unwrap().contains(text) {
        assert!(start.elapsed() < PATIENCE, "never shown: {}", client.info_value("query-show").unwrap());
    }
}

#[test]
fn places_that_are_asked_for_are_counted() {
    let server = Server::usual();
    let mut client = server.connect();
    let client = &mut client;
    create(client, "set=rig;indexname=g;indexdata=g,geo2dsphere");
    create(client, "set=rig;indexname=l;indextype=list;indexdata=l,geo2dsphere");
    for key in 0..40u32 {
        let point = format!(r#"{{"type":"Point","coordinates":[{key}.5,10.0]}}"#);
        let value = [&[0, 0, 0], point.as_bytes()].concat();
        let list = [&[0x91, 0xd9, point.len() as u8 + 1, GEOJSON], point.as_bytes()].concat();
        let write = Message::write(&key.to_string())
            .with_operation(Operation { particle: GEOJSON, value, ..Operation::bare(operation::WRITE, "g") })
            .with_operation(Operation {
                particle: LIST_PARTICLE,
                value: list,
                ..Operation::bare(operation::WRITE, "l")
            });
        assert_eq!(client.ask(&write).unwrap().result, result::OK);
    }
    let before = figures(client, "namespace/test");
    let circle = r#"{"type":"AeroCircle","coordinates":[[20.0,10.0],1000000]}"#;
    let in_circle = query(&index_range("g", GEOJSON, &[circle.as_bytes()]));
    let (found, _) = rows(client, &in_circle);
    let after = figures(client, "namespace/test");
    let moved = |name: &str| after[name] - before[name];
    assert_eq!(moved("geo_region_query_reqs"), 1);
    assert!(moved("geo_region_query_cells") > 1);
    assert_eq!(moved("geo_region_query_points"), found.len() as i64);
    // The cells cover more than the circle.
    assert!(found.len() >= 18 && moved("geo_region_query_falsepos") > 0);
    // Regions in lists do not count.
    let in_lists =
        query(&index_range("l", GEOJSON, &[circle.as_bytes()])).with_field(field::INDEX_TYPE, &[LIST]);
    assert_eq!(rows(client, &in_lists).0, found);
    let later = figures(client, "namespace/test");
    let counters = ["geo_region_query_points", "geo_region_query_falsepos", "geo_region_query_reqs"];
    assert_eq!(counters.map(|name| later[name] - after[name]), [0, 0, 1]);
    // No filter removes records that are only in the cells and not in the circle.
    let change = background(&in_circle, Operation::integer(operation::INCR, "n", 1));
    assert_eq!(client.ask(&change).unwrap().result, result::OK);
    let after = await_figures(client, "namespace/test", |now| now["si_query_ops_bg_complete"] == 1);
    let counts = ["ops_sub_write_success", "ops_sub_write_filtered_out"].map(|name| after[name]);
    assert_eq!(counts, [found.len() as i64, 0]);
}

/// A query that adds to the bin `n` of each of its records.
fn background(base: &Message, operations: Operation) -> Message {
    let mut request =
        Message { info1: 0, info2: info2::WRITE, info3: 0, ..base.clone() }.with_operation(operations);
    request.fields.retain(|(kind, _)| *kind != field::PARTITION_ID_ARRAY);
    request
}

#[test]
fn operations_in_the_background_change_each_record_once() {
    let mut server = Server::usual();
    server.allow("(query)").allow("(rw)").allow("(particle)");
    let mut client = server.connect();
    let client = &mut client;
    fill(client, 300, |key| i64::from(key % 10));
    create(client, "set=rig;indexname=n;indexdata=n,numeric");
    await_ready(client);
    let add = || Operation::integer(operation::INCR, "sum", 1);
    let before = figures(client, "namespace/test");
    let request =
        background(&query(&integer_range("n", 3, 4)), add()).with_field(JOB_ID, &5u64.to_be_bytes());
    assert_eq!(client.ask(&request).unwrap().result, result::OK);
    await_job(
        client,
        "trid=5:ns=test:set=rig:sindex-name=n:rps=10000:active-threads=0:status=done(ok):job-progress=100.00",
    );
    await_job(client, ":recs-succeeded=60:recs-failed=0:");
    await_job(client, ":job-type=background-ops:net-io-bytes=30:socket-timeout=10000:ops-active=0");
    // The query is for all records, by the primary index. Its filter accepts the records that were counted.
    let filter = [0x93, 0x01, 0x93, 0x51, 0x02, 0xa3, b's', b'u', b'm', 1];
    let base = Message::scan("test").with_field(field::FILTER_EXPRESSION, &filter);
    assert_eq!(client.ask(&background(&base, add())).unwrap().result, result::OK);
    await_job(client, ":recs-filtered-bins=240:recs-succeeded=60:");
    // The bin is not a number, so nothing can be added to it.
    let text = Message::write("text").with_operation(Operation::string(operation::WRITE, "sum", "x"));
    assert_eq!(client.ask(&text).unwrap().result, result::OK);
    let none = background(&Message::scan("test"), add()).with_field(JOB_ID, &6u64.to_be_bytes());
    assert_eq!(client.ask(&none).unwrap().result, result::OK);
    await_job(client, "trid=6:ns=test:rps=10000:active-threads=0:status=done(ok)");
    let after = figures(client, "namespace/test");
    let moved = |name: &str| after[name] - before[name];
    assert_eq!((moved("si_query_ops_bg_complete"), moved("pi_query_ops_bg_complete")), (1, 2));
    assert_eq!(moved("ops_sub_write_success"), 60 + 60 + 300);
    assert_eq!((moved("ops_sub_write_filtered_out"), moved("ops_sub_write_error")), (240, 1));
    for key in 0..300u32 {
        let record = client.ask(&Message::get(&key.to_string())).unwrap();
        let sum = if matches!(key % 10, 3 | 4) { 3i64 } else { 1 };
        assert_eq!(record.bin("sum"), Some(&sum.to_be_bytes()[..]), "{key}");
    }
    // A slow query is ended on request.
    let slow = |id: u64, base: &Message| {
        background(base, add())
            .with_field(RECORDS_PER_SECOND, &10u32.to_be_bytes())
            .with_field(JOB_ID, &id.to_be_bytes())
    };
    for (id, base, counter) in [
        (90, Message::scan("test"), "pi_query_ops_bg_abort"),
        (91, query(&integer_range("n", 0, 9)), "si_query_ops_bg_abort"),
    ] {
        assert_eq!(client.ask(&slow(id, &base)).unwrap().result, result::OK);
        assert_eq!(client.info_value("query-abort-all").unwrap(), "number-of-queries-killed:1");
        await_figures(client, "namespace/test", |figures| figures[counter] == 1);
    }
    // The index is dropped.
    assert_eq!(client.ask(&slow(92, &query(&integer_range("n", 0, 9)))).unwrap().result, result::OK);
    assert_eq!(client.info_value("sindex-delete:namespace=test;indexname=n").unwrap(), "ok");
    await_figures(client, "namespace/test", |figures| figures["si_query_ops_bg_error"] == 1);
    await_job(
        client,
        "trid=92:ns=test:set=rig:sindex-name=n:rps=10:active-threads=0:status=done(abandoned-unknown)",
    );
    create(client, "set=rig;indexname=n;indexdata=n,numeric");
    await_ready(client);
    // These names are invalid.
    let read = Operation::read("n");
    let fast = background(&query(&integer_range("n", 1, 2)), add())
        .with_field(RECORDS_PER_SECOND, &20_000u32.to_be_bytes());
    let unknown_set = Message::scan("test").with_field(field::SET, b"none");
    for (request, expected) in [
        (background(&Message::scan("test"), read), result::PARAMETER),
        (fast, result::PARAMETER),
        (background(&unknown_set, add()), result::NOT_FOUND),
        (background(&query(&integer_range("other", 1, 2)), add()), INDEX_NOT_FOUND),
    ] {
        let answer = client.ask(&request).unwrap();
        assert_eq!((answer.result, answer.info3 & info3::LAST), (expected, 0));
    }
}
