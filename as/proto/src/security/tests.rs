//! Tests of the security protocol: requests and replies.

use serde_json::Value;

use super::*;

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/security-vectors.json");
    let text = std::fs::read_to_string(path).expect("recorded exchanges");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all["vectors"].as_array().expect("a list").clone()
}

/// A request in the words of the recorded traffic.
fn in_words(request: &Request<'_>) -> Vec<(&'static str, Value)> {
    let text = |bytes: &[u8]| Value::from(str::from_utf8(bytes).expect("text"));
    let privileges = |privileges: &Vec<Privilege>| {
        let one = |privilege: &Privilege| match privilege.code.is_scoped() {
            true => serde_json::json!([privilege.code.code(), privilege.namespace, privilege.set]),
            false => serde_json::json!([privilege.code.code()]),
        };
        Value::from(privileges.iter().map(one).collect::<Vec<_>>())
    };
    [
        ("USER", request.user.map(Value::from)),
        ("PASSWORD", request.password.map(text)),
        ("OLD_PASSWORD", request.old_password.map(text)),
        ("CREDENTIAL", request.credential.map(text)),
        ("SESSION_TOKEN", request.session_token.map(text)),
        ("ROLES", request.roles.clone().map(Value::from)),
        ("ROLE", request.role.map(Value::from)),
        ("PRIVILEGES", request.privileges.as_ref().map(|all| privileges(all.as_ref().expect("known")))),
        ("WHITELIST", request.whitelist.map(Value::from)),
        ("READ_QUOTA", request.read_quota.map(Value::from)),
        ("WRITE_QUOTA", request.write_quota.map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

#[test]
fn recorded_requests_are_read() {
    let mut count = 0;
    for vector in vectors() {
        let frame = from_hex(vector["request"]["hex"].as_str().expect("hex"));
        let parsed = Request::parse(&frame[frame::HEADER_SIZE..]);
        let message = &vector["request"]["messages"][0];
        let request = parsed.expect("a request");
        if vector["name"] == "create_role_error" {
            assert_eq!(request.privileges, Some(Err(ResultCode::SecurityPrivilege)));
            continue;
        }
        let mut words = in_words(&request);
        let mut expected: Vec<(String, Value)> = message["fields"]
            .as_array()
            .expect("fields")
            .iter()
            .map(|field| (field[0].as_str().expect("a name").to_owned(), field[1].clone()))
            .collect();
        words.sort_by_key(|(name, _)| *name);
        expected.sort_by(|(a, _), (b, _)| a.cmp(b));
        let words: Vec<(String, Value)> =
            words.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(words, expected, "{}", vector["name"]);
        assert!(Command::from_code(request.command).is_some());
        count += 1;
    }
    assert_eq!(count, 23);
}

/// Adds a field, described in the words of the recorded traffic, to a message.
fn add(message: &mut Message<'_>, name: &str, value: &Value) {
    let text = || value.as_str().expect("text").as_bytes();
    let numbers = || -> Vec<u32> {
        value.as_array().expect("numbers").iter().map(|n| n.as_u64().expect("a number") as u32).collect()
    };
    let number = || value.as_u64().expect("a number") as u32;
    let string = |value: &Value| value.as_str().expect("text").to_owned();
    match name {
        "SESSION_TOKEN" => message.bytes(field::SESSION_TOKEN, text()),
        "USER" => message.bytes(field::USER, text()),
        "ROLE" => message.bytes(field::ROLE, text()),
        "WHITELIST" => message.bytes(field::WHITELIST, text()),
        "ROLES" => {
            let roles: Vec<String> = value.as_array().expect("names").iter().map(string).collect();
            message.roles(roles.iter().map(String::as_str))
        }
        "PRIVILEGES" => {
            let one = |privilege: &Value| Privilege {
                code: PrivilegeCode::from_code(privilege[0].as_u64().expect("code") as u8).expect("known"),
                namespace: privilege.get(1).map(string).unwrap_or_default(),
                set: privilege.get(2).map(string).unwrap_or_default(),
            };
            let privileges: Vec<Privilege> = value.as_array().expect("a list").iter().map(one).collect();
            message.privileges(privileges.iter())
        }
        "CONNECTIONS" => message.number(field::CONNECTIONS, number()),
        "READ_QUOTA" => message.number(field::READ_QUOTA, number()),
        "WRITE_QUOTA" => message.number(field::WRITE_QUOTA, number()),
        "READ_INFO" => message.numbers(field::READ_INFO, &numbers()),
        "WRITE_INFO" => message.numbers(field::WRITE_INFO, &numbers()),
        name => panic!("field {name}"),
    };
}

#[test]
fn recorded_replies_are_written() {
    for vector in vectors() {
        let mut replies = Replies::new();
        let mut expected = Vec::new();
        for frame in vector["reply_frames"].as_array().expect("frames") {
            expected.extend(from_hex(frame["hex"].as_str().expect("hex")));
            for message in frame["messages"].as_array().expect("messages") {
                let result = message["result"].as_u64().expect("a number") as u8;
                if result == ResultCode::SecurityEnd.code() {
                    replies.end_query();
                    continue;
                }
                let mut reply = replies.message(ResultCode::from_code(result).expect("a result"));
                for field in message["fields"].as_array().expect("fields") {
                    add(&mut reply, field[0].as_str().expect("a name"), &field[1]);
                }
            }
        }
        assert_eq!(replies.finish(), expected, "{}", vector["name"]);
    }
}

#[test]
fn a_plain_result_is_24_bytes() {
    let frame = result_frame(ResultCode::RoleViolation);
    assert_eq!(frame.len(), 24);
    assert_eq!((frame[0], frame[1], frame[7], frame[9]), (2, 2, 16, 81));
}

#[test]
fn long_answers_have_several_frames() {
    let mut replies = Replies::new();
    for user in 0..1_000 {
        replies.message(ResultCode::Ok).bytes(field::USER, format!("user{user}").as_bytes());
    }
    replies.end_query();
    let bytes = replies.finish();
    let (mut rest, mut sizes) = (&bytes[..], Vec::new());
    while let Ok(Some(header)) = frame::FrameHeader::parse(rest) {
        sizes.push(header.body_size);
        rest = &rest[frame::HEADER_SIZE + header.body_size..];
    }
    assert!(rest.is_empty() && sizes.len() > 5, "{sizes:?}");
    assert!(sizes.iter().all(|&size| size < FRAME_SIZE + 100), "{sizes:?}");
    assert_eq!(sizes.last(), Some(&MESSAGE_HEADER_SIZE));
}

fn body(fields: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0; MESSAGE_HEADER_SIZE];
    body[3] = fields.len() as u8;
    for field in fields {
        body.extend((field.len() as u32).to_be_bytes());
        body.extend_from_slice(field);
    }
    body
}

#[test]
fn malformed_requests_are_refused() {
    let code = |body: &[u8]| Request::parse(body).err();
    assert_eq!(code(&[]), Some(ResultCode::SecurityField));
    assert_eq!(code(&[0; 15]), Some(ResultCode::SecurityField));
    assert_eq!(code(&[1; 16]), Some(ResultCode::SecurityScheme));
    assert_eq!(code(&body(&[])), None);
    assert_eq!(code(&body(&[b""])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x00\xff"])), Some(ResultCode::SecurityUser));
    assert_eq!(code(&body(&[b"\x0b\xff"])), Some(ResultCode::SecurityRole));
    assert_eq!(code(&body(&[b"\x0a"])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x0a\x01\x05read"])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x0a\x01\x04read!"])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x0c\x02\x01"])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x0c\x01\x0a\x04test"])), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x0e\x01"])), Some(ResultCode::SecurityField));
    let mut short = body(&[b"\x00user"]);
    short.pop();
    assert_eq!(code(&short), Some(ResultCode::SecurityField));
    assert_eq!(code(&body(&[b"\x63anything"])), None, "unknown fields are passed over");
}

#[test]
fn fields_that_are_not_counted_are_read() {
    let read = b"\x0c\x01\x0a\x00\x00";
    let mut message = body(&[b"\x0brole", read, b"\x0e\0\0\x03\xe8", b"\x0f\0\0\x07\xd0"]);
    for count in 0..=4 {
        message[3] = count;
        let request = Request::parse(&message).expect("a request");
        assert_eq!(
            (request.role, request.read_quota, request.write_quota),
            (Some("role"), Some(1_000), Some(2_000))
        );
        assert_eq!(request.privileges, Some(Ok(vec![Privilege::everywhere(PrivilegeCode::Read)])));
    }
    message[3] = 5;
    assert_eq!(Request::parse(&message).err(), Some(ResultCode::SecurityField), "one more is counted");
    message[3] = 4;
    message.push(0);
    assert_eq!(Request::parse(&message).err(), Some(ResultCode::SecurityField), "what is behind is no field");
}

#[test]
fn names_are_judged() {
    assert!(is_name("user") && is_name(&"n".repeat(63)) && is_name("b\u{f6}b"));
    for wrong in ["", "a:b", "a;b", "a\nb", "a\0"] {
        assert!(!is_name(wrong), "{wrong:?}");
    }
    assert!(!is_name(&"n".repeat(64)));
}
