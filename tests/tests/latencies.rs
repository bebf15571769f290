//! Latencies: measured, told by `latencies` in the familiar form, and written to the log for the tools that read it.

use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, result};

/// Unit, rate, and the percentages over 17 thresholds.
const VALUE_COUNT: usize = 19;

fn start() -> Server {
    Server::start(&usual_config().replacen("service {", "service {\n    ticker-interval 1", 1))
}

/// Writes and reads a little all the time until `latencies:hist=…` has something to tell; gives it.
fn measured(client: &mut Client, histogram: &str) -> Vec<String> {
    let started = Instant::now();
    loop {
        for key in 0..50 {
            let key = format!("key-{key}");
            assert_eq!(client.ask(&Message::put(&key, vec![7; 100])).expect("an answer").result, result::OK);
            assert_eq!(client.ask(&Message::get(&key)).expect("an answer").result, result::OK);
        }
        let answer = client.info_value(&format!("latencies:hist={histogram}")).expect("an answer");
        let values = answer.strip_prefix(&format!("{histogram}:")).expect("its name first");
        if !values.trim_end_matches(';').is_empty() {
            return values.trim_end_matches(';').split(',').map(str::to_owned).collect();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{histogram} is never measured");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn latencies_are_told_and_logged() {
    let server = start();
    let mut client = server.connect();
    assert_eq!(client.info_value("latencies:hist={test}-read").unwrap(), "{test}-read:");
    for histogram in ["{test}-read", "{test}-write"] {
        let values = measured(&mut client, histogram);
        assert_eq!(values.len(), VALUE_COUNT, "{values:?}");
        assert_eq!(values[0], "msec");
        assert!(values[1].parse::<f64>().unwrap() > 10.0, "{values:?}");
        let over: Vec<f64> = values[2..].iter().map(|value| value.parse().unwrap()).collect();
        assert!(over.is_sorted_by(|a, b| a >= b) && over[0] <= 100.0, "{values:?}");
    }
    assert_eq!(client.info_value("latencies:hist={test}-udf").unwrap(), "{test}-udf:");
    server.await_log("histogram dump: {test}-read (");
    let log = server.log();
    assert!(!log.contains("histogram dump: {bar}-read"), "of what never happened nothing is said");
    let after = log.split("histogram dump: {test}-write (").nth(1).expect("writes are dumped");
    let buckets = after.lines().nth(1).expect("a line of buckets");
    assert!(buckets.contains(" (00: 000000"), "{buckets}");
}

#[test]
fn microseconds_are_measured_on_demand() {
    let server = start();
    let mut client = server.connect();
    measured(&mut client, "{test}-read");
    assert_eq!(client.info_value("set-config:context=service;microsecond-histograms=true").unwrap(), "ok");
    assert_eq!(client.info_value("latencies:hist={test}-read").unwrap(), "{test}-read:", "it starts anew");
    let values = measured(&mut client, "{test}-read");
    assert_eq!(values[0], "usec");
    let over_a_microsecond: f64 = values[2].parse().unwrap();
    assert!(over_a_microsecond > 50.0, "{values:?}");

    assert_eq!(client.info_value("set-config:context=service;enable-hist-info=true").unwrap(), "ok");
    assert_eq!(measured(&mut client, "info")[0], "usec");
}
