//! Queries: the fields of requests that matter, the bins in answers, and the rate.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{Server, stored_config, usual_config};
use ferrospike_tests::wire::{
    Message, Operation, field, info1, info2, info3, integer_range, operation, result,
};

/// Field types that only queries use.
const JOB_ID: u8 = 7;
const SOCKET_TIMEOUT: u8 = 9;
const RECORDS_PER_SECOND: u8 = 10;
const BIN_LIST: u8 = 40;
/// Bit of `info1`: a short query.
const SHORT_QUERY: u8 = 4;
/// Number of queried records.
const RECORDS: u32 = 200;

fn fill(client: &mut Client, records: u32) {
    for key in 0..records {
        let put = Message::write(&format!("key-{key}"))
            .with_operation(Operation::integer(operation::WRITE, "a", i64::from(key)))
            .with_operation(Operation::integer(operation::WRITE, "b", 7));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
}

/// The records in the answer to `query`, and the last result.
fn query(client: &mut Client, query: &Message) -> (Vec<Message>, u8) {
    answer(client, &query.encode())
}

fn answer(client: &mut Client, request: &[u8]) -> (Vec<Message>, u8) {
    client.send(request).unwrap();
    let mut records = Vec::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() {
                return (records, message.result);
            }
            records.push(message);
        }
    }
}

fn names(record: &Message) -> Vec<&[u8]> {
    record.operations.iter().map(|op| op.name.as_slice()).collect()
}

#[test]
fn a_rate_is_kept_across_partitions() {
    let server = Server::usual();
    let mut client = server.connect();
    fill(&mut client, RECORDS);
    for rate in [RECORDS, RECORDS * 2] {
        let request = Message::scan("test").with_field(RECORDS_PER_SECOND, &rate.to_be_bytes());
        let started = Instant::now();
        let (records, last) = query(&mut client, &request);
        let (elapsed, right) = (started.elapsed().as_secs_f64(), f64::from(RECORDS) / f64::from(rate));
        assert_eq!((records.len(), last), (RECORDS as usize, result::OK));
        assert!(elapsed >= right, "{elapsed} seconds at {rate} records a second");
    }
}

/// A filter that accepts no record does not lift the rate limit if each record must be read from a device to
/// evaluate it.
#[test]
fn records_that_are_read_only_to_be_filtered_out_count_for_the_rate() {
    let config = stored_config("test", "device", &["file {dir}/test.dat", "filesize 128M"]);
    let server = Server::start(&config);
    let mut client = server.connect();
    fill(&mut client, RECORDS);
    // The filter: bin `a`, an integer, equals a number that no record has.
    let filter = [0x93, 0x01, 0x93, 0x51, 0x02, 0xa1, b'a', 0xcd, 0x7f, 0xff];
    let request = Message::scan("test")
        .with_field(RECORDS_PER_SECOND, &RECORDS.to_be_bytes())
        .with_field(field::FILTER_EXPRESSION, &filter);
    let started = Instant::now();
    let (records, last) = query(&mut client, &request);
    assert_eq!((records.len(), last), (0, result::OK));
    assert!(started.elapsed() > Duration::from_millis(800), "{:?}", started.elapsed());
}

#[test]
fn invalid_bin_names_are_ignored() {
    let mut server = Server::usual();
    server.allow("ignoring bad bin name");
    let mut client = server.connect();
    fill(&mut client, 3);
    let long = "a_name_of_16_chr";
    let with_ops = |names: &[&str]| {
        names.iter().fold(Message::scan("test"), |query, name| query.with_operation(Operation::read(name)))
    };
    let with_list = |names: &[&str]| {
        let mut list = vec![names.len() as u8];
        names.iter().for_each(|name| {
            list.push(name.len() as u8);
            list.extend(name.as_bytes());
        });
        Message::scan("test").with_field(BIN_LIST, &list)
    };
    for asked in [with_ops(&["b", long, "a\0b"]), with_list(&[long, "b", "none"])] {
        let (records, last) = query(&mut client, &asked);
        assert_eq!((records.len(), last), (3, result::OK));
        assert!(records.iter().all(|record| names(record) == [b"b"]), "{records:?}");
    }
    // A record is returned only if it has a requested bin.
    assert_eq!(query(&mut client, &with_ops(&[long])).0.len(), 0);
    assert_eq!(query(&mut client, &with_list(&[])).0.len(), 0);
    let both = with_list(&["a"]).with_operation(Operation::read("b"));
    assert_eq!(client.ask(&both).unwrap().result, result::PARAMETER);
}

#[test]
fn a_query_that_is_refused_is_answered_as_a_record_is() {
    let mut server = Server::usual();
    server.allow("cannot").allow("query");
    let mut client = server.connect();
    let old = Message { info3: 0, ..Message::scan("test") };
    let mut without_partitions = Message::scan("test");
    without_partitions.fields.pop();
    let short_with_rate = Message { info1: info1::READ | SHORT_QUERY, ..Message::scan("test") }
        .with_field(RECORDS_PER_SECOND, &[0; 4]);
    let bad_rate = Message::scan("test").with_field(RECORDS_PER_SECOND, &[1; 3]);
    for (name, request) in [
        ("the old protocol", old),
        ("no partitions", without_partitions),
        ("a rate of a short query", short_with_rate),
        ("a rate of three bytes", bad_rate),
        (
            "an index that is not there",
            Message::scan("test").with_field(field::INDEX_RANGE, &integer_range("a", 1, 2)),
        ),
        ("of a UDF that is not there", Message { info2: info2::WRITE, ..Message::scan("test") }),
    ] {
        let answer = client.ask(&request).unwrap();
        assert_ne!(answer.result, result::OK, "{name}");
        assert_eq!(answer.info3 & info3::LAST, 0, "{name}");
    }
    // The length of the field with a query's number is not checked.
    let (_, last) = query(&mut client, &Message::scan("test").with_field(JOB_ID, &[1; 12]));
    assert_eq!(last, result::OK);
}

#[test]
fn a_batch_whose_field_lengths_reach_beyond_it_is_carried_out() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    fill(&mut client, 2);
    // The filter: bin `b` is an integer equal to 7.
    let filter = [0x93, 0x01, 0x93, 0x51, 0x02, 0xa1, b'b', 7];
    let batch = Message::get_all(["key-0", "none", "key-1"].into_iter());
    let mut request = batch;
    request.fields.insert(0, (field::FILTER_EXPRESSION, filter.to_vec()));
    let right = request.encode();
    // The length is behind the frame header, the message header, and the filter's length, type and value.
    let length_at = 8 + 22 + 5 + filter.len();
    let length = u32::from_be_bytes(*right[length_at..].first_chunk().unwrap());
    for length in [length, length + 5 + filter.len() as u32, 5, u32::MAX, 0x7fff_ffff] {
        let mut bytes = right.clone();
        bytes[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        let results: Vec<u8> = answer(&mut client, &bytes).0.iter().map(|row| row.result).collect();
        assert_eq!(results, [result::OK, result::NOT_FOUND, result::OK], "a length of {length}");
    }
    // Messages of other kinds must have the stated length.
    let mut get = Message::get("key-0").encode();
    let length = u32::from_be_bytes(*get[30..].first_chunk().unwrap());
    get[30..34].copy_from_slice(&(length + 200).to_be_bytes());
    drop(client);
    let mut server = server;
    server.allow("bad message");
    let mut client = server.connect();
    client.send(&get).unwrap();
    assert_eq!(client.receive_message().unwrap().result, result::PARAMETER);
}

/// A server with this many query threads in total and for each query, and 400 large records.
fn with_query_threads(limit: u32, of_one: u32) -> Server {
    let config =
        usual_config().replacen("service {", &format!("service {{\n    query-threads-limit {limit}"), 1);
    let of_one = format!("namespace test {{\n    single-query-threads {of_one}");
    let server = Server::start(&config.replacen("namespace test {", &of_one, 1));
    let mut client = server.connect();
    for key in 0..400 {
        let put = Message::put(&format!("key-{key}"), vec![7; 50_000]);
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    server
}

/// A scan without a timeout.
fn endless_scan() -> Vec<u8> {
    Message::scan("test").with_field(SOCKET_TIMEOUT, &[0; 4]).encode()
}

/// Scans whose clients read nothing.
fn stalled_scans(server: &Server, count: u32) -> Vec<Client> {
    let mut stalled: Vec<Client> = Vec::new();
    for _ in 0..count {
        let mut one = server.connect();
        one.send(&endless_scan()).unwrap();
        stalled.push(one);
        // A scan counts until it waits for its client.
        std::thread::sleep(Duration::from_millis(500));
    }
    stalled
}

fn is_scan_refused(server: &Server) -> bool {
    let mut one = server.connect();
    one.send(&endless_scan()).unwrap();
    one.receive().unwrap().messages().unwrap().remove(0).result != result::OK
}

/// Stalled scans have several threads only up to `query-threads-limit`, so there is room for many more before
/// a further scan is refused.
#[test]
fn stalled_scans_take_a_thread_each() {
    let server = with_query_threads(4, 4);
    let _stalled = stalled_scans(&server, 8);
    assert!(!is_scan_refused(&server));
}

/// Scans without a timeout whose clients read nothing do not use up the threads of others. If there are very
/// many, a scan whose client has read nothing for ten seconds is ended for the next one.
#[test]
fn stalled_scans_leave_room_for_others() {
    let mut server = with_query_threads(2, 1);
    server.allow("cannot start a query");
    let stalled = stalled_scans(&server, 8);
    let started = Instant::now();
    while is_scan_refused(&server) {
        assert!(started.elapsed() < Duration::from_secs(60), "the stalled scans keep all threads");
        std::thread::sleep(Duration::from_millis(500));
    }
    // The remaining scans get all their records when their clients read.
    let mut complete = 0;
    for mut one in stalled {
        let mut records = 0;
        let last = loop {
            let messages = one.receive().unwrap().messages().unwrap();
            records += messages.iter().filter(|message| !message.is_last()).count();
            if let Some(last) = messages.iter().find(|message| message.is_last()) {
                break last.result;
            }
        };
        complete += usize::from(last == result::OK && records == 400);
    }
    assert!(complete >= 6, "{complete} of 8 scans were completed");
}
