//! Filters and expression operations as bytes: invalid expressions are errors, however large, deep or wrong
//! about their lengths, and cost little. A filter that needs only metadata does not read the record.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{BASICS, Server, usual_config};
use ferrospike_tests::wire::{Frame, Message, Operation, field, info1, info3, operation, result};

/// The part of the log lines about invalid filters.
const MENTIONED: &str = "bad filter expression";

/// Operators with one operand each, nested.
fn nested(code: u8, depth: usize, innermost: &[u8]) -> Vec<u8> {
    [&[0x92, code].repeat(depth), innermost].concat()
}

/// Expressions that must be refused.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let conditions = [&[0xdd, 0, 0x10, 0, 0, 16][..], &[0xc3; 1 << 20]].concat();
    vec![
        ("nothing", vec![]),
        ("no operator", vec![0x90]),
        ("an operator that is none", vec![0x91, 99]),
        ("an operator cut short", vec![0x93, 1, 1]),
        ("more than an expression", vec![0x91, 72, 0xc3]),
        ("a value that is no truth", vec![1]),
        ("a list of four thousand million", vec![0xdd, 0xff, 0xff, 0xff, 0xff, 16]),
        ("a map of as many", vec![0x93, 1, 0xdf, 0xff, 0xff, 0xff, 0xff, 0x80]),
        ("a string of as many", vec![0x93, 1, 0xdb, 0xff, 0xff, 0xff, 0xff, 3, b'a']),
        ("an extension of as many", vec![0x93, 1, 0xc9, 0xff, 0xff, 0xff, 0xff, 1, 2]),
        ("a mebibyte of conditions", conditions),
        ("a mebibyte of nesting", nested(18, 1 << 19, &[0xc3])),
        ("nesting without an end", nested(18, 5000, &[])),
        ("conditions in conditions", nested(16, 100_000, &[0xc3])),
        ("a call in a call", [0x95, 127, 4, 0, 0x92, 19].repeat(50_000)),
        ("let upon let", [0x94, 125, 0xa1, b'v'].repeat(50_000)),
        (
            "an endless pattern",
            [&[0x94, 7, 1, 0xda, 0xff, 0xff][..], &[b'('; 65_535], &[0xa2, 3, b'a']].concat(),
        ),
        ("a geometry that is none", [&[0x93, 8, 0xa3, 23][..], b"{}", &[0xa3, 23], b"{}"].concat()),
    ]
}

fn with_filter(request: Message, expression: &[u8]) -> Message {
    request.with_field(field::FILTER_EXPRESSION, expression)
}

/// A batch message with rows given as bytes.
fn batch(row_count: u32, rows: &[u8]) -> Message {
    let value = [&row_count.to_be_bytes()[..], &[4], rows].concat();
    Message { info1: info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

/// A row that reads the record of `key`, optionally with a filter.
fn row(index: u32, key: &str, filter: Option<&[u8]>) -> Vec<u8> {
    let mut request = Message::get(key);
    let (_, digest) = request.fields.pop().unwrap();
    if let Some(filter) = filter {
        request = with_filter(request, filter);
    }
    let fields_and_counts = request.body().split_off(18);
    [&index.to_be_bytes()[..], &digest, &[0, request.info1], &fields_and_counts].concat()
}

/// Sends a request that is answered by several messages. Returns them.
fn ask_many(client: &mut Client, request: &Message) -> Vec<Message> {
    client.send(&request.encode()).unwrap();
    let mut messages: Vec<Message> = Vec::new();
    while !messages.last().is_some_and(Message::is_last) {
        messages.extend(client.receive().as_ref().ok().and_then(Frame::messages).unwrap());
    }
    messages
}

#[test]
fn hostile_expressions_are_parameter_errors_and_cost_little() {
    let mut server = Server::usual();
    server.allow(MENTIONED).allow("bad batch").allow("fewer rows");
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("hostile", vec![7])).unwrap().result, result::OK);
    let before = server.resident_megabytes();
    let start = Instant::now();
    for round in 0..5 {
        for (name, expression) in hostile() {
            let operation_of = |code: u8| {
                let value = [&[0x91], &expression[..]].concat();
                Operation { code, particle: 4, value, ..Operation::bare(code, "b") }
            };
            let query = Message { info1: info1::READ, info3: info3::PARTITION_DONE, ..Message::default() };
            let requests = [
                with_filter(Message::get("hostile"), &expression),
                with_filter(Message::put("hostile", vec![8]), &expression),
                with_filter(Message::delete("hostile"), &expression),
                with_filter(
                    query
                        .with_field(field::NAMESPACE, b"test")
                        .with_field(field::PARTITION_ID_ARRAY, &[0, 0]),
                    &expression,
                ),
                with_filter(batch(1, &row(0, "hostile", None)), &expression),
            ];
            for (at, request) in requests.iter().enumerate() {
                let answer = client.ask(request).unwrap();
                assert_eq!(answer.result, result::PARAMETER, "{name}, request {at}, round {round}");
            }
            // The other elements of an operation's list are not part of the expression.
            if !["a value that is no truth", "more than an expression"].contains(&name) {
                let read = Message { info1: info1::READ, ..Message::on("hostile") };
                for request in [
                    read.with_operation(operation_of(operation::EXP_READ)),
                    Message::write("hostile").with_operation(operation_of(operation::EXP_MODIFY)),
                ] {
                    assert_eq!(
                        client.ask(&request).unwrap().result,
                        result::PARAMETER,
                        "{name} as an operation"
                    );
                }
            }
            let rows = [row(0, "hostile", Some(&expression)), row(1, "hostile", None)].concat();
            let results: Vec<u8> = ask_many(&mut client, &batch(2, &rows)).iter().map(|m| m.result).collect();
            assert_eq!(results, [result::PARAMETER, result::OK, result::OK], "{name}, of a row");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    if let (Some(before), Some(after)) = (before, server.resident_megabytes()) {
        assert!(after < before + 100, "{before} MB before, {after} MB after");
    }
    assert_eq!(client.ask(&Message::get("hostile")).unwrap().bin("b"), Some(&[7][..]));
}

#[test]
fn batches_with_wrong_lengths_are_parameter_errors() {
    let mut server = Server::usual();
    server.allow("bad batch").allow("fewer rows");
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("one", vec![7])).unwrap().result, result::OK);
    let before = server.resident_megabytes();
    let good = row(0, "one", None);
    for (name, count, rows) in [
        ("no rows", 0, vec![]),
        ("a row that is not there", 1, vec![]),
        ("four thousand million rows", u32::MAX, good.clone()),
        ("more rows than there are", 3, good.repeat(2)),
        ("a row cut short", 1, good[..good.len() - 1].to_vec()),
        ("many rows and one cut short", 2001, [&good.repeat(2000)[..], &good[..30]].concat()),
        ("a first row that repeats", 1, [&good[..24], &[1]].concat()),
        ("a field longer than all", 1, [&good[..30], &[0xff; 40]].concat()),
    ] {
        let last = ask_many(&mut client, &batch(count, &rows)).pop().unwrap();
        assert_eq!(last.result, result::PARAMETER, "{name}");
    }
    let all = ask_many(
        &mut client,
        &batch(100_000, &[&good[..], &[&good[..24], &[1]].concat().repeat(99_999)].concat()),
    );
    assert_eq!(all.len(), 100_001);
    assert!(all.iter().all(|message| message.result == result::OK));
    if let (Some(before), Some(after)) = (before, server.resident_megabytes()) {
        assert!(after < before + 200, "{before} MB before, {after} MB after");
    }
}

/// A namespace in a file.
const DEVICE: &str = "
namespace test {
    replication-factor 1
    storage-engine device {
        file {dir}/test.dat
        filesize 128M
    }
}
";

#[test]
fn filters_on_metadata_leave_the_record_unread() {
    let mut server = Server::start(&[BASICS, DEVICE].concat());
    server.allow("(storage)").allow(MENTIONED);
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("lost", vec![7; 100])).unwrap().result, result::OK);
    // The records are so large that defrag does not combine their block with others.
    for n in 0..7 {
        assert_eq!(
            client.ask(&Message::put(&format!("beside {n}"), vec![7; 1_000_000])).unwrap().result,
            result::OK
        );
    }
    server.stop();
    server.restart();
    // From now on the record cannot be read. Only the index knows it.
    let file = OpenOptions::new().write(true).open(server.folder().join("test.dat")).unwrap();
    file.write_all_at(&vec![0xee; 120 << 20], 8 << 20).unwrap();
    let mut client = server.connect();
    let mut ask = |request: Message, filter: &[u8]| client.ask(&with_filter(request, filter)).unwrap().result;
    let exists = || Message { info1: info1::READ | info1::GET_NO_BINS, ..Message::on("lost") };
    let size_is = |comparison: u8| [0x93, comparison, 0x91, 74, 100];
    assert_ne!(ask(Message::get("lost"), &[0xc3]), result::OK, "it is unreadable");
    assert_ne!(
        ask(exists(), &[0x92, 18, 0x93, 1, 0x93, 81, 2, 0xa1, b'i', 1]),
        result::OK,
        "bins are asked for"
    );
    assert_eq!(ask(exists(), &size_is(3)), result::OK);
    for request in [Message::get("lost"), exists(), Message::put("lost", vec![1]), Message::delete("lost")] {
        assert_eq!(ask(request, &size_is(5)), result::FILTERED_OUT);
    }
    assert_eq!(ask(Message::delete("lost"), &[0x93, 16, 0xc3, 0x92, 18, 0x91, 72]), result::OK);
}

/// A filter that takes longest to compile: consecutive patterns with many repetitions that must be
/// distinguished. It is finally refused because it is too large.
fn long_filter() -> Vec<u8> {
    const PATTERNS: u8 = 250;
    let pattern = b"(a{0,100}){0,90}b";
    let matches =
        [&[0x94, 7, 1, 0xa0 | pattern.len() as u8][..], pattern, &[0x93, 81, 3, 0xa1, b'b']].concat();
    [&[0xdc, 0, PATTERNS + 1, 16][..], &matches.repeat(usize::from(PATTERNS))].concat()
}

/// Requests with this filter, and their answers if the time is enough.
fn with_long_filter() -> [(&'static str, Message, Vec<u8>); 4] {
    let long = long_filter();
    let rows = |count: u32, filter: Option<&[u8]>| -> Vec<u8> {
        (0..count).flat_map(|number| row(number, "a", filter.filter(|_| number == 0))).collect()
    };
    let query = Message {
        info1: info1::READ | info1::SHORT_QUERY,
        info3: info3::PARTITION_DONE,
        ..Message::default()
    };
    let query = query.with_field(field::NAMESPACE, b"test").with_field(field::PARTITION_ID_ARRAY, &[0, 0]);
    [
        ("of a small batch", with_filter(batch(2, &rows(2, None)), &long), vec![result::PARAMETER]),
        ("of a large batch", with_filter(batch(300, &rows(300, None)), &long), vec![result::PARAMETER]),
        ("of a row", batch(2, &rows(2, Some(&long))), vec![result::PARAMETER, result::OK, result::OK]),
        ("of a query", with_filter(query, &long), vec![result::PARAMETER]),
    ]
}

fn start_with_one_thread() -> Server {
    let mut server =
        Server::start(&usual_config().replacen("service {", "service {\n    service-threads 1", 1));
    server.allow("bad batch").allow(MENTIONED);
    assert_eq!(server.connect().ask(&Message::put("a", vec![7])).unwrap().result, result::OK);
    server
}

#[test]
fn compiling_filters_delays_no_other_client() {
    const ROUNDS: usize = 10;
    const CLIENTS: usize = 3;
    let server = start_with_one_thread();
    for (what, request, results) in with_long_filter() {
        let request = Message { transaction_ttl: 60_000, ..request };
        let under_way = AtomicUsize::new(CLIENTS);
        let served = std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = server.connect();
                    for _ in 0..ROUNDS {
                        let answered = ask_many(&mut client, &request);
                        let answered: Vec<u8> = answered.iter().map(|message| message.result).collect();
                        assert_eq!(answered, results, "{what}");
                    }
                    under_way.fetch_sub(1, Relaxed);
                });
            }
            let (mut other, mut served) = (server.connect(), 0);
            while under_way.load(Relaxed) > 0 {
                assert_eq!(other.ask(&Message::get("a")).unwrap().result, result::OK);
                served += 1;
            }
            served
        });
        // If these requests delayed the other client, it would get at most one answer for each of them.
        assert!(served > 3 * CLIENTS * ROUNDS, "{what}: {served} requests of another client");
    }
}

#[test]
fn compiling_a_filter_ends_in_time() {
    let server = start_with_one_thread();
    for (what, request, _) in with_long_filter() {
        let answers = ask_many(&mut server.connect(), &Message { transaction_ttl: 1, ..request });
        assert_eq!(answers[0].result, result::TIMEOUT, "{what}");
    }
}
