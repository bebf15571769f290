//! `asd-bench` against small servers in this process.

use std::process::ExitCode;

use clap::Parser;
use ferrospike_tools::compare;

use crate::small_server::{Manner, server};

fn asd_bench(arguments: &str) -> (ExitCode, String, String) {
    let options =
        compare::Options::try_parse_from(format!("asd-bench {arguments}").split_ascii_whitespace()).unwrap();
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let code = compare::run(&options, &mut out, &mut progress).unwrap();
    (code, String::from_utf8(out).unwrap(), String::from_utf8(progress).unwrap())
}

#[test]
fn two_servers_are_compared() {
    let (port, other_port) = (server(Manner::Honest).port(), server(Manner::Honest).port());
    // The server of these phases knows only plain records.
    let load = "--keys 300 --connections 2 --pipeline 4 --rounds 2 --seconds 0.1 --only read,write,pipelined";
    let (code, table, progress) = asd_bench(&format!("--port {port} --other-port {other_port} {load}"));
    assert_eq!(code, ExitCode::SUCCESS, "{progress}");
    assert!(progress.contains("round 2: C server, pipelined write: "), "{progress}");
    assert!(table.starts_with("| | ferrospike | C server | ratio |\n"), "{table}");
    let reads =
        table.lines().find(|line| line.starts_with("| read, 2 connections: requests per second")).unwrap();
    let cells: Vec<f64> = reads.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    assert!(cells.len() == 3 && cells.iter().all(|cell| *cell > 0.0), "{reads}");
    // The process is this one. It is found by its listening port.
    assert!(
        table.contains(&format!("build small, service-threads 1, at 127.0.0.1:{port}, process ")),
        "{table}"
    );
}

#[test]
fn a_server_that_does_not_do_its_work_is_no_measurement() {
    for (manner, why) in [(Manner::Refusing(8), "out of space"), (Manner::Leaving(10), "lost a connection")] {
        let port = server(manner).port();
        let (code, table, progress) = asd_bench(&format!("--port {port} --keys 300 --rounds 1"));
        assert_eq!((code, table.as_str()), (ExitCode::FAILURE, ""));
        assert!(progress.contains(why), "{progress}");
    }
}

#[test]
fn a_program_that_is_not_a_server_is_reported() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, _, progress) = asd_bench(&format!("startup --port {port} --rounds 1 -- /bin/false"));
    assert_eq!(code, ExitCode::FAILURE);
    assert!(progress.contains("the server ended"), "{progress}");
    let (_, _, progress) =
        asd_bench(&format!("startup --port {port} --timeout 1 --rounds 1 -- /bin/sleep 60"));
    assert!(progress.contains("did not acknowledge a write in time"), "{progress}");
    let taken = server(Manner::Honest).port();
    let (_, _, progress) = asd_bench(&format!("startup --port {taken} --rounds 1 -- /bin/false"));
    assert!(progress.contains("serves 127.0.0.1"), "{progress}");
}
