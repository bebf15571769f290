//! Access control: login, users and roles, their rights, and the state after a stop or a crash.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::programs::{binary, built};
use ferrospike_tests::security::{
    ADMIN, Field, OTHER, PASS, ask, command, create_user, field, logged_in, login, names, read_in, request,
    result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{
    Message, Operation, field as data, info1, info2, info3, kind, operation, result,
};

fn start(security: &str) -> Server {
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\n{security}\n}}\n"));
    server.allow("has the password that everybody knows");
    server
}

fn put(client: &mut Client) -> u8 {
    client.ask(&Message::put("key", vec![1])).unwrap().result
}

fn get(client: &mut Client) -> u8 {
    client.ask(&Message::get("key")).unwrap().result
}

#[test]
fn nothing_is_done_before_a_login() {
    let mut server = start("");
    server.allow("request without a namespace");
    let mut client = server.connect();
    assert_eq!((put(&mut client), get(&mut client)), (80, 80));
    assert_eq!(client.ask(&Message::get_all(["key"].into_iter())).unwrap().result, 80);
    assert_eq!(client.ask(&Message::scan("test")).unwrap().result, 80);
    assert_eq!(client.info("node\nnamespaces\n").unwrap(), "ERROR:80:not authenticated\n");
    assert_eq!(result_of(&mut client, command::QUERY_USERS, &[]), 80);
    assert_eq!(create_user(&mut client, "eve", PASS, &["read-write"]), 80);
    assert_eq!(login(&mut client, "admin", PASS).0, 65);
    assert_eq!(login(&mut client, "nobody", PASS).0, 60);
    assert_eq!(login(&mut client, "", PASS).0, 60);
    assert_eq!(get(&mut client), 80);
    assert_eq!(login(&mut client, "admin", ADMIN).0, 0);
    // A user administrator may not read.
    assert_eq!((put(&mut client), get(&mut client)), (81, 81));
    assert_eq!(client.info_value("namespaces").unwrap(), "test;bar");
    assert_eq!(client.ask(&Message { fields: Vec::new(), ..Message::get("key") }).unwrap().result, 20);
}

#[test]
fn roles_decide_and_change_at_once() {
    let server = start("enable-quotas true");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &[]), 61);
    assert_eq!(create_user(&mut admin, "eve", PASS, &["nobody"]), 70);
    let mut bob = logged_in(&server, "bob", PASS);
    assert_eq!((put(&mut bob), get(&mut bob)), (0, 0));
    assert_eq!(create_user(&mut bob, "eve", PASS, &[]), 81);
    let refused = "ERROR:81:role violation - requires permission";
    assert_eq!(
        bob.info_value("set-config:context=service;proto-fd-max=2K").unwrap(),
        format!("{refused} 'set-config'")
    );
    assert_eq!(bob.info_value("truncate:namespace=test;set=rig").unwrap(), format!("{refused} 'truncate'"));
    // Clients look for the error in this way.
    let own_form = format!("{refused} 'udf-admin';error=role_violation");
    assert_eq!(bob.info_value("udf-put:filename=m.lua;content-len=0;content=").unwrap(), own_form);

    // The open connection loses a right and gets another one.
    let revoked = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["read-write"])[..])];
    assert_eq!(result_of(&mut admin, command::REVOKE_ROLES, &revoked), 0);
    assert_eq!((put(&mut bob), get(&mut bob)), (81, 81));
    let role = [(field::ROLE, &b"reader"[..]), (field::PRIVILEGES, &read_in("rig")[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 71);
    let granted = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["reader"])[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 0);
    assert_eq!((put(&mut bob), get(&mut bob)), (81, 0));
    assert_eq!(bob.ask(&Message::on_record("test", "other", "key")).map(|reply| reply.result).unwrap(), 81);
    // A row without a set name is for no set.
    assert_eq!(bob.take_result_of_batch(), 81);

    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, b"read")]), 70, "predefined");
    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, b"reader")]), 0);
    assert_eq!(get(&mut bob), 81);
    assert_eq!(result_of(&mut admin, command::DROP_USER, &[(field::USER, b"bob")]), 0);
    assert_eq!(get(&mut bob), 80);
    assert_eq!(login(&mut server.connect(), "bob", PASS).0, 60);

    // A new user with the same name and password is not the dropped one.
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);
    let mut other = logged_in(&server, "bob", PASS);
    assert_eq!((put(&mut other), get(&mut other)), (0, 0));
    assert_eq!((put(&mut bob), get(&mut bob), bob.take_result_of_batch()), (80, 80, 80));
    assert_eq!(bob.info("namespaces\n").unwrap(), "ERROR:80:not authenticated\n");
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 70, "the role is gone");
    let read = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["sys-admin"])[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &read), 0);
    assert_eq!((get(&mut bob), get(&mut other)), (80, 0));
    assert_eq!(login(&mut bob, "bob", PASS).0, 0);
    assert_eq!(get(&mut bob), 0);
}

#[test]
fn requests_in_one_packet_belong_to_the_user_who_logged_in_before() {
    let server = start("");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);
    let put = Message::put("key", vec![1]).encode();
    let enter = |user: &str, credential: &str| {
        let fields = [(field::USER, user.as_bytes()), (field::CREDENTIAL, credential.as_bytes())];
        request(command::LOGIN, &fields)
    };
    let steps = [
        (put.clone(), 80),
        (enter("bob", PASS), 0),
        (put.clone(), 0),
        (enter("admin", ADMIN), 0),
        (put.clone(), 81),
        (enter("bob", OTHER), 65),
        (put.clone(), 81),
        (enter("bob", PASS), 0),
        (put, 0),
    ];
    let mut client = server.connect();
    client.send(&steps.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>()).unwrap();
    for (number, (_, expected)) in steps.iter().enumerate() {
        let frame = client.receive().unwrap();
        let result = frame.body[if frame.kind == kind::SECURITY { 1 } else { 5 }];
        assert_eq!(result, *expected, "answer {number}");
    }
}

/// The roles of a user that an administrator sees, in the form of the field.
fn roles_of(admin: &mut Client, user: &str) -> Vec<u8> {
    let (result, fields) = ask(admin, command::QUERY_USERS, &[(field::USER, user.as_bytes())]);
    assert_eq!((result, admin.receive().unwrap().body[1]), (0, 50));
    fields.into_iter().find(|(id, _)| *id == field::ROLES).unwrap().1
}

#[test]
fn a_role_that_is_made_again_is_nobodys() {
    let mut server = start("");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let role = [(field::ROLE, &b"reader"[..]), (field::PRIVILEGES, &read_in("")[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    for user in ["bob", "eve"] {
        assert_eq!(create_user(&mut admin, user, PASS, &["reader", "write"]), 0);
    }
    let (mut bob, mut eve) = (logged_in(&server, "bob", PASS), logged_in(&server, "eve", PASS));
    assert_eq!((get(&mut bob), get(&mut eve)), (2, 2));
    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &role[..1]), 0);
    assert_eq!((get(&mut bob), get(&mut eve)), (81, 81));
    assert_eq!(roles_of(&mut admin, "bob"), names(&["write"]));
    let held = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["reader"])[..])];
    assert_eq!(result_of(&mut admin, command::REVOKE_ROLES, &held), 70);
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!((get(&mut bob), get(&mut eve)), (81, 81));
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &held), 0);
    assert_eq!((get(&mut bob), get(&mut eve)), (2, 81));
    server.kill9();
    server.restart();
    let (mut bob, mut eve) = (logged_in(&server, "bob", PASS), logged_in(&server, "eve", PASS));
    assert_eq!((get(&mut bob), get(&mut eve)), (2, 81));
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(roles_of(&mut admin, "bob"), names(&["reader", "write"]));
    assert_eq!(roles_of(&mut admin, "eve"), names(&["write"]));
}

trait Batch {
    fn take_result_of_batch(&mut self) -> u8;
}

impl Batch for Client {
    /// The result of the only row of a batch that reads without a set.
    fn take_result_of_batch(&mut self) -> u8 {
        self.send(&Message::get_all(["key"].into_iter()).encode()).unwrap();
        let frame = self.receive().unwrap();
        frame.messages().unwrap()[0].result
    }
}

#[test]
fn tokens_are_good_until_they_end() {
    let mut server = start("session-ttl 120");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read"]), 0);
    assert_eq!(create_user(&mut admin, "eve", OTHER, &["read"]), 0);
    let (_, token) = login(&mut server.connect(), "bob", PASS);
    let authenticate = |server: &Server, user: &str, token: &[u8]| {
        let fields = [(field::USER, user.as_bytes()), (field::SESSION_TOKEN, token)];
        result_of(&mut server.connect(), command::AUTHENTICATE, &fields)
    };
    assert_eq!(authenticate(&server, "bob", &token), 0);
    assert_eq!(authenticate(&server, "eve", &token), 65, "the token of another");
    let mut forged = token.clone();
    forged[3] ^= 1;
    assert_eq!(authenticate(&server, "bob", &forged), 65);
    assert_eq!(authenticate(&server, "bob", &[]), 65);
    // Old clients send the credential instead.
    let fields = [(field::USER, &b"bob"[..]), (field::CREDENTIAL, PASS.as_bytes())];
    assert_eq!(result_of(&mut server.connect(), command::AUTHENTICATE, &fields), 0);

    server.stop();
    server.restart();
    assert_eq!(authenticate(&server, "bob", &token), 0, "a restart logs nobody out");
    let mut bob = logged_in(&server, "bob", PASS);
    let change = |old: &str, new: &str| {
        [(field::USER, b"bob".to_vec()), (field::OLD_PASSWORD, old.into()), (field::PASSWORD, new.into())]
    };
    let changed = |client: &mut Client, fields: &[(u8, Vec<u8>)]| {
        let fields: Vec<Field<'_>> = fields.iter().map(|(id, data)| (*id, &data[..])).collect();
        result_of(client, command::CHANGE_PASSWORD, &fields)
    };
    assert_eq!(changed(&mut bob, &change(OTHER, ADMIN)), 65);
    assert_eq!(changed(&mut logged_in(&server, "eve", OTHER), &change(PASS, ADMIN)), 81);
    assert_eq!(changed(&mut bob, &change(OTHER, "short")), 65, "the old one is looked at first");
    assert_eq!(changed(&mut bob, &change(PASS, "short")), 62);
    assert_eq!(changed(&mut bob, &change(PASS, ADMIN)), 0);
    assert_eq!(authenticate(&server, "bob", &token), 65, "the password has changed");
    assert_eq!(get(&mut bob), 2, "the connection stays");
    assert_eq!(login(&mut server.connect(), "bob", PASS).0, 65);
    assert_eq!(login(&mut server.connect(), "bob", ADMIN).0, 0);
    let mut admin = logged_in(&server, "admin", ADMIN);
    let set = [(field::USER, &b"bob"[..]), (field::PASSWORD, PASS.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &set), 0);
    assert_eq!(login(&mut server.connect(), "bob", PASS).0, 0);
}

#[test]
fn users_and_roles_survive_a_crash_and_secrets_stay_hidden() {
    let mut server =
        start("enable-quotas false\nlog {\nreport-user-admin true\nreport-authentication true\n}");
    let mut admin = logged_in(&server, "admin", ADMIN);
    for number in 0..20 {
        assert_eq!(create_user(&mut admin, &format!("user{number}"), PASS, &["read-write", "truncate"]), 0);
    }
    let role = [
        (field::ROLE, &b"office"[..]),
        (field::PRIVILEGES, &read_in("")[..]),
        (field::WHITELIST, b"10.0.0.0/8,::2"),
    ];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    let quota = [(field::ROLE, &b"quick"[..]), (field::READ_QUOTA, &9u32.to_be_bytes()[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &quota), 74, "quotas are off");
    server.kill9();
    server.restart();
    let mut admin = logged_in(&server, "admin", ADMIN);
    for number in 0..20 {
        let mut user = logged_in(&server, &format!("user{number}"), PASS);
        assert_eq!(put(&mut user), 0);
    }
    let (result, found) = ask(&mut admin, command::QUERY_ROLES, &[(field::ROLE, b"office")]);
    assert_eq!(result, 0);
    let expected = vec![
        (field::ROLE, b"office".to_vec()),
        (field::PRIVILEGES, read_in("")),
        (field::WHITELIST, b"10.0.0.0/8,::2".to_vec()),
    ];
    assert_eq!(found, expected);
    assert_eq!(admin.receive().unwrap().body[1], 50);
    // A user of a role with addresses may connect only from these addresses.
    let granted = [(field::USER, &b"user0"[..]), (field::ROLES, &names(&["office"])[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 0);
    assert_eq!(login(&mut server.connect(), "user0", PASS).0, 82);
    let anywhere = [(field::ROLE, &b"office"[..])];
    assert_eq!(result_of(&mut admin, command::SET_WHITELIST, &anywhere), 0);
    assert_eq!(login(&mut server.connect(), "user0", PASS).0, 0);

    let log = server.log();
    assert!(log.contains("(audit): "), "{log}");
    assert!(log.contains("permitted | client: 127.0.0.1:"), "{log}");
    assert!(log.contains(
        "| authenticated user: admin | action: create user | detail: user=user7;roles=read-write,truncate"
    ));
    assert!(!log.contains("$2a$") && !log.contains("argon2id"), "a secret is in the log");
    let shown = admin.info_value("smd-show:module=security").unwrap();
    assert!(!shown.contains("argon2id") && shown.contains("secret|token=hidden"), "{shown}");
    let file = server.folder().join("smd/security.smd");
    let inspect = |options: &[&str]| {
        let output = Command::new(built("asd-inspect").unwrap()).args(options).arg(&file).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    for options in [&[][..], &["--json"]] {
        let shown = inspect(options);
        assert!(!shown.contains("argon2id") && shown.contains("secret|token"), "{shown}");
        assert!(shown.contains("user7") && shown.contains("hidden"), "{shown}");
    }
    assert!(inspect(&["--json", "--show-secrets"]).contains("argon2id"));
}

#[test]
fn guesses_of_passwords_are_barred() {
    let mut server = start("");
    server.allow("too many failed logins as 'admin' from 127.0.0.1");
    let mut client = server.connect();
    let results: Vec<u8> = (0..8).map(|_| login(&mut client, "admin", PASS).0).collect();
    assert_eq!(results, [65; 8]);
    // Now even the right credential is not checked, except from other addresses.
    assert_eq!(login(&mut client, "admin", ADMIN).0, 65);
    let mut elsewhere = Client::connect_from([127, 0, 0, 2].into(), server.address()).unwrap();
    assert_eq!(login(&mut elsewhere, "admin", ADMIN).0, 0);
    assert!(
        server.log().contains("too many failed logins as 'admin' from 127.0.0.1: further ones are refused")
    );
    let start = Instant::now();
    while login(&mut client, "admin", ADMIN).0 != 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_quota_limits_a_user() {
    let server = start("enable-quotas true");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let quota = 50u32.to_be_bytes();
    let role =
        [(field::ROLE, &b"slow"[..]), (field::PRIVILEGES, &read_in("")[..]), (field::READ_QUOTA, &quota[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["slow"]), 0);
    let mut bob = logged_in(&server, "bob", PASS);
    let start = Instant::now();
    let results: Vec<u8> = (0..400).map(|_| get(&mut bob)).collect();
    let seconds = start.elapsed().as_secs_f64().ceil() + 1.0;
    let done = results.iter().filter(|&&result| result == result::NOT_FOUND).count();
    assert!(results.iter().all(|result| [result::NOT_FOUND, 83].contains(result)), "{results:?}");
    assert!(done >= 50 && done as f64 <= 50.0 * seconds, "{done} in {seconds} s");
}

/// Fields that only queries use.
const JOB_ID: u8 = 7;
const RECORDS_PER_SECOND: u8 = 10;

/// A query of all records, optionally at this rate.
fn query(rate: Option<u32>) -> Message {
    let partitions: Vec<u8> = (0..4096u16).flat_map(u16::to_le_bytes).collect();
    let info1 = info1::READ | info1::GET_ALL;
    let message = Message { info1, info3: info3::PARTITION_DONE, ..Message::default() }
        .with_field(data::NAMESPACE, b"test")
        .with_field(data::SET, b"rig")
        .with_field(data::PARTITION_ID_ARRAY, &partitions);
    match rate {
        Some(rate) => message.with_field(RECORDS_PER_SECOND, &rate.to_be_bytes()),
        None => message,
    }
}

/// A change of all records at this rate.
fn background(rate: u32, id: u64) -> Message {
    Message { info2: info2::WRITE, ..Message::default() }
        .with_field(data::NAMESPACE, b"test")
        .with_field(data::SET, b"rig")
        .with_field(JOB_ID, &id.to_be_bytes())
        .with_field(RECORDS_PER_SECOND, &rate.to_be_bytes())
        .with_operation(Operation::integer(operation::WRITE, "n", 1))
}

/// The first error in an answer, or, if there is none, its last result.
fn outcome(client: &mut Client, request: &Message) -> u8 {
    client.send(&request.encode()).unwrap();
    loop {
        let messages = client.receive().unwrap().messages().unwrap();
        if let Some(last) = messages.iter().find(|message| message.is_last() || message.result != 0) {
            return last.result;
        }
    }
}

/// The figures of a user's reads or writes, as an administrator sees them: quota, operations and records of
/// queries per second, and unlimited queries.
fn figures(admin: &mut Client, user: &str, of: u8) -> [u32; 4] {
    let (result, fields) = ask(admin, command::QUERY_USERS, &[(field::USER, user.as_bytes())]);
    assert_eq!(result, 0);
    assert_eq!(admin.receive().unwrap().body[1], 50);
    let data = &fields.iter().find(|(id, _)| *id == of).unwrap().1;
    assert_eq!((data.len(), data[0]), (17, 4));
    std::array::from_fn(|at| u32::from_be_bytes(data[1 + 4 * at..5 + 4 * at].try_into().unwrap()))
}

fn await_figures(admin: &mut Client, user: &str, of: u8, wanted: impl Fn([u32; 4]) -> bool) {
    let start = Instant::now();
    while !wanted(figures(admin, user, of)) {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", figures(admin, user, of));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn set_quotas(admin: &mut Client, role: &str, read: u32, write: u32) {
    let fields = [
        (field::ROLE, role.as_bytes()),
        (field::READ_QUOTA, &read.to_be_bytes()[..]),
        (field::WRITE_QUOTA, &write.to_be_bytes()[..]),
    ];
    assert_eq!(result_of(admin, command::SET_QUOTAS, &fields), 0);
}

#[test]
fn queries_take_their_rates_of_the_quota() {
    let server = start("enable-quotas true");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &[(field::ROLE, b"limit")]), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write", "limit"]), 0);
    let connect = || logged_in(&server, "bob", PASS);
    let (mut bob, mut second) = (connect(), connect());
    for key in 0..2_000 {
        assert_eq!(bob.ask(&Message::put(&key.to_string(), vec![1])).unwrap().result, 0);
    }
    // Without a quota every operation is counted and none is refused.
    let (of_reads, of_writes) = (field::READ_INFO, field::WRITE_INFO);
    await_figures(&mut admin, "bob", of_writes, |[quota, rate, ..]| quota == 0 && rate > 0);
    assert_eq!(outcome(&mut bob, &query(None)), 0);
    assert_eq!(outcome(&mut bob, &query(Some(1_000_000))), 0);
    set_quotas(&mut admin, "limit", 1_000, 500);
    assert_eq!(figures(&mut admin, "bob", of_reads)[0], 1_000);
    await_figures(&mut admin, "bob", of_writes, |[quota, rate, ..]| quota == 500 && rate == 0);
    assert_eq!(outcome(&mut bob, &query(None)), 83, "as fast as can be");
    assert_eq!(outcome(&mut bob, &query(Some(0))), 83);
    assert_eq!(outcome(&mut bob, &query(Some(1_001))), 83);
    bob.send(&query(Some(700)).encode()).unwrap();
    await_figures(&mut admin, "bob", of_reads, |[_, _, rate, limitless]| (rate, limitless) == (700, 0));
    assert_eq!(outcome(&mut second, &query(Some(301))), 83, "beside the other one");
    // Reads get what remains of each second.
    let start = Instant::now();
    let done = (0..1_000).filter(|_| get(&mut second) != 83).count();
    let seconds = start.elapsed().as_secs_f64().ceil() + 1.0;
    assert!(done >= 200 && done as f64 <= 300.0 * seconds, "{done} in {seconds} s");
    drop(bob);
    await_figures(&mut admin, "bob", of_reads, |[_, rate, reserved, _]| (rate, reserved) == (0, 0));

    // Background queries count as writes.
    assert_eq!(outcome(&mut second, &background(501, 70_001)), 83);
    assert_eq!(outcome(&mut second, &background(500, 70_002)), 0);
    assert_eq!(figures(&mut admin, "bob", of_writes)[2], 500);
    assert_eq!(put(&mut second), 83);
    set_quotas(&mut admin, "limit", 0, 0);
    assert_eq!((put(&mut second), outcome(&mut second, &query(None))), (0, 0));
}

#[test]
fn a_quota_holds_over_all_connections_of_a_user() {
    let server = start("enable-quotas true");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &[(field::ROLE, b"limit")]), 0);
    set_quotas(&mut admin, "limit", 400, 200);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write", "limit"]), 0);
    let start = Instant::now();
    let done = |request: fn(&mut Client) -> u8| {
        let mut client = logged_in(&server, "bob", PASS);
        let mut done = 0;
        while start.elapsed() < Duration::from_secs(4) {
            match request(&mut client) {
                83 => {}
                result => {
                    assert!([0, 2].contains(&result), "{result}");
                    done += 1;
                }
            }
        }
        done
    };
    let [reads, writes] = std::thread::scope(|scope| {
        let all = [get as fn(&mut Client) -> u8, put]
            .map(|request| [(), ()].map(|()| scope.spawn(move || done(request))));
        all.map(|both| both.map(|one| one.join().unwrap()).iter().sum::<u32>())
    });
    let seconds = start.elapsed().as_secs_f64().ceil() as u32 + 1;
    assert!((400..=400 * seconds).contains(&reads), "{reads} reads in {seconds} s");
    assert!((200..=200 * seconds).contains(&writes), "{writes} writes in {seconds} s");
}

#[test]
fn the_first_password_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "a\nnot this line\n").unwrap();
    let line = format!("default-password-file {}", path.display());
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\n{line}\n}}\n"));
    assert_eq!(login(&mut server.connect(), "admin", ADMIN).0, 65, "nobody knows this one");
    let mut admin = logged_in(&server, "admin", OTHER);
    // Only the first start reads the file.
    let set = [(field::USER, &b"admin"[..]), (field::PASSWORD, PASS.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &set), 0);
    std::fs::remove_file(&path).unwrap();
    server.stop();
    server.restart();
    assert_eq!(login(&mut server.connect(), "admin", OTHER).0, 65);
    assert_eq!(login(&mut server.connect(), "admin", PASS).0, 0);
    server.stop();
    std::fs::remove_dir_all(server.folder().join("smd")).unwrap();
    let refusal = server.refusal();
    assert!(refusal.contains("default-password-file") && refusal.contains("password"), "{refusal}");
}

#[test]
fn a_server_without_its_users_does_not_start_and_their_file_is_private() {
    let mut server = start("");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let set = [(field::USER, &b"admin"[..]), (field::PASSWORD, PASS.as_bytes())];
    assert_eq!(result_of(&mut admin, command::SET_PASSWORD, &set), 0);
    server.stop();
    let path = server.folder().join("smd/security.smd");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "tokens are signed with what is in it");
    let good = std::fs::read(&path).unwrap();
    // Emptied files are no files of a new node either.
    let without_users = r#"[[1,1],{"key":"user|admin","value":null,"generation":2,"timestamp":9}]"#;
    let (cannot_be_used, no_user) = ("it holds the users and roles and cannot be used", "holds no user");
    for (damaged, reason) in [
        (&good[..good.len() / 2], cannot_be_used),
        (b"", cannot_be_used),
        (b"[]", cannot_be_used),
        (b"[[1,1]]", no_user),
        (b"[[]]", no_user),
        (without_users.as_bytes(), no_user),
    ] {
        std::fs::write(&path, damaged).unwrap();
        server.allow("security.smd has no version where it should be");
        let refusal = server.refusal();
        assert!(refusal.contains("security.smd") && refusal.contains(reason), "{refusal}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "it is left as it is");
        let checked = Command::new(binary())
            .args(["--check-config", "--config-file"])
            .arg(server.folder().join("aerospike.conf"))
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(!checked.status.success() && said.matches(reason).count() == 1, "{said}");
    }
    // A link to a volume that is not mounted.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/no/such/volume/security.smd", &path).unwrap();
    let refusal = server.refusal();
    assert!(refusal.contains("security.smd: it is a link to a file that is not there"), "{refusal}");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &good).unwrap();
    server.restart();
    assert_eq!(login(&mut server.connect(), "admin", ADMIN).0, 65);
    assert_eq!(login(&mut server.connect(), "admin", PASS).0, 0);
}

/// Each remedy that a line in the log names is followed.
#[test]
fn damaged_users_and_roles_have_no_effect_and_can_be_made_anew() {
    const NO_EFFECT: &str = "of module security has no effect, because";
    let mut server = start("");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "eve", PASS, &["user-admin"]), 0);
    let role = [
        (field::ROLE, &b"office"[..]),
        (field::PRIVILEGES, &read_in("rig")[..]),
        (field::WHITELIST, &b"10.0.0.1"[..]),
    ];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["office"]), 0);
    drop(admin);
    server.stop();
    let path = server.folder().join("smd/security.smd");
    let good = std::fs::read_to_string(&path).unwrap();
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from}: {text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    let hash_of_admin = {
        let items: serde_json::Value = serde_json::from_str(&good).unwrap();
        let admin = items.as_array().unwrap().iter().find(|item| item["key"] == "user|admin").unwrap();
        let admin: serde_json::Value = serde_json::from_str(admin["value"].as_str().unwrap()).unwrap();
        admin["password"].as_str().unwrap().to_owned()
    };
    change(&hash_of_admin, "damaged");
    change("10.0.0.1", "10.0.0.1.");
    server.allow(NO_EFFECT);
    server.restart();
    let log = server.log();
    for (key, remedy) in [
        ("user|admin", "let a user administrator create the user anew"),
        ("role|office", "let a user administrator create the role anew and grant it again"),
    ] {
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(&format!("item '{key}' {NO_EFFECT}"))).collect();
        assert!(matches!(lines[..], [line] if line.contains(remedy)), "{key}: {lines:?}");
    }
    for credential in [ADMIN, PASS] {
        assert_eq!(login(&mut server.connect(), "admin", credential).0, 60, "it is no user now");
    }
    // A role whose addresses are lost is not valid everywhere.
    let mut bob = logged_in(&server, "bob", PASS);
    assert_eq!(bob.ask(&Message::get("key")).unwrap().result, 81);
    let mut eve = logged_in(&server, "eve", PASS);
    assert_eq!(create_user(&mut eve, "admin", OTHER, &["user-admin"]), 0);
    let mut admin = logged_in(&server, "admin", OTHER);
    let role = [(field::ROLE, &b"office"[..]), (field::PRIVILEGES, &read_in("rig")[..])];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &role), 0);
    let granted = [(field::USER, &b"bob"[..]), (field::ROLES, &names(&["office"])[..])];
    assert_eq!(result_of(&mut admin, command::GRANT_ROLES, &granted), 0);
    server.stop();
    let before = server.log().len();
    server.restart();
    assert!(!server.log()[before..].contains(NO_EFFECT), "{}", server.log());
    let mut bob = logged_in(&server, "bob", PASS);
    assert_eq!(bob.ask(&Message::get("key")).unwrap().result, result::NOT_FOUND);
    logged_in(&server, "admin", OTHER);
    server.stop();

    // If the only administrator is damaged, nobody could do that: a copy helps, or to begin anew.
    std::fs::write(&path, &good).unwrap();
    change(&hash_of_admin, "damaged");
    for user in ["user|eve", "user|bob"] {
        change(user, &user.replace("user", "former"));
    }
    let refusal = server.refusal();
    let named = "security.smd holds no user that can be read (3 items cannot)";
    assert!(refusal.contains(named) && refusal.contains("put a copy"), "{refusal}");
    std::fs::write(&path, &good).unwrap();
    server.restart();
    logged_in(&server, "admin", ADMIN);
    server.stop();
    change(
        "\"key\": \"secret|token\",\n      \"value\": \"",
        "\"key\": \"secret|token\",\n      \"value\": \"?",
    );
    let refusal = server.refusal();
    assert!(
        refusal.contains("security.smd holds no secret for tokens")
            && refusal.contains("remove the item 'secret|token'"),
        "{refusal}"
    );
    change("secret|token", "other|token");
    server.restart();
    logged_in(&server, "eve", PASS);
    server.stop();
    std::fs::remove_file(&path).unwrap();
    server.restart();
    logged_in(&server, "admin", ADMIN);
    assert_eq!(login(&mut server.connect(), "eve", PASS).0, 60);
}
