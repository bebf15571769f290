//! Access control: logging in, users and roles, what each may do, and what is left of it after a stop or a crash.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::security::{
    ADMIN, Field, OTHER, PASS, ask, command, create_user, field, logged_in, login, names, read_in, result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{Message, result};

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
    // An administrator of users may not read.
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

    // The live connection loses a right, and gets another one.
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
    // A row without the name of the set is one of no set.
    assert_eq!(bob.take_result_of_batch(), 81);

    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, b"read")]), 70, "predefined");
    assert_eq!(result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, b"reader")]), 0);
    assert_eq!(get(&mut bob), 81);
    assert_eq!(result_of(&mut admin, command::DROP_USER, &[(field::USER, b"bob")]), 0);
    assert_eq!(get(&mut bob), 80);
    assert_eq!(login(&mut server.connect(), "bob", PASS).0, 60);

    // Another user of the same name and password is not the one that was dropped.
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

trait Batch {
    fn take_result_of_batch(&mut self) -> u8;
}

impl Batch for Client {
    /// The result of the one row of a batch that reads without a set.
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
    // Clients of old send the credential instead.
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
fn users_and_roles_survive_a_crash_and_nothing_secret_is_told() {
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
    // A user of a role with addresses may come from these only.
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
}

#[test]
fn who_guesses_passwords_is_held_off() {
    let mut server = start("");
    server.allow("too many failed logins as 'admin' from 127.0.0.1");
    let mut client = server.connect();
    let results: Vec<u8> = (0..8).map(|_| login(&mut client, "admin", PASS).0).collect();
    assert_eq!(results, [65; 8]);
    // The right one is not even looked at now, but for whoever comes from elsewhere.
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
