//! A panic in the server is a bug of the server, and must cost as little as possible: the served connection,
//! one run of a thread that restarts, or, if stored data would be at risk, the process. Each test makes the
//! server panic at a named point. `faults/table.rs` lists all points and threads.

#[path = "faults/cluster.rs"]
mod cluster;
#[path = "faults/pools.rs"]
mod pools;
#[path = "faults/table.rs"]
mod table;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::take_answer;
use ferrospike_tests::ports::free_port;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config, usual_config};
use ferrospike_tests::wire::{self, Message, result};
use nix::sys::signal::Signal;

/// Number of rows of a batch that batch threads process.
const LARGE_BATCH_ROWS: usize = 1000;
const SIGABRT: i32 = 6;

/// Whether the server under test has fault points. Builds with debug assertions have them.
fn can_inject() -> bool {
    let can = cfg!(debug_assertions) && std::env::var_os("ASD").is_none();
    if !can {
        report("skipped: no faults can be injected into this build");
    }
    can
}

/// Several clients whose requests must not fail, so that each service thread has some of them.
struct Others(Vec<Client>);

impl Others {
    fn new(server: &Server) -> Others {
        let mut others = Others((0..8).map(|_| server.connect()).collect());
        others.are_served();
        others
    }

    fn are_served(&mut self) {
        for (number, client) in self.0.iter_mut().enumerate() {
            let key = format!("other {number}");
            assert_eq!(client.ask(&Message::put(&key, vec![7; 100])).expect("an answer").result, result::OK);
            assert_eq!(client.ask(&Message::get(&key)).expect("an answer").result, result::OK);
        }
    }

    /// Waits until no other connection is open.
    fn are_alone(&mut self) {
        let (expected, start) = (self.0.len() as u64, Instant::now());
        loop {
            let open = self.0[0].figure("statistics", "client_connections").expect("a figure");
            if open == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{open} connections are open, and {expected} should be");
        }
    }
}

/// The remaining bytes of a connection that the server closes. The client has sent everything.
fn read_to_end(client: &Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that the server closes before reading all bytes is reset.
    let _ = client.socket().read_to_end(&mut bytes);
    bytes
}

/// The messages in whole frames.
fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let size = header.len() + usize::try_from(wire::body_size(header)).expect("a size");
        assert!(size <= header.len() + rest.len(), "the answer ends in a frame");
        let frame = wire::Frame::decode(&bytes[..size]).expect("a frame");
        messages.extend(frame.messages().expect("messages"));
        bytes = &bytes[size..];
    }
    messages
}

/// Injects a panic at `point`. A new client passes the point with `request`; the panic must cost only the
/// connection of that client. Returns the answer.
fn costs_one_connection(server: &mut Server, others: &mut Others, point: &str, request: &[u8]) -> Vec<u8> {
    let client = server.connect();
    client.socket().set_read_timeout(Some(PATIENCE)).expect("a socket");
    server.inject_fault(point);
    // A connection that the server closes early accepts no more bytes.
    let _ = client.socket().write_all(request);
    server.await_fault(point);
    let answer = read_to_end(&client);
    others.are_served();
    others.are_alone();
    let mut next = server.connect();
    assert_eq!(next.ask(&Message::get("other 1")).expect("an answer").result, result::OK, "after {point}");
    drop(next);
    others.are_alone();
    answer
}

fn large_batch() -> Vec<u8> {
    let keys: Vec<String> = (0..LARGE_BATCH_ROWS).map(|number| format!("other {}", number % 8)).collect();
    Message::get_all(keys.iter().map(String::as_str)).encode()
}

#[test]
fn a_panic_of_a_service_thread_costs_the_connection_concerned() {
    if !can_inject() {
        return;
    }
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error");
    let mut others = Others::new(&server);
    let get = Message::get("other 1").encode();
    let info = wire::info_request("build");
    let scan = Message::scan("test").encode();
    let batch = large_batch();
    for (point, request) in [
        ("event", &get),
        ("receive", &get),
        ("send", &get),
        ("start-info", &info),
        ("deliver", &info),
        ("info", &info),
        ("start-query", &scan),
        ("start-batch", &batch),
        ("deliver-part", &batch),
    ] {
        costs_one_connection(&mut server, &mut others, point, request);
    }
    // These requests are answered: the client is informed that it did not cause the fault, and earlier
    // answers are not lost.
    for (point, request) in [("parse", &get), ("execute", &get), ("dispatch", &info)] {
        let answer = costs_one_connection(&mut server, &mut others, point, request);
        let results: Vec<u8> = messages(&answer).iter().map(|message| message.result).collect();
        assert_eq!(results, [result::UNKNOWN], "after {point}");
    }
    // This connection is new to its thread.
    server.inject_fault("add");
    let client = server.connect();
    server.await_fault("add");
    read_to_end(&client);
    others.are_served();
    others.are_alone();
}

/// No reply is lost, neither a reply that is held until its data is on disk nor one that is then sent.
#[test]
fn a_panic_about_held_replies_costs_their_connection() {
    if !can_inject() {
        return;
    }
    let storage = ["file {dir}/data", "filesize 128M", "commit-to-device true"];
    let mut server = Server::start_with_faults(&stored_config("test", "device", &storage));
    server.allow("an internal error");
    let mut others = Others::new(&server);
    let put = Message::put("new", vec![7; 100]).encode();
    for point in ["hold", "release"] {
        costs_one_connection(&mut server, &mut others, point, &put);
    }
    // Writes that were answered before a panic reach the disk first; then the answer arrives.
    let request = [put, wire::info_request("build")].concat();
    let answer = costs_one_connection(&mut server, &mut others, "dispatch", &request);
    let results: Vec<u8> = messages(&answer).iter().map(|message| message.result).collect();
    assert_eq!(results, [result::OK, result::UNKNOWN]);
}

#[test]
fn answers_from_before_a_panic_arrive() {
    if !can_inject() {
        return;
    }
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error");
    let mut others = Others::new(&server);
    let request = [Message::get("other 1").encode(), wire::info_request("build")].concat();
    let answer = costs_one_connection(&mut server, &mut others, "dispatch", &request);
    let results: Vec<u8> = messages(&answer).iter().map(|message| message.result).collect();
    assert_eq!(results, [result::OK, result::UNKNOWN]);
    // The preparation is only a hint, so its failure costs nothing.
    server.inject_fault("prepare");
    let mut client = server.connect();
    client
        .send(&[Message::get("other 1").encode(), Message::get("other 2").encode()].concat())
        .expect("sent");
    server.await_fault("prepare");
    for _ in 0..2 {
        assert_eq!(client.receive_message().expect("an answer").result, result::OK);
    }
    // A panic in the tick costs no connection.
    server.inject_fault("reap");
    server.await_fault("reap");
    others.are_served();
}

#[test]
fn a_panic_in_a_batch_or_query_is_answered() {
    if !can_inject() {
        return;
    }
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error");
    let mut others = Others::new(&server);
    for (point, request) in [("batch", large_batch()), ("query", Message::scan("test").encode())] {
        let mut client = server.connect();
        server.inject_fault(point);
        client.send(&request).expect("sent");
        server.await_fault(point);
        if point == "query" {
            assert_eq!(take_answer(&mut client), (0, result::UNKNOWN));
        } else {
            assert!(client.is_closed_by_server(), "the client of a {point} waits for ever");
        }
        drop(client);
        others.are_served();
        others.are_alone();
        // The thread that restarts, or the next one, does its work.
        let mut next = server.connect();
        next.send(&request).expect("sent");
        let records = if point == "query" { 8 } else { LARGE_BATCH_ROWS };
        assert_eq!(take_answer(&mut next), (records, result::OK));
    }
}

#[test]
fn threads_that_may_start_again() {
    if !can_inject() {
        return;
    }
    let (info, metrics) = (free_port(), free_port());
    let config = usual_config().replace(
        "network {",
        &format!(
            "network {{\n    info {{\n        address 127.0.0.1\n        port {info}\n    }}\n    metrics {{\n        \
             address 127.0.0.1\n        port {metrics}\n    }}"
        ),
    );
    let mut server = Server::start_with_faults(&config);
    server.allow("failed on an internal error, and starts again");
    let mut others = Others::new(&server);
    for point in
        ["nsup", "stop-writes", "memory-ahead", "tomb-raider", "ticker", "pool-sizing", "sindex-sweep"]
    {
        // The point is passed once more: a thread that has ended would not pass it.
        for _ in 0..2 {
            server.inject_fault(point);
            server.await_fault(point);
            others.are_served();
        }
    }
    for (point, port) in [("info-port", info), ("metrics-port", metrics), ("accept", server.address().port())]
    {
        for _ in 0..2 {
            server.inject_fault(point);
            let _connection = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)));
            server.await_fault(point);
            others.are_served();
        }
    }
    let mut port = TcpStream::connect(("127.0.0.1", info)).expect("the info port listens");
    port.set_read_timeout(Some(PATIENCE)).expect("a socket");
    port.write_all(b"build\n").expect("sent");
    let mut answer = [0; 8];
    port.read_exact(&mut answer).expect("an answer of the info port");
    // A request for metrics has a thread of its own, so the panic costs only this request.
    for is_faulty in [true, true, false] {
        if is_faulty {
            server.inject_fault("metrics");
        }
        let mut client = TcpStream::connect(("127.0.0.1", metrics)).expect("the metrics port listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), !is_faulty);
    }
    others.are_alone();
    server.connect();
}

#[test]
fn the_watch_over_disks_starts_again() {
    if !can_inject() {
        return;
    }
    let mut server =
        Server::start_with_faults(&stored_config("test", "device", &["file {dir}/data", "filesize 128M"]));
    server.allow("failed on an internal error, and starts again");
    let mut others = Others::new(&server);
    for _ in 0..2 {
        server.inject_fault("disk-watch");
        server.await_fault("disk-watch");
        others.are_served();
    }
}

#[test]
fn threads_without_which_data_would_be_at_risk_end_the_process() {
    if !can_inject() {
        return;
    }
    for point in ["flush", "defrag", "sync", "signals"] {
        let config =
            stored_config("test", "device", &["file {dir}/data", "filesize 128M", "flush-max-ms 100"]);
        let mut server = Server::start_with_faults(&config);
        server.allow("failed on an internal error, and is essential");
        server.inject_fault(point);
        if point == "signals" {
            server.signal(Signal::SIGUSR1);
        }
        assert_eq!(server.await_abort(), Some(SIGABRT), "{point}");
        server.check_log();
        assert!(server.log().contains("and is essential"), "{}", server.log());
    }
}
