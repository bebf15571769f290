//! The security protocol, for tests: requests, login, users and roles.

use crate::client::{Channel, Client};
use crate::server::Server;

/// The credential that clients send instead of a password: bcrypt with the salt that all clients use.
pub const ADMIN: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoO1mVO/4MLpGzsqojz6E9Gef6iXDjXdDa";
/// Same as `ADMIN`, for another password.
pub const PASS: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoOv0hwU68nwGK8WvAqb5nnU0s/92caKv6";
/// Same as `ADMIN`, for another password.
pub const OTHER: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoOo55z4.5EHedKkIBS22sgiJDvgvldAGm";

/// Codes of commands.
pub mod command {
    pub const AUTHENTICATE: u8 = 0;
    pub const CREATE_USER: u8 = 1;
    pub const DROP_USER: u8 = 2;
    pub const SET_PASSWORD: u8 = 3;
    pub const CHANGE_PASSWORD: u8 = 4;
    pub const GRANT_ROLES: u8 = 5;
    pub const REVOKE_ROLES: u8 = 6;
    pub const QUERY_USERS: u8 = 9;
    pub const CREATE_ROLE: u8 = 10;
    pub const DROP_ROLE: u8 = 11;
    pub const GRANT_PRIVILEGES: u8 = 12;
    pub const REVOKE_PRIVILEGES: u8 = 13;
    pub const SET_WHITELIST: u8 = 14;
    pub const SET_QUOTAS: u8 = 15;
    pub const QUERY_ROLES: u8 = 16;
    pub const LOGIN: u8 = 20;
}

/// Types of fields.
pub mod field {
    pub const USER: u8 = 0;
    pub const PASSWORD: u8 = 1;
    pub const OLD_PASSWORD: u8 = 2;
    pub const CREDENTIAL: u8 = 3;
    pub const SESSION_TOKEN: u8 = 5;
    pub const ROLES: u8 = 10;
    pub const ROLE: u8 = 11;
    pub const PRIVILEGES: u8 = 12;
    pub const WHITELIST: u8 = 13;
    pub const READ_QUOTA: u8 = 14;
    pub const WRITE_QUOTA: u8 = 15;
    pub const READ_INFO: u8 = 16;
    pub const WRITE_INFO: u8 = 17;
    pub const CONNECTIONS: u8 = 18;
}

/// Type and contents of a field.
pub type Field<'a> = (u8, &'a [u8]);

/// A request of the security protocol.
pub fn request(command: u8, fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = vec![0; 16];
    (body[2], body[3]) = (command, fields.len() as u8);
    for (id, data) in fields {
        body.extend((data.len() as u32 + 1).to_be_bytes());
        body.push(*id);
        body.extend_from_slice(data);
    }
    let mut frame = vec![0, 2];
    frame.extend(&(body.len() as u64).to_be_bytes()[2..]);
    frame.extend(body);
    frame
}

/// The result of a command, and the fields of the first message of its answer.
pub fn ask<C: Channel>(
    client: &mut Client<C>,
    command: u8,
    fields: &[Field<'_>],
) -> (u8, Vec<(u8, Vec<u8>)>) {
    client.send(&request(command, fields)).expect("send a request");
    let frame = client.receive().expect("an answer");
    assert_eq!(frame.kind, 2);
    let (count, mut rest, mut found) = (frame.body[3], &frame.body[16..], Vec::new());
    for _ in 0..count {
        let size = u32::from_be_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        found.push((rest[4], rest[5..4 + size].to_vec()));
        rest = &rest[4 + size..];
    }
    (frame.body[1], found)
}

/// The result of a command whose answer has nothing else.
pub fn result_of<C: Channel>(client: &mut Client<C>, command: u8, fields: &[Field<'_>]) -> u8 {
    ask(client, command, fields).0
}

/// The data of a field of names.
pub fn names(names: &[&str]) -> Vec<u8> {
    let mut data = vec![names.len() as u8];
    for name in names {
        data.push(name.len() as u8);
        data.extend(name.as_bytes());
    }
    data
}

/// One privilege: read, in a set of namespace `test`.
pub fn read_in(set: &str) -> Vec<u8> {
    let mut data = vec![1, 10, 4];
    data.extend(b"test");
    data.push(set.len() as u8);
    data.extend(set.as_bytes());
    data
}

/// Logs in; returns the result and the token.
pub fn login<C: Channel>(client: &mut Client<C>, user: &str, credential: &str) -> (u8, Vec<u8>) {
    let fields = [(field::USER, user.as_bytes()), (field::CREDENTIAL, credential.as_bytes())];
    let (result, found) = ask(client, command::LOGIN, &fields);
    (
        result,
        found
            .into_iter()
            .find(|(id, _)| *id == field::SESSION_TOKEN)
            .map(|(_, data)| data)
            .unwrap_or_default(),
    )
}

/// A connection logged in as `user`.
pub fn logged_in(server: &Server, user: &str, credential: &str) -> Client {
    let mut client = server.connect();
    assert_eq!(login(&mut client, user, credential).0, 0, "{user} logs in");
    client
}

/// Creates a user; returns the result.
pub fn create_user<C: Channel>(admin: &mut Client<C>, user: &str, credential: &str, roles: &[&str]) -> u8 {
    let roles = names(roles);
    let fields = [
        (field::USER, user.as_bytes()),
        (field::PASSWORD, credential.as_bytes()),
        (field::ROLES, &roles[..]),
    ];
    result_of(admin, command::CREATE_USER, &fields)
}
