//! A pool thread holds the lock of a record. Requests for the record wait without a service thread, and all
//! other requests continue.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{run, take_answer};
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{Message, Operation, digest, field, info1, info2, operation, result};

/// A point that a pool thread passes under the lock of a record that it has written.
const UNDER_LOCK: &str = "commit-under-lock";
/// The pool writes records of this size.
const LARGE: usize = 4 << 20;
const OTHERS: [&str; 3] = ["a", "b", "c"];
/// The longest time limit of a request.
const MINUTE: u32 = 60_000;

/// A server with one service thread and these records.
fn start() -> Server {
    let config = stored_config_with("test", &["max-record-size 8M"], "memory", &["data-size 1G"]);
    let server =
        Server::start_with_faults(&config.replacen("service {", "service {\n    service-threads 1", 1));
    let mut client = server.connect();
    let large =
        Message { record_ttl: 1_000, transaction_ttl: MINUTE, ..Message::put("large", vec![7; LARGE]) };
    assert_eq!(client.ask(&large).unwrap().result, result::OK);
    for key in OTHERS {
        assert_eq!(client.ask(&Message::put(key, vec![1; 10])).unwrap().result, result::OK);
    }
    server
}

/// A client that has sent `requests` at once.
fn sent(server: &Server, requests: &[Message]) -> Client {
    let mut client = server.connect();
    let bytes: Vec<u8> = requests.iter().flat_map(Message::encode).collect();
    client.send(&bytes).unwrap();
    client
}

/// Waits until a read of the large record gets no answer. Returns its client.
fn await_lock(server: &Server) -> Client {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "nobody locks the record");
        let read = Message { transaction_ttl: MINUTE, ..Message::on("large") };
        let read = Message { info1: info1::READ | info1::GET_NO_BINS, ..read };
        let mut probe = sent(server, &[read]);
        probe.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        if probe.receive().is_err() {
            probe.socket().set_read_timeout(Some(PATIENCE)).unwrap();
            return probe;
        }
    }
}

/// A short query for the partition of the large record.
fn short_query() -> Message {
    let mut scan = Message::scan("test");
    scan.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
    let digest = digest("rig", "large");
    let partition = u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF;
    let scan = scan.with_field(field::PARTITION_ID_ARRAY, &partition.to_le_bytes());
    Message { info1: scan.info1 | info1::SHORT_QUERY, transaction_ttl: MINUTE, ..scan }
}

#[test]
fn a_locked_record_delays_no_other_requests() {
    if !cfg!(debug_assertions) || std::env::var_os("ASD").is_some() {
        return report("skipped: no faults can be injected into this build");
    }
    let server = start();
    let mut other = server.connect();
    let inline = "set-config:context=namespace;id=test;inline-short-queries=true";
    assert_eq!(other.info_value(inline).unwrap(), "ok");
    server.stall(UNDER_LOCK);
    let patient = |message| Message { transaction_ttl: MINUTE, ..message };
    let mut writer = sent(&server, &[patient(Message::put("large", vec![8; LARGE]))]);
    let mut probe = await_lock(&server);

    let get = || patient(Message::get("large"));
    let mut reader = sent(&server, &[get(), Message::get("a")]);
    let increment = Operation::integer(operation::INCR, "n", 1);
    let mut counter = sent(&server, &[patient(Message::write("large").with_operation(increment)), get()]);
    let wrong_generation =
        Message { info2: info2::WRITE | info2::DELETE | info2::GENERATION, ..Message::delete("large") };
    let mut deleter = sent(&server, &[patient(Message { generation: 77, ..wrong_generation })]);
    let mut toucher = sent(&server, &[Message { record_ttl: 100, ..get() }]);
    let mut batch = sent(&server, &[patient(Message::get_all(["a", "large", "b"].into_iter()))]);
    let mut query = sent(&server, &[short_query()]);
    // The same thread serves all of them, and other requests meanwhile.
    for round in 0..50 {
        for key in OTHERS {
            let put = Message::put(key, vec![round; 10]);
            assert_eq!(other.ask(&put).unwrap().result, result::OK);
            assert_eq!(other.ask(&Message::get(key)).unwrap().bin("b").unwrap(), [round; 10]);
        }
        assert_eq!(run(&mut other, &Message::get_all(OTHERS.into_iter())), (OTHERS.len(), result::OK));
    }

    server.release(UNDER_LOCK);
    assert_eq!(writer.receive_message().unwrap().result, result::OK);
    assert_eq!(probe.receive_message().unwrap().result, result::OK);
    // The answers of a connection come in the order of its requests.
    assert_eq!(reader.receive_message().unwrap().bin("b").unwrap().len(), LARGE);
    assert_eq!(reader.receive_message().unwrap().bin("b").unwrap().len(), 10);
    assert_eq!(counter.receive_message().unwrap().result, result::OK);
    let counted = counter.receive_message().unwrap();
    assert_eq!(counted.bin("n").unwrap(), 1i64.to_be_bytes());
    assert_eq!(deleter.receive_message().unwrap().result, result::GENERATION);
    assert_eq!(toucher.receive_message().unwrap().result, result::OK);
    assert_eq!(take_answer(&mut batch), (3, result::OK));
    assert_eq!(take_answer(&mut query).1, result::OK);
    assert_eq!(other.ask(&Message::get("large")).unwrap().bin("b").unwrap()[0], 8);
}

#[test]
fn a_panic_in_the_turn_of_a_request_costs_that_request_alone() {
    if !cfg!(debug_assertions) || std::env::var_os("ASD").is_some() {
        return report("skipped: no faults can be injected into this build");
    }
    let mut server = start();
    server.allow("an internal error");
    let mut other = server.connect();
    for _ in 0..5 {
        server.stall(UNDER_LOCK);
        let patient = |message| Message { transaction_ttl: MINUTE, ..message };
        let mut writer = sent(&server, &[patient(Message::put("large", vec![8; LARGE]))]);
        let mut probe = await_lock(&server);
        // The probe has the first turn. These requests wait behind it.
        server.inject_fault("lock-turn");
        let mut waiting = [(); 3].map(|()| sent(&server, &[patient(Message::get("large"))]));
        // With these requests the only service thread has met the lock before it serves another connection
        // twice.
        for _ in 0..2 {
            assert_eq!(other.ask(&Message::get("a")).unwrap().result, result::OK);
        }
        server.release(UNDER_LOCK);
        assert_eq!(writer.receive_message().unwrap().result, result::OK);
        assert_eq!(probe.receive_message().unwrap().result, result::OK);
        server.await_fault("lock-turn");
        let answered = waiting.each_mut().map(|client| client.receive_message().is_ok());
        assert_eq!(answered.iter().filter(|is_answered| **is_answered).count(), 2, "{answered:?}");
    }
    assert_eq!(other.ask(&Message::get("large")).unwrap().result, result::OK);
}
