//! Configuration changes on a running server: every parameter, compared with the recorded answers of the C
//! server.
//!
//! `corpora/set_config.txt` has a line for each parameter: the part before `=`, a tab, and the values in the
//! order in which they were set, each after a sign: `+` means accepted, `-` refused, `e` refused for the
//! Enterprise edition. They were sent to a fresh server with the namespaces below. DIFFERENCES.md also lists
//! the allowed differences.
#![expect(clippy::unwrap_used, reason = "a test")]

use ferrospike_tests::server::{BASICS, Server};

const RECORDED: &str = include_str!("../corpora/set_config.txt");
const NAMESPACES: &str = "
namespace test {
    replication-factor 1
    nsup-period 120
    storage-engine memory {
        data-size 512M
    }
}
namespace bar {
    replication-factor 1
    nsup-period 120
    storage-engine device {
        file {dir}/bar.dat
        filesize 128M
    }
}
";

/// Values that the C server accepts by mistake: nothing, a sign, too many bits. This server refuses them.
const SLIPS: &[&str] = &["", "-1", "100G", "4294967295", "4294967296", "18446744073709551616"];
/// Parameters for which the C server takes any word as 0.
const ANY_WORD: &[&str] = &["evict-tenths-pct", "stop-writes-count"];
/// Parameters for which the C server accepts 0 and then has no thread.
const NO_THREAD: &[&str] = &["batch-index-threads", "sindex-builder-threads"];
/// Parameters of the Enterprise edition. The C server refuses them; this server accepts them.
const FOR_EVERYONE: &[&str] = &[
    "active-rack",
    "compression",
    "compression-acceleration",
    "compression-level",
    "conflict-resolve-writes",
    "disallow-expunge",
    "ignore-migrate-fill-delay",
    "migrate-fill-delay",
    "prefer-uniform-balance",
    "rack-id",
    "tls-refresh-period",
    "tomb-raider-eligible-age",
    "tomb-raider-period",
    "tomb-raider-sleep",
    "xdr-bin-tombstone-ttl",
    "xdr-tomb-raider-period",
    "xdr-tomb-raider-threads",
];
/// Other values that the C server refuses and this server accepts. DIFFERENCES.md has the reasons.
const TAKEN: &[(&str, &[&str])] = &[
    ("context=service;min-cluster-size", &["7", "8"]),
    ("context=service;proto-fd-idle-ms", &["4294967295"]),
    ("context=namespace;id=test;set=s1;default-ttl", &["0"]),
];

fn sign(answer: &str) -> char {
    match answer {
        "ok" => '+',
        "ERROR:4:invalid set-config parameter" => '-',
        "ERROR:25:enterprise only" => 'e',
        _ => '?',
    }
}

/// Whether the answer differs from the C server's on purpose.
fn on_purpose(parameter: &str, value: &str, theirs: char, ours: char) -> bool {
    let name = parameter.rsplit([';', '.']).next().unwrap();
    match (theirs, ours) {
        ('+', '-') => {
            SLIPS.contains(&value)
                || ANY_WORD.contains(&name)
                || (NO_THREAD.contains(&name) && value.starts_with('0'))
        }
        ('-', '+') => {
            FOR_EVERYONE.contains(&name)
                || TAKEN.iter().any(|(taken, values)| *taken == parameter && values.contains(&value))
        }
        _ => false,
    }
}

#[test]
fn every_parameter_is_set_and_refused_as_recorded() {
    let mut server = Server::start(&[BASICS, NAMESPACES].concat());
    server.allow("' refused: ").allow("suppressed");
    let mut client = server.connect();
    let (mut asked, mut failures) = (0, Vec::new());
    for line in RECORDED.lines() {
        let (parameter, values) = line.split_once('\t').unwrap();
        for recorded in values.split('|') {
            let (theirs, value) = recorded.split_at(1);
            let theirs = theirs.chars().next().unwrap();
            let answer = client.info_value(&format!("set-config:{parameter}={value}")).unwrap();
            let ours = sign(&answer);
            asked += 1;
            if ours != theirs && !on_purpose(parameter, value, theirs, ours) {
                failures.push(format!("{parameter}={value}: recorded {theirs}, {ours} here: {answer}"));
            }
        }
    }
    assert!(asked > 3_000, "{asked} asked");
    assert!(failures.is_empty(), "{} answers differ:\n{}", failures.len(), failures.join("\n"));
}
