//! Aggregations: stream functions on the records of queries by primary and secondary indexes, their errors,
//! and hostile functions and clients.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{await_figures, expect_moved, figures};
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, Operation, field, info1, integer_range, operation, particle, result};

/// Fields and bits that only queries use.
const JOB_ID: u8 = 7;
const SOCKET_TIMEOUT: u8 = 9;
const RECORDS_PER_SECOND: u8 = 10;
const SHORT_QUERY: u8 = 4;
/// Results that only queries have.
const QUERY_ABORTED: u8 = 15;
const UNSUPPORTED_FEATURE: u8 = 16;
const INDEX_NOT_FOUND: u8 = 201;

const RECORDS: i64 = 300;

const MODULE: &str = "
local function n(r) return r.n end
local function add(a, b) return a + b end
function sum(s) return s : map(n) : reduce(add) end
function above(s, low) return s : filter(function(r) return r.n > low end) : map(n) : aggregate(0, add) end
function values(s) return s : map(n) end
function first(s) return s : map(function(r) done = not done if done then return 7 end end) end
function groups(s) return s : map(function(r) return tostring(r.n % 3) end) : groupby(function(v) return v end) end
function kept(s) local last return s : map(function(r) local was = last and last.n last = r return was or -1 end) end
function write(s) return s : map(function(r) r.n = 5 return aerospike:update(r) end) end
function large(s) return s : map(function(r) return ('x'):rep(100000) end) end
function fail(s) return s : map(function(r) error('as it should') end) end
function fail_early() error('at once') end
function nothing() end
function forever(s) return s : map(function(r) while true do end end) end
function stubborn(s) return s : map(function(r) while true do pcall(function() while true do end end) end end) end
function bomb(s) local t = {} return s : map(function(r) while true do t[#t + 1] = ('x'):rep(1000) .. #t end end) end
function selfish(s) return s : map(function(r) local l = list() list.append(l, l) return l end) end
";

fn register(client: &mut Client, text: &str) {
    let content = BASE64_STANDARD.encode(text);
    let command = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
    assert_eq!(client.info_value(&command).unwrap(), "ok");
}

fn put(key: i64) -> Message {
    Message::write(&key.to_string()).with_operation(Operation::integer(operation::WRITE, "n", key))
}

/// A server with records `n` = 0, 1, …, and an index on `n`.
fn start(config: Option<&str>) -> (Server, Client) {
    let mut server = config.map_or_else(Server::usual, Server::start);
    server.allow("aggregation of query").allow("module").allow("query-show");
    let mut client = server.connect();
    register(&mut client, MODULE);
    for key in 0..RECORDS {
        assert_eq!(client.ask(&put(key)).unwrap().result, result::OK);
    }
    let create = "sindex-create:namespace=test;set=rig;indexname=by-n;indexdata=n,numeric";
    assert_eq!(client.info_value(create).unwrap(), "ok");
    let start = Instant::now();
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < PATIENCE, "still being filled");
        thread::sleep(Duration::from_millis(5));
    }
    (server, client)
}

/// An aggregation with a function of module `m` and packed arguments.
fn aggregation(function: &str, arguments: &[u8]) -> Message {
    Message { info1: info1::READ, ..Message::default() }
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_field(field::UDF_OP, &[1])
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, function.as_bytes())
        .with_field(field::UDF_ARGUMENTS, arguments)
}

fn plain(function: &str) -> Message {
    aggregation(function, &[0x90])
}

fn in_range(message: Message, low: i64, high: i64) -> Message {
    message.with_field(field::INDEX_RANGE, &integer_range("n", low, high))
}

/// The messages of an answer, and the last result. A refused query has one message.
fn take_answer(client: &mut Client) -> (Vec<Message>, u8) {
    let mut values = Vec::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() || message.result != result::OK {
                return (values, message.result);
            }
            values.push(message);
        }
    }
}

fn run(client: &mut Client, request: &Message) -> (Vec<Message>, u8) {
    client.send(&request.encode()).unwrap();
    take_answer(client)
}

/// The integers that an aggregation yields.
fn numbers(client: &mut Client, request: &Message) -> Vec<i64> {
    let (values, last) = run(client, request);
    assert_eq!(last, result::OK);
    let number = |value: &Message| {
        let [op] = &value.operations[..] else { panic!("one bin in each message: {value:?}") };
        assert_eq!(
            (op.code, &op.name[..], op.particle),
            (operation::READ, &b"SUCCESS"[..], particle::INTEGER)
        );
        assert_eq!((value.generation, value.record_ttl, value.fields.len()), (0, 0, 0));
        i64::from_be_bytes(op.value.clone().try_into().unwrap())
    };
    values.iter().map(number).collect()
}

fn sum_of(client: &mut Client, request: &Message) -> i64 {
    numbers(client, request).iter().sum()
}

/// The text of a failure. The last message after it has result 1.
fn failure(client: &mut Client, request: &Message) -> String {
    let (values, last) = run(client, request);
    assert_eq!(last, 1);
    let text = values.iter().find_map(|value| value.bin("FAILURE")).expect("a failure");
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn values_are_made_of_the_records_of_a_set_or_a_range() {
    let (_server, mut client) = start(None);
    let client = &mut client;
    let all = RECORDS * (RECORDS - 1) / 2;
    let before = figures(client, "namespace/test");
    assert_eq!(sum_of(client, &plain("sum")), all);
    expect_moved(client, &before, &["pi_query_aggr_complete"]);
    let before = figures(client, "namespace/test");
    assert_eq!(sum_of(client, &in_range(plain("sum"), 10, 19)), (10..20).sum::<i64>());
    expect_moved(client, &before, &["si_query_aggr_complete"]);
    let mut values = numbers(client, &plain("values"));
    values.sort_unstable();
    assert_eq!(values, (0..RECORDS).collect::<Vec<_>>());
    assert_eq!(sum_of(client, &aggregation("above", &[0x91, 0xcc, 200])), (201..RECORDS).sum::<i64>());
    assert_eq!(numbers(client, &in_range(plain("values"), 1_000, 2_000)), Vec::<i64>::new());
    // A nil ends the stream of a partition. Functions cannot change the records of a stream.
    assert!(numbers(client, &plain("first")).iter().all(|value| *value == 7));
    assert!(numbers(client, &plain("write")).iter().all(|answer| *answer == 1));
    assert_eq!(sum_of(client, &plain("sum")), all);
    // A record that a function keeps can no longer be used as a record.
    assert_eq!(numbers(client, &plain("kept")), vec![-1; RECORDS as usize]);
    let (groups, last) = run(client, &plain("groups"));
    assert_eq!(last, result::OK);
    assert!(!groups.is_empty() && groups.iter().all(|group| group.operations[0].particle == particle::MAP));
    // A query without a set is for all records of the namespace.
    let other = Message::on_record("test", "other", "1");
    let other = Message { info2: Message::write("1").info2, ..other };
    let other = other.with_operation(Operation::integer(operation::WRITE, "n", 1_000_000));
    assert_eq!(client.ask(&other).unwrap().result, result::OK);
    assert_eq!(sum_of(client, &plain("sum")), all);
    let mut whole = plain("sum");
    whole.fields.retain(|(number, _)| *number != field::SET);
    assert_eq!(sum_of(client, &whole), all + 1_000_000);
    let shown = client.info_value("query-show").unwrap();
    assert!(shown.contains(":job-type=aggregation:net-io-bytes="), "{shown}");
    assert!(shown.contains(":sindex-name=by-n:"), "{shown}");
}

#[test]
fn records_on_a_device_are_read_too() {
    let config = stored_config("test", "device", &["file {dir}/test.dat", "filesize 128M"]);
    let (mut server, mut client) = start(Some(&config));
    assert_eq!(sum_of(&mut client, &in_range(plain("sum"), 0, 9)), 45);
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(sum_of(&mut client, &plain("sum")), RECORDS * (RECORDS - 1) / 2);
    assert_eq!(sum_of(&mut client, &in_range(plain("sum"), 0, 9)), 45);
}

#[test]
fn errors_are_reported_with_their_place() {
    let (_server, mut client) = start(None);
    let client = &mut client;
    let before = figures(client, "namespace/test");
    let text = failure(client, &plain("fail"));
    assert!(
        text.starts_with("UDF: Execution Error 2 : ") && text.ends_with("m.lua:12: as it should"),
        "{text}"
    );
    expect_moved(client, &before, &["pi_query_aggr_error"]);
    let before = figures(client, "namespace/test");
    assert!(failure(client, &in_range(plain("fail_early"), 1, 5)).ends_with("m.lua:13: at once"));
    expect_moved(client, &before, &["si_query_aggr_error"]);
    assert!(failure(client, &plain("nothing")).ends_with("attempt to index a nil value (global 'result')"));
    assert_eq!(failure(client, &plain("missing")), "UDF: Execution Error 2 : function not found");
    assert_eq!(failure(client, &plain("selfish")), "UDF: Execution Error 2 : value is nested too deeply");
    let mut elsewhere = plain("sum");
    elsewhere.fields.retain(|(number, _)| *number != field::UDF_FILE);
    let elsewhere = elsewhere.with_field(field::UDF_FILE, b"none");
    assert_eq!(failure(client, &elsewhere), "UDF: Execution Error 1");
    // If there are no records, the function does not run.
    assert_eq!(run(client, &in_range(plain("fail"), -9, -5)), (vec![], result::OK));
    let without = |number: u8| {
        let mut message = plain("sum");
        message.fields.retain(|(other, _)| *other != number);
        message
    };
    for (request, expected) in [
        (Message { info1: info1::READ | SHORT_QUERY, ..plain("sum") }, result::PARAMETER),
        (plain("sum").with_field(field::FILTER_EXPRESSION, &[0xc3]), UNSUPPORTED_FEATURE),
        (without(field::UDF_FUNCTION), result::PARAMETER),
        (without(field::UDF_ARGUMENTS), result::PARAMETER),
        (without(field::UDF_OP), result::PARAMETER),
        (without(field::SET).with_field(field::SET, b"nobody"), result::NOT_FOUND),
        (plain("sum").with_field(SOCKET_TIMEOUT, &[1]), result::PARAMETER),
        (plain("sum").with_field(RECORDS_PER_SECOND, &[1]), result::PARAMETER),
        (plain("sum").with_field(field::INDEX_RANGE, &[1, 1, b'x', 1, 0, 0, 0, 8]), result::PARAMETER),
        (without(field::UDF_FUNCTION).with_field(field::UDF_FUNCTION, &[b'x'; 128]), result::PARAMETER),
    ] {
        let answer = client.ask(&request).unwrap();
        assert_eq!(
            (answer.result, answer.is_last(), answer.fields.len()),
            (expected, false, 0),
            "{request:?}"
        );
    }
    let mut by_other = vec![1, 1, b'x', 1];
    by_other.extend([[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat());
    assert_eq!(
        client.ask(&plain("sum").with_field(field::INDEX_RANGE, &by_other)).unwrap().result,
        INDEX_NOT_FOUND
    );
}

/// The threads of a query may meet an error at the same moment.
#[test]
fn an_error_is_told_once() {
    let (_server, mut client) = start(None);
    for _ in 0..1_000 {
        let (values, last) = run(&mut client, &plain("fail_early"));
        assert_eq!((values.len(), last), (1, 1));
        assert!(values[0].bin("FAILURE").is_some());
    }
}

/// Ends within 30 seconds, and does not affect others meanwhile.
#[test]
fn harm_in_lua_is_an_error_for_its_caller_alone() {
    let (server, mut client) = start(None);
    let harm = [("forever", "UDF Execution Timeout"), ("bomb", "not enough memory"), ("stubborn", "Timeout")];
    thread::scope(|scope| {
        for (function, expected) in harm {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect();
                let text = failure(&mut client, &in_range(plain(function), 3, 3));
                assert!(text.contains(expected), "{function}: {text}");
            });
        }
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let started = Instant::now();
            assert_eq!(client.ask(&Message::get("1")).unwrap().result, result::OK);
            longest = longest.max(started.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    });
    assert_eq!(sum_of(&mut client, &in_range(plain("sum"), 3, 3)), 3);
}

/// No values are made for a client that does not read. When a client disconnects, its query ends, whatever
/// its function does.
#[test]
fn clients_that_do_not_read_or_go_away_end_it() {
    let (server, mut client) = start(None);
    let before = server.resident_megabytes();
    let mut silent = TcpStream::connect(server.address()).unwrap();
    let slow = plain("large").with_field(SOCKET_TIMEOUT, &0u32.to_be_bytes());
    silent.write_all(&slow.encode()).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(client.info_value("query-show").unwrap().contains("status=active"));
    if let (Some(before), Some(now)) = (before, server.resident_megabytes()) {
        assert!(now < before + 100, "{before} MB before, {now} MB now");
    }
    // The client finally reads, and gets everything.
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    while got < RECORDS as usize * 100_000 {
        got += silent.read(&mut buffer).unwrap();
    }
    for function in ["forever", "stubborn", "large"] {
        let errors = figures(&mut client, "namespace/test")["si_query_aggr_error"];
        let mut gone = TcpStream::connect(server.address()).unwrap();
        // If a socket is closed with an unread answer, the server is informed at once.
        gone.write_all(&Message::get("1").encode()).unwrap();
        gone.write_all(&in_range(plain(function), 0, RECORDS).encode()).unwrap();
        thread::sleep(Duration::from_millis(100));
        drop(gone);
        let started = Instant::now();
        await_figures(&mut client, "namespace/test", |now| now["si_query_aggr_error"] > errors);
        assert!(started.elapsed() < Duration::from_secs(5), "{function} went on for {:?}", started.elapsed());
    }
}

/// Functions whose clients read nothing and which have no timeout take no thread from others, and lose no
/// values.
#[test]
fn unread_aggregations_stop_no_others() {
    let (server, mut client) = start(None);
    let unread = plain("large").with_field(SOCKET_TIMEOUT, &0u32.to_be_bytes()).encode();
    let mut silent = Vec::new();
    for _ in 0..25 {
        let mut one = server.connect();
        one.send(&unread).unwrap();
        silent.push(one);
    }
    // By now all functions wait for their clients.
    thread::sleep(Duration::from_secs(2));
    for request in [plain("sum"), in_range(plain("sum"), 0, RECORDS)] {
        let started = Instant::now();
        assert_eq!(sum_of(&mut client, &request), RECORDS * (RECORDS - 1) / 2);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    let mut one = silent.swap_remove(0);
    let (values, last) = take_answer(&mut one);
    assert_eq!((values.len(), last), (RECORDS as usize, result::OK));
}

/// If a socket is closed without unread bytes, the server cannot distinguish the client from one that sends
/// no more and waits for its answer.
#[test]
fn a_client_that_closes_its_socket_is_noticed_though_nothing_is_sent() {
    let (server, mut client) = start(None);
    for function in ["forever", "stubborn"] {
        let errors = figures(&mut client, "namespace/test")["pi_query_aggr_error"];
        let mut gone = TcpStream::connect(server.address()).unwrap();
        gone.write_all(&plain(function).encode()).unwrap();
        thread::sleep(Duration::from_millis(100));
        drop(gone);
        let started = Instant::now();
        await_figures(&mut client, "namespace/test", |now| now["pi_query_aggr_error"] > errors);
        assert!(started.elapsed() < Duration::from_secs(6), "{function} went on for {:?}", started.elapsed());
    }
    let waiting = server.connect();
    (&mut waiting.socket()).write_all(&plain("sum").encode()).unwrap();
    waiting.finish_sending().unwrap();
    let mut waiting = waiting;
    let (values, last) = take_answer(&mut waiting);
    assert_eq!((values.len() > 1, last), (true, result::OK));
}

#[test]
fn an_aggregation_is_aborted_and_keeps_to_its_rate() {
    let (server, mut client) = start(None);
    let endless = [plain("forever"), in_range(plain("forever"), 0, RECORDS)];
    for (id, (job, counter)) in
        (77u64..).zip(endless.into_iter().zip(["pi_query_aggr_abort", "si_query_aggr_abort"]))
    {
        let before = figures(&mut client, "namespace/test");
        let mut waiting = server.connect();
        waiting.send(&job.with_field(JOB_ID, &id.to_be_bytes()).encode()).unwrap();
        let start = Instant::now();
        let show = format!("query-show:trid={id}");
        while !client.info_value(&show).unwrap().contains("status=active") {
            assert!(start.elapsed() < PATIENCE, "it does not begin");
        }
        assert_eq!(client.info_value(&format!("query-abort:trid={id}")).unwrap(), "ok");
        assert_eq!(take_answer(&mut waiting), (vec![], QUERY_ABORTED));
        expect_moved(&mut client, &before, &[counter]);
        assert!(client.info_value(&show).unwrap().contains("status=done(user-aborted)"));
    }
    let slow = plain("sum").with_field(RECORDS_PER_SECOND, &300u32.to_be_bytes());
    let started = Instant::now();
    assert_eq!(sum_of(&mut client, &slow), RECORDS * (RECORDS - 1) / 2);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(700), "{RECORDS} records at 300 a second in {took:?}");
}

/// The server is stopped, or the module is removed, while functions run.
#[test]
fn a_stop_does_not_wait_for_functions() {
    let (mut server, mut client) = start(None);
    let mut waiting = server.connect();
    waiting.send(&plain("stubborn").encode()).unwrap();
    let start = Instant::now();
    while !client.info_value("query-show").unwrap().contains("status=active") {
        assert!(start.elapsed() < PATIENCE, "it does not begin");
    }
    assert_eq!(client.info_value("udf-remove:filename=m.lua").unwrap(), "ok");
    assert_eq!(failure(&mut client, &plain("sum")), "UDF: Execution Error 1");
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
