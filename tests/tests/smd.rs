//! System metadata: files of the C server are read, changes are on disk when they are acknowledged and survive any
//! end of the server, and changes that cannot be stored are refused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::corpus;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::programs::built;
use ferrospike_tests::replay::{Options, replay};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, Operation, field, info_request, info2, operation, result};
use flate2::read::GzDecoder;

/// A part of the line about an eviction that is ahead of the clock at a start.
const EVICTED_AHEAD: &str = "{test} records that expire before ";
const FILES: [&str; 4] = ["UDF.smd", "evict.smd", "sindex.smd", "truncate.smd"];

fn recorded_path(name: &str) -> PathBuf {
    corpus::folder().join("smd").join(name)
}

fn recorded(name: &str) -> Vec<u8> {
    fs::read(recorded_path(name)).expect("a recorded file")
}

fn file(server: &Server, name: &str) -> PathBuf {
    server.folder().join("smd").join(name)
}

fn text(server: &Server, name: &str) -> String {
    fs::read_to_string(file(server, name)).expect("a file")
}

/// A stopped server with the files of the C server.
fn with_recorded_files() -> Server {
    let mut server = Server::start(&usual_config());
    server.stop();
    fs::create_dir_all(server.folder().join("smd")).expect("a folder");
    FILES.iter().for_each(|name| fs::write(file(&server, name), recorded(name)).expect("a file"));
    server.allow("{bar} records that expire before 2030-01-29T");
    server
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

fn ask(client: &mut Client, request: &str) -> String {
    client.info_value(request).expect("an answer")
}

fn order(client: &mut Client, ttl: u32) {
    assert_eq!(ask(client, &format!("eviction-reset:namespace=test;ttl={ttl}")), "ok");
}

fn figure(client: &mut Client, name: &str, key: &str) -> u64 {
    client.figure(name, key).expect("a figure")
}

/// The evict void-time of a namespace.
fn void_time(client: &mut Client, namespace: &str) -> u64 {
    figure(client, &format!("namespace/{namespace}"), "smd_evict_void_time")
}

#[test]
fn files_of_the_c_server_are_taken() {
    let mut server = with_recorded_files();
    server.restart();
    let mut client = server.connect();
    let client = &mut client;
    assert_eq!(ask(client, "smd-show:module=evict"), "bar=633609292");
    assert_eq!(
        ask(client, "smd-show:module=truncate"),
        "bar|b=533609292607;bar|a=37696000000;nope|x=533609292731;test=533609292741"
    );
    assert_eq!(
        ask(client, "smd-show:module=sindex"),
        "bar|a|i|.|I=bar_a_i;bar||s|.|S=bar_s;bar|a|g|.|G=bar_a_g;bar|b|n|ckiKiA2w=|L|I=bar_b_nl;\
         bar|a|m|K|S=new_name;bar|c|b|.|B=bar_c_b;test|t|i|.|I=test_t_i;nope||i|.|I=elsewhere"
    );
    let modules = ask(client, "smd-show:module=udf");
    assert!(modules.starts_with("counter.lua={\"content64\": \"ZnVu") && modules.contains(";twice.lua="));
    let info = ask(client, "smd-info");
    assert!(info.contains("evict:committed_key=D2629A51DB8E,committed_tid=3,n_keys=2,state=pr;"), "{info}");
    assert!(info.contains("UDF:committed_key=D2629A51DB8E,committed_tid=6,n_keys=4,state=pr;"), "{info}");
    assert_eq!((void_time(client, "bar"), void_time(client, "test")), (633_609_292, 0));
    server.stop();
    FILES.iter().for_each(|name| assert_eq!(fs::read(file(&server, name)).expect("a file"), recorded(name)));
}

#[test]
fn a_change_continues_the_version_of_the_file() {
    let mut server = with_recorded_files();
    server.allow(EVICTED_AHEAD);
    server.restart();
    let mut client = server.connect();
    let client = &mut client;
    order(client, 1000);
    let ordered = void_time(client, "test");
    assert!(ordered > 500_000_000);
    assert_eq!(ask(client, "smd-show:module=evict"), format!("bar=633609292;test={ordered}"));
    let written = text(&server, "evict.smd");
    let start = "[\n   [\n      ";
    assert!(written.starts_with(start), "{written}");
    let item = format!("\"key\": \"test\",\n      \"value\": \"{ordered}\",\n      \"generation\": 3,\n");
    assert!(written.contains(&item) && written.contains(",\n      4\n   ],\n"), "{written}");
    // An earlier time changes nothing.
    order(client, 500);
    assert_eq!((void_time(client, "test"), text(&server, "evict.smd")), (ordered, written));
    let info = ask(client, "smd-info");
    assert!(info.contains("committed_tid=4,n_keys=2,state=pr;sindex:"), "{info}");
    // Deleted items stay deleted.
    assert_eq!(ask(client, "eviction-reset:namespace=bar"), "ok");
    assert_eq!(ask(client, "eviction-reset:namespace=bar"), "ok");
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "smd-show:module=evict"), format!("test={ordered}"));
    assert_eq!((void_time(&mut client, "bar"), void_time(&mut client, "test")), (0, ordered));
    assert!(ask(&mut client, "smd-info").contains("committed_tid=5,n_keys=2,state=pr;sindex:"));
}

#[test]
fn acknowledged_changes_survive_a_crash() {
    let mut server = Server::start(&usual_config());
    server.allow(EVICTED_AHEAD);
    let mut acknowledged = 0;
    for round in 0..8_u32 {
        let (mut client, mut others) = (server.connect(), [server.connect(), server.connect()]);
        for n in 0..=round {
            order(&mut client, 1000 * (1 + round) + n);
        }
        acknowledged = void_time(&mut client, "test").max(acknowledged);
        // The server is killed during changes whose answers were not received.
        for (n, other) in others.iter_mut().enumerate() {
            let request =
                format!("eviction-reset:namespace=test;ttl={}\n", 1000 * (1 + round) + 500 + n as u32);
            other.send(&info_request(&request)).expect("it is sent");
        }
        std::thread::sleep(Duration::from_micros(300 * u64::from(round)));
        server.kill9();
        server.restart();
        let found = void_time(&mut server.connect(), "test");
        assert!(found >= acknowledged, "{found} < {acknowledged}");
        assert!(found <= acknowledged + 510, "{found} > {acknowledged}");
    }
}

#[test]
fn a_damaged_file_is_put_aside() {
    let mut server = with_recorded_files();
    fs::write(file(&server, "evict.smd"), &recorded("evict.smd")[..100]).expect("a file");
    fs::write(file(&server, "truncate.smd.save"), b"half a fi").expect("a file");
    server.allow("evict.smd cannot be used");
    server.restart();
    let mut client = server.connect();
    assert_eq!(ask(&mut client, "smd-show:module=evict"), "<empty>");
    assert!(ask(&mut client, "smd-show:module=truncate").contains("bar|b="));
    assert_eq!(
        fs::read(file(&server, "evict.smd.unreadable")).expect("it is kept"),
        recorded("evict.smd")[..100]
    );
    order(&mut client, 1000);
    let ordered = void_time(&mut client, "test");
    server.stop();
    server.allow(EVICTED_AHEAD);
    server.restart();
    assert_eq!(void_time(&mut server.connect(), "test"), ordered);
}

/// Not even a later damage, or something else of that name, costs a file that is kept. Too many stop the start, with a
/// remedy that works.
#[test]
fn each_damaged_file_is_kept() {
    let mut server = with_recorded_files();
    let kept = |suffix: &str| format!("evict.smd.unreadable{suffix}");
    fs::create_dir(file(&server, &kept(".1"))).expect("a folder");
    server.allow("evict.smd cannot be used");
    for (content, suffix) in [("", ""), ("[]", ".2"), ("{}", ".3"), ("[[1,1],{}]", ".4")] {
        fs::write(file(&server, "evict.smd"), content).expect("a file");
        server.restart();
        assert_eq!(ask(&mut server.connect(), "smd-show:module=evict"), "<empty>");
        server.stop();
        assert_eq!(text(&server, &kept(suffix)), content);
        let line = format!("it is kept as {}, and module evict starts empty", kept(suffix));
        assert_eq!(server.log().matches(&line).count(), 1, "{}", server.log());
    }
    assert_eq!(text(&server, &kept("")), "");
    (5..100).for_each(|n| fs::write(file(&server, &kept(&format!(".{n}"))), "").expect("a file"));
    fs::write(file(&server, "evict.smd"), "[").expect("a file");
    let refusal = server.refusal();
    assert!(refusal.contains("smd/evict.smd: it cannot be used, it is not JSON"), "{refusal}");
    assert!(
        refusal.contains("move evict.smd.unreadable and those with numbers to another folder"),
        "{refusal}"
    );
    assert_eq!(text(&server, "evict.smd"), "[");
    let other = server.folder().join("other");
    fs::create_dir(&other).expect("a folder");
    for entry in fs::read_dir(server.folder().join("smd")).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().starts_with("evict.smd.unreadable") {
            fs::rename(entry.path(), other.join(entry.file_name())).expect("it can be moved");
        }
    }
    server.restart();
    assert_eq!(text(&server, &kept("")), "[");
    // What is corrected and put back is used again.
    server.stop();
    fs::write(file(&server, "evict.smd"), recorded("evict.smd")).expect("a file");
    server.restart();
    assert_eq!(ask(&mut server.connect(), "smd-show:module=evict"), "bar=633609292");
}

/// The items count although the file has lost its version.
#[test]
fn a_file_without_its_version_is_used() {
    let mut server = with_recorded_files();
    let damaged = text_of(recorded("truncate.smd")).replacen("231320937683854", "null", 1);
    fs::write(file(&server, "truncate.smd"), damaged).expect("a file");
    server.allow("truncate.smd has no version where it should be");
    server.restart();
    let mut client = server.connect();
    assert!(ask(&mut client, "smd-show:module=truncate").starts_with("bar|b=533609292607;"));
    assert_eq!(server.log().matches("truncate.smd has no version where it should be").count(), 1);
    // The next change mends it, as the line says.
    assert_eq!(ask(&mut client, "truncate:namespace=test;set=other"), "ok");
    server.stop();
    server.restart();
    assert_eq!(server.log().matches("truncate.smd has no version where it should be").count(), 1);
}

#[test]
fn changes_that_cannot_be_stored_are_refused() {
    refuses_what_it_cannot_store(&mut Server::start(&usual_config()));
    // A node that may join others makes the change as the principal of its cluster.
    let mut nodes = Nodes::start_seedless(1, IN_MEMORY);
    refuses_what_it_cannot_store(&mut nodes.servers[0]);
}

fn refuses_what_it_cannot_store(server: &mut Server) {
    let mut client = server.connect();
    let client = &mut client;
    order(client, 1000);
    let ordered = void_time(client, "test");
    // Even root cannot overwrite a folder.
    let save = file(server, "evict.smd.save");
    fs::create_dir(&save).expect("a folder");
    server.allow("cannot store metadata of module evict");
    server.allow("'eviction-reset:namespace=test");
    let answer = ask(client, "eviction-reset:namespace=test;ttl=2000");
    assert!(
        answer.starts_with("ERROR::cannot be stored: ") && answer.contains("/evict.smd.save: "),
        "{answer}"
    );
    assert!(ask(client, "eviction-reset:namespace=test").starts_with("ERROR::cannot be stored: "));
    assert_eq!(
        (void_time(client, "test"), ask(client, "smd-show:module=evict")),
        (ordered, format!("test={ordered}"))
    );
    fs::remove_dir(&save).expect("it is empty");
    order(client, 2000);
    assert!(void_time(client, "test") > ordered);
}

#[test]
fn files_have_the_usual_permissions() {
    let config = usual_config().replace("    work-directory", "    os-group-perms true\n    work-directory");
    let server = Server::start(&config);
    order(&mut server.connect(), 1000);
    let mode = fs::metadata(file(&server, "evict.smd")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o066, 0o060, "it is for the group too, not for others");
}

/// The C server's answers after a start on these files, as far as they are about records, truncation and
/// eviction. This server does not serve records that the C server had truncated and served again.
#[test]
fn a_device_of_the_c_server_is_served_with_its_metadata() {
    // Records with a void-time are left out, because the recording has their remaining time and not the
    // void-time.
    const REPLAYED: [&str; 8] = [
        "scan c",
        "smd-show",
        "overwritten",
        "deleted",
        "after truncation",
        "undone:49",
        "no set",
        "evicted",
    ];
    let mut server = with_recorded_files();
    let mut data = File::create(server.folder().join("bar.dat")).expect("a file");
    let mut recorded = GzDecoder::new(File::open(recorded_path("bar.dat.gz")).expect("a recorded file"));
    io::copy(&mut recorded, &mut data).expect("the file");
    let device = "device {\n        file {dir}/bar.dat\n        filesize 128M";
    server.configure(&usual_config().replace("memory {\n        data-size 512M", device));
    server.restart();
    server.await_log("{bar} cold start dropped 80 truncated records");
    server
        .await_log("{bar} cold start dropped 15 records that were evicted before: evict-void-time 633609292");
    let steps = corpus::open(&recorded_path("restart.jsonl.gz")).expect("a recorded file");
    let is_meant =
        |test: &str| REPLAYED.iter().any(|name| test.contains(name)) && !test.ends_with("smd-show:56");
    let steps = steps.filter(|step| step.as_ref().map_or(true, |step| is_meant(&step.test)));
    let report = replay(steps, server.address(), &Options::default()).expect("a readable corpus");
    assert_eq!(
        (report.tally().agree, report.tally().differ, report.lost),
        (11, 0, 0),
        "{}",
        report.in_words()
    );
    let mut client = server.connect();
    let rows = client.scan("bar").expect("rows");
    let of_set = |set: &[u8]| rows.iter().filter(|row| row.field(field::SET) == Some(set)).count();
    assert_eq!((of_set(b"a"), of_set(b"b"), of_set(b"c"), rows.len()), (135, 25, 60, 250));
    assert_eq!(figure(&mut client, "sets/bar/b", "truncate_lut"), 533_609_292_607);
    assert_eq!(figure(&mut client, "sets/bar/a", "truncate_lut"), 37_696_000_000);
    assert_eq!(figure(&mut client, "sets/bar/c", "truncate_lut"), 0);
    assert_eq!(figure(&mut client, "namespace/test", "truncate_lut"), 533_609_292_741);
    assert_eq!(figure(&mut client, "namespace/bar", "evict_void_time"), 633_609_292);
}

/// Evicted records stay away after a restart, although their copies are still on the device.
#[test]
fn evicted_records_do_not_return() {
    let device = "device {\n        file {dir}/test.dat\n        filesize 128M";
    let exempt = "set kept {\n        disable-eviction true\n    }\n    storage-engine";
    let config = usual_config().replacen("memory {\n        data-size 1G", device, 1);
    let mut server = Server::start(&config.replacen("storage-engine", exempt, 1));
    server.allow(EVICTED_AHEAD);
    let mut client = server.connect();
    let write = |set: &str, key: u32, ttl: u32| {
        let record = Message::on_record("test", set, &key.to_string());
        let message = Message { info2: info2::WRITE, record_ttl: ttl, ..record };
        message.with_operation(Operation::integer(operation::WRITE, "b", 1))
    };
    for key in 0..100 {
        for set in ["s", "kept"] {
            let answer = client.ask(&write(set, key, 10_000 + 100 * key)).expect("an answer");
            assert_eq!(answer.result, result::OK);
        }
    }
    order(&mut client, 10_000 + 5_050);
    let start = Instant::now();
    while figure(&mut client, "namespace/test", "objects") > 155 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is evicted");
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = figure(&mut client, "namespace/test", "objects");
    for kills in [false, true] {
        if kills {
            server.kill9();
        } else {
            server.stop();
        }
        server.restart();
        let mut client = server.connect();
        assert_eq!(figure(&mut client, "namespace/test", "objects"), left);
        assert_eq!(figure(&mut client, "sets/test/kept", "objects"), 100);
    }
    // Without the evict void-time they come back, if they are still on the device.
    assert_eq!(ask(&mut server.connect(), "eviction-reset:namespace=test"), "ok");
    server.stop();
    server.restart();
    assert_eq!(figure(&mut server.connect(), "namespace/test", "objects"), 200);
}

#[test]
fn files_can_be_looked_into() {
    let inspect = |arguments: &[&str]| {
        let output = Command::new(built("asd-inspect").expect("it is built")).args(arguments).output();
        let output = output.expect("asd-inspect");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    let path = |name: &str| recorded_path(name).to_str().expect("plain text").to_owned();
    let (is_sound, text) = inspect(&[&path("truncate.smd"), &path("UDF.smd")]);
    assert!(
        is_sound && text.contains("truncate.smd: version D2629A51DB8E-6, 4 items, 1 deleted ones\n"),
        "{text}"
    );
    assert!(text.contains("  bar|b = 533609292607 (generation 1, timestamp 533609292607)\n"), "{text}");
    assert!(text.contains("  bar|c is deleted (generation 2, timestamp 533609292687)\n"), "{text}");
    assert!(text.contains("  twice.lua = {\\\"content64\\\": "), "{text}");
    let (is_sound, text) = inspect(&["--json", &path("evict.smd")]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(is_sound && json["metadata"][0]["items"][0]["value"] == "633609292", "{text}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let broken = folder.path().join("evict.smd");
    fs::write(&broken, b"[[1,").expect("a file");
    let (is_sound, text) = inspect(&[broken.to_str().expect("plain text"), &path("sindex.smd")]);
    assert!(!is_sound && text.contains("evict.smd: it is not JSON: ") && text.contains("bar_a_g"), "{text}");
}
