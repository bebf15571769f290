//! Statistics are exact: each counter changes only by the requests that it counts, and figures agree with the
//! written records.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{
    Figures, await_figures, changes, expect_moved, figures, moves, run, take_answer,
};
use ferrospike_tests::server::{BASICS, Server, stored_config};
use ferrospike_tests::wire::{self, Message, Operation, field, info1, info2, operation, particle, result};

const NAMESPACE: &str = "
namespace test {
    replication-factor 1
    nsup-period 1
    allow-ttl-without-nsup true
    storage-engine memory {
        data-size 256M
    }
}
";
/// Bits of `info1` that only these tests use.
const SHORT_QUERY: u8 = 0x04;
const XDR: u8 = 0x10;
/// Bit of `info3` in every query.
const PARTITION_DONE: u8 = 0x04;
/// Fields of queries.
const JOB_ID: u8 = 7;
const PARTITION_ID_ARRAY: u8 = 11;
const SOCKET_TIMEOUT: u8 = 9;
/// A filter that accepts records without a set.
const OF_NO_SET: &[u8] = &[0x93, 1, 0x91, 70, 0xa1, 3];

fn start() -> Server {
    let mut server = Server::start(&[BASICS, NAMESPACE].concat());
    // The tests count failed requests.
    for text in ["(rw)", "(info)", "(tsvc)", "(proto)", "(batch)", "(query)"] {
        server.allow(text);
    }
    server
}

fn put(key: &str) -> Message {
    Message::put(key, b"value".to_vec())
}

#[test]
fn each_outcome_of_a_single_record_request_is_counted() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    moves(client, &put("a"), result::OK, &["client_write_success"]);
    let create_only = Message { info2: info2::WRITE | info2::CREATE_ONLY, ..put("a") };
    moves(client, &create_only, result::EXISTS, &["client_write_error"]);
    let update_only = Message { info3: wire::info3::UPDATE_ONLY, ..put("none") };
    moves(client, &update_only, result::NOT_FOUND, &["client_write_error"]);
    let generation = Message { info2: info2::WRITE | info2::GENERATION, generation: 77, ..put("a") };
    moves(client, &generation, result::GENERATION, &["client_write_error", "fail_generation"]);
    let large = Message::put("large", vec![b'x'; 2 << 20]);
    moves(client, &large, 13, &["client_write_error", "fail_record_too_big"]);

    moves(client, &Message::get("a"), result::OK, &["client_read_success"]);
    moves(client, &Message::get("none"), result::NOT_FOUND, &["client_read_not_found"]);
    let without_bins = Message { info1: info1::READ, ..Message::on("a") };
    moves(client, &without_bins, result::PARAMETER, &["client_read_error"]);

    let generation =
        Message { info2: info2::WRITE | info2::DELETE | info2::GENERATION, ..Message::delete("a") };
    let generation = Message { generation: 77, ..generation };
    moves(client, &generation, result::GENERATION, &["client_delete_error", "fail_generation"]);
    moves(client, &Message::delete("a"), result::OK, &["client_delete_success"]);
    moves(client, &Message::delete("a"), result::NOT_FOUND, &["client_delete_not_found"]);

    moves(client, &put("b"), result::OK, &["client_write_success"]);
    let null = Operation { particle: particle::NULL, ..Operation::bare(operation::WRITE, "b") };
    let emptied = Message::write("b").with_operation(null);
    moves(client, &emptied, result::OK, &["client_write_success", "deleted_last_bin"]);

    moves(client, &Message::on("b"), result::PARAMETER, &["client_tsvc_error"]);

    moves(client, &put("c"), result::OK, &["client_write_success"]);
    let filtered = |message: Message| message.with_field(field::FILTER_EXPRESSION, OF_NO_SET);
    let out = result::FILTERED_OUT;
    moves(client, &filtered(Message::get("c")), out, &["client_read_filtered_out"]);
    moves(client, &filtered(put("c")), out, &["client_write_filtered_out"]);
    moves(client, &filtered(Message::delete("c")), out, &["client_delete_filtered_out"]);
}

/// Steps of a multi-record transaction are neither applied nor counted, as on the C server.
#[test]
fn steps_of_transactions_are_refused() {
    const VERIFY_READ: u8 = 1;
    const ROLLS: [u8; 2] = [2, 4];
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    moves(client, &put("a"), result::OK, &["client_write_success"]);
    moves(client, &Message { info4: VERIFY_READ, ..Message::get("a") }, result::ENTERPRISE_ONLY, &[]);
    for roll in ROLLS {
        moves(client, &Message { info4: roll, ..put("a") }, result::ENTERPRISE_ONLY, &[]);
        moves(client, &Message { info4: roll, ..put("new") }, result::ENTERPRISE_ONLY, &[]);
    }
    let record = client.ask(&Message::get("a")).unwrap();
    assert_eq!((record.result, record.generation), (result::OK, 1));
    moves(client, &Message::get("new"), result::NOT_FOUND, &["client_read_not_found"]);
}

#[test]
fn changes_shipped_from_elsewhere_are_counted_twice() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    let shipped = |message: Message| Message { info1: message.info1 | XDR, ..message };
    moves(client, &shipped(put("a")), result::OK, &["client_write_success", "xdr_client_write_success"]);
    let delete = shipped(Message::delete("a"));
    moves(client, &delete, result::OK, &["client_delete_success", "xdr_client_delete_success"]);
    moves(client, &delete, result::NOT_FOUND, &["client_delete_not_found", "xdr_client_delete_not_found"]);
    let reject = "set-config:context=namespace;namespace=test;reject-xdr-writes=true";
    assert_eq!(client.info_value(reject).unwrap(), "ok");
    let rejected = ["client_write_error", "fail_xdr_forbidden", "xdr_client_write_error"];
    moves(client, &shipped(put("a")), 22, &rejected);
    let rejected = ["client_delete_error", "fail_xdr_forbidden", "xdr_client_delete_error"];
    moves(client, &delete, 22, &rejected);
    moves(client, &put("a"), result::OK, &["client_write_success"]);
}

#[test]
fn read_touches_are_counted_by_how_they_end() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    let write = Message { record_ttl: 100, ..put("a") };
    moves(client, &write, result::OK, &["client_write_success"]);
    let touch = Message { record_ttl: 100, ..Message::get("a") };
    // In the second of the write, the time to live needs no renewal.
    let before = figures(client, "namespace/test");
    assert_eq!(client.ask(&touch).unwrap().result, result::OK);
    let moved = changes(&before, &figures(client, "namespace/test"));
    assert!(
        moved.iter().any(|(key, _)| key == "read_touch_skip" || key == "read_touch_success"),
        "{moved:?}"
    );
    thread::sleep(Duration::from_millis(1100));
    let before = client.ask(&Message::get("a")).unwrap();
    moves(client, &touch, result::OK, &["client_read_success", "read_touch_success"]);
    // A read-touch renews the time to live and keeps the generation, because a writer may be about to check
    // that.
    let after = client.ask(&Message::get("a")).unwrap();
    assert!(after.record_ttl > before.record_ttl && after.generation == before.generation, "{after:?}");
    // By then the first run of the ticker has reported it.
    server.await_log("histogram dump: {test}-read-touch (");
    assert!(!client.info_value("latencies:").unwrap().contains("read-touch"), "only by its name");
}

#[test]
fn a_read_touch_that_cannot_be_stored_is_counted() {
    let mut server =
        Server::start(&stored_config("test", "device", &["file {dir}/test.dat", "filesize 128M"]));
    server.allow("the file was removed").allow("its device failed");
    let mut client = server.connect();
    let client = &mut client;
    let write = Message { record_ttl: 100, ..put("a") };
    moves(client, &write, result::OK, &["client_write_success"]);
    // In the second of the write, the time to live needs no renewal.
    thread::sleep(Duration::from_millis(1100));
    fs::remove_file(server.folder().join("test.dat")).unwrap();
    server.await_log("the file was removed");
    let touch = Message { record_ttl: 100, ..Message::get("a") };
    moves(client, &touch, result::OK, &["client_read_success", "read_touch_error"]);
    // A record in memory cannot be flushed.
    server.kill9();
}

#[test]
fn expired_records_are_counted() {
    let server = start();
    let mut client = server.connect();
    let before = figures(&mut client, "namespace/test");
    let write = Message { record_ttl: 1, ..put("a") };
    assert_eq!(client.ask(&write).unwrap().result, result::OK);
    assert_eq!(figures(&mut client, "namespace/test")["objects"], 1);
    let start = Instant::now();
    loop {
        let after = figures(&mut client, "namespace/test");
        if after["expired_objects"] - before["expired_objects"] == 1 {
            assert_eq!((after["objects"], after["data_used_bytes"]), (0, 0));
            return;
        }
        assert!(start.elapsed() < PATIENCE, "never expired");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A scan of all partitions.
fn scan(id: u64) -> Message {
    let partitions: Vec<u8> = (0..4096u16).flat_map(u16::to_le_bytes).collect();
    Message { info1: info1::READ | info1::GET_ALL, info3: PARTITION_DONE, ..Message::default() }
        .with_field(field::NAMESPACE, b"test")
        .with_field(JOB_ID, &id.to_be_bytes())
        .with_field(PARTITION_ID_ARRAY, &partitions)
}

#[test]
fn queries_are_counted_and_shown() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    for number in 0..50 {
        assert_eq!(client.ask(&put(&number.to_string())).unwrap().result, result::OK);
    }
    let before = figures(client, "namespace/test");
    assert_eq!(run(client, &scan(77)), (50, result::OK));
    expect_moved(client, &before, &["pi_query_long_basic_complete"]);
    let row = client.info_value("query-show:trid=77").unwrap();
    let start = "trid=77:ns=test:n-pids-requested=4096:n-keyds-requested=0:rps=0:active-threads=0:status=done(ok)\
                 :job-progress=100.00:run-time=";
    assert!(row.starts_with(start), "{row}");
    assert!(row.contains(":recs-succeeded=50:recs-failed=0:from=127.0.0.1+"), "{row}");
    assert!(row.contains(":job-type=basic:net-io-bytes="), "{row}");
    assert_eq!(client.info_value("query-show").unwrap().split(';').count(), 1);
    assert_eq!(client.ask(&scan(77)).unwrap().result, result::PARAMETER, "a number is used once");
    // The first filter is for records without a set, the second for a bin that no record has.
    for (number, filter) in [(78, &[0x93, 1, 0x91, 70, 0xa1, 3][..]), (79, &[0x93, 81, 1, 0xa1, b'x'])] {
        assert_eq!(run(client, &scan(number).with_field(field::FILTER_EXPRESSION, filter)), (0, result::OK));
    }
    let mut row = |number: u8| client.info_value(&format!("query-show:trid={number}")).unwrap();
    let rows = [78, 79].map(&mut row);
    assert!(rows[0].contains(":recs-filtered-meta=50:recs-filtered-bins=0:recs-succeeded=0:"), "{}", rows[0]);
    assert!(rows[1].contains(":recs-filtered-meta=0:recs-filtered-bins=50:recs-succeeded=0:"), "{}", rows[1]);
    // The last message is counted too.
    assert!(rows.iter().all(|row| row.contains(":net-io-bytes=30:")), "{rows:?}");

    // A query is counted when it has ended, which may be after its last message arrives.
    let start = Instant::now();
    while figures(client, "namespace/test")["pi_query_long_basic_complete"] < 3 {
        assert!(start.elapsed() < PATIENCE, "not counted");
    }
    let before = figures(client, "namespace/test");
    let query = scan(0);
    let short = Message { info1: query.info1 | SHORT_QUERY, ..query };
    assert_eq!(run(client, &short), (50, result::OK));
    expect_moved(client, &before, &["pi_query_short_basic_complete"]);
}

#[test]
fn queries_with_absent_clients_or_timeouts_are_counted() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    // This is more than all buffers on the way can hold.
    for number in 0..64 {
        assert_eq!(
            client.ask(&Message::put(&number.to_string(), vec![1; 1_000_000])).unwrap().result,
            result::OK
        );
    }
    let short = |id: u64, milliseconds: u32| {
        let query = scan(id);
        Message { info1: query.info1 | SHORT_QUERY, transaction_ttl: milliseconds, ..query }
    };
    let unread = [(scan(1), "pi_query_long_basic_error"), (short(2, 600_000), "pi_query_short_basic_error")];
    for (query, counter) in unread {
        let before = figures(client, "namespace/test");
        let mut other = server.connect();
        other.send(&query.encode()).unwrap();
        // The query has begun when this arrives.
        other.receive().unwrap();
        drop(other);
        expect_moved(client, &before, &[counter]);
    }
    let mut await_row = |text: &str| {
        let start = Instant::now();
        while !client.info_value("query-show").unwrap().contains(text) {
            assert!(start.elapsed() < PATIENCE, "{text}: {}", client.info_value("query-show").unwrap());
        }
    };
    await_row(
        "trid=1:ns=test:n-pids-requested=4096:n-keyds-requested=0:rps=0:active-threads=0:status=done(abandoned-response-error)",
    );
    let mut other = server.connect();
    other.send(&scan(4).with_field(SOCKET_TIMEOUT, &300u32.to_be_bytes()).encode()).unwrap();
    await_row(":status=done(abandoned-response-timeout)");
    let mut other = server.connect();
    other.send(&scan(5).with_field(SOCKET_TIMEOUT, &0u32.to_be_bytes()).encode()).unwrap();
    other.receive().unwrap();
    await_row("trid=5:");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.connect().info_value("query-abort:trid=5").unwrap(), "ok");
    await_row(":status=active(user-aborted)");
    drop(other);
    let ends = ["pi_query_long_basic_abort", "pi_query_long_basic_error"];
    await_figures(client, "namespace/test", |now| ends.iter().map(|name| now[*name]).sum::<i64>() == 3);
    let before = figures(client, "namespace/test");
    let mut other = server.connect();
    other.send(&short(3, 1).encode()).unwrap();
    // No reply is read meanwhile, so the query takes longer than one millisecond.
    thread::sleep(Duration::from_millis(10));
    assert_eq!(take_answer(&mut other).1, result::TIMEOUT);
    expect_moved(client, &before, &["pi_query_short_basic_timeout"]);
}

#[test]
fn a_running_query_is_shown_and_can_be_aborted() {
    let server = start();
    let (mut client, mut other) = (server.connect(), server.connect());
    for number in 0..200 {
        assert_eq!(client.ask(&put(&number.to_string())).unwrap().result, result::OK);
    }
    let before = figures(&mut client, "namespace/test");
    // At twenty records per second, the query would take ten seconds.
    let slow = scan(78).with_field(10, &20u32.to_be_bytes());
    other.send(&slow.encode()).unwrap();
    let start = Instant::now();
    while !client.info_value("query-show").unwrap().contains(":rps=20:active-threads=1:status=active(ok):") {
        assert!(start.elapsed() < PATIENCE, "never shown");
    }
    assert_eq!(figures(&mut client, "statistics")["long_queries_active"], 1);
    assert_eq!(client.info_value("query-abort:trid=0x4e").unwrap(), "ok");
    let last = loop {
        if let Some(last) = other.receive().unwrap().messages().unwrap().into_iter().find(Message::is_last) {
            break last;
        }
    };
    assert_eq!(last.result, 15);
    expect_moved(&mut client, &before, &["pi_query_long_basic_abort"]);
    assert!(client.info_value("query-show:trid=78").unwrap().contains(":status=done(user-aborted):"));
    assert_eq!(client.info_value("query-abort:trid=78").unwrap(), "ERROR:2:trid not active");
    assert_eq!(client.info_value("query-abort-all").unwrap(), "number-of-queries-killed:0");
}

#[test]
fn batches_and_their_rows_are_counted() {
    let server = start();
    let mut client = server.connect();
    assert_eq!(client.ask(&put("a")).unwrap().result, result::OK);
    let (before, server_before) =
        (figures(&mut client, "namespace/test"), figures(&mut client, "statistics"));
    assert_eq!(run(&mut client, &Message::get_all(["a", "none"].into_iter())).1, result::OK);
    expect_moved(&mut client, &before, &["batch_sub_read_success", "batch_sub_read_not_found"]);
    let malformed =
        Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &[0]);
    assert_ne!(run(&mut client, &malformed).1, result::OK);
    let after = figures(&mut client, "statistics");
    let moved = |key: &str| after[key] - server_before[key];
    assert_eq!(moved("batch_index_initiate"), 2);
    assert_eq!((moved("batch_index_complete"), moved("batch_index_error")), (1, 1));
}

/// A batch whose only row is `request`, for the record of `key`.
fn batch_of_one(request: &Message, key: &str) -> Message {
    const ROW_HAS_INFO: u8 = 2;
    const ROW_HAS_GENERATION: u8 = 4;
    const RESPOND_ALL_KEYS: u8 = 4;
    let mut value = 1u32.to_be_bytes().to_vec();
    value.push(RESPOND_ALL_KEYS);
    value.extend(0u32.to_be_bytes());
    value.extend(wire::digest("rig", key));
    value.push(ROW_HAS_INFO | ROW_HAS_GENERATION);
    value.extend([request.info1, request.info2, request.info3]);
    value.extend((request.generation as u16).to_be_bytes());
    // Fields and operations are those of a single request, without the digest.
    let mut request = request.clone();
    request.fields.retain(|field| field.0 != field::DIGEST);
    value.extend(&request.body()[wire::MESSAGE_HEADER_SIZE - 4..]);
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

#[test]
fn each_outcome_of_a_row_of_a_batch_is_counted() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    let mut moves = |request: &Message, counters: &[&str]| {
        let before = figures(client, "namespace/test");
        assert_eq!(run(client, &batch_of_one(request, "a")), (1, result::OK), "{counters:?}");
        expect_moved(client, &before, counters);
    };
    let filtered = |message: Message| message.with_field(field::FILTER_EXPRESSION, OF_NO_SET);
    let outdated =
        |message: Message| Message { info2: message.info2 | info2::GENERATION, generation: 77, ..message };
    moves(&Message::get("a"), &["batch_sub_read_not_found"]);
    moves(&put("a"), &["batch_sub_write_success"]);
    moves(&outdated(put("a")), &["batch_sub_write_error", "fail_generation"]);
    moves(&filtered(put("a")), &["batch_sub_write_filtered_out"]);
    moves(&Message::get("a"), &["batch_sub_read_success"]);
    moves(&Message { info1: info1::READ, ..Message::on("a") }, &["batch_sub_read_error"]);
    moves(&filtered(Message::get("a")), &["batch_sub_read_filtered_out"]);
    moves(&outdated(Message::delete("a")), &["batch_sub_delete_error", "fail_generation"]);
    moves(&filtered(Message::delete("a")), &["batch_sub_delete_filtered_out"]);
    moves(&Message::delete("a"), &["batch_sub_delete_success"]);
    moves(&Message::delete("a"), &["batch_sub_delete_not_found"]);
    moves(&Message::on("a"), &["batch_sub_tsvc_error"]);
}

#[test]
fn requests_that_reach_no_namespace_are_counted_for_the_server() {
    let server = start();
    let mut client = server.connect();
    let before = figures(&mut client, "statistics");
    let unknown = Message { info1: info1::READ | info1::GET_ALL, ..Message::on_record("nope", "s", "k") };
    assert_eq!(client.ask(&unknown).unwrap().result, result::NAMESPACE);
    // The field is longer than the message.
    let mut body = Message::get("a").body();
    let at = wire::MESSAGE_HEADER_SIZE;
    body[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut second = server.connect();
    second.send(&wire::frame(wire::kind::MESSAGE, &body)).unwrap();
    assert_eq!(second.receive_message().unwrap().result, result::PARAMETER);
    let after = figures(&mut client, "statistics");
    let moved = |key: &str| after[key] - before[key];
    assert_eq!((moved("early_tsvc_client_error"), moved("demarshal_error")), (1, 1));
    assert_eq!(moved("info_complete"), 1);
}

#[test]
fn connections_are_counted_exactly() {
    let server = start();
    let mut client = server.connect();
    let before = figures(&mut client, "statistics");
    let open: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    await_figures(&mut client, "statistics", |now| {
        now["client_connections"] == before["client_connections"] + 10
            && now["client_connections_opened"] == before["client_connections_opened"] + 10
            && now["client_connections_closed"] == before["client_connections_closed"]
    });
    drop(open);
    await_figures(&mut client, "statistics", |now| {
        now["client_connections"] == before["client_connections"]
            && now["client_connections_closed"] == before["client_connections_closed"] + 10
    });
    let idle = server.connect();
    assert_eq!(client.info_value("set-config:context=service;proto-fd-idle-ms=1000").unwrap(), "ok");
    await_figures(&mut client, "statistics", |now| now["reaped_fds"] == before["reaped_fds"] + 1);
    drop(idle);
}

#[test]
fn storage_figures_add_up() {
    let server = start();
    let mut client = server.connect();
    for number in 0..300 {
        assert_eq!(client.ask(&Message::put(&number.to_string(), vec![7; 1000])).unwrap().result, result::OK);
    }
    for number in 0..100 {
        assert_eq!(client.ask(&Message::delete(&number.to_string())).unwrap().result, result::OK);
    }
    let now = figures(&mut client, "namespace/test");
    let stripes = |column: &str| -> i64 {
        (0..8).map(|stripe| now[&format!("storage-engine.stripe[{stripe}].{column}")]).sum()
    };
    assert_eq!((now["objects"], now["master_objects"], now["non_expirable_objects"]), (200, 200, 200));
    assert_eq!(now["index_used_bytes"], 200 * 64);
    assert_eq!(now["data_total_bytes"], 256 << 20);
    assert!(now["data_used_bytes"] >= 200 * 1000 && now["data_used_bytes"] % 16 == 0);
    assert_eq!(stripes("used_bytes"), now["data_used_bytes"]);
    // Each stripe has four blocks: one for the header, and one being filled.
    assert_eq!((stripes("free_wblocks"), now["data_avail_pct"]), (8 * 2, 50));
    let sets = client.info_value("sets/test/rig").unwrap();
    assert!(
        sets.starts_with(&format!("objects=200:tombstones=0:data_used_bytes={}:", now["data_used_bytes"])),
        "{sets}"
    );
    assert_eq!(client.info_value("objects").unwrap(), "200");
}

#[test]
fn figures_of_a_device_follow_writes_and_reads() {
    let storage = ["file {dir}/test.dat", "filesize 256M", "flush-max-ms 10", "post-write-cache 8M"];
    let config = stored_config("test", "device", &storage);
    let server = Server::start(&config.replacen("service {", "service {\n    ticker-interval 1", 1));
    let mut client = server.connect();
    let client = &mut client;
    let of_device = |figures: &Figures, name: &str| figures[&format!("storage-engine.file[0].{name}")];
    let before = figures(client, "namespace/test");
    let nothing = ["used_bytes", "writes", "partial_writes", "defrag_reads", "defrag_writes", "read_errors"];
    for name in nothing {
        assert_eq!(of_device(&before, name), 0, "{name}");
    }
    assert_eq!(client.ask(&put("small")).unwrap().result, result::OK);
    await_figures(client, "namespace/test", |now| of_device(now, "partial_writes") > 0);
    // Records in memory are read there. The ticker computes how often.
    let start = Instant::now();
    while figures(client, "namespace/test")["cache_read_pct"] != 100 {
        assert_eq!(client.ask(&Message::get("small")).unwrap().result, result::OK);
        assert!(start.elapsed() < 3 * PATIENCE, "reads from memory are never told");
        thread::sleep(Duration::from_millis(20));
    }

    // Each turn replaces all records, so that blocks become empty or worth defragmenting.
    let free = of_device(&before, "free_wblocks");
    let (start, mut turn) = (Instant::now(), 0);
    loop {
        for key in 0..16 {
            // Some records are not replaced, so that defrag has something to move.
            if key % 8 != 0 || turn == 0 {
                let large = Message::put(&format!("large-{key}"), vec![turn; 1_000_000]);
                // The test may have to wait for a slow disk.
                while client.ask(&large).unwrap().result == result::DEVICE_OVERLOAD {
                    assert!(start.elapsed() < 3 * PATIENCE, "the disk writes nothing");
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
        turn = turn.wrapping_add(1);
        let now = figures(client, "namespace/test");
        let moved = ["writes", "defrag_reads"].iter().all(|name| of_device(&now, name) > 0);
        if moved && of_device(&now, "free_wblocks") < free {
            break;
        }
        assert!(start.elapsed() < 3 * PATIENCE, "{now:?}");
    }
    let now = figures(client, "namespace/test");
    let used = of_device(&now, "used_bytes");
    assert!((16_000_000..17_000_000).contains(&used), "16 large records and a small one take {used} bytes");
    assert_eq!(used, now["data_used_bytes"]);
    // No more writes follow, so everything reaches the disk.
    await_figures(client, "namespace/test", |now| of_device(now, "write_q") == 0);
}
