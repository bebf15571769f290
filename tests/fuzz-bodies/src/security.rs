//! Requests of the security protocol: the input is taken for one, and for fields of one. What is understood is written again
//! as an answer, which must be whole frames.

use proto::ResultCode;
use proto::frame::{FrameHeader, HEADER_SIZE};
use proto::security::{Command, MESSAGE_HEADER_SIZE, Replies, Request, is_name};

/// Does what the head of this file says with one input.
pub fn run(bytes: &[u8]) {
    take(bytes);
    // A header before it, so that what comes first is a field.
    let (count, fields) = bytes.split_first().map_or((0, bytes), |(count, rest)| (*count, rest));
    let mut message = vec![0; MESSAGE_HEADER_SIZE];
    message[3] = count % 8;
    message.extend_from_slice(fields);
    take(&message);
}

fn take(bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes) else { return };
    let count = request.roles.as_ref().map_or(0, Vec::len) + request.privileges.as_ref().map_or(0, Vec::len);
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
        if let Some(privileges) = &request.privileges {
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
