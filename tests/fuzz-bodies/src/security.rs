//! Requests of the security protocol: the input is used as a request, and as the fields of a request. A valid
//! request is written again as an answer, which must be whole frames. A server with access control processes
//! both, for a stranger, whom it must refuse, and for a user administrator.

use std::cell::RefCell;

use proto::ResultCode;
use proto::frame::{FrameHeader, HEADER_SIZE};
use proto::security::{Command, MESSAGE_HEADER_SIZE, Replies, Request, is_name};

use crate::server::{Client, Who};

thread_local! {
    static STRANGER: RefCell<Client> = RefCell::new(Client::of(Who::Stranger));
    static ADMINISTRATOR: RefCell<Client> = RefCell::new(Client::of(Who::Administrator));
}

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    take(bytes);
    // The input gets a header, so that it begins with a field.
    let (count, fields) = bytes.split_first().map_or((0, bytes), |(count, rest)| (*count, rest));
    let mut message = vec![0; MESSAGE_HEADER_SIZE];
    message[3] = count % 8;
    message.extend_from_slice(fields);
    take(&message);
}

fn take(bytes: &[u8]) {
    carry_out(bytes);
    let Ok(request) = Request::parse(bytes) else { return };
    let privileges = request.privileges.as_ref().and_then(|privileges| privileges.as_ref().ok());
    let count = request.roles.as_ref().map_or(0, Vec::len) + privileges.map_or(0, Vec::len);
    assert!(count <= 2 * usize::from(u8::MAX), "counts are a byte each");
    let command = Command::from_code(request.command).map_or("none", Command::name);
    assert!(!command.is_empty());
    let named = request.user.into_iter().chain(request.role);
    for name in named.filter(|name| is_name(name)) {
        assert!(!name.is_empty() && name.len() <= 63 && !name.contains([':', ';', '\n', '\0']));
    }
    let mut replies = Replies::new();
    for result in [ResultCode::Ok, ResultCode::SecurityRole] {
        let mut message = replies.message(result);
        if let Some(user) = request.user {
            message.bytes(0, user.as_bytes());
        }
        if let Some(privileges) = privileges {
            message.privileges(privileges.iter());
        }
        if let Some(roles) = &request.roles {
            message.roles(roles.iter().copied());
        }
    }
    replies.end_query();
    let frames = replies.finish();
    let mut rest = &frames[..];
    while !rest.is_empty() {
        let header = FrameHeader::parse(rest).expect("a frame").expect("a whole header");
        rest = rest.get(HEADER_SIZE + header.body_size..).expect("a whole frame");
    }
}

/// Sends a request to a server.
fn carry_out(bytes: &[u8]) {
    let request = Request::parse(bytes).unwrap_or_default();
    let command = Command::from_code(request.command);
    let is_login = matches!(command, Some(Command::Login | Command::Authenticate));
    let results = STRANGER.with_borrow_mut(|client| client.security(bytes));
    if is_login {
        // The request may contain the right password.
        STRANGER.set(Client::of(Who::Stranger));
    } else {
        let is_refused =
            |result: &u8| ![ResultCode::Ok, ResultCode::SecurityEnd].map(ResultCode::code).contains(result);
        assert!(results.iter().all(is_refused), "a stranger comes to {results:?}");
    }
    // Without the administrator no further input could be tested.
    if is_login || request.user == Some("admin") {
        return;
    }
    ADMINISTRATOR.with_borrow_mut(|client| client.security(bytes));
}
