//! A session of asadm, the tool that people run Aerospike with: what it shows and sets works without an error.
//!
//! `FERROSPIKE_ASADM` is the command that starts it; without, the session is skipped, and says so.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use ferrospike_tests::report;
use ferrospike_tests::server::{BASICS, Server};
use ferrospike_tests::wire::{Message, result};

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

/// What is looked at, a session each, with a word of what it must show.
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
    (&["show latencies", "show latencies -v"], "write"),
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
    (&["show racks", "show roster", "show sindex", "show udfs", "show mapping", "features"], "KVS"),
];
/// What is changed, and the parameter that then has another value.
const CHANGED: &[(&str, &str)] = &[
    ("manage config namespace test param default-read-touch-ttl-pct to 37", "default-read-touch-ttl-pct=37"),
    (
        "manage config namespace bar storage-engine param defrag-lwm-pct to 37",
        "storage-engine.defrag-lwm-pct=37",
    ),
    ("manage config namespace test set demo param stop-writes-count to 37", "stop-writes-count=37"),
    ("manage config service param proto-fd-idle-ms to 37000", "proto-fd-idle-ms=37000"),
];

/// Carries out `commands` in asadm; gives what it wrote, in which no word may tell of a failure.
fn session(server: &Server, asadm: &str, flags: &[&str], commands: &[&str]) -> String {
    let mut words = asadm.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args(["--no-color", "-h", &server.address().to_string()])
        .args(flags)
        .args(["-e", &commands.join("; ")])
        // It keeps a log and a configuration at home.
        .env("HOME", server.folder())
        .output()
        .unwrap_or_else(|error| panic!("{asadm}: {error}"));
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{commands:?} ended with {}:\n{text}", output.status);
    for line in text.lines() {
        let failed = ["ERROR", "Traceback", "Exception"].iter().any(|word| line.contains(word));
        assert!(!failed, "{commands:?}: {line}\nin\n{text}");
    }
    text
}

#[test]
fn what_asadm_shows_and_sets_works() {
    let Ok(asadm) = std::env::var("FERROSPIKE_ASADM") else {
        report("SKIPPED: FERROSPIKE_ASADM does not say how to start asadm, so no session of it was tested");
        return;
    };
    let server = Server::start(
        &[&BASICS.replacen("service {", "service {\n    ticker-interval 1", 1), NAMESPACES].concat(),
    );
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
    for (command, parameter) in CHANGED {
        let text = session(&server, &asadm, &["--enable"], &[command]);
        assert!(text.contains("ok"), "{command}:\n{text}");
        let places = ["get-config:context=service", "namespace/test", "namespace/bar", "sets/test/demo"];
        let shown = places.map(|place| client.info_value(place).unwrap()).join(";");
        assert!(shown.split([';', ':']).any(|pair| pair == *parameter), "{command}: {shown}");
    }
}
