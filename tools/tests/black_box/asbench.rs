//! `asbench` against small servers in this process that answer correctly, wrongly, late or not at all.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use ferrospike_tools::asbench;

use crate::small_server::{Manner, server};

/// Runs asbench. Returns its exit code, the summary, and its other output.
fn asbench(address: SocketAddr, arguments: &str) -> (ExitCode, serde_json::Value, String) {
    let (code, out, errors) = asbench_plain(address, &format!("--json --quiet {arguments}"));
    (code, serde_json::from_str(&out).unwrap_or_default(), errors)
}

fn asbench_plain(address: SocketAddr, arguments: &str) -> (ExitCode, String, String) {
    let line = format!("asbench -h {address} {arguments}");
    let options = asbench::parse_arguments(line.split_ascii_whitespace().map(OsString::from)).unwrap();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = asbench::run(&options, &mut out, &mut errors).unwrap();
    (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
}

#[test]
fn inserted_records_are_read_back() {
    let address = server(Manner::Honest);
    for depth in [1, 7] {
        let common = format!("-k 500 -o I,S20,[2*I1] --connections 5 --pipeline {depth}");
        let (code, insert, errors) = asbench(address, &format!("-w I -z 2 -R {common}"));
        assert_eq!((code, errors.as_str()), (ExitCode::SUCCESS, ""));
        assert_eq!((&insert["write"]["hits"], &insert["result_codes"]["0"]), (&500.into(), &500.into()));
        let (code, read, errors) = asbench(address, &format!("-w RU,100 --requests 2000 {common}"));
        assert_eq!((code, errors.as_str()), (ExitCode::SUCCESS, ""));
        assert_eq!((&read["read"]["hits"], &read["done"]), (&2000.into(), &2000.into()));
        assert!(read["read"]["latency_us"]["p50"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn missing_records_and_deletes_are_no_errors() {
    let address = server(Manner::Honest);
    let (code, read, _) = asbench(address, "-k 10 -w RU,100 --requests 50");
    assert_eq!((code, &read["read"]["misses"]), (ExitCode::SUCCESS, &50.into()));
    let (code, mixed, errors) = asbench(address, "-k 10 -w RUD,30,30 --requests 3000");
    assert_eq!((code, errors.as_str()), (ExitCode::SUCCESS, ""));
    for kind in ["read", "write", "delete"] {
        assert!(mixed[kind]["hits"].as_u64().unwrap() > 100, "{mixed}");
    }
}

#[test]
fn a_rate_is_kept() {
    let address = server(Manner::Honest);
    let (_, run, _) = asbench(address, "-k 10 -w RU,50 -g 200 -t 1 -z 2");
    let done = run["done"].as_u64().unwrap();
    assert!((190..=201).contains(&done), "{done}");
}

#[test]
fn wrong_answers_are_noticed() {
    let address = server(Manner::Cutting);
    asbench(address, "-k 5 -w I -o I,I");
    let (code, read, errors) = asbench(address, "-k 5 -w RU,100 -o I,I --requests 10");
    assert_eq!((code, &read["read"]["wrong"]), (ExitCode::FAILURE, &10.into()));
    assert!(errors.contains("a record has 1 bins where 2 are expected"), "{errors}");
    let (code, ..) = asbench(address, "-k 5 -w RU,100 -o I,I --requests 10 --no-check");
    assert_eq!(code, ExitCode::SUCCESS);
}

#[test]
fn refusals_are_counted_and_a_missing_namespace_ends_the_run() {
    let (code, run, errors) = asbench(server(Manner::Refusing(8)), "-k 5 -w RU,0 --requests 100");
    assert_eq!((code, &run["write"]["errors"]), (ExitCode::FAILURE, &100.into()));
    assert_eq!(run["result_codes"]["8"], 100);
    assert!(errors.contains("out of space"), "{errors}");
    let (code, _, errors) = asbench(server(Manner::Refusing(20)), "-k 5 -w RU,0 -t 60");
    assert_eq!(code, ExitCode::FAILURE);
    assert!(errors.contains("no such namespace"), "{errors}");
}

#[test]
fn a_server_that_leaves_ends_the_run() {
    let (code, _, errors) = asbench(server(Manner::Leaving(20)), "-k 5 -w RU,0 -t 60");
    assert_eq!(code, ExitCode::FAILURE);
    assert!(errors.contains("lost a connection"), "{errors}");
}

#[test]
fn a_silent_server_ends_the_run() {
    let address = server(Manner::Silent);
    let (code, _, errors) = asbench(address, "-k 5 -w RU,0 -t 60 --socket-timeout 200");
    assert_eq!(code, ExitCode::FAILURE);
    assert!(errors.contains("no answer from") && errors.contains("0.2 s"), "{errors}");
    let (code, run, errors) =
        asbench(address, "-k 5 -w RU,0 -t 60 -T 50 --socket-timeout 400 --connections 3");
    assert_eq!(code, ExitCode::FAILURE);
    assert!(run["write"]["timeouts"].as_u64().unwrap() >= 6, "{run}");
    assert!(errors.contains("no answer from"), "{errors}");
}

#[test]
fn progress_and_summary_are_for_people() {
    let address = server(Manner::Honest);
    let (code, out, errors) = asbench_plain(address, "-k 5 -w RU,50 -t 2 -L -C master --connections 1");
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(errors.contains("--replica has no effect"), "{errors}");
    for part in
        [" INFO write(tps=", " read(tps=", " total(tps=", "hdr: read ", "requests in 2.0", "latency  us: min"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    let (code, out, errors) = asbench_plain(address, "-o X");
    assert_eq!((code, out.as_str()), (ExitCode::from(2), ""));
    assert!(errors.contains("object spec"), "{errors}");
}
