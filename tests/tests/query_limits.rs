//! Parameters of queries: threads per query and in total, short queries on service threads, remembered jobs, rate of
//! background queries. Each takes effect at once.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{await_figures, expect_moved, figures};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, field, info1, info2, integer_range, operation, result};

const JOB_ID: u8 = 7;
const SOCKET_TIMEOUT: u8 = 9;
const RECORDS_PER_SECOND: u8 = 10;
const RECORDS: u32 = 300;

fn set_config(client: &mut Client, parameters: &str) {
    assert_eq!(client.info_value(&format!("set-config:{parameters}")).unwrap(), "ok", "{parameters}");
}

fn of_namespace(client: &mut Client, parameters: &str) {
    set_config(client, &format!("context=namespace;id=test;{parameters}"));
}

fn of_service(client: &mut Client, parameters: &str) {
    set_config(client, &format!("context=service;{parameters}"));
}

/// A server with some records of this size.
fn start(size: usize) -> (Server, Client) {
    let mut server = Server::usual();
    server.allow("cannot start a query").allow("query-show").allow("a query with the number");
    let mut client = server.connect();
    for key in 0..RECORDS {
        let put = Message::put(&key.to_string(), vec![7; size]).with_operation(Operation::integer(
            operation::WRITE,
            "n",
            0,
        ));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    (server, client)
}

fn scan(id: u64) -> Message {
    Message::scan("test").with_field(field::SET, b"rig").with_field(JOB_ID, &id.to_be_bytes())
}

fn short(message: Message) -> Message {
    Message { info1: message.info1 | info1::SHORT_QUERY, transaction_ttl: 10_000, ..message }
}

/// Number of records in an answer, and the last result.
fn run(client: &mut Client, request: &Message) -> (u32, u8) {
    client.send(&request.encode()).unwrap();
    let mut count = 0;
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() || message.result != result::OK {
                return (count, message.result);
            }
            count += 1;
        }
    }
}

fn shown(client: &mut Client, id: u64) -> String {
    client.info_value(&format!("query-show:trid={id}")).unwrap()
}

fn await_shown(client: &mut Client, id: u64, text: &str) {
    let start = Instant::now();
    while !shown(client, id).contains(text) {
        assert!(start.elapsed() < PATIENCE, "no {text} in {}", shown(client, id));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn short_queries_run_on_service_threads_where_that_is_wanted() {
    let (server, mut client) = start(100);
    let client = &mut client;
    of_service(client, "query-threads-limit=1");
    // The query keeps the only thread.
    let mut slow = server.connect();
    slow.send(&scan(5).with_field(RECORDS_PER_SECOND, &10u32.to_be_bytes()).encode()).unwrap();
    await_shown(client, 5, "status=active");
    let mut one_partition = short(scan(0));
    one_partition.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
    let digest = ferrospike_tests::wire::digest("rig", "7");
    let partition = u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF;
    let one_partition = one_partition.with_field(field::PARTITION_ID_ARRAY, &partition.to_le_bytes());
    assert_eq!(run(client, &one_partition), (0, result::FORBIDDEN));
    of_namespace(client, "inline-short-queries=true");
    let before = figures(client, "namespace/test");
    let (count, last) = run(client, &one_partition);
    assert!(count >= 1 && last == result::OK);
    expect_moved(client, &before, &["pi_query_short_basic_complete"]);
    // Twenty queries are sent on one connection at once, and a read after them.
    let mut requests = one_partition.encode().repeat(20);
    requests.extend(Message::get("7").encode());
    client.send(&requests).unwrap();
    for _ in 0..20 {
        let mut messages = Vec::new();
        while messages.last().is_none_or(|message: &Message| !message.is_last()) {
            messages.extend(client.receive().unwrap().messages().unwrap());
        }
        assert_eq!(messages.len(), count as usize + 1);
    }
    assert_eq!(client.receive_message().unwrap().result, result::OK);
    assert_eq!(client.info_value("query-abort:trid=5").unwrap(), "ok");
    await_shown(client, 5, "status=done");
    // A query that is not short is carried out by a query thread, with the same answer.
    of_service(client, "query-threads-limit=128");
    for _ in 0..5 {
        assert_eq!(run(client, &short(scan(0))), (RECORDS, result::OK));
    }
    of_namespace(client, "inline-short-queries=false");
    assert_eq!(run(client, &short(scan(0))), (RECORDS, result::OK));
}

/// Its budget ends on the service thread, before the walk checks the time.
#[test]
fn a_short_query_that_takes_long_after_all_is_complete() {
    const COUNT: usize = 20;
    let server = Server::usual();
    let mut client = server.connect();
    let client = &mut client;
    of_namespace(client, "inline-short-queries=true");
    let partition_of = |key: &String| {
        let digest = ferrospike_tests::wire::digest("rig", key);
        u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF
    };
    let keys: Vec<String> =
        (0u32..).map(|number| number.to_string()).filter(|key| partition_of(key) == 7).take(COUNT).collect();
    for key in &keys {
        let put = Message::write(key)
            .with_operation(Operation::integer(operation::WRITE, "n", 1))
            .with_operation(Operation::string(operation::WRITE, "b", &format!("x{}cb", "a".repeat(60))));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let create = "sindex-create:ns=test;set=rig;indexname=i;indexdata=n,numeric";
    assert_eq!(client.info_value(create).unwrap(), "ok");
    // It is read a little later than its `load_pct` is 100.
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        thread::sleep(Duration::from_millis(5));
    }
    // No record matches this pattern, which a service thread compiles, but each takes milliseconds to show that.
    let pattern = br"x(a*)(a*)(a*)\1b";
    let regex = [&[0x94, 7, 1, 0xa0 | pattern.len() as u8][..], pattern, &[0x93, 81, 3, 0xa1, b'b']].concat();
    let filter = [&[0x92, 18][..], &regex].concat();
    for range in [None, Some(integer_range("n", 1, 1))] {
        let mut query = short(scan(0));
        query.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
        query = query
            .with_field(field::PARTITION_ID_ARRAY, &7u16.to_le_bytes())
            .with_field(field::FILTER_EXPRESSION, &filter);
        if let Some(range) = range {
            query = query.with_field(field::INDEX_RANGE, &range);
        }
        assert_eq!(run(client, &query), (COUNT as u32, result::OK));
    }
}

#[test]
fn a_query_has_as_many_threads_as_it_may() {
    // These are more bytes than the sockets and the threads can hold, so that all threads wait for the
    // client.
    let (server, mut client) = start(200_000);
    let client = &mut client;
    // A query in memory has no more threads than there are processors.
    let processors = thread::available_parallelism().unwrap().get();
    for (id, limit) in [(1, 1), (2, 3)] {
        of_namespace(client, &format!("single-query-threads={limit}"));
        let threads = processors.min(limit);
        let mut unread = server.connect();
        unread.send(&scan(id).with_field(SOCKET_TIMEOUT, &0u32.to_be_bytes()).encode()).unwrap();
        await_shown(client, id, &format!("active-threads={threads}:"));
        thread::sleep(Duration::from_millis(100));
        assert!(shown(client, id).contains(&format!("active-threads={threads}:")));
        assert_eq!(client.info_value(&format!("query-abort:trid={id}")).unwrap(), "ok");
        drop(unread);
        await_shown(client, id, "status=done");
    }
    of_namespace(client, "single-query-threads=4");
}

#[test]
fn the_number_of_running_threads_is_limited() {
    let (server, mut client) = start(100);
    let client = &mut client;
    of_service(client, "query-threads-limit=2");
    let mut slow: Vec<Client> = Vec::new();
    for id in 11..13u64 {
        let mut one = server.connect();
        one.send(&scan(id).with_field(RECORDS_PER_SECOND, &20u32.to_be_bytes()).encode()).unwrap();
        await_shown(client, id, "status=active");
        slow.push(one);
    }
    assert_eq!(run(client, &scan(13)), (0, result::FORBIDDEN));
    of_service(client, "query-threads-limit=3");
    assert_eq!(run(client, &scan(13)), (RECORDS, result::OK));
    assert_eq!(client.info_value("query-abort-all:").unwrap(), "number-of-queries-killed:2");
    of_service(client, "query-threads-limit=128");
}

#[test]
fn so_many_finished_queries_are_remembered() {
    let (_server, mut client) = start(10);
    let client = &mut client;
    let rows = |client: &mut Client| {
        let answer = client.info_value("query-show").unwrap();
        answer.split(';').filter(|row| row.contains("status=done")).count()
    };
    of_service(client, "query-max-done=3");
    for id in 21..27 {
        assert_eq!(run(client, &scan(id)), (RECORDS, result::OK));
    }
    await_shown(client, 26, "status=done");
    assert_eq!(rows(client), 3);
    // A number may be used again as soon as it is forgotten.
    assert_eq!(run(client, &scan(25)).1, result::PARAMETER);
    assert_eq!(run(client, &scan(21)), (RECORDS, result::OK));
    of_service(client, "query-max-done=1");
    assert_eq!(rows(client), 1);
    of_service(client, "query-max-done=0");
    assert_eq!((rows(client), run(client, &scan(25)).1), (0, result::OK));
    of_service(client, "query-max-done=100");
}

#[test]
fn a_background_query_keeps_to_the_rate_of_its_namespace() {
    let (_server, mut client) = start(10);
    let client = &mut client;
    of_namespace(client, "background-query-max-rps=200");
    let increment = |id: u64| {
        let mut message = scan(id).with_operation(Operation::integer(operation::INCR, "n", 1));
        message.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
        Message { info1: 0, info2: info2::WRITE, ..message }
    };
    let too_fast = increment(31).with_field(RECORDS_PER_SECOND, &201u32.to_be_bytes());
    assert_eq!(client.ask(&too_fast).unwrap().result, result::PARAMETER);
    let before = figures(client, "namespace/test");
    let started = Instant::now();
    assert_eq!(client.ask(&increment(32)).unwrap().result, result::OK);
    let key = "ops_sub_write_success";
    let all = i64::from(RECORDS);
    await_figures(client, "namespace/test", |now| now[key] >= before[key] + all);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1_100), "{RECORDS} records at 200 a second in {took:?}");
    await_shown(client, 32, "status=done");
    of_namespace(client, "background-query-max-rps=10000");
    let started = Instant::now();
    assert_eq!(client.ask(&increment(33)).unwrap().result, result::OK);
    await_figures(client, "namespace/test", |now| now[key] >= before[key] + 2 * all);
    assert!(started.elapsed() < Duration::from_millis(1_000), "{:?}", started.elapsed());
    let record = client.ask(&Message::get("5")).unwrap();
    assert_eq!(i64::from_be_bytes(record.bin("n").unwrap().try_into().unwrap()), 2);
}
