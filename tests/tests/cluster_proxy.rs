//! Requests to a node that does not serve their record are answered too: single requests, batch rows and
//! functions, also while nodes come and go. Requests that other nodes forward are tested byte by byte.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::peer::{connect, next_message, number, peer_message, put_field};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, digest, field, info1, info2, operation, result};
use nix::sys::signal::Signal;

fn clients(nodes: &Nodes) -> Vec<Client> {
    nodes.servers.iter().map(Server::connect).collect()
}

fn sum(clients: &mut [Client], figure: &str) -> u64 {
    clients.iter_mut().map(|client| client.figure("namespace/test", figure).unwrap()).sum()
}

#[test]
fn any_node_answers_for_any_record() {
    const KEYS: usize = 60;
    let nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&[0, 1, 2]);
    let mut clients = clients(&nodes);
    for number in 0..KEYS {
        let (key, value) = (format!("key-{number}"), vec![number as u8]);
        let [writer, reader, remover] = [number % 3, (number + 1) % 3, (number + 2) % 3];
        assert_eq!(clients[reader].ask(&Message::get(&key)).unwrap().result, result::NOT_FOUND);
        assert_eq!(clients[writer].ask(&Message::put(&key, value.clone())).unwrap().result, result::OK);
        let found = clients[reader].ask(&Message::get(&key)).unwrap();
        assert_eq!((found.result, found.generation), (result::OK, 1));
        assert_eq!(found.bin("b"), Some(&value[..]));
        // Every node refuses a wrong generation.
        let stale = Message { generation: 7, ..Message::put(&key, vec![0]) };
        let stale = Message { info2: stale.info2 | info2::GENERATION, ..stale };
        assert_eq!(clients[remover].ask(&stale).unwrap().result, result::GENERATION);
        let add = Message::write(&key)
            .with_operation(Operation::integer(operation::WRITE, "n", 5))
            .with_operation(Operation::integer(operation::INCR, "n", 2))
            .with_operation(Operation::read("n"));
        let add = Message { info1: info1::READ, ..add };
        let added = clients[remover].ask(&add).unwrap();
        assert_eq!((added.result, added.bin("n")), (result::OK, Some(&7_u64.to_be_bytes()[..])));
        if number % 2 == 0 {
            assert_eq!(clients[remover].ask(&Message::delete(&key)).unwrap().result, result::OK);
            assert_eq!(clients[writer].ask(&Message::delete(&key)).unwrap().result, result::NOT_FOUND);
        }
    }
    assert_eq!(sum(&mut clients, "master_objects"), KEYS as u64 / 2);
    // One node applies a request. Nodes that do not serve the record forward the request to it.
    let passed_on = sum(&mut clients, "client_proxy_complete");
    assert!(passed_on > KEYS as u64, "{passed_on}");
    for figure in ["client_proxy_error", "client_proxy_timeout", "from_proxy_tsvc_error"] {
        assert_eq!(sum(&mut clients, figure), 0, "{figure}");
    }
    let mut of_others = BTreeMap::new();
    for operation in ["read", "write", "delete"] {
        for outcome in ["success", "error", "timeout", "not_found", "filtered_out"] {
            if (operation, outcome) != ("write", "not_found") {
                let figure = format!("from_proxy_{operation}_{outcome}");
                of_others.insert(figure.clone(), sum(&mut clients, &figure));
            }
        }
    }
    assert_eq!(of_others.values().sum::<u64>(), passed_on, "{of_others:?}");
    for figure in ["from_proxy_read_success", "from_proxy_read_not_found", "from_proxy_write_error"] {
        assert_ne!(of_others[figure], 0, "{figure}");
    }
    for client in &mut clients {
        assert_eq!(client.figure("statistics", "proxy_in_progress").unwrap(), 0);
    }
}

/// A batch with rows for namespace `test`, set `rig`: key, `info1`, `info2` and operations of each.
fn batch(flags: u8, rows: &[(&str, u8, u8, Vec<Operation>)]) -> Message {
    let mut value = (rows.len() as u32).to_be_bytes().to_vec();
    value.push(flags);
    for (number, (key, info1, info2, operations)) in (0u32..).zip(rows) {
        value.extend(number.to_be_bytes());
        value.extend(digest("rig", key));
        value.extend([2, *info1, *info2, 0, 0, 2]);
        value.extend((operations.len() as u16).to_be_bytes());
        for (field_type, text) in [(field::NAMESPACE, &b"test"[..]), (field::SET, b"rig")] {
            value.extend((text.len() as u32 + 1).to_be_bytes());
            value.push(field_type);
            value.extend(text);
        }
        for op in operations {
            value.extend((4 + op.name.len() as u32 + op.value.len() as u32).to_be_bytes());
            value.extend([op.code, op.particle, 0, op.name.len() as u8]);
            value.extend(&op.name);
            value.extend(&op.value);
        }
    }
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

/// All rows of an answer by number, and the result of the last message.
fn rows(client: &mut Client, request: &Message) -> (BTreeMap<u32, Message>, u8) {
    client.send(&request.encode()).unwrap();
    let mut rows = BTreeMap::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            if message.is_last() {
                return (rows, message.result);
            }
            let number = message.transaction_ttl;
            assert!(rows.insert(number, message).is_none(), "row {number} is answered twice");
        }
    }
}

const RESPOND_ALL_KEYS: u8 = 4;
/// The result of an operation on a bin of another type.
const BIN_TYPE: u8 = 12;

#[test]
fn rows_of_a_batch_are_answered_by_the_node_that_serves_them() {
    const KEYS: usize = 700;
    let nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&[0, 1, 2]);
    let mut clients = clients(&nodes);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("row-{number}")).collect();
    for flags in [RESPOND_ALL_KEYS, RESPOND_ALL_KEYS | 1] {
        let written: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let value = Operation::integer(operation::WRITE, "n", number as i64);
                (key.as_str(), 0, info2::WRITE, vec![value])
            })
            .collect();
        let (answers, last) = rows(&mut clients[1], &batch(flags, &written));
        assert_eq!((answers.len(), last), (KEYS, result::OK));
        assert!(answers.values().all(|row| row.result == result::OK));
    }
    // The digests of the rows are among their parameters.
    let mut value = (KEYS as u32).to_be_bytes().to_vec();
    value.push(RESPOND_ALL_KEYS);
    for (number, key) in (0u32..).zip(&keys) {
        value.extend(
            [&number.to_be_bytes()[..], &[0; 20], &[0, info1::READ | info1::GET_ALL, 0, 2, 0, 0]].concat(),
        );
        for (field_type, bytes) in [(field::NAMESPACE, &b"test"[..]), (field::DIGEST, &digest("rig", key))] {
            value.extend((bytes.len() as u32 + 1).to_be_bytes());
            value.push(field_type);
            value.extend(bytes);
        }
    }
    let read = Message { info1: info1::READ | info1::BATCH, ..Message::default() };
    let (answers, last) = rows(&mut clients[1], &read.with_field(field::BATCH, &value));
    assert_eq!((answers.len(), last), (KEYS, result::OK));
    for (number, row) in answers {
        assert_eq!((row.result, row.bin("n")), (result::OK, Some(&u64::from(number).to_be_bytes()[..])));
    }
    // One row is for a missing record, and one has an error of its own.
    for flags in [RESPOND_ALL_KEYS, RESPOND_ALL_KEYS | 1] {
        let mut read: Vec<_> =
            keys.iter().map(|key| (key.as_str(), info1::READ | info1::GET_ALL, 0, Vec::new())).collect();
        read.push(("nobody", info1::READ | info1::GET_ALL, 0, Vec::new()));
        read.push(("nothing", 0, 0, Vec::new()));
        for client in &mut clients {
            let (answers, last) = rows(client, &batch(flags, &read));
            assert_eq!((answers.len(), last), (KEYS + 2, result::OK));
            for (number, row) in answers {
                let number = number as usize;
                if number < KEYS {
                    assert_eq!((row.result, row.generation), (result::OK, 2), "row {number}");
                    assert_eq!(row.bin("n"), Some(&(number as u64).to_be_bytes()[..]));
                } else {
                    let expected = [result::NOT_FOUND, result::PARAMETER][number - KEYS];
                    assert_eq!(row.result, expected, "row {number}");
                }
            }
        }
    }
    // The filter of the batch, n < 100, applies to its rows.
    let filter = [0x93, 0x05, 0x93, 0x51, 0x02, 0xa1, b'n', 100];
    let read: Vec<_> =
        keys.iter().map(|key| (key.as_str(), info1::READ | info1::GET_ALL, 0, Vec::new())).collect();
    let mut filtered = batch(RESPOND_ALL_KEYS, &read);
    filtered.fields.insert(0, (field::FILTER_EXPRESSION, filter.to_vec()));
    let (answers, last) = rows(&mut clients[0], &filtered);
    assert_eq!((answers.len(), last), (KEYS, result::OK));
    let found = answers.values().filter(|row| row.result == result::OK).count();
    let kept_back = answers.values().filter(|row| row.result == result::FILTERED_OUT).count();
    assert_eq!((found, kept_back), (100, KEYS - 100));
    // Without the flag an error ends the reply, whichever node has it.
    let mut failing: Vec<_> =
        keys.iter().map(|key| (key.as_str(), info1::READ | info1::GET_ALL, 0, Vec::new())).collect();
    failing.push(("row-1", 0, info2::WRITE, vec![Operation::string(operation::INCR, "n", "x")]));
    let (_, last) = rows(&mut clients[2], &batch(0, &failing));
    assert_eq!(last, BIN_TYPE);

    assert_eq!(sum(&mut clients, "batch_sub_proxy_error"), 0);
    assert_eq!(sum(&mut clients, "batch_sub_proxy_timeout"), 0);
    let passed_on = sum(&mut clients, "batch_sub_proxy_complete");
    assert!(passed_on > 2 * KEYS as u64, "{passed_on}");
    assert!(sum(&mut clients, "from_proxy_batch_sub_write_success") > 0);
    assert!(sum(&mut clients, "from_proxy_batch_sub_read_success") > 0);
    assert!(sum(&mut clients, "from_proxy_batch_sub_read_filtered_out") > 0);
    assert_eq!(sum(&mut clients, "from_proxy_read_success"), 0, "rows are counted as rows");
}

#[test]
fn functions_are_carried_out_where_their_record_is() {
    let mut nodes = Nodes::start(2, IN_MEMORY);
    nodes.servers.iter_mut().for_each(|server| _ = server.allow("a function failed"));
    nodes.await_cluster(&[0, 1]);
    let mut clients = clients(&nodes);
    let content = BASE64_STANDARD.encode(
        "function add(r, n)\n r['n'] = (r['n'] or 0) + n\n if aerospike:exists(r) then aerospike:update(r) \
         else aerospike:create(r) end\n return r['n']\nend\n",
    );
    for client in &mut clients {
        let put = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
        assert_eq!(client.info_value(&put).unwrap(), "ok");
    }
    for number in 0..20 {
        let call = Message { info2: info2::WRITE, ..Message::on(&format!("function-{number}")) }
            .with_field(field::UDF_FILE, b"m")
            .with_field(field::UDF_FUNCTION, b"add")
            .with_field(field::UDF_ARGUMENTS, &[0x91, 3]);
        for round in 1..=2_u64 {
            for (place, client) in (0_u64..).zip(&mut clients) {
                let answer = client.ask(&call).unwrap();
                let expected = 3 * (2 * (round - 1) + place + 1);
                assert_eq!(answer.bin("SUCCESS"), Some(&expected.to_be_bytes()[..]), "{answer:?}");
            }
        }
    }
    assert_eq!(sum(&mut clients, "from_proxy_udf_complete"), sum(&mut clients, "client_proxy_complete"));
    assert_eq!(sum(&mut clients, "from_proxy_lang_write_success"), 40);
}

#[test]
fn a_master_that_does_not_answer_is_a_timeout() {
    let nodes = Nodes::start(2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut clients = clients(&nodes);
    // The master of this key is node 1. Deletes find it, because replicas answer reads too.
    let key = (0..).map(|number| format!("key-{number}")).find(|key| {
        clients[0].ask(&Message::delete(key)).unwrap();
        clients[1].figure("namespace/test", "from_proxy_delete_not_found").unwrap() > 0
    });
    let key = key.unwrap();
    nodes.servers[1].signal(Signal::SIGSTOP);
    // By now all threads of the node have stopped.
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    let put = Message { transaction_ttl: 300, ..Message::put(&key, vec![1]) };
    let answer = clients[0].ask(&put).unwrap();
    let took = asked.elapsed();
    nodes.servers[1].signal(Signal::SIGCONT);
    assert_eq!(answer.result, result::TIMEOUT);
    assert!(took >= Duration::from_millis(290) && took < Duration::from_millis(1200), "{took:?}");
    assert_eq!(clients[0].figure("namespace/test", "client_proxy_timeout").unwrap(), 1);
    assert_eq!(clients[0].figure("statistics", "proxy_in_progress").unwrap(), 0);
}

#[test]
fn no_request_is_refused_while_a_node_leaves_and_returns() {
    const KEYS: usize = 40;
    let mut nodes = Nodes::start(3, IN_MEMORY);
    nodes.await_cluster(&[0, 1, 2]);
    let key = |number: usize| format!("patient-{number}");
    // The time is enough for the other nodes to notice that the node has gone.
    let patient = |request: Message| Message { transaction_ttl: 15_000, ..request };
    let write_all = |nodes: &Nodes, numbers: &[usize], round: u8| {
        let mut clients: Vec<Client> =
            numbers.iter().map(|number| nodes.servers[*number].connect()).collect();
        for number in 0..KEYS {
            for (at, client) in clients.iter_mut().enumerate() {
                let put = patient(Message::put(&key(number), vec![round, at as u8]));
                let answer = client.ask(&put).unwrap();
                assert_eq!(answer.result, result::OK, "key {number} at node {}", numbers[at]);
                let answer = client.ask(&patient(Message::get(&key(number)))).unwrap();
                assert_eq!(answer.bin("b"), Some(&[round, at as u8][..]), "key {number}");
            }
        }
    };
    write_all(&nodes, &[0, 1, 2], 0);
    nodes.servers[1].kill9();
    // A request that was sent to the node when it ended may have been applied, so its result is a timeout.
    std::thread::sleep(Duration::from_millis(300));
    write_all(&nodes, &[0, 2], 1);
    nodes.await_members(&[0, 2]);
    write_all(&nodes, &[0, 2], 2);
}

const PROXY: u16 = 4;

/// The client's frame in the response to request number `id`.
fn response(body: &[u8], id: u32) -> Vec<u8> {
    let mut expected = Vec::new();
    put_field(&mut expected, 0, 1, &number(2));
    put_field(&mut expected, 1, 1, &number(id));
    expected.extend([0, 4, 6]);
    assert_eq!(body[..expected.len()], expected, "a response with its frame");
    let frame = &body[expected.len() + 4..];
    assert_eq!(body[expected.len()..expected.len() + 4], (frame.len() as u32).to_be_bytes());
    frame.to_vec()
}

/// The request in the form in which the C server forwards it: with numbers in its machine's byte order.
fn turned_around(request: &Message) -> Vec<u8> {
    let body = request.body();
    let mut frame = vec![2, 3];
    frame.extend(&(body.len() as u64).to_le_bytes()[..6]);
    frame.extend(&body[..6]);
    for at in [6..10, 10..14, 14..18, 18..20, 20..22] {
        frame.extend(body[at].iter().rev());
    }
    let mut rest = &body[22..];
    while !rest.is_empty() {
        let size = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        frame.extend(size.to_le_bytes());
        frame.extend(&rest[4..4 + size as usize]);
        rest = &rest[4 + size as usize..];
    }
    frame
}

#[test]
fn requests_of_c_servers_are_understood() {
    let mut nodes = Nodes::start(1, IN_MEMORY);
    nodes.servers[0]
        .allow("forwards a message that is not a request")
        .allow("unknown namespace")
        .allow("bad digest");
    nodes.await_cluster(&[0]);
    let mut stream = connect(nodes.ports(0)[1], 0x77);
    let mut ask = |id: u32, digest: &[u8], frame: Vec<u8>| {
        let fields = [(0, 1, number(1)), (1, 1, number(id)), (2, 6, digest.to_vec()), (4, 6, frame)];
        stream.write_all(&peer_message(PROXY, &fields)).unwrap();
        response(&next_message(&mut stream, PROXY), id)
    };
    let record = digest("rig", "passed-on");
    let put = Message { transaction_ttl: 1000, ..Message::put("passed-on", b"value".to_vec()) };
    // The expected answer is that of the C server, byte by byte.
    let mut done = vec![2, 3, 0, 0, 0, 0, 0, 22, 22];
    done.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(7, &record, turned_around(&put)), done);
    let found = ask(8, &record, turned_around(&Message::get("passed-on")));
    assert_eq!(found[8 + 5], result::OK);
    assert!(found.ends_with(&[b"\x00\x00\x00\x0a\x01\x04\x00\x01b", &b"value"[..]].concat()), "{found:02x?}");
    // Only the message around a batch row has the row's digest.
    let mut row = Message::get("passed-on");
    row.fields.retain(|(field_type, _)| *field_type != field::DIGEST);
    assert_eq!(ask(9, &record, turned_around(&row))[8 + 5], result::OK);
    assert_eq!(ask(10, &digest("rig", "nobody"), turned_around(&row))[8 + 5], result::NOT_FOUND);
    // Requests that cannot be applied are answered too.
    let mut elsewhere = Message::get("passed-on");
    elsewhere.fields[0].1 = b"nowhere".to_vec();
    assert_eq!(ask(11, &record, turned_around(&elsewhere))[8 + 5], result::NAMESPACE);
    assert_eq!(ask(12, &record, Message::get("passed-on").encode())[8 + 5], result::UNKNOWN);
    assert_eq!(ask(13, &record, vec![2, 3])[8 + 5], result::UNKNOWN);
    let idle = Message { info1: 0, ..Message::get("passed-on") };
    assert_eq!(ask(14, &record, turned_around(&idle))[8 + 5], result::PARAMETER);
    // For a node of another cluster, another node is the master: it gets its request back.
    let own = u64::from_str_radix(&nodes.await_cluster(&[0]), 16).unwrap();
    let mut ask_from = |id: u32, cluster_key: u64| {
        let (digest, frame) = (record.to_vec(), turned_around(&put));
        let key = cluster_key.to_be_bytes().to_vec();
        let fields = [(0, 1, number(1)), (1, 1, number(id)), (64, 3, key), (2, 6, digest), (4, 6, frame)];
        stream.write_all(&peer_message(PROXY, &fields)).unwrap();
        next_message(&mut stream, PROXY)
    };
    assert_eq!(ask_from(15, own ^ 1)[..7], [0, 0, 1, 0, 0, 0, 3]);
    assert_eq!(response(&ask_from(16, own), 16)[8 + 5], result::OK);
    let mut client = nodes.servers[0].connect();
    let mut figure = |scope: &str, name: &str| client.figure(scope, name).unwrap();
    assert_eq!(figure("namespace/test", "from_proxy_write_success"), 2);
    assert_eq!(figure("namespace/test", "from_proxy_read_success"), 1);
    assert_eq!(figure("namespace/test", "from_proxy_tsvc_error"), 1);
    assert_eq!(figure("namespace/test", "from_proxy_batch_sub_read_success"), 1);
    assert_eq!(figure("namespace/test", "from_proxy_batch_sub_read_not_found"), 1);
    assert_eq!(figure("statistics", "early_tsvc_from_proxy_error"), 1);
}
