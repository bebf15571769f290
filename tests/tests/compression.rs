//! Compressed messages: a compressed request has the effect of a plain one, and a client gets compressed
//! answers if it asks for them. Wrong sizes, nested frames and damaged streams are refused, and cost other
//! clients neither memory nor time.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::random::Random;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{
    Frame, Message, Operation, announcing, body_size, compressed, frame, info1, kind, operation, result, zlib,
};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

const ASKS_FOR_COMPRESSION: u8 = 0x80;
/// Answers up to this size are not compressed.
const THRESHOLD: usize = 128;

/// Text that can be compressed well.
fn text(size: usize) -> Vec<u8> {
    (0..size).map(|n| b"a line of text, again and again\n"[n % 32]).collect()
}

fn asking(request: Message) -> Message {
    Message { info1: request.info1 | ASKS_FOR_COMPRESSION, ..request }
}

/// A figure in the answer to the info name `info`.
fn figure(client: &mut Client, info: &str, name: &str) -> f64 {
    let answer = client.info_value(info).unwrap();
    let value = answer.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().parse().unwrap()
}

/// The next frame, and whether it was compressed.
fn receive(client: &mut Client) -> (Frame, bool) {
    let outer = client.receive().unwrap();
    if outer.kind != kind::COMPRESSED {
        return (outer, false);
    }
    let (size, stream) = outer.body.split_first_chunk::<8>().unwrap();
    let mut original = Vec::new();
    ZlibDecoder::new(stream).read_to_end(&mut original).unwrap();
    assert_eq!(u64::from_be_bytes(*size), original.len() as u64, "the announced size");
    assert!(outer.body.len() + 8 < original.len(), "only what shrinks is compressed");
    assert_eq!(body_size(original.first_chunk().unwrap()), original.len() as u64 - 8);
    (Frame::decode(&original).unwrap(), true)
}

/// The single message of the next frame, and whether the frame was compressed.
fn receive_message(client: &mut Client) -> (Message, bool) {
    let (frame, is_compressed) = receive(client);
    let mut messages = frame.messages().unwrap();
    assert_eq!(messages.len(), 1);
    (messages.remove(0), is_compressed)
}

/// The number of rows in an answer of several messages, and the number of its compressed frames.
fn receive_rows(client: &mut Client) -> (usize, usize) {
    let (mut rows, mut compressed_frames) = (0, 0);
    loop {
        let (frame, is_compressed) = receive(client);
        compressed_frames += usize::from(is_compressed);
        for message in frame.messages().unwrap() {
            assert_eq!(message.result, result::OK);
            if message.is_last() {
                return (rows, compressed_frames);
            }
            rows += usize::from(!message.operations.is_empty());
        }
    }
}

#[test]
fn requests_may_be_compressed_and_answers_are_if_that_is_asked_for() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    // These are inflated by the service thread, by another thread, and in many pieces.
    for size in [50, 20_000, 200_000, 1_000_000] {
        let key = format!("compressed-{size}");
        let put = Message::put(&key, text(size));
        client.send(&compressed(&put.encode())).unwrap();
        assert_eq!(receive_message(&mut client).0.result, result::OK);
        let get = Message::get(&key);
        assert_eq!(client.ask(&get).unwrap().bin("b"), Some(&text(size)[..]), "clear, as nobody asked");
        for request in [asking(get.clone()).encode(), compressed(&asking(get).encode())] {
            client.send(&request).unwrap();
            let (answer, is_compressed) = receive_message(&mut client);
            assert_eq!((answer.result, answer.bin("b")), (result::OK, Some(&text(size)[..])));
            assert_eq!(is_compressed, size > THRESHOLD, "{size}");
        }
    }
    client.send(&asking(Message::get("nothing")).encode()).unwrap();
    let (answer, is_compressed) = receive_message(&mut client);
    assert_eq!((answer.result, is_compressed), (result::NOT_FOUND, false));
}

#[test]
fn requests_are_answered_in_order_whichever_thread_inflates_them() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let mut requests = Vec::new();
    for n in 0..60_usize {
        let size = [10, 3_000, 90_000][n % 3];
        let put = Message::put(&format!("order-{}", n % 7), vec![n as u8; size]);
        let get = asking(Message::get(&format!("order-{}", n % 7)));
        let put = if n % 2 == 0 { compressed(&put.encode()) } else { put.encode() };
        requests.extend(put);
        requests.extend(if n % 5 == 0 { compressed(&get.encode()) } else { get.encode() });
    }
    client.send(&requests).unwrap();
    for n in 0..60_usize {
        assert_eq!(receive_message(&mut client).0.result, result::OK);
        let size = [10, 3_000, 90_000][n % 3];
        let (answer, is_compressed) = receive_message(&mut client);
        assert_eq!(answer.bin("b"), Some(&vec![n as u8; size][..]));
        assert_eq!(is_compressed, size > THRESHOLD);
    }
}

#[test]
fn batches_and_queries_come_in_compressed_frames() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let keys: Vec<String> = (0..400).map(|n| format!("rows-{n}")).collect();
    for key in &keys {
        assert_eq!(client.ask(&Message::put(key, text(2_000))).unwrap().result, result::OK);
    }
    let batch = asking(Message::get_all(keys.iter().map(String::as_str)));
    for request in [batch.encode(), compressed(&batch.encode())] {
        client.send(&request).unwrap();
        let (rows, compressed_frames) = receive_rows(&mut client);
        assert!(rows == keys.len() && compressed_frames > 0, "{rows} rows, {compressed_frames} frames");
    }
    let few = asking(Message::get_all(["rows-1", "rows-2"].into_iter()));
    client.send(&few.encode()).unwrap();
    assert_eq!(receive_rows(&mut client), (2, 1));
    let scan = asking(Message::scan("test"));
    client.send(&compressed(&scan.encode())).unwrap();
    let (rows, compressed_frames) = receive_rows(&mut client);
    assert!(rows == keys.len() && compressed_frames > 0, "{rows} rows, {compressed_frames} frames");
    // Clients that do not ask for compression get plain answers.
    client.send(&Message::scan("test").encode()).unwrap();
    assert_eq!(receive_rows(&mut client), (keys.len(), 0));

    for name in ["record_proto_compression_ratio", "query_proto_compression_ratio"] {
        let ratio = figure(&mut client, "namespace/test", name);
        assert!(if name.starts_with("query") { ratio < 0.1 } else { ratio == 1.0 }, "{name} {ratio}");
    }
    assert!(figure(&mut client, "statistics", "batch_index_proto_compression_ratio") < 0.1);
    client.send(&asking(Message::get("rows-1")).encode()).unwrap();
    assert!(receive_message(&mut client).1);
    assert!(figure(&mut client, "namespace/test", "record_proto_compression_ratio") < 0.1);
    assert_eq!(figure(&mut client, "namespace/test", "record_proto_uncompressed_pct"), 0.0);
}

#[test]
fn a_batch_that_other_threads_go_on_with_is_compressed_from_its_first_frame() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let keys: Vec<String> = (0..200).map(|n| format!("large-{n}")).collect();
    for key in &keys {
        assert_eq!(client.ask(&Message::put(key, text(16_000))).unwrap().result, result::OK);
    }
    // A service thread begins the batch, and passes the rest on after a mebibyte of replies.
    client.send(&asking(Message::get_all(keys.iter().map(String::as_str))).encode()).unwrap();
    let mut rows = 0;
    loop {
        let (frame, is_compressed) = receive(&mut client);
        let messages = frame.messages().unwrap();
        let with_bins = messages.iter().filter(|message| !message.operations.is_empty()).count();
        assert!(with_bins == 0 || is_compressed, "{with_bins} rows in a clear frame behind {rows}");
        rows += with_bins;
        if messages.iter().any(Message::is_last) {
            break;
        }
    }
    assert_eq!(rows, keys.len());
}

#[test]
fn answers_that_do_not_shrink_are_counted() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    let noise = Random::new(7).bytes(1_000);
    assert_eq!(client.ask(&Message::put("noise", noise)).unwrap().result, result::OK);
    client.send(&asking(Message::get("noise")).encode()).unwrap();
    assert!(!receive_message(&mut client).1, "it stays clear");
    client.send(&asking(Message::get_all(["noise"].into_iter())).encode()).unwrap();
    assert_eq!(receive_rows(&mut client), (1, 0));
    client.send(&asking(Message::scan("test")).encode()).unwrap();
    assert_eq!(receive_rows(&mut client), (1, 0));
    for name in ["record_proto_uncompressed_pct", "query_proto_uncompressed_pct"] {
        assert_eq!(figure(&mut client, "namespace/test", name), 100.0, "{name}");
    }
    assert_eq!(figure(&mut client, "statistics", "batch_index_proto_uncompressed_pct"), 100.0);
}

#[test]
fn invalid_compressed_messages_are_refused_and_the_connection_continues() {
    let mut server = Server::start(&usual_config());
    server.allow("bad compressed message from");
    server.allow("bad message from");
    let mut client = server.connect();
    let get = Message::get("nothing").encode();
    let (size, stream) = (get.len() as u64, zlib(&get));
    let large = Message::put("large", text(300_000)).encode();
    let mut damaged = zlib(&large);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    let bad = [
        ("nothing", frame(kind::COMPRESSED, &[])),
        ("a size alone", frame(kind::COMPRESSED, &100_u64.to_be_bytes())),
        ("no stream", announcing(100, b"not a stream at all")),
        ("a size too small", announcing(size - 1, &stream)),
        ("a size too large", announcing(size + 1, &stream)),
        ("the largest size", announcing(128 << 20, &stream)),
        ("a size that no message has", announcing((128 << 20) + 9, &stream)),
        ("a size of no number", announcing(u64::MAX, &stream)),
        ("no header in it", announcing(4, &zlib(b"four"))),
        ("something behind the stream", announcing(size, &[&stream[..], b"!"].concat())),
        ("a stream cut short", announcing(size, &stream[..stream.len() - 2])),
        ("a damaged stream", announcing(large.len() as u64, &damaged)),
        ("a compressed message in it", compressed(&compressed(&get))),
        ("an info request in it", compressed(&frame(kind::INFO, b"status\n"))),
        ("a login in it", compressed(&frame(kind::SECURITY, &[0; 16]))),
        ("two messages in it", compressed(&[&get[..], &get].concat())),
        ("a bad message in it", compressed(&frame(kind::MESSAGE, &[22; 10]))),
    ];
    let before = client.figure("statistics", "demarshal_error").unwrap();
    for (what, request) in &bad {
        client.send(request).unwrap();
        let (answer, _) = receive_message(&mut client);
        assert_eq!(answer.result, result::PARAMETER, "{what}");
        client.send(&compressed(&get)).unwrap();
        assert_eq!(receive_message(&mut client).0.result, result::NOT_FOUND, "after {what}");
    }
    assert_eq!(client.figure("statistics", "demarshal_error").unwrap() - before, bad.len() as u64);
}

/// Each is 128 MiB of zeros in 128 KiB. Many clients send one at once: they wait for each other and delay no
/// others, because not all fit in memory.
#[test]
fn bombs_take_neither_memory_nor_time_of_others() {
    let mut server = Server::start(&usual_config());
    server.allow("bad message from");
    server.allow("bytes of inflated requests are not carried out");
    server.allow("bad compressed message from");
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let size = 120_u64 << 20;
    encoder.write_all(&ferrospike_tests::wire::frame_header(kind::MESSAGE, size - 8)).unwrap();
    for _ in 0..120 {
        encoder.write_all(&vec![0; 1 << 20][..(1 << 20) - 8 * usize::from(encoder.total_in() < 9)]).unwrap();
    }
    let honest = announcing(size, &encoder.finish().unwrap());
    let lying = announcing(1000, &honest[16..]);
    let mut client = server.connect();
    let before = server.resident_megabytes().unwrap_or(0);
    let mut others: Vec<Client> = (0..24).map(|_| server.connect()).collect();
    for (n, other) in others.iter_mut().enumerate() {
        other.send(if n % 2 == 0 { &honest } else { &lying }).unwrap();
    }
    let (mut slowest, mut largest, started) = (Duration::ZERO, 0, Instant::now());
    while started.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        assert_eq!(client.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
        slowest = slowest.max(asked.elapsed());
        largest = largest.max(server.resident_megabytes().unwrap_or(0).saturating_sub(before));
    }
    for mut other in others {
        assert!([result::PARAMETER, result::TIMEOUT].contains(&receive_message(&mut other).0.result));
    }
    assert!(largest < 1_200, "{largest} MB for 24 bombs of 120 MB");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn long_requests_are_compressed_both_ways() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    // Many ops on a large bin are carried out by a thread of the transaction pool.
    assert_eq!(client.ask(&Message::put("long", text(900_000))).unwrap().result, result::OK);
    let mut request = Message { info1: info1::READ | ASKS_FOR_COMPRESSION, ..Message::on("long") };
    for _ in 0..20 {
        request = request.with_operation(Operation::bare(operation::READ, "b"));
    }
    client.send(&compressed(&request.encode())).unwrap();
    let (answer, is_compressed) = receive_message(&mut client);
    assert!(is_compressed && answer.operations.len() == 20);
}
