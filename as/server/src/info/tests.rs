//! Tests of the whole info protocol, against a server in the test's own process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Barrier;

use proptest::prelude::*;

use super::commands::COMMANDS;
use super::{Asker, answer_next};
use crate::config::{self, Config};
use crate::server::Server;

/// Without access control.
const ANYBODY: Asker<'static> =
    Asker { standing: None, client: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1) };

const CONFIG: &str = "
service {
    cluster-name tests
    work-directory {dir}
    service-threads 1
    batch-index-threads 1
    info-threads 1
}
network {
    service {
        address 127.0.0.1
        port 0
    }
}
namespace test {
    set demo {
        default-ttl 5
    }
    allow-ttl-without-nsup true
    storage-engine memory {
        data-size 512M
    }
}
";

/// A server, and the folder of its system metadata.
fn start() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = CONFIG.replace("{dir}", folder.path().to_str().expect("a name of plain text"));
    let (config, _): (Config, _) = config::parse(&text, "test").expect("it parses");
    (Server::start(config).expect("it starts"), folder)
}

/// All answers to the requests in `body`.
fn answer(node: &crate::node::Node, asker: Asker<'_>, body: &[u8]) -> Vec<u8> {
    let (mut answered, mut out) = (0, Vec::new());
    while answer_next(node, asker, body, &mut answered, &mut out) {}
    out
}

/// Words of various commands, and words of no command.
const WORDS: &[&str] = &[
    "test",
    "demo",
    "nope",
    "context",
    "namespace",
    "id",
    "ns",
    "set",
    "service",
    "network",
    "type",
    "ttl",
    "hist",
    "{test}-read",
    "{test}-benchmarks-udf",
    "{",
    "}-",
    "size",
    "max",
    "trid",
    "keyd",
    "mode",
    "raw",
    "verbose",
    "true",
    "false",
    "indexname",
    "indexdata",
    "module",
    "UDF",
    "host",
    "port",
    "host-port-list",
    "1.2.3.4:5",
    "filename",
    "a.lua",
    "message",
    "who",
    "any",
    "info",
    "warning",
    "0",
    "1",
    "-1",
    "0x10",
    "99999999999999999999",
    "default-ttl",
    "stop-writes-count",
    "defrag-lwm-pct",
    "proto-fd-max",
    "ticker-interval",
    "é",
    "\u{0}",
    "\r",
    "\t",
    "00112233445566778899aabbccddeeff00112233",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![8 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => ".{0,40}"]
}

/// A command with random arguments.
fn line() -> impl Strategy<Value = String> {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).chain(["", "nope"]).collect();
    let part = (prop::sample::select(vec![":", "/", ";", "=", ""]), word());
    (prop::sample::select(names), prop::collection::vec(part, 0..8)).prop_map(|(name, parts)| {
        let rest: String = parts.into_iter().map(|(separator, word)| format!("{separator}{word}")).collect();
        // The number of threads must not vary.
        format!("{name}{rest}").replace('\n', " ").replace("info-threads", "info-thread")
    })
}

#[test]
fn whatever_is_asked_is_answered_by_one_line() {
    let (server, _folder) = start();
    proptest!(ProptestConfig::with_cases(400), |(lines in prop::collection::vec(line(), 1..4))| {
        let asked: Vec<&String> = lines.iter().filter(|line| !line.is_empty()).collect();
        let answer = answer(server.node(), ANYBODY, lines.join("\n").as_bytes());
        if !asked.is_empty() {
            let answer = String::from_utf8_lossy(&answer);
            let answered: Vec<&str> = answer.strip_suffix('\n').unwrap_or(&answer).split('\n').collect();
            prop_assert_eq!(answered.len(), asked.len());
            for (answered, asked) in answered.iter().zip(asked) {
                prop_assert!(answered.starts_with(&format!("{asked}\t")), "{asked:?}: {answered:?}");
            }
        }
    });
}

#[test]
fn bytes_that_are_not_text_are_answered() {
    let (server, _folder) = start();
    proptest!(ProptestConfig::with_cases(400), |(bytes in prop::collection::vec(any::<u8>(), 0..300))| {
        let answer = answer(server.node(), ANYBODY, &bytes);
        let asked: Vec<&[u8]> = proto::info::requests(&bytes).collect();
        let answered: Vec<&[u8]> = proto::info::requests(&answer).collect();
        prop_assert!(asked.is_empty() || asked.len() == answered.len());
        for (asked, answered) in asked.iter().zip(answered) {
            prop_assert!(answered.starts_with(asked) && answered[asked.len()] == b'\t');
        }
    });
}

#[test]
fn an_answer_does_not_take_all_memory() {
    let (server, _folder) = start();
    let request = "partition-info\n".repeat(1000);
    let answer = answer(server.node(), ANYBODY, request.as_bytes());
    assert!(answer.len() < 100 << 20, "{} bytes", answer.len());
    assert!(answer.ends_with(b"partition-info\tERROR:4:the answers to one request exceed 16 MiB\n"));
    assert_eq!(proto::info::requests(&answer).count(), 1000);
}

/// Every part that acts on a parameter ends with the last value, whichever client set it.
#[test]
fn two_clients_that_change_a_parameter_leave_no_part_with_an_old_value() {
    const ROUNDS: u32 = 4_000;
    const CHANGES_PER_ROUND: u32 = 10;
    let (server, _folder) = start();
    let (node, namespace) = (server.node(), &server.node().namespaces[0]);
    let all = Barrier::new(3);
    let client = |low_water_pct: u32, thread_count: u32| {
        let request = format!(
            "set-config:context=service;info-threads={thread_count}\n\
             set-config:context=namespace;id=test;defrag-lwm-pct={low_water_pct}\n"
        );
        for _ in 0..ROUNDS {
            all.wait();
            for _ in 0..CHANGES_PER_ROUND {
                answer(node, ANYBODY, request.as_bytes());
            }
            all.wait();
        }
    };
    let mut stale = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| client(40, 1));
        scope.spawn(|| client(60, 2));
        for round in 0..ROUNDS {
            all.wait();
            all.wait();
            let low_water_pct = namespace.config().storage.params.defrag_lwm_pct.get();
            let thread_count = node.config.service.info_threads.get() as usize;
            if namespace.storage.low_water_pct() != low_water_pct {
                stale.push(format!("round {round}: defrag-lwm-pct"));
            }
            if node.service.info.count() != thread_count {
                stale.push(format!("round {round}: info-threads"));
            }
        }
    });
    assert_eq!(stale, Vec::<String>::new());
}
