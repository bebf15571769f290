//! Access control under attack: replayed messages, hostile fields and names, addresses, and rights that are
//! revoked in the middle of a request.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::security::{
    ADMIN, Field, OTHER, PASS, command, create_user, field, logged_in, login, names, read_in, request,
    result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{self, Message, Operation, info1, info2, operation, result};

/// Fields that only queries use.
const JOB_ID: u8 = 7;
const RECORDS_PER_SECOND: u8 = 10;
/// Longest time until a revoked right is lost. Usually it is lost at once.
const LOST_WITHIN: Duration = Duration::from_secs(5);

const MODULE: &str = "function values(s) return s : map(function(r) return 1 end) end";

fn start() -> Server {
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\n}}\n"));
    server.allow("has the password that everybody knows");
    server
}

/// A server with records, an administrator, and a user `bob` with all data rights.
fn with_bob(records: u32) -> (Server, Client, Client) {
    let server = start();
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write-udf", "udf-admin"]), 0);
    let mut bob = logged_in(&server, "bob", PASS);
    let content = BASE64_STANDARD.encode(MODULE);
    let module = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
    assert_eq!(bob.info_value(&module).unwrap(), "ok");
    for keys in (0..records).collect::<Vec<u32>>().chunks(200) {
        let put = |key: &u32| Message::put(&key.to_string(), vec![7; 1_000]).encode();
        bob.send(&keys.iter().flat_map(put).collect::<Vec<u8>>()).unwrap();
        for _ in keys {
            assert_eq!(bob.receive_message().unwrap().result, result::OK);
        }
    }
    (server, admin, bob)
}

fn revoke(admin: &mut Client) {
    let fields = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["read-write-udf"])[..])];
    assert_eq!(result_of(admin, command::REVOKE_ROLES, &fields), 0);
}

fn drop_bob(admin: &mut Client) {
    assert_eq!(result_of(admin, command::DROP_USER, &[(field::USER, b"bob")]), 0);
}

/// A query that takes long.
fn slow(message: Message, id: u64) -> Message {
    message.with_field(JOB_ID, &id.to_be_bytes()).with_field(RECORDS_PER_SECOND, &200u32.to_be_bytes())
}

/// The result of an answer's last message.
fn last_result(client: &mut Client) -> u8 {
    loop {
        let messages = client.receive().unwrap().messages().unwrap();
        if let Some(last) = messages.iter().find(|message| message.is_last() || message.result != 0) {
            return last.result;
        }
    }
}

fn aggregation() -> Message {
    Message { info1: info1::READ, ..Message::default() }
        .with_field(wire::field::NAMESPACE, b"test")
        .with_field(wire::field::SET, b"rig")
        .with_field(wire::field::UDF_OP, &[1])
        .with_field(wire::field::UDF_FILE, b"m")
        .with_field(wire::field::UDF_FUNCTION, b"values")
        .with_field(wire::field::UDF_ARGUMENTS, &[0x90])
}

#[test]
fn a_query_ends_with_the_right_of_its_user() {
    type Loss = fn(&mut Client);
    let cases: [(&str, Message, Loss, u8); 4] = [
        ("revoked", Message::scan("test"), revoke, 81),
        ("dropped", Message::scan("test"), drop_bob, 80),
        ("aggregation, revoked", aggregation(), revoke, 81),
        ("aggregation, dropped", aggregation(), drop_bob, 80),
    ];
    for (what, query, lose, expected) in cases {
        let (_server, mut admin, mut bob) = with_bob(4_000);
        bob.send(&slow(query, 5).encode()).unwrap();
        thread::sleep(Duration::from_millis(300));
        lose(&mut admin);
        let lost = Instant::now();
        assert_eq!(last_result(&mut bob), expected, "{what}");
        assert!(lost.elapsed() < LOST_WITHIN, "{what}: {:?}", lost.elapsed());
        assert_eq!(bob.ask(&Message::get("1")).unwrap().result, expected, "{what}");
    }
}

#[test]
fn a_background_query_ends_with_the_right_of_its_user() {
    let (server, mut admin, mut bob) = with_bob(4_000);
    assert_eq!(create_user(&mut admin, "eve", OTHER, &["read"]), 0);
    let mut eve = logged_in(&server, "eve", OTHER);
    let change = Message { info2: info2::WRITE, ..Message::default() }
        .with_field(wire::field::NAMESPACE, b"test")
        .with_field(wire::field::SET, b"rig")
        .with_operation(Operation::integer(operation::WRITE, "mark", 1));
    bob.send(&slow(change, 77).encode()).unwrap();
    assert_eq!(last_result(&mut bob), 0, "it has begun");
    // The query continues although its connection has gone.
    drop(bob);
    thread::sleep(Duration::from_millis(500));
    assert!(eve.info_value("query-show:id=77").unwrap().contains("status=active"));
    revoke(&mut admin);
    let lost = Instant::now();
    while !eve.info_value("query-show:id=77").unwrap().contains("status=done(abandoned-unknown)") {
        assert!(lost.elapsed() < LOST_WITHIN, "{}", eve.info_value("query-show:id=77").unwrap());
        thread::sleep(Duration::from_millis(20));
    }
    let changed = eve.scan("test").unwrap().iter().filter(|record| record.bin("mark").is_some()).count();
    assert!(changed > 0 && changed < 4_000, "{changed}");
}

#[test]
fn a_batch_ends_with_the_right_of_its_user() {
    for (lose, expected) in [(revoke as fn(&mut Client), 81), (drop_bob, 80)] {
        let (_server, mut admin, mut bob) = with_bob(100);
        let keys: Vec<String> = (0..30_000).map(|row| (row % 100).to_string()).collect();
        let mut batch = Message::get_all(keys.iter().map(String::as_str));
        // A row with an error does not end the batch.
        batch.fields[0].1[4] = 4;
        bob.send(&batch.encode()).unwrap();
        // The client does not read, so the batch cannot finish.
        thread::sleep(Duration::from_millis(500));
        lose(&mut admin);
        let (mut done, mut refused) = (0, 0);
        'answer: loop {
            for message in bob.receive().unwrap().messages().unwrap() {
                if message.is_last() {
                    break 'answer;
                }
                match message.result {
                    0 => done += 1,
                    result if result == expected => refused += 1,
                    other => panic!("a row with {other}"),
                }
            }
        }
        assert_eq!(done + refused, 30_000);
        assert!(done > 0 && refused > 0, "{done} rows were done, {refused} refused");
    }
}

#[test]
fn recorded_requests_are_of_no_use_to_others() {
    let server = start();
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read"]), 0);
    let mut bob = logged_in(&server, "bob", PASS);
    let role = names(&["read-write"]);
    let grant = request(command::GRANT_ROLES, &[(field::USER, b"bob"), (field::ROLES, &role)]);
    let create = request(
        command::CREATE_USER,
        &[(field::USER, b"eve"), (field::PASSWORD, OTHER.as_bytes()), (field::ROLES, &role)],
    );
    let sent = |client: &mut Client, bytes: &[u8]| {
        client.send(bytes).unwrap();
        client.receive().unwrap().body[1]
    };
    assert_eq!((sent(&mut admin, &grant), sent(&mut admin, &create)), (0, 0));
    let mut nobody = server.connect();
    for frame in [&grant, &create] {
        assert_eq!(sent(&mut nobody, frame), 80);
        assert_eq!(sent(&mut bob, frame), 81);
    }
    assert_eq!(sent(&mut admin, &create), 61, "twice is once");

    // A token becomes invalid when the password changes or the user is dropped, even if another user gets the
    // name.
    let (_, token) = login(&mut server.connect(), "bob", PASS);
    let authenticate =
        request(command::AUTHENTICATE, &[(field::USER, b"bob"), (field::SESSION_TOKEN, &token)]);
    assert_eq!(sent(&mut server.connect(), &authenticate), 0);
    let set = [(field::USER, &b"bob"[..]), (field::PASSWORD, OTHER.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &set), 0);
    assert_eq!(sent(&mut server.connect(), &authenticate), 65);
    let again = [(field::USER, &b"bob"[..]), (field::PASSWORD, PASS.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &again), 0);
    assert_eq!(sent(&mut server.connect(), &authenticate), 65, "the old password is another one now");
    let (_, token) = login(&mut server.connect(), "bob", PASS);
    drop_bob(&mut admin);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read"]), 0);
    let fields = [(field::USER, &b"bob"[..]), (field::SESSION_TOKEN, &token[..])];
    assert_eq!(result_of(&mut server.connect(), command::AUTHENTICATE, &fields), 65);
    let fields = [(field::USER, &b"admin"[..]), (field::SESSION_TOKEN, &token[..])];
    assert_eq!(result_of(&mut server.connect(), command::AUTHENTICATE, &fields), 65);
}

#[test]
fn names_with_control_characters_are_nobodys() {
    let mut server = Server::start(&format!(
        "{BASICS}{NAMESPACES}\nsecurity {{\nlog {{\nreport-authentication true\nreport-user-admin true\n}}\n}}\n"
    ));
    server.allow("has the password that everybody knows").allow("too many failed logins");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let long = "x".repeat(64);
    for name in ["", "a\nb", "a\0b", "\u{1b}[2J", "a\tb", "a:b", "a;b", "\u{7f}", "\u{85}", &long] {
        assert_eq!(create_user(&mut admin, name, PASS, &["read"]), 60, "{name:?}");
        let privileges = read_in("");
        let role = [(field::ROLE, name.as_bytes()), (field::PRIVILEGES, &privileges[..])];
        assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 70, "{name:?}");
        assert_eq!(login(&mut server.connect(), name, PASS).0, 60, "{name:?}");
    }
    let no_text = [(field::USER, &[0xff, 0xfe][..]), (field::CREDENTIAL, PASS.as_bytes())];
    assert_eq!(result_of(&mut server.connect(), command::LOGIN, &no_text), 60);
    for _ in 0..8 {
        login(&mut server.connect(), "eve\n| permitted \u{1b}[2J", PASS);
    }
    let longest = "y".repeat(63);
    assert_eq!(create_user(&mut admin, &longest, PASS, &["read"]), 0);
    assert_eq!(login(&mut server.connect(), &longest, PASS).0, 0);
    let log = server.log();
    assert!(log.contains("too many failed logins as 'eve??"), "told");
    assert!(log.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()), "a name gets to the terminal");
    assert!(!log.lines().any(|line| line.starts_with("| permitted")));
}

#[test]
fn oversized_and_broken_requests_are_refused_and_cost_nothing() {
    let mut server = start();
    server.allow("closing the connection");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let before = server.resident_megabytes().unwrap();
    let large = vec![b'x'; 1 << 20];
    let many = [&[255u8][..], &b"\x04read".repeat(255)[..]].concat();
    let cases: Vec<(u8, Vec<Field<'_>>, u8)> = vec![
        (command::CREATE_USER, vec![(field::USER, &large), (field::PASSWORD, PASS.as_bytes())], 60),
        (command::CREATE_USER, vec![(field::USER, b"big"), (field::PASSWORD, &large)], 62),
        (command::LOGIN, vec![(field::USER, b"admin"), (field::CREDENTIAL, &large)], 65),
        (command::AUTHENTICATE, vec![(field::USER, b"admin"), (field::SESSION_TOKEN, &large)], 65),
        (command::CREATE_ROLE, vec![(field::ROLE, &large)], 70),
        (command::CREATE_ROLE, vec![(field::ROLE, b"big"), (field::WHITELIST, &large)], 73),
        (command::CREATE_ROLE, vec![(field::ROLE, b"big"), (field::PRIVILEGES, &large)], 72),
        (command::CREATE_ROLE, vec![(field::ROLE, b"big"), (field::READ_QUOTA, b"\0\0\x01")], 55),
        (command::GRANT_ROLES, vec![(field::USER, b"admin"), (field::ROLES, &large)], 55),
        // A name that is repeated as often as possible is one role.
        (command::GRANT_ROLES, vec![(field::USER, b"admin"), (field::ROLES, &many)], 0),
        (command::DROP_USER, vec![(0xee, &large), (field::USER, b"ghost")], 60),
    ];
    for (number, fields, expected) in &cases {
        assert_eq!(result_of(&mut admin, *number, fields), *expected, "command {number}");
    }
    // Wrong sizes, wrong counts, a truncated message.
    let good = request(command::DROP_USER, &[(field::USER, b"ghost")]);
    let mut too_long = good.clone();
    too_long[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut no_size = good.clone();
    no_size[24..28].copy_from_slice(&0u32.to_be_bytes());
    let mut more_fields = good.clone();
    more_fields[11] = 255;
    let mut scheme = good.clone();
    scheme[8] = 9;
    let mut short = vec![0, 2, 0, 0, 0, 0, 0, 3];
    short.extend([0, 0, 2]);
    for (bytes, expected) in [(too_long, 55), (no_size, 55), (more_fields, 55), (scheme, 53), (short, 55)] {
        admin.send(&bytes).unwrap();
        assert_eq!(admin.receive().unwrap().body[1], expected);
    }
    // Many clients that have not logged in announce large bodies and send nothing.
    let announced = wire::frame_header(wire::kind::SECURITY, 128 << 20);
    let half_open: Vec<Client> = (0..1_000)
        .map(|number| {
            let client = server.connect();
            let mut socket = client.socket();
            let _ = socket.write_all(&announced[..1 + number % 8]);
            let _ = socket.write_all(&vec![0; number % 100]);
            client
        })
        .collect();
    assert_eq!(login(&mut server.connect(), "admin", ADMIN).0, 0, "others are served");
    let kept = server.resident_megabytes().unwrap().saturating_sub(before);
    assert!(kept < 80, "{kept} MB more");
    drop(half_open);
}

#[test]
fn a_right_for_one_set_opens_no_record_of_another() {
    let mut server = start();
    server.allow("set name mismatch");
    let mut admin = logged_in(&server, "admin", ADMIN);
    // The privilege read-write-udf in set `a` of `test`.
    let privileges = [&[1, 12, 4][..], b"test", &[1], b"a"].concat();
    let role = [(field::ROLE, &b"of-a"[..]), (field::PRIVILEGES, &privileges[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["of-a"]), 0);
    assert_eq!(create_user(&mut admin, "owner", PASS, &["read-write"]), 0);
    let (mut bob, mut owner) = (logged_in(&server, "bob", PASS), logged_in(&server, "owner", PASS));
    // A record of set `b` and one without a set, by their digests. A request may name any set.
    for set in ["b", ""] {
        let named = |message: Message, name: &str| {
            let message = message.with_field(wire::field::NAMESPACE, b"test");
            let message =
                if name.is_empty() { message } else { message.with_field(wire::field::SET, name.as_bytes()) };
            message.with_field(wire::field::DIGEST, &wire::digest(set, "secret"))
        };
        let with = |info1, info2| Message { info1, info2, ..Message::default() };
        let write = |value| Operation::integer(operation::WRITE, "n", value);
        let read = with(info1::READ | info1::GET_ALL, 0);
        assert_eq!(owner.ask(&named(with(0, info2::WRITE).with_operation(write(1)), set)).unwrap().result, 0);
        for request in [
            read.clone(),
            with(info1::READ | info1::GET_NO_BINS, 0),
            with(info1::READ, 0).with_operation(Operation::read("n")),
            with(0, info2::WRITE).with_operation(write(2)),
            with(info1::READ, info2::WRITE).with_operation(write(2)).with_operation(Operation::read("n")),
            with(0, info2::WRITE).with_operation(Operation::bare(operation::TOUCH, "")),
            with(0, info2::WRITE | info2::DELETE),
        ] {
            let mut asked = |name| bob.ask(&named(request.clone(), name)).unwrap();
            assert_eq!(asked(set).result, 81, "of '{set}'");
            let answer = asked("a");
            assert_eq!(
                (answer.result, answer.operations.len()),
                (result::PARAMETER, 0),
                "as if '{set}' were a"
            );
        }
        let kept = owner.ask(&named(read, set)).unwrap();
        assert_eq!((kept.result, kept.operations.len()), (0, 1));
    }
}

/// The server's port on an IPv6 address.
fn ipv6_address(server: &Server) -> SocketAddr {
    server.await_log(" client port [::1]:");
    let log = server.log();
    let mark = " client port ";
    let mut addresses =
        log.lines().filter_map(|line| line.split_once(mark)?.1.split_whitespace().next()?.parse().ok());
    addresses.rfind(|address: &SocketAddr| address.is_ipv6()).unwrap()
}

#[test]
fn a_whitelist_counts_for_ipv4_and_ipv6() {
    let config = BASICS.replacen("address 127.0.0.1", "address 127.0.0.1\n        address ::1", 1);
    let mut server = Server::start(&format!("{config}{NAMESPACES}\nsecurity {{\n}}\n"));
    server.allow("has the password that everybody knows");
    let (ipv4, ipv6) = (server.address(), ipv6_address(&server));
    let ipv4 = if ipv4.is_ipv4() { ipv4 } else { SocketAddr::new([127, 0, 0, 1].into(), ipv4.port()) };
    let mut admin = Client::connect(ipv4).unwrap();
    assert_eq!(login(&mut admin, "admin", ADMIN).0, 0);
    let list = |admin: &mut Client, list: &str| {
        let fields = [(field::ROLE, &b"office"[..]), (field::WHITELIST, list.as_bytes())];
        result_of(admin, command::SET_WHITELIST, &fields)
    };
    let privileges = read_in("");
    let role = [(field::ROLE, &b"office"[..]), (field::PRIVILEGES, &privileges[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["office"]), 0);
    let from = |source: [u8; 4]| {
        let mut client = Client::connect_from(source.into(), ipv4).unwrap();
        login(&mut client, "bob", PASS)
    };
    let from_ipv6 = || login(&mut Client::connect(ipv6).unwrap(), "bob", PASS).0;
    assert_eq!((from([127, 0, 0, 1]).0, from_ipv6()), (0, 0), "no list");
    let (_, token) = from([127, 0, 0, 1]);
    for (addresses, at_1, at_2, at_ipv6) in [
        ("127.0.0.1", 0, 82, 82),
        ("127.0.0.2", 82, 0, 82),
        ("127.0.0.0/30", 0, 0, 82),
        ("::1", 82, 82, 0),
        ("::1/128,127.0.0.2/32", 82, 0, 0),
        ("10.0.0.0/8,fd00::/8", 82, 82, 82),
        ("::ffff:127.0.0.1", 0, 82, 82),
    ] {
        assert_eq!(list(&mut admin, addresses), 0, "{addresses}");
        let found = (from([127, 0, 0, 1]).0, from([127, 0, 0, 2]).0, from_ipv6());
        assert_eq!(found, (at_1, at_2, at_ipv6), "{addresses}");
        // A token alone is not enough.
        let fields = [(field::USER, &b"bob"[..]), (field::SESSION_TOKEN, &token[..])];
        let mut client = Client::connect_from([127, 0, 0, 2].into(), ipv4).unwrap();
        assert_eq!(result_of(&mut client, command::AUTHENTICATE, &fields), at_2, "{addresses}");
    }
    for wrong in [
        "",
        "bad_IP",
        "1.2.3",
        "1.2.3.4/33",
        "::1/129",
        "1.2.3.4/24",
        "1.2.3.4,,::1",
        "1.2.3.4 ",
        "fe80::1%lo",
    ] {
        let expected = if wrong.is_empty() { 0 } else { 73 };
        assert_eq!(list(&mut admin, wrong), expected, "{wrong:?}");
    }
}

#[test]
fn an_acknowledged_change_of_a_user_outlives_every_crash() {
    let mut server = start();
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read"]), 0);
    let mut is_pass = true;
    for round in 0..8u64 {
        // The password alternates until the process has ended.
        let mut admin = logged_in(&server, "admin", ADMIN);
        let acknowledged = thread::scope(|scope| {
            let changes = scope.spawn(move || {
                loop {
                    let password = if is_pass { OTHER } else { PASS };
                    let fields = [(field::USER, &b"bob"[..]), (field::PASSWORD, password.as_bytes())];
                    let sent = admin.send(&request(command::SET_PASSWORD, &fields));
                    match sent.and_then(|()| admin.receive()) {
                        Ok(frame) => assert_eq!(frame.body[1], 0),
                        Err(_) => return is_pass,
                    }
                    is_pass = !is_pass;
                }
            });
            thread::sleep(Duration::from_millis(60 + 35 * round));
            server.kill9();
            changes.join().unwrap()
        });
        server.restart();
        let mut client = server.connect();
        let old = if acknowledged { PASS } else { OTHER };
        let new = if acknowledged { OTHER } else { PASS };
        let results = (login(&mut client, "bob", old).0, login(&mut client, "bob", new).0);
        assert!([(0, 65), (65, 0)].contains(&results), "round {round}: {results:?}");
        is_pass = (results.0 == 0) == acknowledged;
        assert_eq!(login(&mut client, "admin", ADMIN).0, 0, "round {round}");
    }
}

/// The source address of all connections except those of attackers.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

#[test]
fn a_whitelist_counts_on_open_connections() {
    let (server, mut admin, mut bob) = with_bob(4_000);
    let list = |admin: &mut Client, list: &str| {
        let fields = [(field::ROLE, &b"office"[..]), (field::WHITELIST, list.as_bytes())];
        assert_eq!(result_of(admin, command::SET_WHITELIST, &fields), 0);
    };
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &[(field::ROLE, b"office")]), 0);
    let granted = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["office"])[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 0);
    let mut elsewhere = Client::connect_from(ELSEWHERE.into(), server.address()).unwrap();
    assert_eq!(login(&mut elsewhere, "bob", PASS).0, 0);
    let get = |client: &mut Client| client.ask(&Message::get("1")).unwrap().result;
    assert_eq!((get(&mut bob), get(&mut elsewhere)), (0, 0));

    // The rights are revoked in the middle of a query, and of a background query whose connection has gone.
    bob.send(&slow(Message::scan("test"), 5).encode()).unwrap();
    thread::sleep(Duration::from_millis(300));
    list(&mut admin, "127.0.0.2,::1");
    let lost = Instant::now();
    assert_eq!(last_result(&mut bob), 82);
    assert!(lost.elapsed() < LOST_WITHIN, "{:?}", lost.elapsed());
    assert_eq!((get(&mut bob), get(&mut elsewhere)), (82, 0));
    assert_eq!(bob.ask(&Message::put("1", vec![1])).unwrap().result, 82);
    assert_eq!(bob.ask(&Message::get_all(["1"].into_iter())).unwrap().result, 82);
    assert_eq!(bob.ask(&Message::scan("test")).unwrap().result, 82);
    assert_eq!(bob.info("namespaces\n").unwrap(), "ERROR:82:not whitelisted\n");
    assert_eq!(result_of(&mut bob, command::QUERY_USERS, &[(field::USER, b"bob")]), 82);
    assert_eq!(login(&mut bob, "bob", PASS).0, 82);
    // The session is valid again.
    list(&mut admin, "127.0.0.0/30");
    assert_eq!((get(&mut bob), get(&mut elsewhere)), (0, 0));
    list(&mut admin, "127.0.0.1");
    assert_eq!((get(&mut bob), get(&mut elsewhere)), (0, 82));
    // When the role is dropped, its addresses no longer count.
    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, b"office")]), 0);
    assert_eq!((get(&mut bob), get(&mut elsewhere)), (0, 0));
}

#[test]
fn guesses_over_many_connections_delay_no_others() {
    let mut server = start();
    server.allow("too many failed logins");
    let mut admin = logged_in(&server, "admin", ADMIN);
    for user in ["bob", "eve"] {
        assert_eq!(create_user(&mut admin, user, PASS, &["read"]), 0);
    }
    let (_, token) = login(&mut server.connect(), "bob", PASS);
    // Each login is for another user, so that every login is checked.
    let guesses = |number: usize| {
        let mut client = Client::connect_from([127, 0, 0, 3].into(), server.address()).unwrap();
        let name = format!("user{number}");
        let fields = [(field::USER, name.as_bytes()), (field::CREDENTIAL, OTHER.as_bytes())];
        client.send(&request(command::LOGIN, &fields)).unwrap();
        client
    };
    let mut flood: Vec<Client> = (0..400).map(guesses).collect();
    let quick = |what: &str, act: &dyn Fn() -> u8| {
        let started = Instant::now();
        assert_eq!(act(), 0, "{what}");
        // Any single login of the flood takes longer than all of these together may take.
        assert!(started.elapsed() < Duration::from_secs(2), "{what}: {:?}", started.elapsed());
    };
    let by_token = [(field::USER, &b"bob"[..]), (field::SESSION_TOKEN, &token[..])];
    quick("a token", &|| result_of(&mut server.connect(), command::AUTHENTICATE, &by_token));
    quick("a user that is known", &|| login(&mut server.connect(), "bob", PASS).0);
    quick("a newcomer", &|| login(&mut server.connect(), "eve", PASS).0);
    quick("a change", &|| create_user(&mut logged_in(&server, "admin", ADMIN), "new", PASS, &[]));
    let mut answered = 0;
    for client in &flood {
        client.socket().set_nonblocking(true).unwrap();
        answered += usize::from(client.socket().peek(&mut [0]).is_ok());
        client.socket().set_nonblocking(false).unwrap();
    }
    assert!(answered < flood.len(), "they are still being answered");
    assert!(flood.iter_mut().all(|client| client.receive().unwrap().body[1] == 60));
}

#[test]
fn large_requests_are_refused_before_a_login() {
    let mut server = start();
    server.allow("bytes before a login");
    let large = vec![7; 1 << 20];
    let mut cases = vec![Message::put("key", large.clone()).encode()];
    cases.push(wire::frame(wire::kind::INFO, &large));
    cases.push(request(command::LOGIN, &[(field::USER, b"admin"), (field::CREDENTIAL, &large)]));
    cases.push(wire::frame(wire::kind::COMPRESSED, &large));
    for (number, bytes) in cases.iter().enumerate() {
        let mut client = server.connect();
        let _ = client.send(bytes);
        assert!(client.is_closed_by_server(), "number {number}");
    }
    assert!(server.log().contains("bytes before a login"));
    // A small frame that would inflate to a large one is not read.
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&Message::put("key", vec![7; 8 << 20]).encode()).unwrap();
    let stream = encoder.finish().unwrap();
    let announced = (8u64 << 20).to_be_bytes();
    let mut client = server.connect();
    client.send(&wire::frame(wire::kind::COMPRESSED, &[&announced[..], &stream].concat())).unwrap();
    assert_eq!(client.receive_message().unwrap().result, 80);
    assert_eq!(login(&mut client, "admin", ADMIN).0, 0, "the connection goes on");
}
