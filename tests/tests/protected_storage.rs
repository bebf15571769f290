//! Compression and encryption of stored records: space is saved and bytes are hidden, records stay readable
//! when settings change, and encrypted files cannot be read or written without their key.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::damage::{
    DataFile, RECORDS, check_all, check_all_but, fill, get, line_with, put, replacement,
};
use ferrospike_tests::programs::built;
use ferrospike_tests::random::Random;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, info3, result};

const FILE: [&str; 2] = ["file {dir}/test.dat", "filesize 128M"];
const KEY: &str = "encryption-key-file {dir}/key";
const KEY_OFFSET: u64 = 69_640;
const WBLOCK_SIZE: u64 = 8 << 20;
const METHODS: [&str; 4] = ["lz4", "snappy", "zstd", "none"];

/// A value that no other record has. Half of it is text, so that it can be compressed.
fn text(number: u32) -> Vec<u8> {
    let size = 500 + number as usize * 37 % 9_000;
    let noise = Random::new(number.into()).bytes(size / 2);
    [noise, b"all work and no play ".iter().copied().cycle().take(size / 2).collect()].concat()
}

fn put_text(client: &mut Client, number: u32) {
    let put = Message::put(&format!("text-{number}"), text(number));
    assert_eq!(client.ask(&put).unwrap().result, result::OK, "{number}");
}

fn check_texts(client: &mut Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let answer = client.ask(&Message::get(&format!("text-{number}"))).unwrap();
        assert_eq!(answer.result, result::OK, "{number}");
        assert!(answer.bin("b") == Some(&text(number)), "record {number} has another value");
    }
}

fn ratio(client: &mut Client) -> f64 {
    let answer = client.info_value("namespace/test").unwrap();
    let value = answer.split(';').find_map(|pair| pair.strip_prefix("data_compression_ratio="));
    value.unwrap().parse().unwrap()
}

fn config(engine: &str, lines: &[&str]) -> String {
    stored_config("test", engine, lines)
}

/// A server with an encrypted file. Its key file is created first.
fn start_encrypted(lines: &[&str]) -> Server {
    let mut server = Server::start(&config("device", &FILE));
    server.stop();
    fs::remove_file(server.folder().join("test.dat")).unwrap();
    fs::write(server.folder().join("key"), "the key of the tests").unwrap();
    server.configure(&config("device", &[&FILE[..], &[KEY], lines].concat()));
    server.restart();
    server
}

fn holds(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.windows(pattern.len()).any(|window| window == pattern)
}

/// Checks records of all methods in one namespace: after rewrites until defrag has moved the others, and after
/// each kind of end.
fn compress(engine: &str, lines: &[&str], is_stored: bool) {
    let mut server =
        Server::start(&config(engine, &[lines, &["compression lz4", "defrag-lwm-pct 70"]].concat()));
    // The last kill may have caused damage.
    server.allow("damaged and left out: ").allow("were not loaded");
    let mut client = server.connect();
    assert_eq!(ratio(&mut client), 1.0);
    for number in 0..400 {
        put_text(&mut client, number);
    }
    let of_lz4 = ratio(&mut client);
    assert!((0.4..0.75).contains(&of_lz4), "{of_lz4}");
    let plain: usize = (0..400).map(|number| text(number).len()).sum();
    let used = client.figure("namespace/test", "data_used_bytes").unwrap();
    assert!((used as usize) < plain * 3 / 4, "{used} of {plain}");
    for (n, method) in (1u32..).zip(METHODS) {
        let set = format!("set-config:context=namespace;id=test;compression={method}");
        assert_eq!(client.info_value(&set).unwrap(), "ok");
        for number in 400 * n..400 * (n + 1) {
            put_text(&mut client, number);
        }
        check_texts(&mut client, 0..400 * (n + 1));
    }
    // This makes garbage, so that blocks are emptied.
    for round in 0..if is_stored { 14 } else { 4 } {
        for number in (0..2_000).filter(|number| number % 7 != 3) {
            put_text(&mut client, number);
        }
        let method = METHODS[round % 4];
        let set = format!("set-config:context=namespace;id=test;compression={method}");
        assert_eq!(client.info_value(&set).unwrap(), "ok");
    }
    check_texts(&mut client, 0..2_000);
    // These ops are on compressed records.
    let scan = client.scan("test").unwrap();
    assert_eq!(scan.len(), 2_000);
    if !is_stored {
        return;
    }
    server.stop();
    server.restart();
    check_texts(&mut server.connect(), 0..2_000);
    std::thread::sleep(Duration::from_millis(1_500));
    server.kill9();
    server.restart();
    let mut client = server.connect();
    check_texts(&mut client, 0..2_000);
    assert_eq!(client.figure("namespace/test", "objects").unwrap(), 2_000);
}

#[test]
fn records_are_compressed_on_a_device() {
    compress("device", &[&FILE[..], &["post-write-cache 0"]].concat(), true);
}

#[test]
fn records_are_compressed_in_memory() {
    compress("memory", &["data-size 512M"], false);
}

#[test]
fn records_are_compressed_in_memory_with_a_file() {
    compress("memory", &FILE, true);
}

#[test]
fn the_ratio_of_compression_is_reported() {
    let server = Server::start(&config("memory", &["data-size 512M", "compression lz4"]));
    let mut client = server.connect();
    for number in 0..50 {
        let put = Message::put(&format!("zeros-{number}"), vec![0; 50_000]);
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
    }
    let answer = client.info_value("namespace/test").unwrap();
    let told = answer.split(';').find_map(|pair| pair.strip_prefix("data_compression_ratio="));
    let used = client.figure("namespace/test", "data_used_bytes").unwrap();
    let plain = 50 * 50_112;
    assert_eq!(told.unwrap(), format!("{:.3}", used as f64 / f64::from(plain)), "{used}");
}

#[test]
fn records_that_do_not_shrink_are_stored_unchanged() {
    let server =
        Server::start(&config("memory", &["data-size 512M", "compression zstd", "compression-level 3"]));
    let mut client = server.connect();
    fill(&mut client);
    check_all(&mut client);
    assert_eq!(ratio(&mut client), 1.0);
}

#[test]
fn long_work_on_compressed_records_delays_no_others() {
    let server = Server::start(&config("memory", &["data-size 512M", "compression zstd"]));
    let mut client = server.connect();
    let large: Vec<u8> = text(77).into_iter().cycle().take(1_000_000).collect();
    assert_eq!(client.ask(&Message::put("large", large.clone())).unwrap().result, result::OK);
    let mut others: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for other in &mut others {
        other.send(&Message::put("large", large.clone()).encode()).unwrap();
        other.send(&Message::get("large").encode()).unwrap();
    }
    for _ in 0..200 {
        let asked = Instant::now();
        assert_eq!(client.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    for other in &mut others {
        assert_eq!(other.receive_message().unwrap().result, result::OK);
        assert!(other.receive_message().unwrap().bin("b") == Some(&large));
    }
}

#[test]
fn an_encrypted_file_shows_no_part_of_a_record() {
    for strength in ["encryption aes-128", "encryption aes-256"] {
        let mut server = start_encrypted(&[strength, "post-write-cache 0"]);
        let mut client = server.connect();
        fill(&mut client);
        let put = Message::on_record("test", "secret-set-name", "k");
        let put = Message { info2: 1, ..put.with_field(2, b"\x03secret-key") }
            .with_operation(ferrospike_tests::wire::Operation::string(2, "secret-bin", "secret-value"));
        assert_eq!(client.ask(&put).unwrap().result, result::OK);
        server.stop();
        let bytes = DataFile::of(&server, "test.dat").bytes();
        for secret in
            [&b"secret"[..], &Random::new(7).bytes(20_000)[..64], b"ENDBLOCK", b"the key of the tests"]
        {
            assert!(!holds(&bytes, secret), "{:?}", String::from_utf8_lossy(secret));
        }
        server.restart();
        check_all(&mut server.connect());
        let block = &bytes[WBLOCK_SIZE as usize..][..1 << 19];
        let ones: u32 = block.iter().map(|byte| byte.count_ones()).sum();
        assert!(ones.abs_diff(2 << 20) < 20_000, "noise has as many ones as zeros, not {ones}");
    }
}

#[test]
fn without_its_key_a_file_is_refused_and_not_touched() {
    let mut server = start_encrypted(&[]);
    fill(&mut server.connect());
    server.stop();
    let file = DataFile::of(&server, "test.dat");
    let before = file.bytes();
    let key = server.folder().join("key");
    let name = file.name();
    let encrypted = |lines: &[&str]| config("device", &[&FILE[..], lines].concat());
    let mut refused = |config: &str, words: &[&str]| {
        server.configure(config);
        let log = server.refusal();
        line_with(&log, words);
        assert!(file.bytes() == before, "the file was changed: {words:?}");
    };
    refused(&encrypted(&[]), &[&name, "at offset 69640", "configure encryption-key-file"]);
    refused(
        &encrypted(&[KEY, "encryption aes-256"]),
        &[&name, "encrypted by aes-128", "configure 'encryption aes-128'"],
    );
    refused(
        &encrypted(&["encryption-key-file {dir}/missing"]),
        &["encryption-key-file on line ", "/missing: No such file"],
    );
    refused(&encrypted(&["encryption-key-file env:FERROSPIKE_NO_KEY"]), &["no such environment variable"]);
    refused(&encrypted(&["encryption-key-file vault:x"]), &["not fetched from a secret manager"]);
    fs::write(&key, "the key of the tests\n").unwrap();
    let line = encrypted(&[KEY]).lines().position(|line| line.contains(KEY)).unwrap() + 1;
    let place = format!("(encryption-key-file, line {line})");
    refused(&encrypted(&[KEY]), &[&name, "at offset 69640", "does not open the device", &place]);
    fs::write(&key, "").unwrap();
    refused(&encrypted(&[KEY]), &["it is empty"]);
    // The right key is given, in each way.
    fs::write(&key, "the key of the tests").unwrap();
    for way in [KEY, "encryption-key-file file:{dir}/key"] {
        server.configure(&encrypted(&[way]));
        server.restart();
        check_all(&mut server.connect());
        server.stop();
    }
    // A damaged key does not open the device, and an erased header does not count as a new file.
    let header = file.header();
    file.flip(KEY_OFFSET + 40..KEY_OFFSET + 41);
    line_with(&server.refusal(), &[&name, "does not open the device"]);
    file.overwrite(0, &vec![0; header.len()]);
    line_with(&server.refusal(), &[&name, "its key was in the header"]);
    file.overwrite(0, &header);
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_clear_file_does_not_become_an_encrypted_one() {
    let mut server = Server::start(&config("device", &FILE));
    fill(&mut server.connect());
    server.stop();
    fs::write(server.folder().join("key"), "k").unwrap();
    server.configure(&config("device", &[&FILE[..], &[KEY]].concat()));
    let before = DataFile::of(&server, "test.dat").bytes();
    line_with(&server.refusal(), &["test.dat", "the data is not encrypted"]);
    assert!(DataFile::of(&server, "test.dat").bytes() == before);
    // Plain records are erased where encrypted ones will be stored.
    server.configure(&config("device", &[&FILE[..], &[KEY, "cold-start-empty true"]].concat()));
    server.allow("write blocks of a former use were erased");
    server.restart();
    let mut client = server.connect();
    assert_eq!(client.figure("namespace/test", "objects").unwrap(), 0);
    assert_eq!(put(&mut client, 3), result::OK);
    server.stop();
    let bytes = DataFile::of(&server, "test.dat").bytes();
    assert!(!holds(&bytes, &Random::new(7).bytes(20_000)[..64]));
}

#[test]
fn a_new_key_replaces_the_old_one() {
    let mut server = start_encrypted(&["encryption aes-256"]);
    fill(&mut server.connect());
    server.stop();
    let folder = server.folder().to_owned();
    fs::write(folder.join("old"), "the key of the tests").unwrap();
    fs::write(folder.join("key"), "another key").unwrap();
    let rotating = ["encryption-old-key-file {dir}/old", "encryption aes-256", KEY];
    server.configure(&config("device", &[&FILE[..], &rotating].concat()));
    // After a kill at any moment, the header has the old or the new key.
    for after in [1, 20, 60, 120] {
        server.start_and_kill9(Duration::from_millis(after));
    }
    server.restart();
    check_all(&mut server.connect());
    server.stop();
    fs::remove_file(folder.join("old")).unwrap();
    server.configure(&config("device", &[&FILE[..], &[KEY, "encryption aes-256"]].concat()));
    server.restart();
    check_all(&mut server.connect());
    server.stop();
    fs::write(folder.join("key"), "the key of the tests").unwrap();
    line_with(&server.refusal(), &["does not open the device"]);
    fs::write(folder.join("key"), "another key").unwrap();
}

#[test]
fn a_changed_byte_costs_its_record_alone() {
    for compression in ["compression none", "compression lz4"] {
        let mut server = start_encrypted(&["post-write-cache 0", "defrag-lwm-pct 1", compression]);
        fill(&mut server.connect());
        server.stop();
        let file = DataFile::of(&server, "test.dat");
        // The offsets are in the values of three records, which have 20,000 bytes or more.
        for offset in [70_000, 250_000, 411_111] {
            file.flip(WBLOCK_SIZE + offset..WBLOCK_SIZE + offset + 1);
        }
        server.allow("damaged and left out: ").allow("were not loaded");
        server.restart();
        let mut client = server.connect();
        let missing: Vec<u32> =
            (0..RECORDS).filter(|number| get(&mut client, *number) != result::OK).collect();
        assert_eq!(missing.len(), 3, "{missing:?}");
        check_all_but(&mut client, &missing, result::NOT_FOUND);
        line_with(&server.log(), &["test.dat", "is damaged and left out", "checksum does not fit"]);
        // If the server is running, it informs the reader.
        let moved = 3 * 60_000;
        file.flip(WBLOCK_SIZE + moved..WBLOCK_SIZE + moved + 1);
        server.allow("the record is damaged");
        let told: Vec<u32> = (0..RECORDS)
            .filter(|number| !missing.contains(number) && get(&mut client, *number) == result::UNKNOWN)
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        let replacement = replacement(told[0], told[0], info3::CREATE_OR_REPLACE);
        assert_eq!(client.ask(&replacement).unwrap().result, result::OK);
        assert_eq!(get(&mut client, told[0]), result::OK);
    }
}

#[test]
fn shadows_are_encrypted_too() {
    let lines = ["file {dir}/test.dat {dir}/shadow.dat", "filesize 128M", KEY];
    let mut server = start_encrypted(&[]);
    server.stop();
    fs::remove_file(server.folder().join("test.dat")).unwrap();
    server.configure(&config("device", &lines));
    server.restart();
    fill(&mut server.connect());
    server.stop();
    assert!(!holds(&DataFile::of(&server, "shadow.dat").bytes(), &Random::new(7).bytes(20_000)[..64]));
    // The disk is lost and is restored from its shadow.
    fs::remove_file(server.folder().join("test.dat")).unwrap();
    server.restart();
    check_all(&mut server.connect());
    server.stop();
    fs::remove_file(server.folder().join("shadow.dat")).unwrap();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn asd_inspect_reports_the_protection() {
    let mut server = start_encrypted(&["compression zstd"]);
    let mut client = server.connect();
    for number in 0..50 {
        put_text(&mut client, number);
    }
    server.stop();
    let inspect = |arguments: &[&str]| {
        let file = server.folder().join("test.dat");
        let output = Command::new(built("asd-inspect").unwrap()).args(arguments).arg(file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let key = server.folder().join("key").display().to_string();
    let (is_sound, said) = inspect(&[]);
    assert!(is_sound && said.contains("encrypted; its records are not read without --key-file"), "{said}");
    let (is_sound, said) = inspect(&["--key-file", &key]);
    assert!(
        is_sound && said.contains("encrypted by aes-128, opened by the key") && said.contains("50"),
        "{said}"
    );
    fs::write(&key, "no key").unwrap();
    let (is_sound, said) = inspect(&["--key-file", &key]);
    assert!(!is_sound && said.contains("the key does not open it"), "{said}");
}

#[test]
fn invalid_configurations_of_protection_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (lines, words) in [
        (
            vec!["encryption aes-256"],
            "'encryption' in storage-engine device of namespace 'test' needs 'encryption-key-file'",
        ),
        (
            vec!["encryption-old-key-file /k"],
            "'encryption-old-key-file' in storage-engine device of namespace 'test' needs",
        ),
        (vec!["compression brotli"], "compression"),
        (vec!["compression lz4", "compression-level 3"], "'compression-level' in"),
        (vec!["compression zstd", "compression-level 10"], "compression-level"),
    ] {
        let path = folder.path().join("test.conf");
        let text =
            config("device", &[&FILE[..], &lines].concat()).replace("{dir}", folder.path().to_str().unwrap());
        fs::write(&path, text).unwrap();
        let mut command = Command::new(ferrospike_tests::programs::binary());
        let output = command.arg("--check-config").arg("--config-file").arg(&path).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success() && said.contains(words) && said.contains("test.conf:"),
            "{lines:?}: {said}"
        );
    }
}
