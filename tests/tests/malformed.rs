//! Answers to malformed requests: the result code or the end of the connection, as on the C server. All other
//! connections continue.

use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::corpus;
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{
    self, BODY_SIZE_MAX, Message, Operation, field, frame, frame_header, info1, info2, info3, kind,
    operation, result,
};

/// A part of the log lines that malformed requests may cause.
const MENTIONED: &str = "WARNING";

/// The server's reaction to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The server answers with this result code, and keeps the connection.
    Result(u8),
    /// The server closes the connection without an answer.
    Closed,
}

fn usual() -> Server {
    let mut server = Server::usual();
    server.allow(MENTIONED);
    server
}

fn outcome(client: &mut Client) -> Outcome {
    match client.receive_message() {
        Ok(message) => Outcome::Result(message.result),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Outcome::Closed,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Outcome::Closed,
        Err(error) => panic!("neither an answer nor the end: {error}"),
    }
}

/// Sends each case on its own connection and compares the outcome. A connection that stays open must still
/// work.
fn check(cases: &[(&str, Vec<u8>, Outcome)]) {
    let server = usual();
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        let mut client = server.connect();
        client.send(bytes).expect("send");
        let got = outcome(&mut client);
        if got != *expected {
            wrong.push(format!("{name}: expected {expected:?}, got {got:?}"));
        }
        if got != Outcome::Closed {
            let after = client.ask(&Message::get("never written")).map(|message| message.result);
            assert_eq!(after.ok(), Some(result::NOT_FOUND), "{name}: the connection does not go on");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A valid request with a changed body.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Message::get("malformed").body();
    change(&mut body);
    frame(kind::MESSAGE, &body)
}

/// A valid request whose counts of fields and operations are overwritten.
fn counts(fields: u16, operations: u16) -> Vec<u8> {
    altered(|body| {
        body[18..20].copy_from_slice(&fields.to_be_bytes());
        body[20..22].copy_from_slice(&operations.to_be_bytes());
    })
}

/// A read of one bin in whose operation header two lengths are overwritten: that of the operation and that of
/// its name.
fn operation_sizes(size: u32, name_size: u8) -> Vec<u8> {
    let request = Message { info1: info1::READ, ..Message::on("malformed") };
    let mut body = request.with_operation(Operation::read("a")).body();
    let start = body.len() - 9;
    body[start..start + 4].copy_from_slice(&size.to_be_bytes());
    body[start + 7] = name_size;
    frame(kind::MESSAGE, &body)
}

/// A message with one field, given as bytes.
fn one_field(bytes: &[u8]) -> Vec<u8> {
    let mut body = Message { info1: info1::READ | info1::GET_ALL, ..Message::default() }.body();
    body[19] = 1;
    body.extend(bytes);
    frame(kind::MESSAGE, &body)
}

#[test]
fn frames_of_no_known_kind_end_the_connection() {
    let body = Message::get("malformed").body();
    let with =
        |version: u8, kind: u8| [&[version, kind, 0, 0, 0, 0, 0, body.len() as u8], &body[..]].concat();
    check(&[
        ("version 0", with(0, kind::MESSAGE), Outcome::Closed),
        ("version 1", with(1, kind::MESSAGE), Outcome::Closed),
        ("version 3", with(3, kind::MESSAGE), Outcome::Closed),
        ("version 255", with(255, kind::MESSAGE), Outcome::Closed),
        ("kind 0", with(2, 0), Outcome::Closed),
        ("kind 6", with(2, 6), Outcome::Closed),
        ("kind 255", with(2, 255), Outcome::Closed),
        (
            "a TLS hello",
            [&[0x16, 3, 1, 0, 0xf8, 1, 0, 0, 0xf4, 3, 3][..], &[7; 100]].concat(),
            Outcome::Closed,
        ),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Outcome::Closed),
        ("a body too long", frame_header(kind::MESSAGE, BODY_SIZE_MAX + 1).to_vec(), Outcome::Closed),
        ("the longest length", frame_header(kind::MESSAGE, (1 << 48) - 1).to_vec(), Outcome::Closed),
        ("info too long", frame_header(kind::INFO, (1 << 48) - 1).to_vec(), Outcome::Closed),
    ]);
}

#[test]
fn messages_cut_short_or_too_long_are_parameter_errors() {
    let parameter = Outcome::Result(result::PARAMETER);
    check(&[
        ("an empty body", frame(kind::MESSAGE, &[]), parameter),
        ("half a header", altered(|body| body.truncate(10)), parameter),
        ("a header less a byte", altered(|body| body.truncate(21)), parameter),
        ("fields cut short", altered(|body| body.truncate(40)), parameter),
        ("a byte missing", altered(|body| body.truncate(body.len() - 1)), parameter),
        ("a byte left over", altered(|body| body.push(0)), parameter),
        ("a field too many", counts(4, 0), parameter),
        ("a field too few", counts(2, 0), parameter),
        ("as many fields as can be", counts(u16::MAX, 0), parameter),
        ("an operation too many", counts(3, 1), parameter),
        ("as many operations as can be", counts(3, u16::MAX), parameter),
        ("a field of no size", one_field(&[0, 0, 0, 0, 0]), parameter),
        ("a field longer than the body", one_field(&[0, 0, 0, 9, 0, b't']), parameter),
        ("a field as long as can be", one_field(&[0xff, 0xff, 0xff, 0xff, 0, b't']), parameter),
        ("an operation smaller than its header", operation_sizes(3, 0), parameter),
        ("an operation smaller than its name", operation_sizes(4, 1), parameter),
        ("an operation longer than the body", operation_sizes(6, 1), parameter),
        ("an operation as long as can be", operation_sizes(u32::MAX, 1), parameter),
        ("a name longer than its operation", operation_sizes(5, 200), parameter),
    ]);
}

#[test]
fn requests_that_name_no_record_are_refused() {
    let get = Message::get("malformed");
    let without = |field_type: u8| {
        let mut request = get.clone();
        request.fields.retain(|(t, _)| *t != field_type);
        request
    };
    let with = |field_type: u8, value: &[u8]| without(field_type).with_field(field_type, value).encode();
    let neither = Message { info1: 0, ..get.clone() }.encode();
    check(&[
        ("no namespace", without(field::NAMESPACE).encode(), Outcome::Result(result::NAMESPACE)),
        ("an unknown namespace", with(field::NAMESPACE, b"nowhere"), Outcome::Result(result::NAMESPACE)),
        ("an empty namespace", with(field::NAMESPACE, b""), Outcome::Result(result::NAMESPACE)),
        ("a namespace too long", with(field::NAMESPACE, &[b'n'; 32]), Outcome::Result(result::NAMESPACE)),
        ("a digest too short", with(field::DIGEST, &[1; 19]), Outcome::Result(result::PARAMETER)),
        ("a digest too long", with(field::DIGEST, &[1; 21]), Outcome::Result(result::PARAMETER)),
        ("neither read nor write", neither, Outcome::Result(result::PARAMETER)),
    ]);
}

#[test]
fn superfluous_parts_of_a_request_are_ignored() {
    let missing = Outcome::Result(result::NOT_FOUND);
    let get = Message::get("malformed");
    let repeated = get.fields.iter().fold(get.clone(), |request, (t, value)| request.with_field(*t, value));
    check(&[
        ("an unknown field", get.clone().with_field(200, b"anything").encode(), missing),
        ("every field twice", repeated.encode(), missing),
        ("another size of header", altered(|body| body[0] = 0), missing),
        ("a result code", altered(|body| body[5] = 77), missing),
    ]);
}

#[test]
fn invalid_compressed_messages_are_refused() {
    let refused = Outcome::Result(result::PARAMETER);
    let claim =
        |size: u64| frame(kind::COMPRESSED, &[&size.to_be_bytes()[..], &[0x78, 0x9c, 1, 2, 3]].concat());
    check(&[
        ("empty", frame(kind::COMPRESSED, &[]), refused),
        ("small", claim(100), refused),
        ("a bomb", claim(u64::MAX), refused),
    ]);
}

#[test]
fn security_is_not_enabled() {
    let server = usual();
    let login = [&[0, 0, 20, 2][..], &[0; 12], &[0, 0, 0, 5, 0], b"user", &[0, 0, 0, 5, 3], b"hash"].concat();
    for body in [&[][..], &[0; 16], &login] {
        let mut client = server.connect();
        client.send(&frame(kind::SECURITY, body)).expect("send");
        let answer = client.receive().expect("an answer");
        assert_eq!((answer.kind, answer.body.len()), (kind::SECURITY, 16));
        assert_eq!(answer.body[1], result::SECURITY_NOT_ENABLED, "the second byte is the result");
        assert_eq!(client.info_value("status").expect("the connection goes on"), "ok");
    }
}

#[test]
fn info_of_odd_shape() {
    let server = usual();
    let ask = |names: &[u8]| {
        let mut client = server.connect();
        client.send(&frame(kind::INFO, names)).expect("send");
        corpus::latin1(&client.receive().expect("an answer").body)
    };
    assert!(ask(b"").contains("features\t"), "no name asks for the default set");
    assert!(ask(b"status\r\n").starts_with("status\r\tERROR:4:"));
    assert!(ask(b"\0\n").contains("\tERROR:4:"));
    let long = "x".repeat(10_000);
    assert!(ask(format!("{long}\n").as_bytes()).contains("\tERROR:4:"));
    let many = "status\n".repeat(5_000);
    assert_eq!(ask(many.as_bytes()).lines().filter(|line| *line == "status\tok").count(), 5_000);
}

#[test]
fn half_a_request_closes_the_connection() {
    let server = usual();
    let request = Message::get("malformed").encode();
    for size in 0..request.len() {
        let mut client = server.connect();
        client.send(&request[..size]).expect("send");
        client.finish_sending().expect("half-close");
        assert!(client.is_closed_by_server(), "after {size} bytes");
    }
    let mut client = server.connect();
    client.send(&request).expect("send");
    client.finish_sending().expect("half-close");
    assert_eq!(client.receive_message().expect("the request was whole").result, result::NOT_FOUND);
    assert!(client.is_closed_by_server());
}

#[test]
fn announced_lengths_reserve_no_memory() {
    let server = usual();
    let promise = frame_header(kind::MESSAGE, BODY_SIZE_MAX);
    let promisers: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = server.connect();
            client.send(&promise).expect("send");
            client.send(&Message::get("malformed").body()).expect("send");
            client
        })
        .collect();
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("promise", vec![1; 100])).expect("an answer").result, result::OK);
    if let Some(megabytes) = server.resident_megabytes() {
        assert!(megabytes < 2_000, "{megabytes} MB resident");
    }
    drop(promisers);
}

/// Requests of the recorded random traffic, with some bytes changed. Each is answered or ends its connection,
/// and the server continues. Every run changes the same bytes.
#[test]
fn mutated_requests_do_no_harm() {
    let server = usual();
    let path = corpus::folder().join("random-kv.jsonl.gz");
    let requests: Vec<Vec<u8>> = corpus::open(&path)
        .expect("the corpus")
        .take(4_000)
        .map(|step| step.expect("a step").request)
        .collect();
    let patience = Duration::from_secs(20);
    let connect = || Client::connect_patiently(server.address(), patience).expect("connect");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut client = connect();
    for request in requests {
        let mut mutated = request.clone();
        for _ in 0..1 + random.below(4) {
            // The header of the frame stays, so that each request is complete.
            let at = 8 + random.below(mutated.len() - 8);
            mutated[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => mutated[at] ^ (1 << random.below(8)),
                _ => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            };
        }
        // The changed request may be a query with further answers, so the connection is dropped unless there
        // was only one answer.
        let answered = client.send(&mutated).and_then(|()| client.receive());
        if let Err(error) = &answered {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "neither answered nor closed: {mutated:02x?}"
            );
        }
        let alone = answered.is_ok_and(|frame| frame.messages().is_some_and(|all| all.len() == 1));
        if !alone {
            client = connect();
        }
    }
    assert_eq!(connect().ask(&Message::delete("mutated")).expect("an answer").result, result::NOT_FOUND);
}

/// The key differs from the one that is stored under the digest: it is forged, or a collision.
#[test]
fn a_key_that_is_not_the_stored_one_is_refused() {
    const KEY_MISMATCH: u8 = 19;
    let server = usual();
    let mut client = server.connect();
    let stored = |name: &str| [&[wire::particle::STRING][..], name.as_bytes()].concat();
    let write = || Message::put("key check", vec![1]);
    client.ask(&Message::delete("key check")).expect("an answer");
    let first = client.ask(&write().with_field(field::KEY, &stored("key check"))).expect("an answer");
    assert_eq!(first.result, result::OK);
    let forged = client.ask(&write().with_field(field::KEY, &stored("another"))).expect("an answer");
    assert_eq!(forged.result, KEY_MISMATCH);
    let read = client.ask(&Message::get("key check").with_field(field::KEY, &stored("another")));
    assert_eq!(read.expect("an answer").result, KEY_MISMATCH);
}

/// A refused write has no effect at all.
#[test]
fn a_refused_write_changes_nothing() {
    let server = usual();
    let mut client = server.connect();
    client.ask(&Message::delete("refused")).expect("an answer");
    assert_eq!(
        client.ask(&Message::put("refused", b"before".to_vec())).expect("an answer").result,
        result::OK
    );
    let name_too_long = Operation::integer(operation::WRITE, "a name of more than fifteen", 1);
    let wrong_type = Operation::integer(operation::INCR, "b", 1);
    for operation in [name_too_long, wrong_type] {
        let write = Message { info2: info2::WRITE, ..Message::on("refused") }
            .with_operation(Operation::blob(operation::WRITE, "b", b"after".to_vec()))
            .with_operation(operation);
        assert_ne!(client.ask(&write).expect("an answer").result, result::OK);
    }
    let record = client.ask(&Message::get("refused")).expect("an answer");
    assert_eq!((record.generation, record.bin("b")), (1, Some(&b"before"[..])));
}

/// A small random number generator (xorshift), so that failures can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The client of a batch reads until a message says that it is the last one.
#[test]
fn the_answer_to_a_malformed_batch_is_the_last_one() {
    let server = usual();
    let mut client = server.connect();
    let batch = |rest: &[u8]| {
        let mut body = Message { info1: info1::READ | info1::BATCH, ..Message::default() }.body();
        body[19] = 1;
        body.extend(rest);
        body
    };
    let mut size_of_header = batch(&[0, 0, 0, 1, field::BATCH]);
    size_of_header[0] = 21;
    for body in [
        batch(&[0, 0, 1, 0, field::BATCH, 1]),
        batch(&[0, 0, 0, 0]),
        batch(&[0, 0, 0, 1, field::BATCH]),
        batch(&[0, 0, 0, 6, field::BATCH, 0, 0, 0, 3, 0]),
        batch(&[])[..12].to_vec(),
        size_of_header,
    ] {
        client.send(&frame(kind::MESSAGE, &body)).expect("send");
        let answer = client.receive_message().expect("an answer");
        assert_eq!((answer.result, answer.info3 & info3::LAST), (result::PARAMETER, info3::LAST), "{body:?}");
    }
}
