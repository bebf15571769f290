//! Requests that are too long for a service thread: they delay no others, change a record exactly once, and
//! end when no client waits for them any more.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::await_figures;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{Message, Operation, field, info2, operation, result};

/// The transaction pool writes and reads records of this size.
const LARGE: usize = 4 << 20;
const WRITERS: i64 = 6;
const WRITES: i64 = 40;

/// A server that accepts such records.
fn start(engine: &str, storage: &[&str]) -> Server {
    Server::start(&stored_config_with("test", &["max-record-size 8M"], engine, storage))
}

/// Adds 1 to a counter in the large record of `key`.
fn increment(key: &str) -> Message {
    Message::write(key).with_operation(Operation::integer(operation::INCR, "n", 1))
}

fn count(server: &Server, key: &str) -> i64 {
    let record = server.connect().ask(&Message::get(key)).unwrap();
    assert_eq!(record.result, result::OK);
    i64::from_be_bytes(record.bin("n").unwrap().try_into().unwrap())
}

/// The result of `ask`. It is repeated while the device cannot keep up.
fn until_not_overloaded(mut ask: impl FnMut() -> u8) -> u8 {
    loop {
        match ask() {
            result::DEVICE_OVERLOAD => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// Every writer computes from a copy, and must not overwrite another writer's change.
#[test]
fn writers_of_a_large_record_count_exactly() {
    let mut server = start("device", &["file {dir}/data", "filesize 1G"]);
    let put = Message::put("large", vec![7; LARGE]);
    assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..WRITES {
                    let request = Message { transaction_ttl: 60_000, ..increment("large") };
                    // Each write takes a whole block, and the device may be too slow for that.
                    let is_done = || client.ask(&request).unwrap().result;
                    assert_eq!(until_not_overloaded(is_done), result::OK);
                    // A short request on the same connection is carried out by a service thread.
                    let is_done = || client.ask(&increment("small")).unwrap().result;
                    assert_eq!(until_not_overloaded(is_done), result::OK);
                }
            });
        }
    });
    for key in ["large", "small"] {
        assert_eq!(count(&server, key), WRITERS * WRITES, "{key}");
    }
    server.kill9();
    server.restart();
    let record = server.connect().ask(&Message::get("large")).unwrap();
    assert_eq!(record.bin("b").unwrap().len(), LARGE);
}

/// A create, a delete and a filtered request have the same answers in the pool as on a service thread.
#[test]
fn the_pool_answers_as_a_service_thread_does() {
    let server = start("memory", &["data-size 1G"]);
    let mut client = server.connect();
    let put = Message::put("large", vec![7; LARGE]);
    assert_eq!(client.ask(&put).unwrap().result, result::OK);
    let again = client.ask(&put).unwrap();
    assert_eq!((again.result, again.generation), (result::OK, 2));
    let read = client.ask(&Message::get("large")).unwrap();
    assert_eq!((read.result, read.generation, read.bin("b").unwrap().len()), (result::OK, 2, LARGE));
    let create_only = Message { info2: put.info2 | info2::CREATE_ONLY, ..put.clone() };
    assert_eq!(client.ask(&create_only).unwrap().result, result::EXISTS);
    let too_big = Message::put("large", vec![7; 9 << 20]);
    assert_eq!(client.ask(&too_big).unwrap().result, result::RECORD_TOO_BIG);
    assert_eq!(client.ask(&Message::delete("large")).unwrap().result, result::OK);
    assert_eq!(client.ask(&Message::get("large")).unwrap().result, result::NOT_FOUND);
    assert_eq!(client.ask(&Message::delete("large")).unwrap().result, result::NOT_FOUND);
}

#[test]
fn a_batch_ends_when_its_client_has_gone() {
    let server = start("memory", &["data-size 1G"]);
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("large", vec![7; LARGE])).unwrap().result, result::OK);
    let rows = 20_000;
    let mut gone = server.connect();
    gone.send(&Message::get_all(vec!["large"; rows].into_iter()).encode()).unwrap();
    await_figures(&mut client, "namespace/test", |now| now["batch_sub_read_success"] > 0);
    drop(gone);
    await_figures(&mut client, "statistics", |now| {
        now["batch_index_complete"] + now["batch_index_error"] + now["batch_index_timeout"] == 1
    });
    let read = client.figure("namespace/test", "batch_sub_read_success").unwrap();
    assert!(read < rows as u64 / 2, "{read} rows were read, most of them for nobody");
    // The small batch of another client gets its turn.
    client.send(&Message::get_all(vec!["none"; 300].into_iter()).encode()).unwrap();
    while !client.receive().unwrap().holds_last() {}
}

#[test]
fn a_stop_ends_reads_that_are_under_way() {
    let mut server = start("memory", &["data-size 1G"]);
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("large", vec![7; LARGE])).unwrap().result, result::OK);
    let batch = Message::get_all(vec!["large"; 20_000].into_iter()).encode();
    let mut readers: Vec<_> = (0..8).map(|_| server.connect()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&batch).unwrap());
    await_figures(&mut client, "namespace/test", |now| now["batch_sub_read_success"] > 8);
    let stopping = Instant::now();
    server.stop();
    assert!(stopping.elapsed() < PATIENCE / 2 && PATIENCE > Duration::from_secs(10));
}

/// A filter that takes minutes on the text of a large record.
fn endless_filter() -> Vec<u8> {
    /// Head of an array of 15 elements: the operation `or` and 14 operands.
    const OR_OF_14: [u8; 2] = [0x9f, 17];
    let pattern = b"(a{0,100}){0,100}b";
    let regex = [&[0x94, 7, 1, 0xa0 | pattern.len() as u8][..], pattern, &[0x93, 81, 3, 0xa1, b'b']].concat();
    // One pattern takes a second or two. No pattern matches, so all are tried.
    [&OR_OF_14[..], &regex.repeat(14)].concat()
}

/// Sends requests that take minutes, each from its own client, and stops the server. Returns the duration of
/// the stop.
fn time_to_stop(requests: &[Message]) -> Duration {
    let mut server = start("memory", &["data-size 1G"]);
    let text = "a".repeat(LARGE);
    let put = Message::write("text").with_operation(Operation::string(operation::WRITE, "b", &text));
    let mut client = server.connect();
    assert_eq!(client.ask(&put).unwrap().result, result::OK);
    let mut at_work: Vec<_> = requests.iter().map(|_| server.connect()).collect();
    for (client, request) in at_work.iter_mut().zip(requests) {
        let request = request.clone().with_field(field::FILTER_EXPRESSION, &endless_filter());
        client.send(&request.encode()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    for client in &at_work {
        client.socket().set_nonblocking(true).unwrap();
        assert!(client.socket().peek(&mut [0]).is_err(), "it is answered already");
    }
    let stopping = Instant::now();
    server.stop();
    stopping.elapsed()
}

/// Longest time for work that takes a fifth of a second on an idle machine. The requests may take ten
/// minutes.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_stop_ends_a_long_read_and_a_query() {
    let read = Message { transaction_ttl: 600_000, ..Message::get("text") };
    let query = Message::scan("test");
    let time = time_to_stop(&[read.clone(), query, read]);
    assert!(time < SOON, "{time:?}");
}

#[test]
fn a_stop_leaves_a_long_write_the_time_that_it_has() {
    let write = Message { transaction_ttl: 3_000, ..increment("text") };
    let time = time_to_stop(&[write.clone(), write]);
    // A part of its time had passed when the stop came.
    assert!(time > Duration::from_secs(2) && time < SOON, "{time:?}");
}

/// Writes a text to `key` for which [`endless_filter`] takes minutes.
fn put_text(client: &mut Client, key: &str) {
    let text = "a".repeat(LARGE);
    let put = Message::write(key).with_operation(Operation::string(operation::WRITE, "b", &text));
    assert_eq!(client.ask(&put).unwrap().result, result::OK);
}

/// Whether `client` has received something.
fn has_answer(client: &Client) -> bool {
    client.socket().set_nonblocking(true).unwrap();
    let is_there = client.socket().peek(&mut [0]).is_ok();
    client.socket().set_nonblocking(false).unwrap();
    is_there
}

#[test]
fn a_query_with_a_long_filter_holds_up_no_writer_of_its_records() {
    let mut server = start("memory", &["data-size 1G"]);
    let mut others: Vec<_> = (0..8).map(|_| server.connect()).collect();
    put_text(&mut others[0], "text");
    let filtered = Message::scan("test").with_field(field::FILTER_EXPRESSION, &endless_filter());
    let mut at_work = server.connect();
    at_work.send(&filtered.encode()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for round in 0..20 {
        for other in &mut others {
            let touch = Message::write("text").with_operation(Operation::bare(operation::TOUCH, ""));
            assert_eq!(other.ask(&touch).unwrap().result, result::OK, "round {round}");
            assert_eq!(other.ask(&increment("small")).unwrap().result, result::OK);
        }
    }
    assert!(!has_answer(&at_work), "the query has ended before the writes");
    let stopping = Instant::now();
    server.stop();
    assert!(stopping.elapsed() < SOON);
}

#[test]
fn a_record_created_meanwhile_and_removed_does_not_come_back() {
    let storage =
        stored_config_with("test", &["max-record-size 8M"], "device", &["file {dir}/data", "filesize 1G"]);
    let mut server = Server::start_with_faults(&storage);
    server.stall("commit-from-copy");
    let mut slow = server.connect();
    let create = Message { transaction_ttl: 60_000, ..Message::put("key", vec![7; LARGE]) };
    slow.send(&create.encode()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut other = server.connect();
    assert_eq!(other.ask(&Message::put("key", vec![1; 10])).unwrap().result, result::OK);
    assert_eq!(other.ask(&Message::delete("key")).unwrap().result, result::OK);
    assert!(!has_answer(&slow), "the point is on its way");
    server.release("commit-from-copy");
    assert_eq!(slow.receive_message().unwrap().result, result::OK);
    server.stop();
    server.restart();
    let record = server.connect().ask(&Message { transaction_ttl: 60_000, ..Message::get("key") }).unwrap();
    assert_eq!((record.result, record.bin("b").map(<[u8]>::len)), (result::OK, Some(LARGE)));
}

/// A stop that gives up the wait for a thread says so, loses nothing, and makes the next start check the
/// device.
#[test]
fn a_stop_with_a_thread_at_work_is_not_called_clean() {
    if !cfg!(debug_assertions) || std::env::var_os("ASD").is_some() {
        return report("skipped: no faults can be injected into this build");
    }
    let storage =
        stored_config_with("test", &["max-record-size 8M"], "device", &["file {dir}/data", "filesize 1G"]);
    let mut server = Server::start_with_faults(&storage);
    server.allow("threads were still at work");
    server.stall("commit-from-copy");
    let mut slow = server.connect();
    slow.send(&Message { transaction_ttl: 60_000, ..Message::put("large", vec![7; LARGE]) }.encode())
        .unwrap();
    let mut other = server.connect();
    assert_eq!(other.ask(&Message::put("key", vec![1; 10])).unwrap().result, result::OK);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!has_answer(&slow), "the point is on its way");
    server.stop();
    let log = server.log();
    let last = log.trim_end().lines().last().unwrap();
    assert!(last.contains("was not clean: threads were still at work (transaction-"), "{last}");
    assert!(last.ends_with("the next start checks the devices as after a crash - exiting"), "{last}");
    assert!(!log.contains("finished clean shutdown"));
    server.release("commit-from-copy");
    server.restart();
    assert!(server.log().contains("prior shutdown not clean"));
    assert_eq!(server.connect().ask(&Message::get("key")).unwrap().result, result::OK);
    server.stop();
    assert!(server.log().contains("finished clean shutdown"));
}
