//! Clients that read nothing, or send a byte from time to time, cost the other clients nothing.
//!
//! The tests check that the other clients finish, within a time that no busy machine would need.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::await_figures;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{self, Message, Operation, info1, result};

/// Number of requests of the clients that must not be delayed.
const REQUESTS: usize = 5_000;
/// Longest time for these requests. Undisturbed they take well under a second.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum memory that a server may keep for unread replies, in megabytes.
const KEPT_MAX: u64 = 600;

/// Several connections, so that each service thread has some of them.
fn others_are_served(server: &Server) {
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for n in 0..REQUESTS {
        let count = clients.len();
        let client = &mut clients[n % count];
        let request = Message::put(&format!("other {}", n % 100), vec![7; 100]);
        assert_eq!(client.ask(&request).expect("an answer").result, result::OK);
    }
    assert!(start.elapsed() < TIME_MAX, "{REQUESTS} requests took {:?}", start.elapsed());
}

/// Sends `request` again and again until the server accepts no more. Returns the number of accepted requests,
/// and the accepted bytes of the next one.
fn stuff(client: &Client, request: &[u8]) -> (usize, usize) {
    let mut socket = client.socket();
    socket.set_write_timeout(Some(Duration::from_millis(500))).expect("set a timeout");
    let (mut whole, mut part) = (0, 0);
    loop {
        match socket.write(&request[part..]) {
            Ok(count) => part += count,
            Err(_) => return (whole, part),
        }
        if part == request.len() {
            (whole, part) = (whole + 1, 0);
        }
    }
}

#[test]
fn clients_that_never_read() {
    let server = Server::usual();
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("large", vec![1; 500_000])).expect("an answer").result, result::OK);
    let request = Message::get("large").encode();
    let before = server.resident_megabytes().unwrap_or(0);
    let mut stuffed: Vec<(Client, usize, usize)> = (0..8)
        .map(|_| {
            let client = server.connect();
            let (whole, part) = stuff(&client, &request);
            (client, whole, part)
        })
        .collect();
    others_are_served(&server);
    let kept = server.resident_megabytes().unwrap_or(0).saturating_sub(before);
    assert!(kept < KEPT_MAX, "{kept} MB more are held for answers that nobody reads");

    // When the first client finally reads, it gets every answer, unless the server has closed its connection.
    let (client, whole, part) = &mut stuffed[0];
    assert!(*whole > 0, "not even one request was taken");
    for n in 0..(*whole).min(500) {
        match client.receive_message() {
            Ok(answer) => assert_eq!(answer.bin("b").map(<[u8]>::len), Some(500_000)),
            Err(error) => panic!("answer {n} of {whole} ({part} bytes of another request): {error}"),
        }
    }
}

/// Many large records are requested in one piece. They are read as the client takes them, and not all at
/// once.
#[test]
fn a_client_that_never_reads_a_pipeline_of_large_answers() {
    const REQUESTS: usize = 16;
    let config = usual_config()
        .replace("work-directory", "service-threads 1\n    work-directory")
        .replace("nsup-period", "max-record-size 8M\n    nsup-period");
    let server = Server::start(&config);
    let mut client = server.connect();
    let large = Message::put("large", vec![1; 7 << 20]);
    assert_eq!(client.ask(&large).expect("an answer").result, result::OK);

    let mut silent = server.connect();
    silent.send(&Message::get("large").encode().repeat(REQUESTS)).expect("send");
    let start = Instant::now();
    while client.figure("namespace/test", "client_read_success").expect("a figure") == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing was read");
    }
    // The only service thread answers this after it has finished its earlier work.
    assert_eq!(client.ask(&Message::get("none")).expect("an answer").result, result::NOT_FOUND);
    let read = client.figure("namespace/test", "client_read_success").expect("a figure");
    assert!(read < 8, "{read} records of 7 MiB were read for a client that takes none");
    for n in 0..REQUESTS {
        let answer = silent.receive_message().expect("an answer");
        assert_eq!(answer.bin("b").map(<[u8]>::len), Some(7 << 20), "answer {n}");
    }
}

#[test]
fn clients_that_send_a_byte_now_and_then() {
    let server = Server::usual();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4 {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                let mut clients: Vec<Client> = (0..25).map(|_| server.connect()).collect();
                let request = match number % 2 {
                    0 => Message::get("slow").encode(),
                    _ => wire::info_request("statistics"),
                };
                for byte in request.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    for client in &mut clients {
                        client.send(&[*byte]).expect("send");
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
        // The other clients take turns with the slow bytes for some seconds.
        for _ in 0..3 {
            others_are_served(&server);
            thread::sleep(Duration::from_millis(500));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Connections are opened and closed as fast as possible, some without sending anything, some in the middle
/// of a request.
#[test]
fn clients_that_hang_up() {
    let mut server = Server::usual();
    server.allow("closing the connection").allow("bad message");
    let request = Message::get("large").encode();
    for n in 0..2_000 {
        let mut client = server.connect();
        client.send(&request[..n % request.len()]).expect("send");
        if n % 3 == 0 {
            client.send(&request).expect("send");
        }
    }
    others_are_served(&server);
}

/// Number of reads of a bin of a megabyte in a request with a large reply.
const LARGE_READS: usize = 100;
const LARGE_SIZE: usize = 1_000_000;
/// Number of clients with large replies. Together the replies are more than the server keeps.
const LARGE_CLIENTS: usize = 12;

fn large_request() -> Vec<u8> {
    // Some clients wait for room without a limit.
    let read = Message { info1: info1::READ, transaction_ttl: 120_000, ..Message::on("large") };
    (0..LARGE_READS).fold(read, |read, _| read.with_operation(Operation::read("b"))).encode()
}

/// A server with the record that [`large_request`] reads.
fn server_of_large_replies() -> (Server, Client) {
    let mut server = Server::start(&usual_config());
    server.allow("a request with a large reply is put off").allow("and others wait for room");
    let mut client = server.connect();
    assert_eq!(
        client.ask(&Message::put("large", vec![1; LARGE_SIZE])).expect("an answer").result,
        result::OK
    );
    (server, client)
}

#[test]
fn unread_large_replies_have_a_budget() {
    let (server, mut client) = server_of_large_replies();
    let before = server.resident_megabytes().unwrap_or(0);
    let mut readers: Vec<Client> = (0..LARGE_CLIENTS).map(|_| server.connect()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&large_request()).expect("sent"));
    let now = await_figures(&mut client, "statistics", |now| {
        now["unread_replies_put_off"] > 0 && now["unread_reply_bytes"] > 4 * (LARGE_READS * LARGE_SIZE) as i64
    });
    assert!(now["unread_reply_bytes"] <= 512 << 20, "{}", now["unread_reply_bytes"]);
    others_are_served(&server);
    let grown = server.resident_megabytes().unwrap_or(0).saturating_sub(before);
    assert!(grown < 1000, "{grown} MB are kept for clients that do not read");
    // Clients that read get everything, even if their requests had to wait.
    thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(|| {
                let answer = reader.receive_message().expect("an answer");
                assert_eq!((answer.result, answer.operations.len()), (result::OK, LARGE_READS));
            });
        }
    });
    await_figures(&mut client, "statistics", |now| now["unread_reply_bytes"] == 0);
    assert_eq!(client.figure("statistics", "unread_connections_closed").expect("a figure"), 0);
}

#[test]
fn clients_that_do_not_read_make_room_for_those_who_do() {
    let (server, mut client) = server_of_large_replies();
    let mut idle: Vec<Client> = (0..LARGE_CLIENTS).map(|_| server.connect()).collect();
    idle.iter_mut().for_each(|idle| idle.send(&large_request()).expect("sent"));
    await_figures(&mut client, "statistics", |now| now["unread_replies_put_off"] > 0);
    let mut reader = server.connect();
    reader.socket().set_read_timeout(Some(2 * PATIENCE)).expect("a socket");
    reader.send(&large_request()).expect("sent");
    assert_eq!(reader.receive_message().expect("an answer").result, result::OK);
    assert!(client.figure("statistics", "unread_connections_closed").expect("a figure") > 0);
}
