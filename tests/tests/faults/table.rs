//! All fault points and all threads of the server, with the cost of a panic in each. A test checks that every
//! point and every thread has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The consequence of a panic in a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cost {
    /// The process ends.
    Process,
    /// The thread starts again.
    Turn,
    /// The thread continues. One client or peer loses its current request, and gets an error or tries again.
    Work,
}
use Cost::{Process, Turn, Work};

/// The threads, by the prefixes of their names, with the cost of a panic and the points in their work.
const THREADS: &[(&str, Cost, &[&str])] = &[
    (
        "service",
        Work,
        &[
            "add",
            "event",
            "receive",
            "parse",
            "prepare",
            "dispatch",
            "execute",
            "send",
            "hold",
            "release",
            "reap",
            "start-info",
            "start-query",
            "start-batch",
            "deliver",
            "deliver-part",
            "deliver-inflated",
            "handshake",
        ],
    ),
    ("info", Work, &["info"]),
    ("batch", Work, &["batch"]),
    ("transaction", Work, &["transaction-pool", "commit-from-copy"]),
    ("function", Work, &["transaction-pool", "udf"]),
    ("prompt-func", Work, &["transaction-pool", "udf"]),
    ("overdue-func", Work, &["transaction-pool", "udf"]),
    ("lock-turn", Work, &["lock-turn"]),
    ("query", Work, &["query", "stream-function"]),
    ("compression", Work, &["compression"]),
    ("security", Work, &["security"]),
    ("password", Work, &["password"]),
    ("user-change", Work, &["user-change"]),
    ("migrate", Work, &["emigration"]),
    ("migrate-small", Work, &["emigration"]),
    ("hand-over", Work, &["hand-over"]),
    ("metrics", Work, &["metrics"]),
    (
        "fabric",
        Work,
        &[
            "fabric-event",
            "fabric-message",
            "fabric-send",
            "fabric-accept",
            "fabric-adopt",
            "fabric-dial",
            "immigration",
        ],
    ),
    (
        "heartbeat",
        Work,
        &["heartbeat-tick", "heartbeat-pulse", "heartbeat-event", "heartbeat-accept", "heartbeat-connect"],
    ),
    ("heartbeat-dns", Turn, &["heartbeat-dns"]),
    ("replica-resend", Turn, &["replica-resend"]),
    ("tree-removal", Turn, &["tree-removal"]),
    ("cluster", Process, &["cluster"]),
    ("metadata", Process, &["metadata"]),
    ("signals", Process, &["signals"]),
    ("write", Process, &["flush", "write-block"]),
    ("sync", Process, &["sync"]),
    ("defrag", Process, &["defrag"]),
    ("accept", Turn, &["accept"]),
    ("info-port", Turn, &["info-port"]),
    ("metrics-port", Turn, &["metrics-port"]),
    ("pool-sizing", Turn, &["pool-sizing"]),
    ("disk-watch", Turn, &["disk-watch"]),
    ("ticker", Turn, &["ticker"]),
    ("nsup", Turn, &["nsup"]),
    ("stop-writes", Turn, &["stop-writes"]),
    ("memory-ahead", Turn, &["memory-ahead"]),
    ("tomb-raider", Turn, &["tomb-raider"]),
    ("truncate", Turn, &["truncate"]),
    ("set-index", Turn, &["set-index", "set-index-fill"]),
    ("sindex-build", Turn, &["sindex-build"]),
    ("sindex-sweep", Turn, &["sindex-sweep"]),
    ("quotas", Turn, &["quotas"]),
    ("tls-refresh", Turn, &["tls-refresh"]),
];

/// Points at which tests make threads wait. They never panic there.
const STALLED: &[&str] = &["commit-under-lock", "read-record"];

/// The texts of all Rust files in a folder of the repository.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending
                .extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

/// The quoted texts that directly follow `start` in `text`. If a text has placeholders, the part before the
/// first one.
fn names<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    let quoted = |rest: &'t str| {
        let rest = rest.trim_start().trim_start_matches('&').trim_start_matches("format!(");
        rest.strip_prefix('"')?.split(['"', '{']).next()
    };
    text.split(start).skip(1).filter_map(quoted).collect()
}

#[test]
fn every_fault_point_is_in_the_table_and_in_a_test() {
    let server = sources("as/server/src");
    let passed: BTreeSet<&str> = server.iter().flat_map(|(_, text)| names(text, "fault_point!(")).collect();
    let listed =
        THREADS.iter().flat_map(|(_, _, points)| points.iter().copied()).chain(STALLED.iter().copied());
    let listed: BTreeSet<&str> = listed.collect();
    assert_eq!(passed, listed, "fault points of the server, and those in the table");
    let tests: Vec<String> = sources("tests/tests")
        .into_iter()
        .filter(|(path, _)| !path.ends_with("faults/table.rs"))
        .map(|(_, text)| text)
        .collect();
    let used = |point: &str| tests.iter().any(|text| text.contains(&format!("\"{point}\"")));
    let unused: Vec<&str> = listed.into_iter().filter(|point| !used(point)).collect();
    assert_eq!(unused, [""; 0], "no test has a thread panic there");
}

#[test]
fn every_thread_is_in_the_table() {
    // Threads of pools, and plain threads that two files start. The code in these files states the cost of a
    // panic.
    let plain = ["query/threads.rs", "exporter/mod.rs"];
    for (path, text) in sources("as/server/src") {
        let is_plain = plain.iter().any(|plain| path.ends_with(plain));
        assert!(
            is_plain || !text.contains("threads::spawn("),
            "{} starts a thread that may vanish",
            path.display()
        );
        for (start, costs) in [
            ("spawn_essential(", &[Process, Work][..]),
            ("spawn_restarting(", &[Turn]),
            ("restarting(", &[Turn]),
            ("Workers::new(", &[Work]),
            ("Workers::with_niceness(", &[Work]),
        ] {
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for name in names(text, start) {
                let name = name.trim_end_matches('-');
                let row = THREADS.iter().find(|(thread, ..)| *thread == name);
                let is_right =
                    row.is_some_and(|(_, cost, points)| costs.contains(cost) && !points.is_empty());
                assert!(is_right, "thread {name} of {} in the table: {row:?}", path.display());
            }
        }
    }
}
