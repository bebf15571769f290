//! Several requests on one connection before any answer is read: in one segment, cut at every byte, and of
//! different kinds. Answers arrive complete, in the order of the requests.

use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::random::Random;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{self, Frame, Message, info3, kind, result};

/// Long enough for a segment to be under way before the next is sent.
const APART: Duration = Duration::from_micros(500);

fn key(number: usize) -> String {
    format!("pipeline {number}")
}

/// A write, two reads of it and an info request: some two hundred bytes.
fn conversation() -> (Vec<u8>, impl Fn(&mut Client)) {
    let requests = [
        Message::put("cut", b"value".to_vec()).encode(),
        Message::get("cut").encode(),
        wire::info_request("status"),
        Message::get("never written").encode(),
    ];
    let check = |client: &mut Client| {
        assert_eq!(client.receive_message().expect("an answer").result, result::OK);
        assert_eq!(client.receive_message().expect("an answer").bin("b"), Some(&b"value"[..]));
        let info = Frame { kind: kind::INFO, body: b"status\tok\n".to_vec() };
        assert_eq!(client.receive().expect("an answer"), info);
        assert_eq!(client.receive_message().expect("an answer").result, result::NOT_FOUND);
    };
    (requests.concat(), check)
}

#[test]
fn a_thousand_requests_in_one_piece() {
    let server = Server::usual();
    let mut client = server.connect();
    let numbers = || 0..1000;
    let puts: Vec<u8> =
        numbers().flat_map(|n| Message::put(&key(n), n.to_string().into_bytes()).encode()).collect();
    client.send(&puts).expect("send");
    for n in numbers() {
        assert_eq!(client.receive_message().expect("an answer").result, result::OK, "put {n}");
    }
    let gets: Vec<u8> = numbers().flat_map(|n| Message::get(&key(n)).encode()).collect();
    client.send(&gets).expect("send");
    for n in numbers() {
        let answer = client.receive_message().expect("an answer");
        assert_eq!(answer.bin("b"), Some(n.to_string().as_bytes()), "get {n}");
    }
}

#[test]
fn cut_in_two_at_every_byte() {
    let server = Server::usual();
    let (bytes, check) = conversation();
    let mut client = server.connect();
    for cut in 1..bytes.len() {
        client.send(&bytes[..cut]).expect("send");
        thread::sleep(APART);
        client.send(&bytes[cut..]).expect("send");
        check(&mut client);
    }
}

#[test]
fn byte_by_byte() {
    let server = Server::usual();
    let (bytes, check) = conversation();
    let mut client = server.connect();
    for byte in &bytes {
        client.send(&[*byte]).expect("send");
        thread::sleep(APART);
    }
    check(&mut client);
}

#[test]
fn in_pieces_of_every_size() {
    let server = Server::usual();
    let (bytes, check) = conversation();
    let mut client = server.connect();
    for size in [2, 3, 7, 8, 9, 21, 22, 23, 30, 31, 64, 100] {
        for piece in bytes.chunks(size) {
            client.send(piece).expect("send");
            thread::sleep(APART);
        }
        check(&mut client);
    }
}

#[test]
fn an_error_does_not_disturb_its_neighbours() {
    let mut server = Server::usual();
    server.allow("unknown namespace");
    let mut client = server.connect();
    let put = Message::put("neighbour", b"1".to_vec()).encode();
    let bad = Message::on_record("nowhere", "rig", "k").with_operation(wire::Operation::read("b")).encode();
    client.send(&[put.clone(), bad.clone(), put.clone(), bad, put].concat()).expect("send");
    let expected = [result::OK, result::NAMESPACE, result::OK, result::NAMESPACE, result::OK];
    let results = expected.map(|_| client.receive_message().expect("an answer").result);
    assert_eq!(results, expected);
}

/// The values are larger than any buffer that a server keeps for a connection.
#[test]
fn large_values_between_small_ones_arrive_in_order() {
    let server = Server::usual();
    let mut client = server.connect();
    let large: Vec<u8> = (0..900_000_u32).map(|n| n as u8).collect();
    let mut bytes = Vec::new();
    for n in 0..5 {
        bytes.extend(Message::put(&key(n), large[n..].to_vec()).encode());
        bytes.extend(Message::get(&key(n)).encode());
        bytes.extend(Message::put(&key(n), b"small".to_vec()).encode());
        bytes.extend(Message::get(&key(n)).encode());
    }
    thread::scope(|scope| {
        let mut sender = Client::from(client.socket().try_clone().expect("the socket twice"));
        scope.spawn(move || sender.send(&bytes).expect("send"));
        for n in 0..5 {
            assert_eq!(client.receive_message().expect("an answer").result, result::OK);
            assert!(client.receive_message().expect("an answer").bin("b") == Some(&large[n..]), "value {n}");
            assert_eq!(client.receive_message().expect("an answer").result, result::OK);
            assert_eq!(client.receive_message().expect("an answer").bin("b"), Some(&b"small"[..]));
        }
    });
}

/// A request with its expected answers.
enum Step {
    Put(u64),
    Get,
    Info,
    /// A batch of this many reads. Other threads process a large batch.
    Batch(usize),
    /// A frame that the server reads, but refuses.
    Refused,
}

impl Step {
    fn any(random: &mut Random) -> Step {
        match random.within(0..20) {
            0..8 => Step::Put(random.number()),
            8..16 => Step::Get,
            16 => Step::Info,
            17 => Step::Batch(3),
            18 => Step::Batch(300),
            _ => Step::Refused,
        }
    }

    fn encode(&self, key: &str) -> Vec<u8> {
        match self {
            Step::Put(value) => Message::put(key, value.to_be_bytes().to_vec()).encode(),
            Step::Get => Message::get(key).encode(),
            Step::Info => wire::info_request("status"),
            Step::Batch(rows) => Message::get_all(iter::repeat_n(key, *rows)).encode(),
            Step::Refused => Message::on_record("test", "rig", key).encode(),
        }
    }

    /// Receives the answer. `last` is the value of the record.
    fn check(&self, client: &mut Client, last: &mut Option<u64>) {
        if let Step::Info = self {
            let info = Frame { kind: kind::INFO, body: b"status\tok\n".to_vec() };
            return assert_eq!(client.receive().expect("an answer"), info);
        }
        if let Step::Batch(rows) = self {
            return check_batch(client, *rows, *last);
        }
        let answer = client.receive_message().expect("an answer");
        match self {
            Step::Put(value) => {
                assert_eq!(answer.result, result::OK);
                *last = Some(*value);
            }
            Step::Get => {
                assert_eq!(answer.bin("b"), last.map(u64::to_be_bytes).as_ref().map(|value| &value[..]));
            }
            _ => assert_eq!(answer.result, result::PARAMETER),
        }
    }
}

fn check_batch(client: &mut Client, rows: usize, last: Option<u64>) {
    let mut seen = 0;
    loop {
        for row in client.receive().expect("a frame").messages().expect("messages") {
            if row.info3 & info3::LAST != 0 {
                return assert_eq!((row.result, seen), (result::OK, rows));
            }
            assert_eq!(row.bin("b"), last.map(u64::to_be_bytes).as_ref().map(|value| &value[..]));
            seen += 1;
        }
    }
}

/// Many clients at once, each with its own record. Each sends a pipeline of requests of all kinds, in pieces
/// of any size.
fn many_conversations(server: &Server) {
    const CLIENTS: u64 = 40;
    const ROUNDS: u32 = 6;
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = server.connect();
            scope.spawn(move || {
                let (mut random, key) = (Random::new(number), format!("of client {number}"));
                let mut last = None;
                for _ in 0..ROUNDS {
                    let steps: Vec<Step> = (0..50).map(|_| Step::any(&mut random)).collect();
                    let bytes: Vec<u8> = steps.iter().flat_map(|step| step.encode(&key)).collect();
                    let mut sender = Client::from(client.socket().try_clone().expect("the socket twice"));
                    let size = random.within(100..10_000) as usize;
                    thread::scope(|scope| {
                        scope.spawn(move || {
                            for piece in bytes.chunks(size) {
                                sender.send(piece).expect("send");
                            }
                        });
                        steps.iter().for_each(|step| step.check(&mut client, &mut last));
                    });
                }
            });
        }
    });
}

/// Replies are held before some of the requests behind them have been carried out. When they are released,
/// their thread must be woken.
#[test]
fn requests_after_held_replies_are_answered_at_once() {
    let storage = ["file {dir}/test.dat", "filesize 256M", "commit-to-device true"];
    let server = Server::start(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("large", vec![7; 10 << 10])).expect("an answer").result, result::OK);
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let reads = 60;
        let mut requests = Message::put("held", b"value".to_vec()).encode();
        (0..reads).for_each(|_| requests.extend(Message::get("large").encode()));
        let begun = Instant::now();
        client.send(&requests).expect("it is read");
        for _ in 0..=reads {
            assert_eq!(client.receive_message().expect("an answer").result, result::OK);
        }
        shortest = shortest.min(begun.elapsed());
    }
    // A thread that is not woken checks once a second.
    assert!(shortest < Duration::from_millis(500), "{shortest:?}");
}

#[test]
fn many_conversations_at_once() {
    let mut server = Server::usual();
    server.allow("neither read nor write");
    many_conversations(&server);
}

#[test]
fn many_conversations_whose_answers_wait_for_the_disk() {
    let storage = ["file {dir}/test.dat", "filesize 256M", "commit-to-device true"];
    let mut server = Server::start(&stored_config("test", "device", &storage));
    server.allow("neither read nor write");
    many_conversations(&server);
}
