//! Latencies: they are measured, reported by `latencies` in the C server's format, and logged for tools that
//! read logs.

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::server::{Server, stored_config, usual_config};
use ferrospike_tests::wire::{Message, Operation, field, info2, operation, result};

/// Longest wait for background work of the server.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bit of `info1` in short queries.
const SHORT_QUERY: u8 = 0x04;
/// Number of values: unit, rate, and the percentages over 17 thresholds.
const VALUE_COUNT: usize = 19;

fn start() -> Server {
    start_on(&usual_config())
}

/// A server whose ticker runs every second.
fn start_on(config: &str) -> Server {
    Server::start(&config.replacen("service {", "service {\n    ticker-interval 1", 1))
}

/// Writes and reads a little until `latencies:hist=…` reports something. Returns the report.
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
        assert!(started.elapsed() < PATIENCE, "{histogram} is never measured");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn latencies_are_reported_and_logged() {
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

/// Sets a parameter of namespace `test`.
fn set(client: &mut Client, parameter: &str, value: &str) {
    let request = format!("set-config:context=namespace;id=test;{parameter}={value}");
    assert_eq!(client.info_value(&request).expect("an answer"), "ok", "{request}");
}

/// Names and texts of the histograms in an answer to `latencies`.
fn histograms(client: &mut Client, group: &str) -> Vec<(String, String)> {
    let answer = client.info_value(&format!("latencies:hist={{test}}-{group}")).expect("an answer");
    let parts = answer.split(';').map(|part| part.split_once(':').expect("a name"));
    parts.map(|(name, text)| (name.replacen("{test}-", "", 1), text.to_owned())).collect()
}

/// A batch that reads two records.
fn batch() -> Message {
    Message::get_all(["key-1", "key-2"].into_iter())
}

/// Reads, writes and sends batches until the ticker has reported `group`. Returns the steps that occurred.
fn steps_that_happen(client: &mut Client, group: &str) -> Vec<String> {
    let started = Instant::now();
    loop {
        for key in ["key-1", "key-2"] {
            assert_eq!(client.ask(&Message::put(key, vec![7; 100])).expect("an answer").result, result::OK);
            assert_eq!(client.ask(&Message::get(key)).expect("an answer").result, result::OK);
        }
        client.send(&batch().encode()).expect("a batch");
        while !client.receive().expect("its answer").holds_last() {}
        let found = histograms(client, group);
        let happened: Vec<_> = found
            .iter()
            .filter(|(_, text)| text.split(',').nth(1).is_some_and(|rate| rate != "0.0"))
            .map(|(name, _)| name.clone())
            .collect();
        if !happened.is_empty() {
            assert!(found.iter().all(|(_, text)| text.split(',').count() == VALUE_COUNT), "{found:?}");
            return happened;
        }
        assert!(started.elapsed() < PATIENCE, "{group} is never measured");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn steps_of_transactions_are_measured_on_demand() {
    let mut server = start();
    server.allow("microsecond-histograms=true' refused");
    let mut client = server.connect();
    let groups = [
        ("read", &["read-start", "read-local", "read-response"][..], 6),
        ("write", &["write-start", "write-master", "write-response"], 6),
        (
            "batch-sub",
            &["batch-sub-prestart", "batch-sub-start", "batch-sub-read-local", "batch-sub-response"],
            10,
        ),
    ];
    for (group, steps, count) in groups {
        let (name, switch) = (format!("benchmarks-{group}"), format!("enable-benchmarks-{group}"));
        let is_empty = |found: &[(String, String)]| found.iter().all(|(_, text)| text.is_empty());
        let found = histograms(&mut client, &name);
        assert!(found.len() == count && is_empty(&found), "{found:?}");
        set(&mut client, &switch, "true");
        assert_eq!(steps_that_happen(&mut client, &name), steps);
        let first = format!("histogram dump: {{test}}-{} (", steps[0]);
        server.await_log(&first);
        set(&mut client, &switch, "false");
        let found = histograms(&mut client, &name);
        assert!(found.len() == count && is_empty(&found), "what is switched off is forgotten: {found:?}");
    }
    // The log also reports requested histograms without samples.
    server.await_log("histogram dump: {test}-read-restart (0 total) msec");
    assert!(!server.log().contains("histogram dump: {test}-udf"), "nobody asked for it");
    set(&mut client, "enable-benchmarks-read", "true");
    let answer = client.info_value("set-config:context=service;microsecond-histograms=true").unwrap();
    assert!(answer.starts_with("ERROR:"), "what is measured would be torn: {answer}");
}

/// `message` with a call of function `f` of module `m`, which changes its record.
fn with_function(message: Message) -> Message {
    message
        .with_field(field::UDF_FILE, b"m")
        .with_field(field::UDF_FUNCTION, b"f")
        .with_field(field::UDF_ARGUMENTS, &[0x90])
}

#[test]
fn steps_of_functions_and_background_queries_are_measured_on_demand() {
    let server = start();
    let mut client = server.connect();
    let module = BASE64_STANDARD.encode("function f(r) r.n = 1 return aerospike:update(r) end");
    let command = format!("udf-put:filename=m.lua;content-len={};content={module};", module.len());
    assert_eq!(client.info_value(&command).unwrap(), "ok");
    assert_eq!(client.ask(&Message::put("key", vec![7; 100])).unwrap().result, result::OK);
    let groups = ["udf", "udf-sub", "ops-sub"];
    for group in groups {
        assert!(
            histograms(&mut client, &format!("benchmarks-{group}")).iter().all(|(_, text)| text.is_empty())
        );
        set(&mut client, &format!("enable-benchmarks-{group}"), "true");
    }
    let call = with_function(Message { info2: info2::WRITE, ..Message::on("key") });
    let background = Message::default().with_field(field::NAMESPACE, b"test");
    let functions = with_function(background.clone().with_field(field::UDF_OP, &[2]));
    let operations = Message { info2: info2::WRITE, ..background }.with_operation(Operation::integer(
        operation::WRITE,
        "n",
        5,
    ));
    let started = Instant::now();
    for group in groups {
        loop {
            for request in [&call, &functions, &operations] {
                assert_eq!(client.ask(request).unwrap().result, result::OK);
            }
            let found = histograms(&mut client, &format!("benchmarks-{group}"));
            let is_measured =
                |(_, text): &&(String, String)| text.split(',').nth(1).is_some_and(|rate| rate != "0.0");
            let steps: Vec<_> = found.iter().filter(is_measured).map(|(name, _)| name.clone()).collect();
            if steps.len() > 2 {
                assert_eq!(steps, ["start", "master", "response"].map(|step| format!("{group}-{step}")));
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{group} is never measured: {found:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(!server.log().contains("not yet in effect"), "all three are in effect");
}

#[test]
fn transfers_of_devices_are_measured_on_demand() {
    let storage = ["file {dir}/test.dat", "filesize 256M", "post-write-cache 0"];
    let server = start_on(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    set(&mut client, "enable-benchmarks-storage", "true");
    let path = server.folder().join("test.dat").display().to_string();
    let measured = |histogram: &str, unit: &str| {
        let start = format!("histogram dump: {{test}}-{histogram} (");
        server.log().lines().any(|line| {
            line.split_once(&start).is_some_and(|(_, rest)| !rest.starts_with("0 ") && rest.ends_with(unit))
        })
    };
    let started = Instant::now();
    // The first records leave memory when their write block is full.
    let wanted = [
        ("device-write-size".to_owned(), "bytes"),
        ("device-read-size".to_owned(), "bytes"),
        (format!("{path}-write"), "msec"),
        (format!("{path}-read"), "msec"),
    ];
    for turn in 0.. {
        let key = format!("key-{}", turn % 20);
        assert_eq!(client.ask(&Message::put(&key, vec![7; 1 << 19])).unwrap().result, result::OK);
        assert_eq!(client.ask(&Message::get(&format!("key-{}", (turn + 1) % 20))).unwrap().info1, 0);
        if wanted.iter().all(|(histogram, unit)| measured(histogram, unit)) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "transfers are never measured");
        thread::sleep(Duration::from_millis(20));
    }
    server.await_log(&format!("histogram dump: {{test}}-{path}-large-block-read ("));
    assert!(!server.log().contains("shadow-write"), "there is no shadow");
}

#[test]
fn transfers_of_a_shadow_are_measured_apart_from_those_of_its_file() {
    let storage = ["file {dir}/test.dat {dir}/shadow.dat", "filesize 128M", "flush-max-ms 10"];
    let server = start_on(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    set(&mut client, "enable-benchmarks-storage", "true");
    for key in 0..20 {
        let put = Message::put(&format!("key-{key}"), vec![7; 1 << 19]);
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let path = server.folder().join("test.dat").display().to_string();
    // The count in the last line about a histogram.
    let last = |histogram: &str| {
        let start = format!("histogram dump: {{test}}-{path}-{histogram} (");
        let log = server.log();
        let total = log.rsplit_once(&start).map_or("0", |(_, rest)| rest.split(' ').next().unwrap());
        total.parse::<u64>().unwrap()
    };
    let started = Instant::now();
    // 10 MB need at least ten transfers, and each goes to both files.
    while last("shadow-write") < 10 || last("shadow-write") != last("write") {
        assert!(started.elapsed() < PATIENCE, "{} of {}", last("shadow-write"), last("write"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn health_of_devices_is_reported_while_it_is_checked() {
    let storage = ["file {dir}/test.dat", "filesize 256M", "post-write-cache 0"];
    let server = start_on(&stored_config("test", "device", &storage));
    let mut client = server.connect();
    assert_eq!(client.info_value("health-stats").unwrap(), "");
    let switch = |client: &mut Client, value: &str| {
        let request = format!("set-config:context=service;enable-health-check={value}");
        assert_eq!(client.info_value(&request).unwrap(), "ok");
    };
    switch(&mut client, "true");
    let path = server.folder().join("test.dat").display().to_string();
    let (start, end) = ("stat=test_device_read_latency:value=", format!(":device={path}:namespace=test"));
    let started = Instant::now();
    for turn in 0.. {
        let key = format!("key-{}", turn % 20);
        assert_eq!(client.ask(&Message::put(&key, vec![7; 1 << 19])).unwrap().result, result::OK);
        for other in 0..20 {
            client.ask(&Message::get(&format!("key-{other}"))).unwrap();
        }
        let told = client.info_value("health-stats").unwrap();
        if !told.is_empty() {
            let value = told.strip_prefix(start).and_then(|rest| rest.strip_suffix(&end));
            let value: u64 = value.unwrap_or_else(|| panic!("{told}")).parse().unwrap();
            if value > 0 {
                break;
            }
        }
        assert!(started.elapsed() < PATIENCE, "reads of the device are never measured");
    }
    assert_eq!(client.info_value("health-outliers").unwrap(), "", "one device has none to be compared with");
    switch(&mut client, "false");
    while !client.info_value("health-stats").unwrap().is_empty() {
        assert!(started.elapsed() < 2 * PATIENCE, "it is still checked");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Tools that read logs recognise a server's log by the form of its first lines, and the buckets of a histogram by
/// lines from `hist.c`.
#[test]
fn tools_for_logs_know_the_lines() {
    let config = usual_config()
        .replacen("service {", "service {\n    ticker-interval 1", 1)
        .replace("context any info", "context any info\ncontext particle debug");
    let server = Server::start(&config);
    let mut client = server.connect();
    measured(&mut client, "{test}-read");
    assert_eq!(ferrospike_tests::figures::run(&mut client, &batch()).1, result::OK);
    server.await_log("histogram dump: batch-rec-count (1 total) count");
    let scan = Message::scan("test");
    let short = Message { info1: scan.info1 | SHORT_QUERY, ..scan };
    assert_eq!(ferrospike_tests::figures::run(&mut client, &short).1, result::OK);
    server.await_log("histogram dump: {test}-pi-query-rec-count (1 total) count");
    let log = server.log();
    let is_place = |place: &str| {
        place.split_once(':').is_some_and(|(file, line)| {
            file.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_.".contains(&byte))
                && line.parse::<u32>().is_ok()
        })
    };
    for line in log.lines().take(200) {
        let (_, rest) = line.split_once("): (").expect("a context and a place");
        let (place, _) = rest.split_once(") ").expect("a text behind the place");
        assert!(is_place(place), "{line}");
    }
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        if line.contains("histogram dump") {
            assert!(line.contains("(hist.c:"), "{line}");
            assert!(lines.next().is_none_or(|buckets| buckets.contains("(hist.c:")), "{line}");
        }
    }
    // The log says why the operation on a list was refused.
    let refused = Message::write("key-1").with_operation(Operation {
        code: 4,
        particle: 4,
        name: b"b".to_vec(),
        value: vec![0x93, 9, 5, 7],
        flags: 0,
    });
    assert_ne!(client.ask(&refused).expect("an answer").result, result::OK);
    server.await_log("list_set() on bin b refused with 12: it is for a list; the bin is a blob");
    server.await_log("{test} stripe-0: used-bytes ");
}
