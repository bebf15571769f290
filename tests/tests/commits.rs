//! `commit-to-device`: a reply reports only data that is on disk. Requests that need no disk do not wait for
//! a slow or stuck one, and each connection gets its replies in the order of its requests.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{self, Message, info2, result};

/// A point that every write of a block passes.
const WRITE: &str = "write-block";
/// The transaction pool writes records of this size.
const LARGE: usize = 4 << 20;

/// Whether the server under test can simulate a stuck disk. Builds with debug assertions can.
fn can_stall() -> bool {
    let can = cfg!(debug_assertions) && std::env::var_os("ASD").is_none();
    if !can {
        report("skipped: no faults can be injected into this build");
    }
    can
}

/// A server with one service thread, a namespace `test` that commits to a file, and a namespace `bar` in memory.
fn start() -> Server {
    let storage = ["file {dir}/data", "filesize 1G", "commit-to-device true", "max-write-cache 256M"];
    let config = stored_config_with("test", &["max-record-size 8M"], "device", &storage);
    let config = config.replace(
        "service {\n    cluster",
        "service {\n    service-threads 1\n    ticker-interval 1\n    cluster",
    );
    assert!(config.contains("service-threads 1"));
    let memory = "namespace bar {\n    replication-factor 1\n    max-record-size 8M\n    storage-engine memory {\n        \
                  data-size 512M\n    }\n}\n";
    Server::start_with_faults(&[config.as_str(), memory].concat())
}

/// The same request in namespace `bar`.
fn in_bar(mut request: Message) -> Message {
    request.fields[0].1 = b"bar".to_vec();
    request
}

fn put(key: &str) -> Message {
    Message::put(key, vec![7; 100])
}

/// Whether an answer has arrived or arrives soon.
fn has_answer(client: &Client) -> bool {
    client.socket().set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let peeked = client.socket().peek(&mut [0]);
    client.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    match peeked {
        Ok(size) => size > 0,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

fn ask_ok(client: &mut Client, request: &Message) {
    assert_eq!(client.ask(request).unwrap().result, result::OK);
}

/// Sends requests that need no disk, or whose data is on disk.
fn is_served(client: &mut Client) {
    ask_ok(client, &in_bar(put("other")));
    ask_ok(client, &in_bar(Message::get("other")));
    ask_ok(client, &Message::get("stored"));
    assert!(client.info_value("namespaces").unwrap().contains("bar"));
}

#[test]
fn a_stuck_disk_delays_only_requests_that_wait_for_it() {
    if !can_stall() {
        return;
    }
    let server = start();
    let mut others: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    ask_ok(&mut others[0], &put("stored"));
    ask_ok(&mut others[0], &put("goes"));
    ask_ok(&mut others[0], &in_bar(Message::put("large", vec![1; LARGE])));
    server.stall(WRITE);
    let mut waiting: Vec<(&str, Client)> = Vec::new();
    let large = |number: u8| Message::put(&format!("large {number}"), vec![1; LARGE]);
    let delete =
        Message { info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE, ..Message::delete("goes") };
    for (what, request) in [
        ("a write", put("new").encode()),
        ("a read of what is not on disk", Message::get("new").encode()),
        ("a durable delete", delete.encode()),
        ("a long write", large(0).encode()),
    ] {
        let mut client = server.connect();
        client.send(&request).unwrap();
        assert!(!has_answer(&client), "{what} is answered before it is on disk");
        waiting.push((what, client));
        others.iter_mut().for_each(is_served);
    }
    // More long writes wait than the pool has threads. A write that needs no disk does not wait.
    let mut long: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    (1..).zip(&mut long).for_each(|(number, client)| client.send(&large(number).encode()).unwrap());
    let started = Instant::now();
    ask_ok(&mut others[1], &in_bar(Message::get("large")));
    assert!(started.elapsed() < PATIENCE / 2);
    others.iter_mut().for_each(is_served);
    server.release(WRITE);
    for (what, mut client) in waiting {
        let answer = client.receive_message().unwrap();
        assert_eq!(answer.result, result::OK, "{what}");
    }
    for mut client in long {
        assert_eq!(client.receive_message().unwrap().result, result::OK);
    }
    others.iter_mut().for_each(is_served);
}

#[test]
fn replies_keep_the_order_of_their_requests() {
    if !can_stall() {
        return;
    }
    let server = start();
    let mut client = server.connect();
    ask_ok(&mut client, &put("stored"));
    let batch = |rows| Message::get_all(vec!["stored"; rows].into_iter()).encode();
    // Answers of this thread, of batch threads, of a query thread and of info threads come after a reply that
    // waits.
    let together = [
        put("a").encode(),
        Message::get("none").encode(),
        batch(2),
        put("b").encode(),
        batch(1000),
        put("c").encode(),
        wire::info_request("build"),
        put("d").encode(),
        Message::scan("bar").encode(),
        Message::get("d").encode(),
    ];
    for is_stuck in [true, false, true] {
        if is_stuck {
            server.stall(WRITE);
        }
        client.send(&together.concat()).unwrap();
        if is_stuck {
            assert!(!has_answer(&client));
            server.release(WRITE);
        }
        let mut results = |count: usize| -> Vec<u8> {
            (0..count).map(|_| client.receive_message().unwrap().result).collect()
        };
        assert_eq!(results(2), [result::OK, result::NOT_FOUND]);
        assert_eq!(client.take_rows().unwrap().len(), 2);
        assert_eq!(client.receive_message().unwrap().result, result::OK);
        assert_eq!(client.take_rows().unwrap().len(), 1000);
        assert_eq!(client.receive_message().unwrap().result, result::OK);
        assert_eq!(client.receive().unwrap().kind, wire::kind::INFO);
        assert_eq!(client.receive_message().unwrap().result, result::OK);
        assert_eq!(client.take_rows().unwrap().len(), 0);
        assert_eq!(client.receive_message().unwrap().result, result::OK);
    }
}

#[test]
fn clients_go_while_their_replies_wait() {
    if !can_stall() {
        return;
    }
    let mut server = start();
    server.allow("closing the connection of");
    let mut client = server.connect();
    ask_ok(&mut client, &put("stored"));
    server.stall(WRITE);
    let mut gone: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for (number, client) in gone.iter_mut().enumerate() {
        client.send(&[put(&format!("gone {number}")).encode(), put("gone").encode()].concat()).unwrap();
    }
    // A client that has closed its sending side waits for its answer, and so does a client that sends garbage
    // after its request.
    let (mut done, mut bad) = (server.connect(), server.connect());
    done.send(&put("done").encode()).unwrap();
    done.socket().shutdown(Shutdown::Write).unwrap();
    bad.send(&[put("bad").encode(), vec![0xFF; 64]].concat()).unwrap();
    assert!(!has_answer(&done) && !has_answer(&bad));
    drop(gone);
    is_served(&mut client);
    server.release(WRITE);
    for client in [&mut done, &mut bad] {
        assert_eq!(client.receive_message().unwrap().result, result::OK);
        assert!(client.is_closed_by_server());
    }
    // The writes exist, even if the client did not get the answer.
    let started = Instant::now();
    while client.figure("statistics", "client_connections").unwrap() > 1 {
        assert!(started.elapsed() < PATIENCE);
    }
    for number in 0..10 {
        ask_ok(&mut client, &Message::get(&format!("gone {number}")));
    }
}

/// The latency of an operation includes its wait for the disk.
#[test]
fn the_wait_for_the_disk_is_part_of_the_latency_of_a_write() {
    if !can_stall() {
        return;
    }
    let server = start();
    let mut client = server.connect();
    ask_ok(&mut client, &put("stored"));
    server.stall(WRITE);
    let mut writer = server.connect();
    writer.send(&put("slow").encode()).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    is_served(&mut client);
    server.release(WRITE);
    assert_eq!(writer.receive_message().unwrap().result, result::OK);
    server.await_log("histogram dump: {test}-write (2 total)");
    let log = server.log();
    let slowest_of = |name: &str| {
        let dump = log.rsplit(&format!("histogram dump: {{test}}-{name} (")).next().unwrap();
        // Buckets are powers of two of a millisecond.
        dump.lines().nth(1).unwrap().contains(" (11: 00")
    };
    assert!(slowest_of("write") && !slowest_of("read"), "{log}");
}
