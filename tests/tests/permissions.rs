//! Permissions: `corpora/permissions.txt` has the result code of every request for every kind of user:
//! nobody, a user without roles, and a user with a predefined role everywhere or with its privilege only in a
//! namespace or a set.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::security::{
    ADMIN, Field, OTHER, PASS, ask, command, create_user, field as security, logged_in, login, names,
    result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, info1, info2, info3, integer_range, operation,
};

const TABLE: &str = include_str!("../corpora/permissions.txt");
/// The places for the data requests of the table.
const PLACES: [(&str, &str); 4] = [("test", "a"), ("test", "b"), ("test", ""), ("bar", "a")];
const MODULE: &str = "
function get(r) return r.n end
function change(r) r.m = 1 aerospike:update(r) end
function values(s) return s : map(function(r) return r.n end) end
";
const UDF_FOREGROUND: u8 = 1;
const UDF_BACKGROUND: u8 = 2;
/// The end of an answer to a query of users or roles.
const END_OF_LIST: u8 = 50;

/// The user of a connection.
struct Subject<'t> {
    name: &'t str,
    description: &'t str,
    client: Client,
}

/// The role that the table's description of a user names.
fn role_of(description: &str) -> Option<&str> {
    description.strip_prefix("role ")
}

/// A privilege in a place, as a field value.
fn privilege(role: &str, place: &str) -> Vec<u8> {
    let codes = [("read", 10), ("read-write", 11), ("read-write-udf", 12), ("write", 13), ("truncate", 14)];
    let code = codes.iter().find(|(name, _)| *name == role).unwrap().1;
    let (namespace, set) = place.split_once('/').unwrap_or((place, ""));
    let mut data = vec![1, code];
    for text in [namespace, set] {
        data.push(text.len() as u8);
        data.extend(text.as_bytes());
    }
    data
}

/// Creates the user `name` of the table, with its description.
fn make_user(admin: &mut Client, name: &str, description: &str) {
    let Some(role) = role_of(description) else {
        return assert_eq!(create_user(admin, name, PASS, &[]), 0);
    };
    if let Some((privilege_name, place)) = role.split_once(" in ") {
        let fields = [
            (security::ROLE, role.as_bytes()),
            (security::PRIVILEGES, &privilege(privilege_name, place)[..]),
        ];
        assert_eq!(result_of(admin, command::CREATE_ROLE, &fields), 0, "{role}");
    }
    assert_eq!(create_user(admin, name, PASS, &[role]), 0, "{name}");
}

fn subjects<'t>(server: &Server, admin: &mut Client) -> Vec<Subject<'t>> {
    let lines = TABLE.lines().filter_map(|line| line.strip_prefix("subject ")?.split_once(" | "));
    let mut subject = |(name, description)| {
        if description == "nobody has logged in" {
            return Subject { name, description, client: server.connect() };
        }
        make_user(admin, name, description);
        Subject { name, description, client: logged_in(server, name, PASS) }
    };
    lines.map(&mut subject).collect()
}

fn on((namespace, set): (&str, &str), key: &str) -> Message {
    let message = Message::default().with_field(field::NAMESPACE, namespace.as_bytes());
    let message = if set.is_empty() { message } else { message.with_field(field::SET, set.as_bytes()) };
    message.with_field(field::DIGEST, &digest(set, key))
}

fn put(place: (&str, &str)) -> Message {
    let value = Operation::integer(operation::WRITE, "n", 1);
    Message { info2: info2::WRITE, ..on(place, "k") }.with_operation(value)
}

/// A call of a function of the module.
fn with_function(message: Message, function: &str) -> Message {
    message
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, function.as_bytes())
        .with_field(field::UDF_ARGUMENTS, &[0x90])
}

/// A request for one record. `durable` and other actions that need several nodes or another edition are left
/// out.
fn single(action: &str, place: (&str, &str)) -> Option<Message> {
    let read = |bits| Message { info1: info1::READ | bits, ..on(place, "k") };
    let write = |bits, key| Message { info1: bits, info2: info2::WRITE, ..on(place, key) };
    Some(match action {
        "read" => read(info1::GET_ALL),
        "read header" => read(info1::GET_NO_BINS),
        "read bin" => read(0).with_operation(Operation::read("n")),
        "write" => put(place),
        "touch" => write(0, "k").with_operation(Operation::bare(operation::TOUCH, "")),
        "operate" => write(info1::READ, "k")
            .with_operation(Operation::integer(operation::WRITE, "n", 1))
            .with_operation(Operation::read("n")),
        "delete" => Message { info2: info2::WRITE | info2::DELETE, ..on(place, "none") },
        "udf" => with_function(write(0, "k"), "get"),
        _ => return None,
    })
}

/// A batch with the same request as its only row.
fn batch(row: &Message) -> Message {
    let of_digest = |(id, _): &&(u8, Vec<u8>)| *id == field::DIGEST;
    let digest = row.fields.iter().find(of_digest).unwrap().1.clone();
    let fields: Vec<_> = row.fields.iter().filter(|field| !of_digest(field)).cloned().collect();
    let body = Message { fields, ..row.clone() }.body();
    let mut value = vec![0, 0, 0, 1, 4, 0, 0, 0, 0];
    value.extend(digest);
    value.extend([2, row.info1, row.info2, row.info3]);
    // The row has the counts of fields and operations, followed by fields and operations, as at the end of a
    // message.
    value.extend(&body[18..]);
    Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
}

fn query(action: &str, place: (&str, &str)) -> Message {
    let (namespace, set) = place;
    let partitions: Vec<u8> = (0..4096u16).flat_map(u16::to_le_bytes).collect();
    let info3 = info3::PARTITION_DONE;
    let message = Message { info1: info1::READ | info1::GET_ALL, info3, ..Message::default() }
        .with_field(field::NAMESPACE, namespace.as_bytes())
        .with_field(field::PARTITION_ID_ARRAY, &partitions);
    let message = if set.is_empty() { message } else { message.with_field(field::SET, set.as_bytes()) };
    let without_partitions = |message: Message| {
        let fields =
            message.fields.iter().filter(|(id, _)| *id != field::PARTITION_ID_ARRAY).cloned().collect();
        Message { info1: message.info1 & !info1::GET_ALL, info3: 0, fields, ..message }
    };
    let by_index = |message: Message| message.with_field(field::INDEX_RANGE, &integer_range("n", 0, 9));
    let with_op = |message: Message, op| message.with_field(field::UDF_OP, &[op]);
    match action {
        "query" => message,
        "short query" => Message { info1: message.info1 | info1::SHORT_QUERY, ..message },
        "index query" => by_index(message),
        "aggregation" => with_function(with_op(without_partitions(message), UDF_FOREGROUND), "values"),
        "index aggregation" => {
            by_index(with_function(with_op(without_partitions(message), UDF_FOREGROUND), "values"))
        }
        "background operations" => Message { info1: 0, info2: info2::WRITE, ..without_partitions(message) }
            .with_operation(Operation::integer(operation::WRITE, "m", 1)),
        "background udf" => {
            let message = Message { info1: 0, info2: info2::WRITE, ..without_partitions(message) };
            with_function(with_op(message, UDF_BACKGROUND), "change")
        }
        _ => panic!("no such request: {action}"),
    }
}

/// The result of a request for records: that of the first message with an error, otherwise that of the last
/// message.
fn data_result(client: &mut Client, action: &str, place: &str) -> u8 {
    let place = place.split_once('/').map(|(namespace, set)| (namespace, set.trim_matches('-'))).unwrap();
    let row = action.strip_prefix("batch ").map(|action| batch(&single(action, place).unwrap()));
    let is_single = single(action, place).is_some();
    let request = row.or_else(|| single(action, place)).unwrap_or_else(|| query(action, place));
    client.send(&request.encode()).unwrap();
    let mut result = 0;
    loop {
        let messages = client.receive().unwrap().messages().unwrap();
        for message in &messages {
            result = if result == 0 { message.result } else { result };
        }
        let is_refused = !action.starts_with("batch ") && result != 0;
        if is_single || is_refused || messages.last().is_some_and(Message::is_last) {
            return result;
        }
    }
}

/// The result of an info command: the code in its answer, otherwise 0.
fn info_result(client: &mut Client, request: &str) -> u8 {
    let answer = client.info(request).unwrap();
    let value = answer.strip_prefix(request).map_or(answer.as_str(), |rest| rest.trim_start_matches('\t'));
    match value.strip_prefix("ERROR:") {
        Some(error) => error.split(':').next().unwrap().parse().unwrap_or(1),
        None => 0,
    }
}

fn user(name: &[u8]) -> Field<'_> {
    (security::USER, name)
}

fn role(name: &[u8]) -> Field<'_> {
    (security::ROLE, name)
}

/// The result of an administrator's request.
fn admin_result(subject: &mut Subject<'_>, request: &str) -> u8 {
    let (ghost, own): (&[u8], &[u8]) = (b"ghost", subject.name.as_bytes());
    let roles = names(&["read"]);
    let pass = PASS.as_bytes();
    let (roles, privileges) = ((security::ROLES, &roles[..]), privilege("read", "test"));
    let privileges = (security::PRIVILEGES, &privileges[..]);
    let (password, old) = ((security::PASSWORD, pass), (security::OLD_PASSWORD, pass));
    let own_role = role_of(subject.description).unwrap_or("read").as_bytes();
    let (number, fields) = match request {
        "create user that exists" => (command::CREATE_USER, vec![user(b"admin"), password, roles]),
        "drop no user" => (command::DROP_USER, vec![user(ghost)]),
        "set password of no user" => (command::SET_PASSWORD, vec![user(ghost), password]),
        "change own password" => (command::CHANGE_PASSWORD, vec![user(own), old, password]),
        "change another's password" => (command::CHANGE_PASSWORD, vec![user(b"admin"), old, password]),
        "grant roles to no user" => (command::GRANT_ROLES, vec![user(ghost), roles]),
        "revoke roles of no user" => (command::REVOKE_ROLES, vec![user(ghost), roles]),
        "query users" => (command::QUERY_USERS, vec![]),
        "query own user" => (command::QUERY_USERS, vec![user(own)]),
        "query another user" => (command::QUERY_USERS, vec![user(b"admin")]),
        "create role that exists" => (command::CREATE_ROLE, vec![role(b"read"), privileges]),
        "drop no role" => (command::DROP_ROLE, vec![role(ghost)]),
        "grant privileges to no role" => (command::GRANT_PRIVILEGES, vec![role(ghost), privileges]),
        "revoke privileges of no role" => (command::REVOKE_PRIVILEGES, vec![role(ghost), privileges]),
        "set whitelist of no role" => (command::SET_WHITELIST, vec![role(ghost)]),
        "set quotas of no role" => {
            (command::SET_QUOTAS, vec![role(ghost), (security::READ_QUOTA, &[0, 0, 0, 9][..])])
        }
        "query roles" => (command::QUERY_ROLES, vec![]),
        "query own role" => (command::QUERY_ROLES, vec![role(own_role)]),
        "query another role" => (command::QUERY_ROLES, vec![role(b"held by nobody")]),
        "unknown command" => (99, vec![]),
        _ => panic!("no such request: {request}"),
    };
    let client = &mut subject.client;
    let (result, _) = ask(client, number, &fields);
    let is_query = matches!(number, command::QUERY_USERS | command::QUERY_ROLES);
    while is_query && result == 0 && client.receive().unwrap().body[1] != END_OF_LIST {}
    result
}

/// Creates the records, indexes and module of the table's requests.
fn prepare(server: &Server, admin: &mut Client) {
    assert_eq!(create_user(admin, "owner", OTHER, &["read-write", "data-admin"]), 0);
    let fields =
        [(security::ROLE, &b"held by nobody"[..]), (security::PRIVILEGES, &privilege("read", "test/z")[..])];
    assert_eq!(result_of(admin, command::CREATE_ROLE, &fields), 0);
    let mut owner = logged_in(server, "owner", OTHER);
    let content = BASE64_STANDARD.encode(MODULE);
    let module = format!("udf-put:filename=m.lua;content-len={};content={content};", content.len());
    assert_eq!(owner.info_value(&module).unwrap(), "ok");
    for (number, place) in PLACES.into_iter().enumerate() {
        assert_eq!(owner.ask(&put(place)).unwrap().result, 0);
        let set = if place.1.is_empty() { String::new() } else { format!("set={};", place.1) };
        let create =
            format!("sindex-create:namespace={};{set}indexname=by-n-{number};indexdata=n,numeric", place.0);
        assert_eq!(owner.info_value(&create).unwrap(), "ok");
    }
    let start = Instant::now();
    while owner.info_value("sindex-list:").unwrap().contains(":state=WO") {
        assert!(start.elapsed() < PATIENCE, "still being filled");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_user_may_do_exactly_what_the_table_says() {
    let mut server = Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\nenable-quotas true\n}}\n"));
    server.allow("has the password that everybody knows").allow("answered with ERROR").allow("log-message");
    let mut admin = logged_in(&server, "admin", ADMIN);
    prepare(&server, &mut admin);
    let mut subjects = subjects(&server, &mut admin);
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .filter(|line| !line.starts_with(['#', 's']))
        .map(|line| line.split(" | ").map(str::trim).collect())
        .filter(|row: &Vec<&str>| row.len() == 4)
        .collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let [protocol, request, place, codes] = row[..] else { panic!("{row:?}") };
        let expected: Vec<u8> = codes.split_whitespace().map(|code| code.parse().unwrap()).collect();
        assert_eq!(expected.len(), subjects.len(), "{row:?}");
        let result = |subject: &mut Subject<'_>| match protocol {
            "data" => data_result(&mut subject.client, request, place),
            "info" => info_result(&mut subject.client, request),
            _ => admin_result(subject, request),
        };
        let found: Vec<u8> = subjects.iter_mut().map(result).collect();
        for ((subject, found), expected) in subjects.iter().zip(&found).zip(&expected) {
            if found != expected {
                let (name, description) = (subject.name, subject.description);
                wrong
                    .push(format!("{request} in {place} by {name} ({description}): {found}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the table:\n{}", wrong.len(), wrong.join("\n"));

    // Every command must have a line.
    let name = |request: &str| request.split([':', '/', ';']).next().unwrap().to_owned();
    let listed: BTreeSet<String> =
        rows.iter().filter(|row| row[0] == "info").map(|row| name(row[1])).collect();
    let help = admin.info_value("help").unwrap();
    let forgotten: Vec<&str> = help.split(';').filter(|name| !listed.contains(*name)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
    assert_eq!(login(&mut server.connect(), "ru", PASS).0, 0, "passwords are as they were");
}
