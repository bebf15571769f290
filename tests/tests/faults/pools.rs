//! Panics in threads of pools, and in threads that fill indexes or check settings: what they cost, and that
//! no work is lost which no other thread would repeat.

use std::net::TcpStream;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::figures::take_answer;
use ferrospike_tests::security::{self, ADMIN, PASS, command, create_user, field as login, logged_in, names};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server, usual_config};
use ferrospike_tests::tls::{Authority, Wish, client_hello, connect, ends_within, send_anyway, tls_address};
use ferrospike_tests::wire::{
    Message, Operation, compressed, field, info1, info2, integer_range, operation, result,
};

use super::{Others, can_inject, costs_one_connection};

const MODULE: &str = "
function add(r) r.n = (r.n or 0) + 1 if aerospike:exists(r) then aerospike:update(r) else aerospike:create(r) end return r.n end
function ones(s) return s : map(function(r) return 1 end) end
";
/// No arguments, packed.
const NO_ARGUMENTS: [u8; 1] = [0x90];

fn register(client: &mut Client) {
    let content = BASE64_STANDARD.encode(MODULE);
    let command = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
    assert_eq!(client.info_value(&command).expect("an answer"), "ok");
}

fn with_function(message: Message, function: &str) -> Message {
    message
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, function.as_bytes())
        .with_field(field::UDF_ARGUMENTS, &NO_ARGUMENTS)
}

#[test]
fn a_panic_of_a_pool_costs_the_request_that_it_had() {
    if !can_inject() {
        return;
    }
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error");
    register(&mut server.connect());
    let mut others = Others::new(&server);
    let large = compressed(&Message::put("large", vec![7; 100_000]).encode());
    let call = Message { info2: info2::WRITE, ..Message::on("counted") };
    let call = with_function(call, "add").encode();
    for (point, request) in
        [("compression", &large), ("deliver-inflated", &large), ("transaction-pool", &call), ("udf", &call)]
    {
        for _ in 0..2 {
            costs_one_connection(&mut server, &mut others, point, request);
        }
        let mut next = server.connect();
        next.send(request).expect("sent");
        assert_eq!(next.receive_message().expect("an answer").result, result::OK, "after {point}");
        drop(next);
        others.are_alone();
    }
}

/// A stream function gives its place back, and there are only few places.
#[test]
fn a_panic_in_a_stream_function_ends_its_query() {
    if !can_inject() {
        return;
    }
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error").allow("aggregation of query");
    let mut client = server.connect();
    register(&mut client);
    let mut others = Others::new(&server);
    let aggregation = Message { info1: info1::READ, ..Message::default() }
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::UDF_OP, &[1]);
    let aggregation = with_function(aggregation, "ones").encode();
    for _ in 0..6 {
        server.inject_fault("stream-function");
        client.send(&aggregation).expect("sent");
        assert_eq!(take_answer(&mut client).1, result::UNKNOWN);
        others.are_served();
    }
    client.send(&aggregation).expect("sent");
    assert_eq!(take_answer(&mut client), (8, result::OK));
}

#[test]
fn an_index_is_filled_although_its_thread_panics() {
    if !can_inject() {
        return;
    }
    const RECORDS: i64 = 50;
    let mut server = Server::start_with_faults(&usual_config());
    server.allow("an internal error");
    let mut client = server.connect();
    for n in 0..RECORDS {
        let put = Message::write(&n.to_string()).with_operation(Operation::integer(operation::WRITE, "n", n));
        assert_eq!(client.ask(&put).expect("an answer").result, result::OK);
    }
    server.inject_fault("sindex-build");
    let create = "sindex-create:namespace=test;set=rig;indexname=by-n;indexdata=n,numeric";
    assert_eq!(client.info_value(create).expect("an answer"), "ok");
    server.await_fault("sindex-build");
    await_answer(&mut client, "sindex-list", |answer| answer.contains(":state=RW"));
    let query = Message::scan("test")
        .with_field(field::SET, b"rig")
        .with_field(field::INDEX_RANGE, &integer_range("n", 0, RECORDS));
    client.send(&query.encode()).expect("sent");
    assert_eq!(take_answer(&mut client), (RECORDS as usize, result::OK));

    for point in ["set-index", "set-index-fill"] {
        let switch = |is_on| format!("set-config:context=namespace;id=test;set=rig;enable-index={is_on}");
        assert_eq!(client.info_value(&switch(false)).expect("an answer"), "ok");
        server.inject_fault(point);
        assert_eq!(client.info_value(&switch(true)).expect("an answer"), "ok");
        server.await_fault(point);
        await_answer(&mut client, "sets/test/rig", |answer| answer.contains("index_populating=false"));
        client.send(&Message::scan("test").with_field(field::SET, b"rig").encode()).expect("sent");
        assert_eq!(take_answer(&mut client), (RECORDS as usize, result::OK));
    }
}

fn await_answer(client: &mut Client, name: &str, is_right: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let answer = client.info_value(name).expect("an answer");
        if is_right(&answer) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{name}: {answer}");
    }
}

#[test]
fn access_control_goes_on() {
    if !can_inject() {
        return;
    }
    let config = format!("{BASICS}{NAMESPACES}\nsecurity {{\n    enable-quotas true\n}}\n");
    let mut server = Server::start_with_faults(&config);
    server.allow("has the password that everybody knows").allow("an internal error");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);
    let mut bob = logged_in(&server, "bob", PASS);
    let roles = names(&["read"]);
    let eve = [(login::USER, &b"eve"[..]), (login::PASSWORD, PASS.as_bytes()), (login::ROLES, &roles[..])];
    // The password of this user was not verified by an earlier login.
    assert_eq!(create_user(&mut admin, "dan", PASS, &["read"]), 0);
    let dans = [(login::USER, &b"dan"[..]), (login::CREDENTIAL, PASS.as_bytes())];
    for (point, command, fields) in [
        ("security", command::QUERY_USERS, &[][..]),
        ("password", command::LOGIN, &dans[..]),
        ("user-change", command::CREATE_USER, &eve[..]),
    ] {
        let request = security::request(command, fields);
        // There are more panics than threads.
        for _ in 0..3 {
            let mut client = logged_in(&server, "admin", ADMIN);
            server.inject_fault(point);
            client.send(&request).expect("sent");
            assert!(client.is_closed_by_server(), "the client of {point} waits for ever");
            assert!(!server.has_fault(point));
            assert_eq!(bob.ask(&Message::put("key", vec![1])).expect("an answer").result, result::OK);
        }
        let mut client = logged_in(&server, "admin", ADMIN);
        assert_eq!(security::result_of(&mut client, command, fields), 0, "after {point}");
    }
    for _ in 0..2 {
        server.inject_fault("quotas");
        server.await_fault("quotas");
    }
    assert_eq!(bob.ask(&Message::get("key")).expect("an answer").result, result::OK);
}

#[test]
fn tls_goes_on() {
    if !can_inject() {
        return;
    }
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("tests"));
    authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
    let path = folder.path().display();
    let port = "port 0\n        tls-port 0\n        tls-name node\n        tls-authenticate-client false";
    let context = format!(
        "network {{\n    tls node {{\n        cert-file {path}/cert.pem\n        key-file {path}/key.pem\n    }}\n"
    );
    let config = usual_config().replace("port 0", port).replacen("network {\n", &context, 1);
    let mut server = Server::start_with_faults(&config);
    server.allow("an internal error");
    let mut others = Others::new(&server);
    let client_config = authority.client(None);
    for _ in 0..2 {
        server.inject_fault("handshake");
        let socket = TcpStream::connect(tls_address(&server)).expect("the port listens");
        send_anyway(&socket, &client_hello(&client_config));
        server.await_fault("handshake");
        assert!(ends_within(&socket, PATIENCE), "who shakes hands waits for ever");
        server.inject_fault("tls-refresh");
        server.await_fault("tls-refresh");
        others.are_served();
        others.are_alone();
    }
    let mut client = connect(&client_config, tls_address(&server), "node.test").expect("a handshake");
    assert_eq!(client.ask(&Message::get("other 1")).expect("an answer").result, result::OK);
}
