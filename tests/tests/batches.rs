//! Large batches: clients that do not read their answers delay no others, and overdue rows are dropped.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Instant;

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::{Figures, await_figures, expect_moved, figures, moves, run, take_answer};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, result};

/// Number of rows whose answers exceed what the server keeps for a client.
const ROWS: usize = 2_500;
/// Flag of a batch: its rows may be carried out by the thread that reads it.
const ALLOW_INLINE: u8 = 1;
/// Number of rows that take more than a millisecond on every machine.
const MANY_ROWS: usize = 60_000;

fn batch(key: &str, rows: usize) -> Message {
    Message::get_all(vec![key; rows].into_iter())
}

/// A server with one batch thread, and a record of 50,000 bytes.
fn start() -> Server {
    let config = usual_config().replacen("service {", "service {\n    batch-index-threads 1", 1);
    let server = Server::start(&config);
    let put = Message::put("large", vec![1; 50_000]);
    assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    server
}

/// Clients that have requested more than they read. The server has suspended their batches.
fn silent_clients(server: &Server, client: &mut Client, request: &Message, count: usize) -> Vec<Client> {
    let request = request.encode();
    let mut silent: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    silent.iter_mut().for_each(|one| one.send(&request).unwrap());
    await_figures(client, "statistics", |now| now["batch_index_delay"] >= count as i64);
    silent
}

/// Even a few rows of large records are not carried out by the thread that reads the batch.
#[test]
fn answers_of_few_rows_do_not_fill_the_memory() {
    let server = start();
    let mut client = server.connect();
    let before = server.resident_megabytes().unwrap_or(0);
    let request = batch("large", 200).encode();
    let mut silent: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    silent.iter_mut().for_each(|one| one.send(&request).unwrap());
    await_figures(&mut client, "statistics", |now| now["batch_index_delay"] >= 20);
    let kept = server.resident_megabytes().unwrap_or(0).saturating_sub(before);
    assert!(kept < 120, "{kept} MB more are held for answers that nobody reads");
    for mut one in silent {
        assert_eq!(take_answer(&mut one), (200, result::OK));
    }
}

/// Four batch threads share several batches, and process no batch out of order.
#[test]
fn batches_that_ask_for_work_in_line_are_answered_in_order() {
    let config = usual_config().replacen("service {", "service {\n    batch-index-threads 4", 1);
    let server = Server::start(&config);
    let put = Message::put("small", vec![1; 10]);
    assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    let mut request = batch("small", 1_000);
    request.fields[0].1[4] = ALLOW_INLINE;
    let request = request.encode();
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for _ in 0..30 {
        clients.iter_mut().for_each(|client| client.send(&request).unwrap());
        for client in &mut clients {
            let rows: Vec<u32> = client.take_rows().unwrap().iter().map(|row| row.transaction_ttl).collect();
            assert_eq!(rows, (0..1_000).collect::<Vec<u32>>());
        }
    }
}

#[test]
fn clients_that_do_not_read_delay_no_others() {
    let server = start();
    let mut client = server.connect();
    let before = server.resident_megabytes().unwrap_or(0);
    let silent = silent_clients(&server, &mut client, &batch("large", ROWS), 4);
    assert!(figures(&mut client, "statistics")["batch_index_delay"] >= 4);
    assert_eq!(run(&mut client, &batch("none", 3_000)), (3_000, result::OK));
    let kept = server.resident_megabytes().unwrap_or(0).saturating_sub(before);
    assert!(kept < 100, "{kept} MB more are held for answers that nobody reads");
    // Each client gets all its answers when it reads. A client that disconnects is dropped.
    for mut one in silent.into_iter().skip(1) {
        assert_eq!(take_answer(&mut one), (ROWS, result::OK));
    }
    let all_done = |now: &Figures| {
        now["batch_index_complete"] == now["batch_index_initiate"] && now["batch_index_complete"] == 5
    };
    await_figures(&mut client, "statistics", all_done);
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let mut server = start();
    server.allow("a batch is given up");
    let mut client = server.connect();
    // The time is enough for the rows that are processed before the client is behind.
    let request = Message { transaction_ttl: 4_000, ..batch("large", ROWS) };
    let mut silent = silent_clients(&server, &mut client, &request, 1).pop().unwrap();
    server.await_log("a batch is given up");
    await_figures(&mut client, "statistics", |now| now["batch_index_timeout"] == 1);
    let (records, last) = take_answer(&mut silent);
    assert!(records < ROWS && last == result::TIMEOUT, "{records} records, result {last}");
    // The connection stays open.
    assert_eq!(silent.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
}

#[test]
fn rows_without_time_are_not_carried_out() {
    let server = start();
    let mut client = server.connect();
    let client = &mut client;
    let set = "set-config:context=service;transaction-max-ms=0";
    assert_eq!(client.info_value(set).unwrap(), "ok");
    moves(client, &Message::get("large"), result::TIMEOUT, &["client_tsvc_timeout"]);
    moves(client, &Message::put("new", vec![1]), result::TIMEOUT, &["client_tsvc_timeout"]);
    // The deadline is checked before everything except the namespace.
    let neither = Message { info1: 0, ..Message::get("large") };
    moves(client, &neither, result::TIMEOUT, &["client_tsvc_timeout"]);
    // A request's own timeout applies.
    let get = Message { transaction_ttl: 60_000, ..Message::get("new") };
    moves(client, &get, result::NOT_FOUND, &["client_read_not_found"]);

    let (before, server_before) = (figures(client, "namespace/test"), figures(client, "statistics"));
    assert_eq!(run(client, &batch("large", 1)), (0, result::TIMEOUT));
    expect_moved(client, &before, &["batch_sub_tsvc_timeout"]);
    let after = figures(client, "statistics");
    assert_eq!(after["batch_index_timeout"] - server_before["batch_index_timeout"], 1);
    let batch = Message { transaction_ttl: 60_000, ..batch("new", 1) };
    assert_eq!(run(client, &batch), (1, result::OK));
}

#[test]
fn rows_that_wait_for_too_long_are_not_carried_out() {
    let server = start();
    let mut client = server.connect();
    let before = figures(&mut client, "namespace/test");
    let start = Instant::now();
    let request = Message { transaction_ttl: 1, ..batch("none", MANY_ROWS) };
    let (records, last) = run(&mut client, &request);
    assert!(records < MANY_ROWS && last == result::TIMEOUT, "{records} records, result {last}");
    let figures = await_figures(&mut client, "namespace/test", |now| {
        let moved = |key: &str| now[key] - before[key];
        moved("batch_sub_tsvc_timeout") + moved("batch_sub_read_not_found") == MANY_ROWS as i64
    });
    assert!(figures["batch_sub_tsvc_timeout"] > 0);
    assert!(start.elapsed() < PATIENCE);
}
