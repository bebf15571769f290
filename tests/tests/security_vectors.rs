//! Exchanges of the security protocol, recorded with a server of the Enterprise edition. The same request
//! bytes must get the same reply bytes. [`DIFFERENCES`] lists the exceptions, with reasons.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use ferrospike_tests::client::Client;
use ferrospike_tests::security::{
    ADMIN, Field, OTHER, command, create_user, field, logged_in, login, names, request, result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::FRAME_HEADER_SIZE;
use serde_json::Value;

const VECTORS: &str = include_str!("../corpora/security-vectors.json");
/// The password `b`, in the form that clients send.
const PASSWORD_B: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoObi7T3EgttdiPRlkqhOALhpE/VOPU7Oi";
/// The lifetime of a token.
const SESSION_TTL: u8 = 6;
/// Roles of versions later than the recorded one.
const NEWER_ROLES: [&str; 3] = ["sindex-admin", "truncate", "udf-admin"];

/// Exchanges that may differ from the recording, by name.
const DIFFERENCES: [(&str, &str); 4] = [
    ("login_ok", "a token is of the server that issues it, and its time to live is told since version 4.6"),
    (
        "authenticate_new",
        "the recorded token was issued by another server: ours takes its place in the request",
    ),
    ("query_users_ok", "the count of open connections is of the moment; the recorded ones are below zero"),
    ("query_roles_ok", "three predefined roles came with version 6.0"),
];

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A message of a reply: its header and its fields.
type Reply = (Vec<u8>, Vec<(u8, Vec<u8>)>);

/// The messages in frames, and the number of frames.
fn messages(mut frames: &[u8]) -> (Vec<Reply>, usize) {
    let (mut found, mut count) = (Vec::new(), 0);
    while !frames.is_empty() {
        assert_eq!(frames[..2], [2, 2]);
        let size = u64::from_be_bytes([&[0, 0][..], &frames[2..8]].concat().try_into().unwrap()) as usize;
        let (mut body, behind) = frames[FRAME_HEADER_SIZE..].split_at(size);
        (frames, count) = (behind, count + 1);
        while !body.is_empty() {
            let (header, mut rest) = body.split_at(16);
            let mut fields = Vec::new();
            for _ in 0..header[3] {
                let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                fields.push((rest[4], rest[5..4 + size].to_vec()));
                rest = &rest[4 + size..];
            }
            body = rest;
            found.push((header.to_vec(), fields));
        }
    }
    (found, count)
}

/// Sends a request. Returns as many frames of the answer as were recorded.
fn exchange(client: &mut Client, bytes: &[u8], frame_count: usize) -> Vec<u8> {
    client.send(bytes).unwrap();
    let mut frames = Vec::new();
    for _ in 0..frame_count {
        let frame = client.receive().unwrap();
        frames.extend([2, frame.kind]);
        frames.extend(&(frame.body.len() as u64).to_be_bytes()[2..]);
        frames.extend(frame.body);
    }
    frames
}

fn bytes_of(fields: &[(u8, Vec<u8>)], id: u8) -> Option<Vec<u8>> {
    fields.iter().find(|(found, _)| *found == id).map(|(_, data)| data.clone())
}

/// Creates everything that an exchange needs.
fn prepare(server: &Server, vector: &Value) {
    let mut admin = logged_in(server, "admin", ADMIN);
    let mut ask = |number, fields: &[Field<'_>]| result_of(&mut admin, number, fields);
    let done = |result: u8| assert!([0, 61, 71].contains(&result), "{result}");
    match vector["name"].as_str().unwrap() {
        "set_password_ok" | "grant_roles_ok" => {
            done(create_user(&mut admin, "George", OTHER, &["read"]));
        }
        "change_password_ok" => {
            let fields = [(field::USER, &b"George"[..]), (field::PASSWORD, PASSWORD_B.as_bytes())];
            done(ask(command::SET_PASSWORD, &fields));
        }
        "create_role_error" | "delete_role_ok" | "add_privileges_ok" | "set_whitelist"
        | "delete_whitelist" => {
            done(ask(command::CREATE_ROLE, &[(field::ROLE, b"test-role")]));
        }
        "set_quotas" => done(ask(command::CREATE_ROLE, &[(field::ROLE, b"writer")])),
        "query_users_ok" | "query_roles_ok" => prepare_all(server),
        _ => {}
    }
}

/// Creates the users and roles of the recorded answers, and nothing else.
fn prepare_all(server: &Server) {
    let mut admin = logged_in(server, "admin", ADMIN);
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let replies = |name: &str| {
        let vectors = all["vectors"].as_array().unwrap();
        let vector = vectors.iter().find(|vector| vector["name"] == name).unwrap();
        let frames = vector["reply_frames"].as_array().unwrap().iter();
        let frames: Vec<u8> = frames.flat_map(|frame| from_hex(frame["hex"].as_str().unwrap())).collect();
        messages(&frames).0
    };
    for (_, fields) in replies("query_roles_ok") {
        let Some(name) = bytes_of(&fields, field::ROLE) else { continue };
        let fields: Vec<Field<'_>> = fields.iter().map(|(id, data)| (*id, &data[..])).collect();
        let _ = result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, &name)]);
        assert!([0, 71].contains(&result_of(&mut admin, command::CREATE_ROLE, &fields)));
    }
    for role in ["the-role", "y-role", "test-role", "a", "b"] {
        let _ = result_of(&mut admin, command::DROP_ROLE, &[(field::ROLE, role.as_bytes())]);
    }
    for user in ["George", "nick", "bob"] {
        let _ = result_of(&mut admin, command::DROP_USER, &[(field::USER, user.as_bytes())]);
    }
    for (_, fields) in replies("query_users_ok") {
        let (Some(name), Some(roles)) = (bytes_of(&fields, field::USER), bytes_of(&fields, field::ROLES))
        else {
            continue;
        };
        let fields = [(field::USER, &name[..]), (field::PASSWORD, OTHER.as_bytes()), (field::ROLES, &roles)];
        assert!([0, 61].contains(&result_of(&mut admin, command::CREATE_USER, &fields)));
    }
}

/// The parts of messages that can be compared.
fn comparable(mut messages: Vec<Reply>) -> Vec<Reply> {
    let is_newer = |fields: &[(u8, Vec<u8>)]| {
        let role = bytes_of(fields, field::ROLE);
        role.is_some_and(|role| NEWER_ROLES.iter().any(|newer| newer.as_bytes() == role))
    };
    messages.retain(|(_, fields)| !is_newer(fields));
    for (_, fields) in &mut messages {
        let connections = fields.iter_mut().filter(|(id, _)| *id == field::CONNECTIONS);
        connections.for_each(|(_, data)| *data = vec![0; data.len()]);
    }
    messages
}

#[test]
fn recorded_exchanges_are_answered_as_recorded() {
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\nenable-quotas true\n}}\n"));
    server.allow("has the password that everybody knows");
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let mut otherwise = BTreeSet::new();
    for vector in all["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        prepare(&server, vector);
        let mut client = match name {
            "login_ok" | "authenticate_new" => server.connect(),
            "change_password_ok" => logged_in(&server, "George", PASSWORD_B),
            _ => logged_in(&server, "admin", ADMIN),
        };
        let frames = vector["reply_frames"].as_array().unwrap();
        let recorded: Vec<u8> =
            frames.iter().flat_map(|frame| from_hex(frame["hex"].as_str().unwrap())).collect();
        let mut bytes = from_hex(vector["request"]["hex"].as_str().unwrap());
        if name == "authenticate_new" {
            let (_, token) = login(&mut server.connect(), "admin", ADMIN);
            bytes =
                request(command::AUTHENTICATE, &[(field::USER, b"admin"), (field::SESSION_TOKEN, &token)]);
            otherwise.insert(name);
        }
        // A request may arrive in any number of pieces.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        client.send(head).unwrap();
        let found = exchange(&mut client, tail, frames.len());
        if found == recorded {
            continue;
        }
        assert!(DIFFERENCES.iter().any(|(known, _)| *known == name), "{name}: {found:02x?}");
        otherwise.insert(name);
        let (found, expected) = (messages(&found), messages(&recorded));
        assert_eq!(found.1, expected.1, "{name}: frames");
        if name == "login_ok" {
            // These are the token and its lifetime.
            assert_eq!((&found.0[0].0[..3], found.0[0].0[3]), (&expected.0[0].0[..3], 2), "{name}");
            let ids: Vec<u8> = found.0[0].1.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, [field::SESSION_TOKEN, SESSION_TTL], "{name}");
        } else {
            assert_eq!(comparable(found.0), comparable(expected.0), "{name}");
        }
    }
    let listed: BTreeSet<&str> = DIFFERENCES.iter().map(|(name, _)| *name).collect();
    assert_eq!(otherwise, listed, "what is not otherwise any more is not listed either");
}

#[test]
fn one_quota_alone_is_changed_alone() {
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\nenable-quotas true\n}}\n"));
    server.allow("has the password that everybody knows");
    let mut admin = logged_in(&server, "admin", ADMIN);
    let number = |number: u32| number.to_be_bytes();
    let created =
        [(field::ROLE, &b"r"[..]), (field::READ_QUOTA, &number(7)), (field::WRITE_QUOTA, &number(8))];
    assert_eq!(result_of(&mut admin, command::CREATE_ROLE, &created), 0);
    let set = [(field::ROLE, &b"r"[..]), (field::WRITE_QUOTA, &number(9))];
    assert_eq!(result_of(&mut admin, command::SET_QUOTAS, &set), 0);
    let shown = exchange(&mut admin, &request(command::QUERY_ROLES, &[(field::ROLE, b"r")]), 2);
    let (found, _) = messages(&shown);
    assert_eq!(bytes_of(&found[0].1, field::READ_QUOTA).unwrap(), number(7));
    assert_eq!(bytes_of(&found[0].1, field::WRITE_QUOTA).unwrap(), number(9));
    // The official Python client sends -1 for "unchanged", and other negative numbers as they are.
    let same =
        [(field::ROLE, &b"r"[..]), (field::READ_QUOTA, &number(u32::MAX)), (field::WRITE_QUOTA, &number(3))];
    assert_eq!(result_of(&mut admin, command::SET_QUOTAS, &same), 0);
    let shown = exchange(&mut admin, &request(command::QUERY_ROLES, &[(field::ROLE, b"r")]), 2);
    let (found, _) = messages(&shown);
    assert_eq!(bytes_of(&found[0].1, field::READ_QUOTA).unwrap(), number(7));
    assert_eq!(bytes_of(&found[0].1, field::WRITE_QUOTA).unwrap(), number(3));
    let below_zero = [(field::ROLE, &b"r"[..]), (field::READ_QUOTA, &(-20i32).to_be_bytes()[..])];
    assert_eq!(result_of(&mut admin, command::SET_QUOTAS, &below_zero), 0);
    // If the user is missing, a change of the password reports that, even without the right to change it.
    let password = [
        (field::USER, &b"ghost"[..]),
        (field::OLD_PASSWORD, ADMIN.as_bytes()),
        (field::PASSWORD, OTHER.as_bytes()),
    ];
    assert_eq!(result_of(&mut admin, command::CHANGE_PASSWORD, &password), 60);
    // The error of a missing role has precedence over errors of its privileges.
    let unknown_privilege = (field::PRIVILEGES, &[1, 255, 0, 0][..]);
    for (number, name, expected) in [
        (command::CREATE_ROLE, &b"r"[..], 71),
        (command::CREATE_ROLE, b"s", 72),
        (command::GRANT_PRIVILEGES, b"s", 70),
        (command::GRANT_PRIVILEGES, b"r", 72),
        (command::REVOKE_PRIVILEGES, b"r", 72),
    ] {
        assert_eq!(result_of(&mut admin, number, &[(field::ROLE, name), unknown_privilege]), expected);
    }
    assert_eq!(
        result_of(&mut admin, command::GRANT_ROLES, &[(field::USER, b"x"), (field::ROLES, &names(&[]))]),
        60
    );
}
