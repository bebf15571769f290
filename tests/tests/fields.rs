//! Fields of requests with values of every length, names with zero bytes, and lists with wrong inner lengths.
//! The result codes must be those of the C server, because a client may depend on them.

use ferrospike_tests::client::Client;
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{
    Message, Operation, digest, field, info1, info2, info3, integer_range, operation, result,
};

const MRT_ID: u8 = 5;
const JOB_ID: u8 = 7;
const BIN_LIST: u8 = 40;
const BATCH_WITH_SET: u8 = 42;
const INVALID_NAME: u8 = 21;
const INDEX_NOT_FOUND: u8 = 201;
const KEY: &str = "there";

/// Lengths of values, near those that fields have.
const LENGTHS: [usize; 9] = [0, 1, 3, 4, 7, 8, 19, 20, 21];
/// The largest type of a field, plus one.
const TYPES: u8 = 50;

fn server() -> Server {
    let mut server = Server::usual();
    server.allow("WARNING");
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put(KEY, vec![1])).expect("an answer").result, result::OK);
    server
}

/// The kinds of requests in which the test puts fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Delete,
    Row,
    Query,
    /// A query by an index that does not exist.
    Range,
}

/// The message with `value` in the first field of this type.
fn replaced(mut message: Message, field_type: u8, value: &[u8]) -> Message {
    match message.fields.iter_mut().find(|(own, _)| *own == field_type) {
        Some((_, own)) => *own = value.to_vec(),
        None => message.fields.push((field_type, value.to_vec())),
    }
    message
}

fn query(fields: &[(u8, &[u8])]) -> Message {
    let query = Message::scan("test").with_field(field::SET, b"rig");
    fields.iter().fold(query, |query, (field_type, value)| replaced(query, *field_type, value))
}

/// A batch of one row that reads the record of `KEY`, with these fields.
fn row(fields: &[(u8, Vec<u8>)]) -> Message {
    let mut value = vec![0, 0, 0, 1, 4, 0, 0, 0, 0];
    value.extend(digest("rig", KEY));
    // Flags, info1 to info3, numbers of fields and of operations.
    value.extend([2, info1::READ | info1::GET_ALL, 0, 0, 0, fields.len() as u8, 0, 0]);
    for (field_type, field) in fields {
        value.extend((field.len() as u32 + 1).to_be_bytes());
        value.push(*field_type);
        value.extend(field);
    }
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

impl Kind {
    fn request(self, field_type: u8, value: &[u8]) -> Message {
        let name = format!("{self:?}-{field_type}-{}", value.len());
        let base = match self {
            Kind::Read => Message::get(KEY),
            Kind::Write => Message::put(&name, vec![1]),
            Kind::Delete => Message::delete("not there"),
            Kind::Row => {
                let place = Message::on(KEY).fields.into_iter().filter(|(own, _)| *own != field::DIGEST);
                let fields = Message { fields: place.collect(), ..Message::default() };
                return row(&replaced(fields, field_type, value).fields);
            }
            Kind::Query => query(&[]),
            Kind::Range => query(&[(field::INDEX_RANGE, &integer_range("b", 1, 2))]),
        };
        replaced(base, field_type, value)
    }

    /// The C server's results for each of [`LENGTHS`], with values of bytes 1.
    fn expected(self, field_type: u8) -> [u8; 9] {
        let usual = match self {
            Kind::Read | Kind::Write | Kind::Row | Kind::Query => result::OK,
            Kind::Delete => result::NOT_FOUND,
            Kind::Range => INDEX_NOT_FOUND,
        };
        let only = |right: &[usize], otherwise| {
            LENGTHS.map(|length| if right.contains(&length) { usual } else { otherwise })
        };
        match (self, field_type) {
            (Kind::Row, field::NAMESPACE) => [result::PARAMETER; 9],
            (_, field::NAMESPACE) => [result::NAMESPACE; 9],
            // The set differs from that of the record.
            (Kind::Read | Kind::Row, field::SET) => only(&[0], result::PARAMETER),
            (Kind::Write, field::KEY) => [result::UNSUPPORTED; 9],
            (Kind::Write, field::DIGEST) => only(&[20], result::PARAMETER),
            // The request deletes the record that was written.
            (Kind::Delete, field::DIGEST) => {
                LENGTHS.map(|length| if length == 20 { result::OK } else { result::PARAMETER })
            }
            // With a digest it is not a query, and the record does not exist.
            (_, field::DIGEST) => {
                LENGTHS.map(|length| if length == 20 { result::NOT_FOUND } else { result::PARAMETER })
            }
            (Kind::Read | Kind::Write | Kind::Delete | Kind::Row, MRT_ID) => [result::ENTERPRISE_ONLY; 9],
            (Kind::Query, JOB_ID) => only(&[8, 19, 20, 21], result::PARAMETER),
            (Kind::Query, 9 | 10) | (Kind::Range, 10) => only(&[4], result::PARAMETER),
            // The value is partition 257, or twice 257.
            (Kind::Query | Kind::Range, field::PARTITION_ID_ARRAY) => only(&[3], result::PARAMETER),
            (Kind::Query, 13) => only(&[8], result::PARAMETER),
            (Kind::Query | Kind::Range, 12 | 15 | field::INDEX_RANGE | field::UDF_FILE)
            | (Kind::Write, field::UDF_FILE)
            | (Kind::Read | Kind::Row | Kind::Query, field::FILTER_EXPRESSION)
            | (Kind::Range, 23) => [result::PARAMETER; 9],
            (Kind::Range, field::INDEX_TYPE) => only(&LENGTHS[1..], result::PARAMETER),
            _ => [usual; 9],
        }
    }

    /// Whether the request is sent with a field of this type.
    fn takes(self, field_type: u8) -> bool {
        let is_of_batch = matches!(field_type, field::BATCH | BATCH_WITH_SET);
        let is_of_query = matches!(self, Kind::Query | Kind::Range);
        !is_of_batch && (field_type != 8 || !is_of_query)
    }
}

/// The largest result of the answer to `request`.
fn result_of(client: &mut Client, request: &Message) -> u8 {
    client.send(&request.encode()).expect("send");
    let is_long = request.info1 & info1::BATCH != 0 || request.info3 & info3::PARTITION_DONE != 0;
    let is_long = is_long && !request.fields.iter().any(|(field_type, _)| *field_type == field::DIGEST);
    let mut worst = 0;
    loop {
        let frame = client.receive().expect("an answer");
        for message in frame.messages().expect("messages") {
            let is_partition = message.info3 & info3::PARTITION_DONE != 0;
            worst = worst.max(message.result);
            // A refused query ends with the error.
            if !is_long
                || message.is_last()
                || message.result != 0 && !is_partition && request.info1 & info1::BATCH == 0
            {
                return worst;
            }
        }
    }
}

#[test]
fn fields_of_every_length_have_the_results_of_the_c_server() {
    let server = server();
    let mut client = server.connect();
    let mut wrong = Vec::new();
    for kind in [Kind::Read, Kind::Write, Kind::Delete, Kind::Row, Kind::Query, Kind::Range] {
        for field_type in (0..TYPES).filter(|field_type| kind.takes(*field_type)) {
            for (length, expected) in LENGTHS.iter().zip(kind.expected(field_type)) {
                // A number of a query may be used once. The rest of the bytes are 1.
                let mut value = vec![1; *length];
                if field_type == JOB_ID && *length >= 8 {
                    value[7] = *length as u8;
                }
                let got = result_of(&mut client, &kind.request(field_type, &value));
                if got != expected {
                    wrong.push(format!("{kind:?}, field {field_type} of {length}: {got} for {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_digest_in_a_row_counts() {
    let server = server();
    let mut client = server.connect();
    let place = || vec![(field::NAMESPACE, b"test".to_vec())];
    let with = |digest: &[u8]| row(&[place(), vec![(field::DIGEST, digest.to_vec())]].concat());
    assert_eq!(result_of(&mut client, &with(&digest("rig", KEY))), result::OK);
    assert_eq!(result_of(&mut client, &with(&digest("rig", "not there"))), result::NOT_FOUND);
    assert_eq!(result_of(&mut client, &with(&[0; 8])), result::PARAMETER);
}

/// If any other field precedes the namespace, the batch ends.
#[test]
fn the_namespace_is_the_first_field_of_a_row() {
    let server = server();
    let mut client = server.connect();
    let namespace = (field::NAMESPACE, b"test".to_vec());
    for field_type in (1..=63).chain([u8::MAX]) {
        let request = row(&[(field_type, vec![1; 8]), namespace.clone()]);
        let answer = client.ask(&request).expect("an answer");
        assert!(answer.result == result::PARAMETER && answer.is_last(), "field {field_type}: {answer:?}");
    }
    assert_eq!(
        result_of(&mut client, &row(&[(field::SET, b"rig".to_vec()), namespace.clone()])),
        result::PARAMETER
    );
    assert_eq!(result_of(&mut client, &row(&[namespace, (field::SET, b"rig".to_vec())])), result::OK);
}

#[test]
fn functions_take_no_part_in_transactions() {
    let server = server();
    let udf = Message { info2: info2::WRITE, ..Message::on(KEY) }.with_field(field::UDF_FILE, b"none");
    let udf = udf.with_field(field::UDF_FUNCTION, b"f").with_field(field::UDF_ARGUMENTS, b"\x90");
    let udf = udf.with_field(field::UDF_OP, &[0]);
    let mut client = server.connect();
    assert_eq!(result_of(&mut client, &udf), result::UDF_EXECUTION);
    assert_eq!(result_of(&mut client, &udf.with_field(MRT_ID, &[1; 8])), result::ENTERPRISE_ONLY);
}

/// If a list of bins has wrong counts or lengths, it names the bins that it holds.
#[test]
fn lists_of_bins_with_wrong_lengths_are_read() {
    let server = server();
    let mut client = server.connect();
    let mut rows = |list: &[u8]| {
        client.send(&query(&[(BIN_LIST, list)]).encode()).expect("send");
        client.take_rows().expect("rows").iter().map(|row| row.operations.len()).collect::<Vec<_>>()
    };
    assert_eq!(rows(b"\x01\x01b"), [1]);
    let cases: [&[u8]; 4] = [b"\x02\x01b", b"\xff\x01b", b"\x02\x01b\x05c", b"\x02\x10aaaaaaaaaaaaaaaa\x01b"];
    for list in cases {
        assert_eq!(rows(list), [1], "{list:?}");
    }
    let none: [&[u8]; 3] = [b"\x01\x05b", b"\x01", b"\x01\x01c"];
    for list in none {
        assert_eq!(rows(list), [0_usize; 0], "{list:?}");
    }
    let range = query(&[(field::INDEX_RANGE, &integer_range("b", 1, 2)), (BIN_LIST, b"")]);
    assert_eq!(result_of(&mut client, &range), INDEX_NOT_FOUND);
    let create = "sindex-create:namespace=test;set=rig;indexname=i;indexdata=b,numeric";
    assert_eq!(client.info_value(create).expect("an answer"), "ok");
    while !client.info_value("sindex-list:").expect("an answer").contains("state=RW") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // The name of the index is not checked.
    let mut named = range.with_field(21, b"unknown");
    assert_eq!(result_of(&mut client, &named), result::OK);
    named = replaced(named, BIN_LIST, b"\x05b");
    assert_eq!(result_of(&mut client, &named), result::OK);
}

/// No set has a zero byte in its name. For existing records, the name ends at the zero byte.
#[test]
fn names_of_sets_end_at_a_zero_byte() {
    let server = server();
    let mut client = server.connect();
    let client = &mut client;
    let mut in_no_set = Message::put("in no set", vec![1]);
    in_no_set.fields.retain(|(field_type, _)| *field_type != field::SET);
    let delete_in_no_set = Message { fields: in_no_set.fields.clone(), ..Message::delete("") };
    let long = [&[b'x'; 62][..], b"\0"].concat();
    for set in [&b"z\0z"[..], b"\0", b"\0\0", b"rig\0", b"rig\0x", b"\0rig", &long] {
        let create = replaced(Message::put("new", vec![1]), field::SET, set);
        assert_eq!(result_of(client, &create), result::PARAMETER, "{set:?}");
        let udf = Message { info2: info2::WRITE, ..Message::on("new") }.with_field(field::UDF_FILE, b"none");
        let udf = udf.with_field(field::UDF_FUNCTION, b"f").with_field(field::UDF_ARGUMENTS, b"\x90");
        let udf = replaced(udf.with_field(field::UDF_OP, &[0]), field::SET, set);
        assert_eq!(result_of(client, &udf), result::UDF_EXECUTION, "{set:?}");
        let is_rig = set.starts_with(b"rig");
        let expected = if is_rig { result::OK } else { result::PARAMETER };
        for request in [Message::get(KEY), Message::put(KEY, vec![1]), Message::delete(KEY)] {
            let request = replaced(request, field::SET, set);
            assert_eq!(result_of(client, &request), expected, "{set:?}");
        }
        assert_eq!(client.ask(&Message::put(KEY, vec![1])).expect("an answer").result, result::OK);
        assert_eq!(result_of(client, &in_no_set), result::OK);
        for request in [Message::get(""), Message::put("", vec![1]), Message::delete("")] {
            let request = Message { fields: in_no_set.fields.clone(), ..request }.with_field(field::SET, set);
            assert_eq!(result_of(client, &request), result::PARAMETER, "{set:?}");
        }
        assert_eq!(result_of(client, &delete_in_no_set), result::OK, "it is still there");
        let rows = {
            client.send(&query(&[(field::SET, set)]).encode()).expect("send");
            client.take_rows().expect("rows").len()
        };
        // A name with nothing before the zero byte means no set: all records.
        assert_eq!(rows, usize::from(is_rig || set[0] == 0), "{set:?}");
    }
    let sets = client.info_value("sets/test").expect("an answer");
    assert_eq!(sets.matches("set=").count(), 1, "{sets}");
    let answer = client.info_value("set-config:context=namespace;id=test;set=a\0c;disable-eviction=true");
    assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("ERROR:4:")), "{answer:?}");
}

#[test]
fn other_names_with_zero_bytes() {
    let server = server();
    let mut client = server.connect();
    let client = &mut client;
    // Zero bytes may follow the name of a namespace, up to the length limit of names.
    for (name, expected) in [
        (&b"test\0"[..], result::OK),
        (&[&b"test"[..], &[0; 27]].concat(), result::OK),
        (&[&b"test"[..], &[0; 28]].concat(), result::NAMESPACE),
        (b"test\0x", result::NAMESPACE),
        (b"\0test", result::NAMESPACE),
        (b"\0", result::NAMESPACE),
    ] {
        let place = [(field::NAMESPACE, name.to_vec()), (field::SET, b"rig".to_vec())];
        let of_row = if expected == result::OK { result::OK } else { result::PARAMETER };
        for request in [Message::get(KEY), Message::put(KEY, vec![1]), query(&[])] {
            let request = replaced(request, field::NAMESPACE, name);
            assert_eq!(result_of(client, &request), expected, "{name:?}");
        }
        assert_eq!(result_of(client, &row(&place)), of_row, "{name:?}");
    }
    for name in ["b\0", "\0", "\0b", "b\0b"] {
        let write = Message::write(KEY).with_operation(Operation::integer(operation::WRITE, name, 1));
        assert_eq!(result_of(client, &write), INVALID_NAME, "{name:?}");
        let read = Message { info1: info1::READ, ..Message::on(KEY) }.with_operation(Operation::read(name));
        assert_eq!(result_of(client, &read), INVALID_NAME, "{name:?}");
    }
    // `function f(r) return 7 end`
    let put =
        "udf-put:filename=m.lua;content=ZnVuY3Rpb24gZihyKSByZXR1cm4gNyBlbmQ=;content-len=36;udf-type=LUA;";
    assert_eq!(client.info_value(put).expect("an answer"), "ok");
    for (file, function, expected) in [
        (&b"m"[..], &b"f"[..], result::OK),
        (b"m\0", b"f", result::UDF_EXECUTION),
        (b"m\0x", b"f", result::UDF_EXECUTION),
        (b"m", b"f\0", result::UDF_EXECUTION),
    ] {
        let call = Message { info2: info2::WRITE, ..Message::on(KEY) }.with_field(field::UDF_FILE, file);
        let call = call.with_field(field::UDF_FUNCTION, function).with_field(field::UDF_ARGUMENTS, b"\x90");
        assert_eq!(
            result_of(client, &call.with_field(field::UDF_OP, &[0])),
            expected,
            "{file:?} {function:?}"
        );
    }
    for command in [
        "sindex-create:namespace=test;set=rig;indexname=x\0y;indexdata=b,numeric",
        "sindex-create:namespace=test;set=r\0g;indexname=x;indexdata=b,numeric",
        "sindex-create:namespace=test;set=rig;indexname=x;indexdata=b\0b,numeric",
    ] {
        let answer = client.info_value(command);
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("ERROR:4:")), "{answer:?}");
    }
    assert_eq!(client.info_value("sindex-list:namespace=test").expect("an answer"), "");
}
