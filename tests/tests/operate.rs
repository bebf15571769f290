//! Operation of a server: the info port, the ticker, log levels, and configuration changes that take effect
//! at once.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use ferrospike_tests::client::{Client, PATIENCE};
use ferrospike_tests::ports::free_port;
use ferrospike_tests::programs::{binary, built};
use ferrospike_tests::server::{BASICS, NAMESPACES, Server};
use ferrospike_tests::wire::{self, Message, Operation, info1, info2, operation, result};

/// A server with an info port, and a connection to it.
fn start_with_info_port() -> (Server, u16) {
    let port = free_port();
    let info = format!(
        "network {{\n service {{\n address 127.0.0.1\n port 0\n }}\n info {{\n address 127.0.0.1\n port {port}\n }}\n}}\n"
    );
    let (before, network) = BASICS.split_once("network {").unwrap();
    assert!(network.contains("port 0"));
    let mut server = Server::start(&[before, &info, NAMESPACES].concat());
    server.allow("(info)");
    (server, port)
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn the_info_port_answers_lines_with_values() {
    let (server, port) = start_with_info_port();
    server.await_log(&format!("info port 127.0.0.1:{port}"));
    let mut stream = dial(port);
    stream.write_all(b"status\r\n\nbuild\nno-such-command\npartit").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let lines: Vec<String> = (0..3).map(|_| line(&mut reader)).collect();
    assert_eq!(lines, ["ok\n", "8.0.0.7\n", "ERROR:4:unrecognized command\n"]);
    stream.write_all(b"ions\n").unwrap();
    assert_eq!(line(&mut reader), "4096\n");
    // The connection is counted as one for info, and not as a client's.
    stream.write_all(b"statistics\n").unwrap();
    let statistics = line(&mut reader);
    assert!(statistics.contains(";client_connections=0;"), "{statistics}");
}

#[test]
fn the_info_port_outlives_bad_guests() {
    let (_server, port) = start_with_info_port();
    // One connection sends many requests and reads nothing.
    let mut deaf = dial(port);
    deaf.write_all("partition-info\n".repeat(200).as_bytes()).unwrap();
    // One connection sends an interrupt from telnet, and one never ends its line.
    for bytes in [&b"status\xff\xf4\n"[..], &[b'x'; 70_000]] {
        let mut guest = dial(port);
        // The server may close the connection before everything is sent.
        let _ = guest.write_all(bytes);
        assert_eq!(guest.read(&mut [0; 8]).unwrap_or(0), 0, "the guest is cut off");
    }
    let mut stream = dial(port);
    stream.write_all(b"status\n").unwrap();
    assert_eq!(line(&mut BufReader::new(stream)), "ok\n");
    // The first connection is served when it reads.
    let mut reader = BufReader::new(deaf);
    for _ in 0..200 {
        assert!(line(&mut reader).starts_with("namespace:partition:"));
    }
}

#[test]
fn the_ticker_reports_the_state_of_the_server() {
    let config = BASICS.replace("    work-directory", "    ticker-interval 1\n    work-directory");
    let server = Server::start(&[&config, NAMESPACES].concat());
    server.await_log("<><><><><><><><><><>  Aerospike Community Edition build 8.0.0.7 ");
    server.await_log("service ready: soon there will be cake!");
    server.await_log(" CLUSTER-SIZE 1 CLUSTER-NAME tests");
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("a", vec![1])).unwrap().result, result::OK);
    assert_eq!(client.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
    for text in [
        "   cluster-clock: skew-ms 0",
        "   system: total-cpu-pct ",
        "   process: cpu-pct ",
        "   in-progress: info-q 0 rw-hash 0 proxy-hash 0 tree-gc-q 0 long-queries 0",
        "   fds: proto (1,1,0) heartbeat (0,0,0) fabric (0,0,0)",
        "   heartbeat-received: self 0 foreign 0",
        "   fabric-bytes-per-second: bulk (0,0) ctrl (0,0) meta (0,0) rw (0,0)",
        "{test} objects: all 1 master 1 prole 0 non-replica 0",
        "{test} migrations: complete",
        "{test} index-usage: used-bytes 64",
        "{test} data-usage: used-bytes 64 avail-pct ",
        "{test} client: tsvc (0,0) proxy (0,0,0) read (0,0,0,1,0) write (1,0,0,0) delete (0,0,0,0,0) udf (0,0,0,0) \
         lang (0,0,0,0)",
    ] {
        server.await_log(text);
    }
    assert!(!server.log().contains("{bar} client:"), "nothing happened there");
    for text in ["xdr-client:", "tombstones:", "dup-res:"] {
        assert!(!server.log().contains(text), "{text} never happened");
    }
    let durable =
        Message { info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE, ..Message::delete("a") };
    assert_eq!(client.ask(&durable).unwrap().result, result::OK);
    server.await_log("{test} tombstones: all 1 xdr (0,0) master 1 prole 0 non-replica 0");
}

#[test]
fn levels_of_the_log_are_changed_while_it_runs() {
    let server = Server::start(&[BASICS, NAMESPACES].concat());
    let mut client = server.connect();
    let mut ask = |request: &str| client.info_value(request).unwrap();
    assert_eq!(ask("logs"), "0:stderr");
    assert_eq!(ask("log-message:message=before;who=test"), "");
    server.await_log("(info): ");
    server.await_log("test: before");
    assert_eq!(ask("log-set:id=0;info=warning"), "ok");
    assert_eq!(ask("log/0/info"), "info:WARNING");
    assert_eq!(ask("log/0/nsup"), "nsup:INFO");
    assert_eq!(ask("log-message:message=between"), "");
    assert_eq!(ask("log-set:id=0;any=info"), "ok");
    assert_eq!(ask("log-message:message=after"), "");
    server.await_log("unknown: after");
    assert!(!server.log().contains("unknown: between"));
}

#[test]
fn the_log_shows_why_an_operation_was_refused() {
    const LIST: u8 = 20;
    const CDT_READ: u8 = 3;
    const CDT_MODIFY: u8 = 4;
    let server = Server::start(&[BASICS, NAMESPACES].concat());
    let mut client = server.connect();
    let list = Operation { particle: LIST, ..Operation::blob(operation::WRITE, "l", vec![0x93, 1, 2, 3]) };
    assert_eq!(client.ask(&Message::write("k").with_operation(list)).unwrap().result, result::OK);

    let read = |payload: &[u8]| {
        let read = Message { info1: info1::READ, ..Message::on("k") };
        read.with_operation(Operation::blob(CDT_READ, "l", payload.to_vec()))
    };
    let add_unique = Operation::blob(CDT_MODIFY, "l", vec![0x94, 1, 3, 0, 1]);
    let bits = Operation::blob(operation::BITS_MODIFY, "l", vec![0x92, 0, 3]);
    assert_eq!(client.ask(&read(&[0x92, 17, 9])).unwrap().result, 26);
    assert_eq!(client.ask(&Message::write("k").with_operation(bits)).unwrap().result, 12);
    server.await_log("WARNING (particle): (refused.rs:");
    server.await_log(
        ") {test} list_get_by_index() on bin l refused with 26: index 9 is out of bounds for 3 elements",
    );
    server.await_log(") {test} bits_resize() on bin l refused with 12: it is for a blob; the bin is a list");

    // A refusal that the flags ask for is not a warning.
    assert_eq!(client.ask(&Message::write("k").with_operation(add_unique.clone())).unwrap().result, 24);
    assert_eq!(client.info_value("log-set:id=0;particle=detail").unwrap(), "ok");
    assert_eq!(client.ask(&Message::write("k").with_operation(add_unique)).unwrap().result, 24);
    server.await_log(") {test} list_append() on bin l refused with 24: the element exists");
    assert_eq!(server.log().matches("the element exists").count(), 1);

    // All lines at level debug are written, but warnings only at a limited rate.
    let mut refuse = |index: u8| {
        for _ in 0..20 {
            assert_eq!(client.ask(&read(&[0x92, 17, index])).unwrap().result, 26);
        }
        server.log().matches(&format!("index {index} is")).count()
    };
    assert_eq!(refuse(8), 20);
    let mut other = server.connect();
    assert_eq!(other.info_value("log-set:id=0;particle=info").unwrap(), "ok");
    assert!(refuse(7) <= 5);
}

#[test]
fn best_practices_can_be_enforced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aerospike.conf");
    // No machine has that much memory.
    let config = [BASICS, NAMESPACES].concat().replace("data-size 1G", "data-size 100T");
    let config = config.replace("    work-directory", "    enforce-best-practices true\n    work-directory");
    fs::write(&path, config.replace("{dir}", folder.path().to_str().unwrap())).unwrap();
    let output = Command::new(binary()).arg("--config-file").arg(&path).arg("--foreground").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("enforce-best-practices is set, and these are not followed: "), "{said}");
    assert!(said.contains("the namespaces may take 109951699648512 bytes"), "{said}");
}

/// Surplus service threads stay, but have nothing to do.
#[test]
fn the_numbers_of_threads_follow_the_configuration() {
    let server = Server::start(&[BASICS, NAMESPACES].concat());
    let mut client = server.connect();
    let kinds: [(&str, &str, &[usize]); 3] = [
        ("info-threads", "(info-", &[3, 40, 1]),
        ("batch-index-threads", "(batch-", &[5, 1, 12]),
        ("service-threads", "(service-", &[6, 9, 30]),
    ];
    for (parameter, name, counts) in kinds {
        for &count in counts {
            let change = format!("set-config:context=service;{parameter}={count}");
            assert_eq!(client.info_value(&change).unwrap(), "ok");
            let start = std::time::Instant::now();
            let count_now = |client: &mut Client| {
                let traces = client.info_value("thread-traces").unwrap();
                traces.matches(name).count()
            };
            while count_now(&mut client) != count {
                assert!(start.elapsed() < PATIENCE, "never {count} {parameter}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert_eq!(client.info_value("set-config:context=service;service-threads=1").unwrap(), "ok");
    assert_eq!(server.connect().info_value("build").unwrap(), client.info_value("build").unwrap());
    server.await_log("set-config: service.info-threads changed from 40 to 1");
    server.await_log("set-config: service.service-threads changed from 30 to 1");
}

const REFUSED: &str = "ERROR:4:invalid set-config parameter";

/// Answers of `set-config` that differ from the C server's, see DIFFERENCES.md.
const SET_OTHERWISE: &[(&str, &str)] = &[
    ("context=service;batch-max-requests=", REFUSED),
    ("context=service;batch-max-requests=-1", REFUSED),
    ("context=service;batch-max-requests=4294967296", REFUSED),
    ("context=service;transaction-max-ms=18446744073709551616", REFUSED),
    ("context=namespace;id=test;evict-tenths-pct=nonsense", REFUSED),
    ("context=namespace;id=test;set=s;stop-writes-count=true", REFUSED),
    ("context=namespace;id=test;set=s;stop-writes-size=18446744073709551616", REFUSED),
    ("context=service;batch-index-threads=0", REFUSED),
    ("context=service;sindex-builder-threads=0", REFUSED),
    ("context=service;proto-fd-idle-ms=4294967295", "ok"),
    ("context=service;min-cluster-size=7", "ok"),
    ("context=namespace;id=bar;set=s;default-ttl=0", "ok"),
    ("context=namespace;id=test;tomb-raider-period=1d", "ok"),
    ("context=namespace;id=test;compression=lz4", "ok"),
    ("context=namespace;id=test;rack-id=7", "ok"),
    ("context=namespace;id=test;prefer-uniform-balance=true", "ok"),
    ("context=namespace;id=test;disallow-expunge=true", "ok"),
];

#[test]
fn configuration_changes_are_answered_and_logged() {
    let mut server = Server::start(&[BASICS, NAMESPACES].concat());
    server.allow("' refused: ");
    let mut client = server.connect();
    for (parameters, expected) in SET_OTHERWISE {
        let request = format!("set-config:{parameters}");
        assert_eq!(client.info_value(&request).unwrap(), *expected, "{parameters}");
        if *expected == "ok" {
            server.await_log(&format!("config-set command completed: params {parameters}"));
        } else {
            assert!(!server.log().contains(&format!("completed: params {parameters}\n")), "{parameters}");
        }
    }
    server.await_log("set-config: {test} namespace.rack-id changed from 0 to 7");
    server.await_log(
        "set-config: {test} namespace.disallow-expunge changed from false to true (not yet in effect)",
    );
    server.await_log("'batch-max-requests' in service cannot be '4294967296'");
}

#[test]
fn requests_that_waited_too_long_are_answered_so() {
    let server = Server::start(&[BASICS, NAMESPACES].concat());
    let mut client = server.connect();
    for parameter in ["info-threads=1", "info-max-ms=500"] {
        assert_eq!(client.info_value(&format!("set-config:context=service;{parameter}")).unwrap(), "ok");
    }
    // The only thread gives each request a turn of two milliseconds before any request gets its next turn.
    let busy = wire::info_request(&"thread-traces\n".repeat(10));
    let mut clients: Vec<_> = (0..500).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&busy).unwrap();
    }
    let answers: Vec<_> = clients.iter_mut().map(|client| client.receive().unwrap().body).collect();
    let late = answers.iter().filter(|answer| *answer == b"ERROR:9:timeout\n").count();
    assert!(late > 0, "none waited too long");
    assert!(answers.iter().any(|answer| answer.starts_with(b"thread-traces\t")), "the first did not wait");
    let statistics = client.info_value("statistics").unwrap();
    assert!(statistics.contains(&format!(";info_timeout={late};")), "{late} late: {statistics}");
}

#[test]
fn tools_take_their_options_from_astools_conf() {
    let server = Server::usual();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("astools.conf");
    let tool = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(built(name).expect("a tool"));
        command.arg("--only-config-file").arg(&path).args(arguments);
        let output = command.output().expect("the tool runs");
        let text = |bytes| String::from_utf8(bytes).expect("plain text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let address = server.address();
    let config = format!(
        "[cluster]\nhost = \"{}\"\nport = 1\ntls-enable = false\n[cluster_here]\nhost = \"{address}\"\n\
         [asbench_here]\nkeys = 10\nworkload = \"I\"\nset = \"loaded\"\n",
        address.ip()
    );
    fs::write(&path, config).expect("write the file");
    let port = address.port().to_string();
    let ok = (Some(0), "ok\n".to_owned(), String::new());
    assert_eq!(tool("asinfo", &["-v", "status", "-p", &port]), ok, "the command line counts more");
    assert_eq!(tool("asinfo", &["-v", "status", "--instance", "here"]), ok);
    assert_eq!(tool("asinfo", &["-v", "status"]).0, Some(1), "nobody listens there");

    let (code, _, errors) = tool("asbench", &["--instance", "here"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(server.connect().info_value("sets/test/loaded").expect("a set").starts_with("objects=10:"));

    fs::write(&path, "[asinfo]\nhots = \"a\"\n").expect("write the file");
    let (code, _, errors) = tool("asinfo", &["-v", "status"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("astools.conf: unknown option 'hots' in [asinfo]"), "{errors}");
}
