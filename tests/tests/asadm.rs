//! A session of asadm, the administration tool: its views and changes work without an error.
//!
//! `FERROSPIKE_ASADM` is the command that starts it. Without the variable, the session is skipped with a
//! message.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Command;

use ferrospike_tests::report;
use ferrospike_tests::server::{BASICS, Server};
use ferrospike_tests::wire::{Message, Operation, field, operation, result};

const NAMESPACES: &str = "
namespace test {
    replication-factor 1
    nsup-period 1
    nsup-hist-period 1
    storage-engine memory {
        data-size 256M
    }
}
namespace bar {
    replication-factor 1
    storage-engine device {
        file {dir}/bar.dat
        filesize 256M
    }
}
";

/// The views, with a session for each, and a word that the view must show.
const SHOWN: &[(&[&str], &str)] = &[
    (&["summary"], "Cluster Summary"),
    (
        &["info", "info network", "info namespace usage", "info namespace object", "info set", "info sindex"],
        "Network Information",
    ),
    (
        &["show config", "show config namespace", "show config network", "show config service"],
        "default-read-touch-ttl-pct",
    ),
    (
        &["show statistics", "show statistics namespace", "show statistics sets", "show statistics service"],
        "client_write_success",
    ),
    (&["show config diff", "show config security", "show config racks"], "config diff"),
    (&["show latencies", "show latencies -v", "show latencies -e 2 -b 5"], "write"),
    (
        &[
            "show distribution",
            "show distribution time_to_live",
            "show distribution object_size",
            "show distribution object_size -b",
        ],
        "Object Size",
    ),
    (&["show stop-writes", "show best-practices", "show jobs", "show pmap"], "Stop Writes"),
    (&["show jobs queries", "info transactions", "summary -l", "health"], "Cluster Name"),
    (&["show racks", "show roster", "show sindex", "show udfs", "show mapping", "features"], "KVS"),
];
/// Commands that this server refuses, as the Community Edition does, with asadm's message.
const REFUSED: &[(&str, &str)] = &[
    ("show users", "ERROR: Failed to query users : Security not enabled."),
    ("show roles", "ERROR: Failed to query roles : Security not enabled."),
    ("manage config service param no-such-parameter to 3", "invalid set-config parameter"),
    ("manage config service param proto-fd-max to 3", "invalid set-config parameter"),
    ("manage config security param tps-weight to 3", "enterprise only"),
];
/// Changes, with the parameter's value afterwards.
const CHANGED: &[(&str, &str)] = &[
    ("manage config namespace test param default-read-touch-ttl-pct to 37", "default-read-touch-ttl-pct=37"),
    (
        "manage config namespace bar storage-engine param defrag-lwm-pct to 37",
        "storage-engine.defrag-lwm-pct=37",
    ),
    ("manage config namespace test set demo param stop-writes-count to 37", "stop-writes-count=37"),
    ("manage config service param proto-fd-idle-ms to 37000", "proto-fd-idle-ms=37000"),
    ("manage config network heartbeat param interval to 370", "heartbeat.interval=370"),
    (
        "manage config namespace test geo2dsphere-within param max-cells to 37",
        "geo2dsphere-within.max-cells=37",
    ),
    ("asinfo -v set-config:context=service;query-max-done=37", "query-max-done=37"),
    ("manage config logging file {dir}/asd.log param nsup to debug", "nsup:DEBUG"),
];

/// Commands about indexes, functions and jobs, with a word of asadm's message, which is the same as with the
/// C server.
const MANAGED: &[(&str, &str)] = &[
    (
        "manage sindex create numeric of_age ns test set demo bin age",
        "Use 'show sindex' to confirm of_age was created successfully",
    ),
    (
        "manage sindex create string of_names ns test bin names in list ctx list_index(1)",
        "Use 'show sindex' to confirm of_names was created successfully",
    ),
    (
        "manage sindex create blob of_age ns test set demo bin other",
        "ERROR: Failed to create sindex of_age : 'indexname' already exists with different definition",
    ),
    ("show sindex", "[list_index(1)]"),
    ("show sindex", "of_age  |test     |demo|  age|numeric|default|RW"),
    ("info sindex", "Read-Write"),
    ("show statistics sindex", "entries_per_bval"),
    ("manage udfs add m.lua path {dir}/m.lua", "Successfully added UDF m.lua"),
    ("show udfs", "m.lua"),
    ("show udfs m.lua", "function add(r)"),
    ("manage udfs add bad.lua path {dir}/bad.lua", "ERROR: Failed to add UDF : compile_error"),
    ("manage udfs remove none.lua", "ERROR: Failed to remove UDF none.lua : UDF does not exist"),
    ("show jobs queries", "background-ops"),
    ("manage jobs kill trids 12345", "ERROR: The provided trid(s) could not be found"),
    ("manage jobs kill all queries", "number-of-queries-killed"),
    ("manage udfs remove m.lua", "Successfully removed UDF m.lua"),
    ("manage sindex delete of_age ns test set demo", "Successfully deleted sindex of_age"),
    ("manage sindex delete of_names ns test", "Successfully deleted sindex of_names"),
];

/// The command that starts asadm. Reports if there is none.
fn asadm() -> Option<String> {
    let asadm = std::env::var("FERROSPIKE_ASADM").ok();
    if asadm.is_none() {
        report("SKIPPED: FERROSPIKE_ASADM does not say how to start asadm, so no session of it was tested");
    }
    asadm
}

fn start() -> Server {
    let file = "logging {\n    file {dir}/asd.log {\n        context any info\n    }";
    let basics = BASICS.replacen("service {", "service {\n    ticker-interval 1", 1);
    Server::start(&[&basics.replacen("logging {", file, 1), NAMESPACES].concat())
}

/// Runs `commands` in asadm. Returns its output.
fn run(server: &Server, asadm: &str, flags: &[&str], commands: &[&str]) -> String {
    let mut words = asadm.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args(["--no-color", "-h", &server.address().to_string()])
        .args(flags)
        .args(["-e", &commands.join("; ")])
        // asadm keeps a log and a configuration in the home folder.
        .env("HOME", server.folder())
        .output()
        .unwrap_or_else(|error| panic!("{asadm}: {error}"));
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(!text.contains("Traceback"), "{commands:?}:\n{text}");
    text
}

/// Same as [`run`], and fails if the output reports a failure.
fn session(server: &Server, asadm: &str, flags: &[&str], commands: &[&str]) -> String {
    let text = run(server, asadm, flags, commands);
    for line in text.lines() {
        // The names of checks in `health` are not failures.
        let failed = line.starts_with("ERROR") || line.contains("Exception");
        assert!(!failed, "{commands:?}: {line}\nin\n{text}");
    }
    text
}

#[test]
fn views_and_settings_of_asadm_work() {
    let Some(asadm) = asadm() else { return };
    let mut server = start();
    server.allow("' refused: ");
    let mut client = server.connect();
    for namespace in ["test", "bar"] {
        for key in 0..20 {
            let put = Message::put(&format!("key-{key}"), vec![1; 100]);
            let put =
                Message { fields: Message::on_record(namespace, "demo", &key.to_string()).fields, ..put };
            assert_eq!(client.ask(&put).unwrap().result, result::OK);
        }
    }
    for (commands, word) in SHOWN {
        let text = session(&server, &asadm, &[], commands);
        assert!(text.contains(word), "{commands:?} without {word}:\n{text}");
    }
    for (command, answer) in REFUSED {
        let text = run(&server, &asadm, &["--enable"], &[command]);
        assert!(text.contains(answer), "{command} without {answer}:\n{text}");
    }
    for (command, parameter) in CHANGED {
        let command = command.replace("{dir}", server.folder().to_str().unwrap());
        // A semicolon outside quotes separates commands.
        let quoted = command.replacen("-v ", "-v '", 1) + if command.contains("-v ") { "'" } else { "" };
        let text = session(&server, &asadm, &["--enable"], &[&quoted]);
        assert!(text.contains("ok"), "{command}:\n{text}");
        let places = [
            "get-config:context=service",
            "get-config:context=network",
            "namespace/test",
            "namespace/bar",
            "sets/test/demo",
            "log/0",
            "log/1",
        ];
        let shown = places.map(|place| client.info_value(place).unwrap()).join(";");
        let changed = shown.contains(&format!("{parameter};")) || shown.contains(&format!("{parameter}:"));
        assert!(changed, "{command}: no {parameter}");
    }
}

#[test]
fn indexes_functions_and_jobs_are_managed() {
    let Some(asadm) = asadm() else { return };
    let mut server = start();
    server.allow("bad.lua").allow("already exists with different definition");
    std::fs::write(server.folder().join("m.lua"), "function add(r) return 1 end\n").unwrap();
    std::fs::write(server.folder().join("bad.lua"), "function add(r\n").unwrap();
    let mut client = server.connect();
    let age = |code| Operation::integer(code, "age", 1);
    for key in 0..20 {
        let fields = Message::on_record("test", "demo", &key.to_string()).fields;
        let put = Message { fields, ..Message::write("") }.with_operation(age(operation::WRITE));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let all = Message { fields: Vec::new(), ..Message::write("") }
        .with_field(field::NAMESPACE, b"test")
        .with_field(field::SET, b"demo");
    assert_eq!(client.ask(&all.with_operation(age(operation::INCR))).unwrap().result, result::OK);
    for (command, word) in MANAGED {
        let command = command.replace("{dir}", server.folder().to_str().unwrap());
        let text = run(&server, &asadm, &["--enable"], &[&command]);
        assert!(text.contains(word), "{command} without {word}:\n{text}");
    }
    assert_eq!(client.info_value("sindex-list:").unwrap(), "");
    assert_eq!(client.info_value("udf-list").unwrap(), "");
}

/// Files of a collection that concern the server.
const COLLECTED: [&str; 4] = ["ascinfo.json", "ascollectinfo.log", "summary.log", "health.log"];

#[test]
fn information_for_support_is_collected() {
    let Some(asadm) = asadm() else { return };
    let mut server = start();
    // asadm also sends commands of other versions.
    server.allow("unrecognized command");
    let prefix = format!("ferrospike-{}", server.process_id().unwrap());
    let text = session(&server, &asadm, &[], &[&format!("collectinfo -n 1 --output-prefix {prefix}")]);
    let archive = text.split_once("are now archived in ").expect(&text).1.lines().next().unwrap();
    let archive = Path::new(archive.trim_end_matches('.'));
    let listed = Command::new("tar").arg("tzf").arg(archive).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    std::fs::remove_file(archive).unwrap();
    let _ = std::fs::remove_dir_all(archive.with_extension(""));
    for name in COLLECTED {
        assert!(listed.lines().any(|file| file.ends_with(name)), "no {name} in {listed}\n{text}");
    }
}

/// Commands of user administrators, in one session each, with a word of asadm's message.
const ACCESS_CONTROL: &[(&str, &str)] = &[
    (
        "manage acl create role office priv read ns test set a allow 127.0.0.0/8 ::1 read 100 write 50",
        "Successfully",
    ),
    ("manage acl create role mixed priv sys-admin", "Successfully"),
    ("manage acl create user bob password secret roles office", "Successfully"),
    ("show users", "office"),
    ("show users bob", "bob"),
    ("show users statistics", "bob"),
    ("show roles", "127.0.0.0/8"),
    ("show roles office", "read.test.a"),
    ("manage acl grant user bob roles mixed", "Successfully"),
    ("manage acl revoke user bob roles mixed", "Successfully"),
    ("manage acl grant role office priv write ns test", "Successfully"),
    ("manage acl revoke role office priv write ns test", "Successfully"),
    ("manage acl allowlist role office allow 127.0.0.1", "Successfully"),
    ("manage acl allowlist role office clear", "Successfully"),
    ("manage acl quotas role office read 7 write 8", "Successfully"),
    ("manage acl quotas role office write 9", "Successfully"),
    ("manage acl set-password user bob password other", "Successfully"),
    ("manage acl create user bob password x roles read", "User already exists"),
    ("manage acl create role office priv read", "Role already exists"),
    ("manage acl grant user bob roles nobody", "role"),
    ("manage acl delete role mixed", "Successfully"),
    ("manage acl create user eve password x", "Successfully"),
    ("manage acl delete user eve", "Successfully"),
];

#[test]
fn asadm_manages_users_and_roles() {
    let Some(asadm) = asadm() else { return };
    let basics = BASICS.replacen("service {", "service {\n    ticker-interval 1", 1);
    let mut server =
        Server::start(&[&basics, NAMESPACES, "security {\n    enable-quotas true\n}\n"].concat());
    server.allow("has the password that everybody knows").allow("unrecognized command").allow("' refused: ");
    let admin = ["-U", "admin", "-P", "admin", "--enable"];
    for (command, word) in ACCESS_CONTROL {
        let text = run(&server, &asadm, &admin, &[command]);
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "{command} without {word}:\n{text}");
    }
    let bob = ["-U", "bob", "-P", "other", "--enable"];
    let text = run(&server, &asadm, &bob, &["show roles office"]);
    assert!(text.contains("read.test.a"), "who has a role may see it:\n{text}");
    let text = run(&server, &asadm, &bob, &["manage acl create user x password x"]);
    assert!(text.to_lowercase().contains("role violation") || text.contains("role or privilege"), "{text}");
    let text = session(&server, &asadm, &bob, &["manage acl change-password old other new third"]);
    assert!(text.contains("Successfully"), "{text}");
    let text = session(&server, &asadm, &["-U", "bob", "-P", "third"], &["info network"]);
    assert!(text.contains("Network Information"), "{text}");
    let text = run(&server, &asadm, &["-U", "bob", "-P", "wrong"], &["info network"]);
    assert!(!text.contains("Network Information"), "{text}");
}
