//! Limits of a namespace. Eviction begins at its limits, removes the records that expire soonest, and spares
//! exempt sets. Writes stop at their limits and continue below them.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{BASICS, Server};
use ferrospike_tests::wire::{Message, Operation, info1, info2, operation, result};

/// Longest wait for background work of the server.
const PATIENCE: Duration = Duration::from_secs(60);
/// Result of a write that is refused because of a limit.
const OUT_OF_SPACE: u8 = 8;
const NEVER: u32 = u32::MAX;
/// Bit of `info2`.
const DURABLE_DELETE: u8 = 0x10;

/// A server with one small namespace that has `lines` in its context and `storage` in its storage context.
fn start(lines: &str, storage: &str) -> Server {
    let namespace = format!(
        "namespace test {{\n replication-factor 1\n nsup-period 1\n {lines}\n set kept {{\n disable-eviction true\n }}\n \
         storage-engine memory {{\n data-size 256M\n {storage}\n }}\n}}\n"
    );
    Server::start(&[BASICS, &namespace].concat())
}

fn request(set: &str, key: u32) -> Message {
    Message::on_record("test", set, &key.to_string())
}

fn put(client: &mut Client, set: &str, key: u32, ttl: u32, size: usize) -> u8 {
    let message = Message { info2: info2::WRITE, record_ttl: ttl, ..request(set, key) };
    let message = message.with_operation(Operation::blob(operation::WRITE, "b", vec![7; size]));
    client.ask(&message).unwrap().result
}

fn exists(client: &mut Client, set: &str, key: u32) -> bool {
    let message = Message { info1: info1::READ | info1::GET_NO_BINS, ..request(set, key) };
    match client.ask(&message).unwrap().result {
        result::OK => true,
        result::NOT_FOUND => false,
        other => panic!("result {other}"),
    }
}

fn delete(client: &mut Client, set: &str, key: u32) -> u8 {
    let message = Message { info2: info2::WRITE | info2::DELETE, ..request(set, key) };
    client.ask(&message).unwrap().result
}

/// A figure of the namespace, as text.
fn figure(client: &mut Client, key: &str) -> String {
    let answer = client.info_value("namespace/test").unwrap();
    let found = answer.split(';').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned()
}

fn number(client: &mut Client, key: &str) -> u32 {
    figure(client, key).parse().unwrap()
}

fn configure(client: &mut Client, what: &str) {
    let answer = client.info_value(&format!("set-config:context=namespace;id=test;{what}")).unwrap();
    assert_eq!(answer, "ok", "{what}");
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for two runs of nsup, so that one began after the call.
fn await_nsup(server: &Server) {
    let runs = || server.log().matches("nsup-done: ").count();
    let before = runs();
    wait_until("two runs of nsup", || runs() >= before + 2);
}

/// Number of evicted records of set `s`, which has `count` records written in the order of their expiry. The
/// evicted ones must be the first.
fn gone(client: &mut Client, count: u32) -> u32 {
    let there: Vec<bool> = (0..count).map(|key| exists(client, "s", key)).collect();
    let first = there.iter().position(|there| *there).unwrap_or(there.len());
    assert!(there[first..].iter().all(|there| *there), "others than the soonest are gone");
    first as u32
}

#[test]
fn at_the_limit_for_data_the_soonest_to_expire_go() {
    // 2 % of the namespace are 5.4 MB.
    let mut server = start("evict-tenths-pct 50", "evict-used-pct 2");
    server.allow("breached eviction limit (data-used-pct), indexes-memory sz:");
    let mut client = server.connect();
    let client = &mut client;
    for key in 0..60 {
        assert_eq!(put(client, "kept", key, 100, 20_000), result::OK);
        assert_eq!(put(client, "s", 1000 + key, NEVER, 20_000), result::OK);
    }
    for key in 0..120 {
        assert_eq!(put(client, "s", key, 1000 + key, 20_000), result::OK);
    }
    await_nsup(&server);
    assert_eq!((figure(client, "hwm_breached"), number(client, "evicted_objects")), ("false".to_owned(), 0));
    assert_eq!(number(client, "non_expirable_objects"), 60);

    for key in 120..200 {
        assert_eq!(put(client, "s", key, 1000 + key, 20_000), result::OK);
    }
    wait_until("evicted below the limit", || {
        number(client, "evicted_objects") > 0 && figure(client, "hwm_breached") == "false"
    });
    wait_until("little is used", || number(client, "data_used_pct") < 2);
    let evicted = number(client, "evicted_objects");
    assert_eq!(gone(client, 200), evicted);
    // There were 6.4 MB of records; a twentieth of the evictable ones was removed at a time.
    assert!((50..70).contains(&evicted), "{evicted}");
    for key in 0..60 {
        assert!(exists(client, "kept", key), "its set is exempt, though it would expire first");
        assert!(exists(client, "s", 1000 + key), "what never expires is never evicted");
    }
    assert_eq!(number(client, "objects"), 320 - evicted);
    assert_eq!((number(client, "non_expirable_objects"), number(client, "expired_objects")), (60, 0));
    let void_time = number(client, "evict_void_time");
    assert_eq!(number(client, "smd_evict_void_time"), void_time);
    assert!((900..1200).contains(&number(client, "evict_ttl")));
    assert!(void_time > number(client, "current_time"));
    server.await_log(" found ");
    server.await_log("nsup-start: evict-threads 1 evict-ttl ");
    server.await_log(&format!("nsup-done: non-expirable 60 expired (0,0) evicted ({evicted},"));
    server.await_log(&format!("nsup-done: non-expirable 60 expired (0,0) evicted ({evicted},0) evict-ttl "));
}

#[test]
fn at_the_limit_for_indexes_records_go_but_never_all() {
    let mut server = start("evict-tenths-pct 1000", "");
    for text in [
        "breached eviction limit (indexes-memory), indexes-memory sz:",
        "would evict all",
        "no records eligible",
    ] {
        server.allow(text);
    }
    let mut client = server.connect();
    let client = &mut client;
    for key in 0..1000 {
        assert_eq!(put(client, "s", key, 1000 + key, 10), result::OK);
    }
    // 750 records are 60 % of the budget.
    configure(client, "indexes-memory-budget=80000");
    configure(client, "evict-indexes-memory-pct=60");
    wait_until("the limit is breached", || figure(client, "hwm_breached") == "true");
    assert_eq!(number(client, "indexes_memory_used_pct"), 80);
    server.await_log("would evict all 1000 records");
    assert_eq!(number(client, "objects"), 1000);

    // The set is exempt from now on.
    let exempt = |client: &mut Client, is_exempt: bool| {
        configure(client, &format!("set=s;disable-eviction={is_exempt}"));
    };
    exempt(client, true);
    configure(client, "evict-tenths-pct=40");
    server.await_log("no records eligible");
    assert_eq!(number(client, "objects"), 1000);

    exempt(client, false);
    wait_until("evicted below the limit", || figure(client, "hwm_breached") == "false");
    let evicted = gone(client, 1000);
    assert!((251..290).contains(&evicted), "{evicted}");
    assert_eq!(number(client, "evicted_objects"), evicted);
    assert!(number(client, "indexes_memory_used_pct") < 60);

    // No more records are evicted below the limit.
    await_nsup(&server);
    assert_eq!(number(client, "evicted_objects"), evicted);
}

#[test]
fn eviction_can_be_ordered() {
    let server = start("", "");
    let mut client = server.connect();
    let client = &mut client;
    for key in 0..100 {
        assert_eq!(put(client, "s", key, 1000 + 10 * key, 10), result::OK);
    }
    assert_eq!(client.info_value("eviction-reset:namespace=test;ttl=1505").unwrap(), "ok");
    wait_until("half of them are evicted", || number(client, "evicted_objects") > 0);
    let evicted = number(client, "evicted_objects");
    assert_eq!(gone(client, 100), evicted);
    assert!((50..=51).contains(&evicted), "{evicted}");
    wait_until("it is done", || figure(client, "evict_void_time") == figure(client, "smd_evict_void_time"));
    assert_eq!(client.info_value("eviction-reset:namespace=test").unwrap(), "ok");
    assert_eq!((number(client, "evict_void_time"), number(client, "smd_evict_void_time")), (0, 0));
    await_nsup(&server);
    assert_eq!(number(client, "objects"), 100 - evicted);
}

/// Makes writes stop by `limit`, with the reason in the log, and continue by `no_limit`.
fn stops_writes(server: &Server, client: &mut Client, limit: &str, no_limit: &str, reason: &str) {
    let write = |client: &mut Client| put(client, "s", 1, NEVER, 10);
    assert_eq!(write(client), result::OK);
    configure(client, limit);
    wait_until("writes stop", || write(client) == OUT_OF_SPACE);
    assert_eq!(figure(client, "stop_writes"), "true");
    assert_eq!(figure(client, "clock_skew_stop_writes"), "false");
    server.await_log(&format!("{{test}} breached stop-writes limit ({reason}), sys-memory pct:"));
    assert_eq!(put(client, "new", 1, NEVER, 10), OUT_OF_SPACE);
    assert!(exists(client, "s", 1), "reads go on");
    assert_eq!(delete(client, "s", 1), result::OK, "deletes go on");
    configure(client, no_limit);
    wait_until("writes go on", || write(client) == result::OK);
    assert_eq!(figure(client, "stop_writes"), "false");
    server.await_log("{test} takes writes again, sys-memory pct:");
}

#[test]
fn writes_stop_at_each_limit_and_resume() {
    let mut server = start("", "");
    server.allow("breached stop-writes limit (");
    let mut client = server.connect();
    let client = &mut client;
    for key in 10..200 {
        assert_eq!(put(client, "s", key, NEVER, 20_000), result::OK);
    }
    stops_writes(&server, client, "stop-writes-used-pct=1", "stop-writes-used-pct=70", "data-used-pct");
    stops_writes(&server, client, "stop-writes-avail-pct=100", "stop-writes-avail-pct=5", "data-avail-pct");
    stops_writes(&server, client, "indexes-memory-budget=6400", "indexes-memory-budget=0", "indexes-memory");
    let statistics = client.info_value("statistics").unwrap();
    let free = statistics.split(';').find_map(|pair| pair.strip_prefix("system_free_mem_pct="));
    if free.unwrap().parse::<u32>().unwrap() < 97 {
        let (limit, no_limit) = ("stop-writes-sys-memory-pct=1", "stop-writes-sys-memory-pct=0");
        stops_writes(&server, client, limit, no_limit, "sys-memory");
    }
}

#[test]
fn a_start_evicts_until_the_limit_holds() {
    let namespace = "namespace test {\n nsup-period 60\n set kept {\n disable-eviction true\n }\n evict-tenths-pct 1\n \
                     storage-engine device {\n file {dir}/test.dat\n filesize 128M\n evict-used-pct 0\n }\n}\n";
    let mut server = Server::start(&[BASICS, namespace].concat());
    let mut client = server.connect();
    // The records are 4 MB; 2 % of the namespace are 2.7 MB.
    for key in 0..200 {
        assert_eq!(put(&mut client, "s", key, 1000 + key, 20_000), result::OK);
    }
    for key in 0..10 {
        assert_eq!(put(&mut client, "kept", key, 900, 20_000), result::OK);
    }
    server.stop();
    let path = server.folder().join("aerospike.conf");
    let config = std::fs::read_to_string(&path).unwrap().replace("evict-used-pct 0", "evict-used-pct 2");
    std::fs::write(&path, config).unwrap();
    server.allow("breached eviction limit (data-used-pct), indexes-memory sz:");
    server.restart();
    let mut client = server.connect();
    // All of them are evicted at once, and not a thousandth at a time.
    let evicted = gone(&mut client, 200);
    assert!((76..=78).contains(&evicted), "{evicted}");
    assert!((0..10).all(|key| exists(&mut client, "kept", key)));
    assert_eq!(number(&mut client, "evicted_objects"), evicted);
    assert_eq!(figure(&mut client, "hwm_breached"), "false");
    // A record that is being moved counts twice.
    wait_until("little is used", || number(&mut client, "data_used_pct") == 1);
    server.await_log(&format!("{{test}} cold start evicted {evicted} records"));
}

#[test]
fn records_that_expire_are_distinguished_from_those_that_do_not() {
    let server = start("", "");
    let mut client = server.connect();
    let client = &mut client;
    let expect = |client: &mut Client, objects: u32, non_expirable: u32| {
        await_nsup(&server);
        let found = (number(client, "objects"), number(client, "non_expirable_objects"));
        assert_eq!(found, (objects, non_expirable));
    };
    for key in 0..10 {
        assert_eq!(put(client, "s", key, 1000, 10), result::OK);
    }
    expect(client, 10, 0);
    assert_eq!(put(client, "s", 0, NEVER, 10), result::OK);
    expect(client, 10, 1);
    assert_eq!(delete(client, "s", 1), result::OK);
    let durably = Message { info2: info2::WRITE | info2::DELETE | DURABLE_DELETE, ..request("s", 2) };
    assert_eq!(client.ask(&durably).unwrap().result, result::OK);
    assert_eq!(put(client, "s", 3, 2, 10), result::OK);
    expect(client, 8, 1);
    wait_until("one has expired", || number(client, "expired_objects") == 1);
    expect(client, 7, 1);
}

#[test]
fn histograms_count_every_record() {
    let server = start("nsup-hist-period 1", "");
    let mut client = server.connect();
    let client = &mut client;
    let ask = |client: &mut Client, what: &str| {
        client.info_value(&format!("histogram:namespace=test;type={what}")).unwrap()
    };
    assert_eq!(ask(client, "ttl"), "", "there is nothing to tell of");
    for key in 0..100 {
        assert_eq!(put(client, "s", key, 1000, 100), result::OK);
        assert_eq!(put(client, "kept", key, NEVER, 5_000), result::OK);
    }
    let size_of = |answer: &str| answer.rsplit(':').next().unwrap().to_owned();
    wait_until("histograms of all", || ask(client, "object-size").ends_with("[4K-8K)=100"));
    assert_eq!(ask(client, "object-size"), "units=bytes:[128-256)=100:[4K-8K)=100");
    assert_eq!(ask(client, "object-size;set=s"), "units=bytes:[128-256)=100");
    assert_eq!(size_of(&ask(client, "object-size;set=kept")), "[4K-8K)=100");
    let counts = |answer: &str| -> Vec<u32> {
        answer.rsplit('=').next().unwrap().split(',').map(|count| count.parse().unwrap()).collect()
    };
    let linear = ask(client, "object-size-linear");
    assert!(
        linear.starts_with("units=bytes:hist-width=1048576:bucket-width=1024:buckets=100,0,0,0,100,0,"),
        "{linear}"
    );
    assert_eq!(counts(&linear).len(), 1024);
    let ttl = counts(&ask(client, "ttl"));
    assert_eq!(
        (ttl.len(), ttl.iter().sum::<u32>(), ttl[0]),
        (100, 200, 100),
        "what never expires is in front"
    );
    assert!(ask(client, "ttl;set=s").starts_with("units=seconds:hist-width=1000:bucket-width=10:buckets=0,"));
}
