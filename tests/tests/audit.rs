//! The audit log: which operations on records it reports, in which words, and how settings change that at run time.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::net::UnixDatagram;

use ferrospike_tests::client::Client;
use ferrospike_tests::security::{
    ADMIN, OTHER, PASS, command, create_user, field as security, logged_in, login, result_of,
};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{Message, Operation, digest, field, info1, info2, operation};

/// A password in clear text, for users of a directory.
const CLEAR_PASSWORD: u8 = 4;

struct Rig {
    server: Server,
    admin: Client,
    bob: Client,
    eve: Client,
    seen: usize,
}

impl Rig {
    fn start(log: &str) -> Rig {
        let mut server =
            Server::start(&format!("{BASICS}{NAMESPACES}\nsecurity {{\nlog {{\n{log}\n}}\n}}\n"));
        server.allow("has the password that everybody knows").allow("set-config");
        let mut admin = logged_in(&server, "admin", ADMIN);
        assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write-udf"]), 0);
        assert_eq!(create_user(&mut admin, "eve", OTHER, &["read", "sys-admin"]), 0);
        let (bob, eve) = (logged_in(&server, "bob", PASS), logged_in(&server, "eve", OTHER));
        Rig { server, admin, bob, eve, seen: 0 }
    }

    /// The lines of the audit log about record operations since the last call, without the client's port.
    fn told(&mut self) -> Vec<String> {
        let log = self.server.log();
        let lines = log.lines().filter_map(|line| Some(line.split_once(" (audit): ")?.1.split_once(") ")?.1));
        let all: Vec<&str> = lines.filter(|line| !line.contains("info request")).collect();
        let without_port = |line: &&str| {
            let (before, rest) = line.split_once("127.0.0.1:").unwrap();
            let rest = rest.trim_start_matches(|char: char| char.is_ascii_digit());
            format!("{before}127.0.0.1{rest}")
        };
        let new = all[self.seen..].iter().map(without_port).collect();
        self.seen = all.len();
        new
    }

    fn set(&mut self, params: &str) {
        let command = format!("set-config:context=security;{params}");
        assert_eq!(self.eve.info_value(&command).unwrap(), "ok", "{params}");
    }
}

fn line(outcome: &str, user: &str, action: &str, detail: &str) -> String {
    format!(
        "{outcome} | client: 127.0.0.1 | authenticated user: {user} | action: {action} | detail: {detail}"
    )
}

fn with_key(message: Message, key: &[u8]) -> Message {
    message.with_field(field::KEY, key)
}

fn hex(set: &str, key: &str) -> String {
    digest(set, key).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn operations_are_reported_as_configured() {
    let mut rig = Rig::start("report-data-op test rig");
    let ask = |client: &mut Client, message: &Message| client.ask(message).unwrap().result;
    assert_eq!(ask(&mut rig.bob, &with_key(Message::put("k", vec![1]), b"\x03k")), 0);
    assert_eq!(ask(&mut rig.bob, &Message::get("k")), 0);
    assert_eq!(ask(&mut rig.bob, &with_key(Message::get("i"), &[1, 0, 0, 0, 0, 0, 1, 0x33, 0x3e])), 2);
    assert_eq!(ask(&mut rig.bob, &with_key(Message::get("b"), &[4, 0xaa, 0xcc, 0x48])), 2);
    assert_eq!(ask(&mut rig.bob, &with_key(Message::delete("c"), b"\x03a|\nb")), 2);
    assert_eq!(ask(&mut rig.bob, &with_key(Message::delete("k"), b"\x03k")), 0);
    // An operation in another set is not reported, but a refusal is, with its reason.
    rig.server.allow("neither read nor write");
    assert_eq!(ask(&mut rig.bob, &Message::on_record("test", "other", "k")), 4);
    assert_eq!(ask(&mut rig.eve, &Message::put("k", vec![1])), 81);
    rig.bob.send(&Message::scan("test").with_field(field::SET, b"rig").encode()).unwrap();
    assert!(rig.bob.take_rows().unwrap().is_empty());
    let digest = format!("{{test|rig}} [D|{}]", hex("rig", "k"));
    let expected = [
        line("permitted", "bob", "write", "{test|rig} [S|k]"),
        line("permitted", "bob", "read", &digest),
        line("permitted", "bob", "read", "{test|rig} [I|78654]"),
        line("permitted", "bob", "read", "{test|rig} [B|AA CC 48]"),
        line("permitted", "bob", "delete", "{test|rig} [S|a??b]"),
        line("permitted", "bob", "delete", "{test|rig} [S|k]"),
        line("role violation", "eve", "write", &digest),
        line("permitted", "bob", "query", "{test|rig}"),
    ];
    assert_eq!(rig.told(), expected);

    // Rows of batches, functions and background queries.
    rig.bob.send(&Message::get_all(["k"].into_iter()).encode()).unwrap();
    while !rig.bob.receive().unwrap().holds_last() {}
    assert_eq!(rig.told(), [] as [String; 0], "a row without a set is of none");
    let call = Message { info2: info2::WRITE, ..Message::on("k") }
        .with_field(field::UDF_FILE, b"none")
        .with_field(field::UDF_FUNCTION, b"f")
        .with_field(field::UDF_ARGUMENTS, &[0x90]);
    rig.server.allow("UDF").allow("udf").allow("function");
    assert_eq!(ask(&mut rig.bob, &call), 100);
    let change = Message { info2: info2::WRITE, ..Message::default() }
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"rig")
        .with_operation(Operation::integer(operation::WRITE, "n", 1));
    assert_eq!(ask(&mut rig.bob, &change), 0);
    assert_eq!(
        rig.told(),
        [line("permitted", "bob", "udf", &digest), line("permitted", "bob", "ops query", "{test|rig}")]
    );
}

#[test]
fn the_reported_operations_change_at_run_time() {
    let mut rig = Rig::start("");
    let read = |client: &mut Client, set: &str| {
        let message = Message { info1: info1::READ | info1::GET_ALL, ..Message::on_record("test", set, "k") };
        client.ask(&message).unwrap().result
    };
    let round = |rig: &mut Rig| {
        for set in ["a", "b"] {
            assert_eq!((read(&mut rig.bob, set), read(&mut rig.eve, set)), (2, 2));
        }
        let told = rig.told();
        let place = |line: &String| {
            let user = line.split("user: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            let set = line.split("{test|").nth(1).unwrap().split('}').next().unwrap();
            format!("{user} {set}")
        };
        told.iter().map(place).collect::<Vec<_>>()
    };
    let nothing: [&str; 0] = [];
    rig.told();
    assert_eq!(round(&mut rig), nothing);
    rig.set("log.report-data-op=true;namespace=test;set=a");
    assert_eq!(round(&mut rig), ["bob a", "eve a"]);
    rig.set("log.report-data-op=true;user=bob");
    assert_eq!(round(&mut rig), ["bob a", "eve a", "bob b"]);
    rig.set("log.report-data-op=false;namespace=test;set=a");
    assert_eq!(round(&mut rig), ["bob a", "bob b"]);
    rig.set("log.report-data-op=true;role=read");
    assert_eq!(round(&mut rig), ["bob a", "eve a", "bob b", "eve b"]);
    let shown = rig.eve.info_value("get-config:context=security").unwrap();
    assert!(
        shown.contains("log.report-data-op-role=read") && shown.contains("log.report-data-op-user=bob"),
        "{shown}"
    );
    rig.set("log.report-data-op=false;role=read");
    rig.set("log.report-data-op=false;user=bob");
    assert_eq!(round(&mut rig), nothing);
    rig.set("log.report-data-op=true;namespace=test");
    assert_eq!(round(&mut rig), ["bob a", "eve a", "bob b", "eve b"]);
    rig.set("log.report-data-op=false;namespace=test");
    for wrong in [
        "log.report-data-op=true",
        "log.report-data-op=maybe;user=x",
        "log.report-data-op=true;user=x;role=y",
    ] {
        let answer = rig.eve.info_value(&format!("set-config:context=security;{wrong}")).unwrap();
        assert!(answer.starts_with("ERROR:4"), "{wrong}: {answer}");
    }

    // Violations are reported even when nothing else is, also those of clients that have not logged in.
    rig.set("log.report-violation=true");
    let put = Message::put("k", vec![1]);
    assert_eq!(rig.eve.ask(&put).unwrap().result, 81);
    assert_eq!(rig.admin.ask(&Message::get("k")).unwrap().result, 81);
    assert_eq!(rig.server.connect().ask(&put).unwrap().result, 80);
    let digest = format!("{{test|rig}} [D|{}]", hex("rig", "k"));
    assert_eq!(
        rig.told(),
        [
            line("role violation", "eve", "write", &digest),
            line("role violation", "admin", "read", &digest),
            line("not authenticated", "<none>", "write", &digest),
        ]
    );
}

/// Appends the lines that have arrived at the socket.
fn take_lines(socket: &UnixDatagram, sent: &mut String) {
    let mut buffer = [0; 4096];
    while let Ok(size) = socket.recv(&mut buffer) {
        sent.push_str(&String::from_utf8_lossy(&buffer[..size]));
        sent.push('\n');
    }
}

#[test]
fn the_log_of_the_system_gets_the_lines_too_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("syslog");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let sinks = format!(
        "syslog {{\n        path {}\n        context audit info\n    }}\n    console {{",
        path.display()
    );
    // The console has all lines.
    let basics = BASICS.replace("context any info", "context any detail").replacen("console {", &sinks, 1);
    let security = "security {\nlog {\nreport-authentication true\nreport-user-admin true\nreport-sys-admin true\nreport-violation true\n}\n}\n";
    let mut server = Server::start(&format!("{basics}{NAMESPACES}\n{security}"));
    server.allow("has the password that everybody knows");
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["sys-admin"]), 0);
    let (result, token) = login(&mut server.connect(), "bob", PASS);
    assert_eq!(result, 0);
    assert_eq!(login(&mut server.connect(), "bob", OTHER).0, 65);
    assert_eq!(login(&mut server.connect(), "nobody", OTHER).0, 60);
    let mut sent = String::new();
    let mut take_sent = || take_lines(&socket, &mut sent);
    // The queue of the socket has room for few lines.
    take_sent();
    let by_token = [(security::USER, &b"bob"[..]), (security::SESSION_TOKEN, &token[..])];
    let mut bob = server.connect();
    assert_eq!(result_of(&mut bob, command::AUTHENTICATE, &by_token), 0);
    assert_eq!(bob.info_value("set-config:context=service;query-max-done=37").unwrap(), "ok");
    assert_eq!(
        admin.info_value("recluster:").unwrap(),
        "ERROR:81:role violation - requires permission 'service-ctrl'"
    );
    assert_eq!(server.connect().info("namespaces\n").unwrap(), "ERROR:80:not authenticated\n");
    // These requests contain secrets in the wrong place.
    for lost in [format!("{PASS}\nnode\n"), format!("login:{OTHER};user=bob\n")] {
        assert_eq!(server.connect().info(&lost).unwrap(), "ERROR:80:not authenticated\n");
    }
    let by_ldap = [(security::USER, &b"bob"[..]), (CLEAR_PASSWORD, b"a clear secret")];
    assert_eq!(result_of(&mut server.connect(), command::LOGIN, &by_ldap), 90);
    let lines = [
        line("permitted", "admin", "login", "user=admin"),
        line("permitted", "admin", "create user", "user=bob;roles=sys-admin"),
        line("permitted", "bob", "login", "user=bob"),
        line("authentication failed (password)", "<none>", "login", "user=bob"),
        line("authentication failed (user)", "<none>", "login", "user=nobody"),
        line("permitted", "bob", "authentication", "user=bob"),
        line("permitted", "bob", "info request", "set-config:context=service;query-max-done=37"),
        line("role violation", "admin", "info request", "recluster:"),
        line("not authenticated", "<none>", "info request", "namespaces"),
        line("not authenticated", "<none>", "info request", "?,node"),
        line("not authenticated", "<none>", "info request", "?"),
        line("failed", "<none>", "login", "user=bob"),
    ];
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    take_sent();
    let port = regex_lite::Regex::new(r"127\.0\.0\.1:\d+").unwrap();
    for log in [&sent, &server.log()] {
        let told = port.replace_all(log, "127.0.0.1");
        let missing: Vec<&String> = lines.iter().filter(|line| !told.contains(line.as_str())).collect();
        assert!(missing.is_empty(), "{missing:#?}\nin\n{told}");
        let secrets = [PASS, OTHER, ADMIN, "argon2", "$2a$", "a clear secret", &token];
        assert!(!secrets.iter().any(|secret| told.contains(secret)), "a secret is told");
    }
}
