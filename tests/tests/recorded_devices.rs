//! The on-device format: this server serves files of the C server as the C server did, and writes the bytes
//! that the C server would write.
//!
//! `corpora/device` has a file of a namespace with `storage-engine device` and one of a namespace in memory,
//! each with 1,500 records of all particle types, and the C server's answers to a scan of them. It also has a
//! file of this server that the C server has used. The tests read this server's files with their own reader,
//! which follows the description of the format.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::corpus;
use ferrospike_tests::device_file::{
    self, EPOCH_SECONDS, FlatRecord, TRUSTED, WBLOCK_SIZE, header, records_of,
};
use ferrospike_tests::programs::built;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, Operation, field, info2, info3, operation, result};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

const FILE_RECORDS: usize = 1500;

/// A record in the C server's answer to the scan.
#[derive(Deserialize)]
struct Row {
    digest: String,
    set: Option<String>,
    key: Option<String>,
    generation: u32,
    void_time: u32,
    /// Particle type and base64 of the wire bytes.
    bins: BTreeMap<String, (u8, String)>,
}

type Bins = BTreeMap<Vec<u8>, (u8, Vec<u8>)>;

/// The properties that must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    set: Vec<u8>,
    key: Option<Vec<u8>>,
    generation: u32,
    void_time: u32,
    bins: Bins,
}

fn recorded(name: &str) -> BTreeMap<Vec<u8>, Recorded> {
    let path = corpus::folder().join(format!("device/{name}.records.jsonl.gz"));
    let lines = BufReader::new(GzDecoder::new(File::open(path).unwrap())).lines();
    let parse = |line: String| {
        let row: Row = serde_json::from_str(&line).unwrap();
        let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap();
        let bins = row.bins.iter().map(|(name, bin)| (name.clone().into_bytes(), (bin.0, bytes(&bin.1))));
        let record = Recorded {
            set: row.set.unwrap_or_default().into_bytes(),
            key: row.key.as_deref().map(bytes),
            generation: row.generation,
            void_time: row.void_time,
            bins: bins.collect(),
        };
        (unhex(&row.digest), record)
    };
    let records: BTreeMap<_, _> = lines.map(|line| parse(line.unwrap())).collect();
    assert_eq!(records.len(), FILE_RECORDS);
    records
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The recorded file, unpacked in a separate folder.
fn unpacked(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{name}.dat"));
    let packed = File::open(corpus::folder().join(format!("device/{name}.dat.gz"))).unwrap();
    // Most of the file is zeros, which need no disk space.
    let mut file = SparseFile { file: File::create(&path).unwrap(), size: 0 };
    std::io::copy(&mut BufReader::with_capacity(1 << 20, GzDecoder::new(packed)), &mut file).unwrap();
    file.file.set_len(file.size).unwrap();
    (folder, path)
}

struct SparseFile {
    file: File,
    size: u64,
}

impl std::io::Write for SparseFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, self.size)?;
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Seconds since 2010.
fn now() -> u32 {
    (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - EPOCH_SECONDS) as u32
}

/// The set, key and bins of a record from a scan.
fn served(message: &Message) -> (Vec<u8>, Recorded) {
    let bins = message.operations.iter().map(|op| (op.name.clone(), (op.particle, op.value.clone())));
    let record = Recorded {
        set: message.field(field::SET).unwrap_or_default().to_vec(),
        key: message.field(field::KEY).map(<[u8]>::to_vec),
        generation: message.generation,
        void_time: message.record_ttl,
        bins: bins.collect(),
    };
    (message.field(field::DIGEST).unwrap().to_vec(), record)
}

/// Fails unless the namespace holds the recorded records, except expired ones.
fn check_agreement(server: &Server, namespace: &str, expected: &BTreeMap<Vec<u8>, Recorded>) {
    let mut client = server.connect();
    let before = now();
    let found: BTreeMap<_, _> = client.scan(namespace).unwrap().iter().map(served).collect();
    for (digest, record) in expected {
        let expires_before = |time: u32| record.void_time != 0 && record.void_time < time;
        match found.get(digest) {
            Some(found) => {
                assert_eq!(found, record, "record {digest:02x?}");
                assert!(!expires_before(before), "{digest:02x?} has expired");
            }
            None => assert!(expires_before(now()), "{digest:02x?} is missing"),
        }
    }
    assert!(found.keys().all(|digest| expected.contains_key(digest)));
    assert_eq!(client.figure(&format!("namespace/{namespace}"), "objects").unwrap(), found.len() as u64);

    // Single reads must agree too, and so must reads after the record is written back.
    for (digest, record) in expected.iter().step_by(7).filter(|(digest, _)| found.contains_key(*digest)) {
        let get = Message { info1: Message::get("").info1, ..Message::default() }
            .with_field(field::NAMESPACE, namespace.as_bytes())
            .with_field(field::DIGEST, digest);
        let answer = client.ask(&get).unwrap();
        assert_eq!(
            (answer.result, answer.generation, answer.record_ttl),
            (result::OK, record.generation, record.void_time)
        );
        let bins: Bins = answer.operations.into_iter().map(|op| (op.name, (op.particle, op.value))).collect();
        assert_eq!(bins, record.bins);
    }
}

fn open_and_check(name: &str, engine: &str, size: &str) {
    let expected = recorded(name);
    let (_folder, path) = unpacked(name);
    let file = format!("file {}", path.display());
    let config = stored_config(name, engine, &[&file, &format!("filesize {size}")]);
    let mut server = Server::start(&config);
    check_agreement(&server, name, &expected);
    for _ in 0..2 {
        server.stop();
        check_inspection(&path, &expected);
        server.restart();
        check_agreement(&server, name, &expected);
    }
    server.kill9();
    server.restart();
    check_agreement(&server, name, &expected);
}

/// Fails unless `asd-inspect` finds the recorded records in the file, including expired ones.
fn check_inspection(path: &Path, expected: &BTreeMap<Vec<u8>, Recorded>) {
    let document = inspect(path);
    assert_eq!(document["devices"][0]["damage"], Value::Array(vec![]));
    let list = document["list"].as_array().unwrap();
    assert_eq!(list.len(), expected.len());
    for line in list {
        let record = &expected[&unhex(line["digest"].as_str().unwrap())];
        assert_eq!(line["set"].as_str().unwrap().as_bytes(), record.set);
        assert_eq!(line["generation"], record.generation);
        assert_eq!(line["void-time"], record.void_time);
        assert_eq!(line["bins"], record.bins.len());
        assert_eq!(line["has-key"], record.key.is_some());
    }
}

/// The output of `asd-inspect` about a file.
fn inspect(path: &Path) -> Value {
    let output =
        Command::new(built("asd-inspect").unwrap()).arg("--json").arg("--records").arg(path).output();
    let output = output.expect("asd-inspect; `make checked` builds it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn file_of_a_device_namespace_is_served_as_recorded() {
    open_and_check("bar", "device", "128M");
}

#[test]
fn file_of_a_memory_namespace_is_served_as_recorded() {
    open_and_check("mem", "memory", "512M");
}

/// The format does not depend on the engine.
#[test]
fn file_of_a_device_namespace_is_served_from_memory() {
    open_and_check("bar", "memory", "128M");
}

/// The C server has used a file of this server in between: it deleted and updated records, and erased the key
/// of the end marks. Nothing may be lost and no damage reported, at the first start and at later ones.
#[test]
fn file_that_comes_back_from_the_c_server_is_whole() {
    let (_folder, path) = unpacked("returned");
    assert_eq!(header(&fs::read(&path).unwrap()).end_mark_key, 0);
    let damage = |path: &Path| inspect(path)["devices"][0]["damage"].clone();
    assert_eq!(damage(&path), Value::Array(vec![]));
    let file = format!("file {}", path.display());
    let mut server = Server::start(&stored_config("bar", "device", &[&file, "filesize 128M"]));
    for _ in 0..3 {
        let mut client = server.connect();
        // The C server deleted the records from 200 on, and forgets such deletes at its next start.
        for number in 0..200u8 {
            let get = Message {
                info1: Message::get("").info1,
                ..Message::on_record("bar", "rig", &format!("key-{number}"))
            };
            let answer = client.ask(&get).unwrap();
            let version = if number < 20 { 2 } else { 1 };
            let value = [number, version].repeat(20 + usize::from(number) % 40);
            assert_eq!(answer.bin("b"), Some(&value[..]), "record {number}");
        }
        server.stop();
        server.check_log();
        assert_eq!(damage(&path), Value::Array(vec![]));
        server.restart();
    }
}

/// A client writes the records of the C server's file to this server. Its file then has the same bytes,
/// except for the times and counts of writes.
#[test]
fn records_written_here_are_stored_as_the_c_server_stores_them() {
    let (_folder, path) = unpacked("bar");
    let theirs = records_of(&path);
    let newest = |records: Vec<FlatRecord>| -> BTreeMap<[u8; 20], FlatRecord> {
        let mut newest: BTreeMap<[u8; 20], FlatRecord> = BTreeMap::new();
        let age = |record: &FlatRecord| (record.last_update_time, record.generation);
        for record in records {
            if newest.get(&record.digest).is_none_or(|known| age(&record) >= age(known)) {
                newest.insert(record.digest, record);
            }
        }
        newest
    };
    let theirs = newest(theirs);
    let wire = recorded("bar");
    assert_eq!(theirs.len(), wire.len());

    let mut server = Server::start(&stored_config("bar", "device", &["file {dir}/bar.dat", "filesize 128M"]));
    let mut client = server.connect();
    let started = now();
    for (digest, flat) in &theirs {
        let record = &wire[digest.as_slice()];
        let mut put = Message {
            info2: info2::WRITE,
            info3: info3::CREATE_OR_REPLACE,
            record_ttl: if flat.void_time == 0 { 0 } else { 1_000_000 },
            ..Message::default()
        }
        .with_field(field::NAMESPACE, b"bar")
        .with_field(field::DIGEST, digest);
        if !record.set.is_empty() {
            put = put.with_field(field::SET, &record.set);
        }
        if let Some(key) = &record.key {
            put = put.with_field(field::KEY, key);
        }
        for (name, particle, _) in &flat.bins {
            let (wire_particle, value) = record.bins[name].clone();
            assert_eq!(wire_particle, *particle);
            put = put.with_operation(Operation {
                code: operation::WRITE,
                particle: wire_particle,
                flags: 0,
                name: name.clone(),
                value,
            });
        }
        assert_eq!(client.ask(&put).unwrap().result, result::OK, "{record:?}");
    }
    let ended = now();
    server.stop();
    let ours = newest(records_of(&server.folder().join("bar.dat")));
    assert_eq!(ours.len(), theirs.len());
    for (digest, theirs) in theirs {
        let ours = &ours[&digest];
        assert_eq!(ours.generation, 1);
        assert!((u64::from(started) * 1000..=u64::from(ended) * 1000 + 999).contains(&ours.last_update_time));
        if theirs.void_time != 0 {
            assert!((started..=ended).contains(&(ours.void_time - 1_000_000)));
        }
        let void_time = if theirs.void_time == 0 { 0 } else { ours.void_time };
        let (offset, last_update_time, generation) = (ours.offset, ours.last_update_time, ours.generation);
        let expected = FlatRecord {
            offset,
            last_update_time,
            generation,
            void_time,
            is_padded_with_zeros: true,
            ..theirs
        };
        assert_eq!(*ours, expected);
    }
}

/// The version of each partition, from `partition-info`.
fn told_versions(server: &Server) -> Vec<u64> {
    let info = server.connect().info_value("partition-info").unwrap();
    let version = |row: &str| {
        // The version consists of the cluster key, family 0, and marks for master and complete.
        let key = row.rsplit(':').next().unwrap().strip_suffix(".0.mp-").unwrap();
        assert!(row.ends_with(&format!(":{key}.0.mp-:{key}.0.mp-")), "{row}");
        u64::from_str_radix(key, 16).unwrap() | 1 << 61
    };
    let versions: Vec<u64> = info.split(';').skip(1).map(version).collect();
    assert_eq!(versions.len(), 4096);
    versions
}

/// A single node restarts. Its cluster has a new key each time, as on the C server, and the headers have the
/// key by the first answer. Each partition keeps its tree id.
#[test]
fn partitions_live_on_over_restarts() {
    let expected = recorded("bar");
    let (_folder, path) = unpacked("bar");
    let head = || header(&fs::read(&path).unwrap());
    let theirs = head();
    assert!(theirs.partitions.iter().all(|partition| *partition == (0x2000_4185_40D2_96E5, 1)));
    let file = format!("file {}", path.display());
    let mut server = Server::start(&stored_config("bar", "device", &[&file, "filesize 128M"]));
    let mut keys = BTreeSet::from([theirs.partitions[0].0]);
    for restart in 0..5 {
        let told = told_versions(&server);
        assert!(keys.insert(told[0]), "a new cluster key");
        let fresh = server.connect().figure("namespace/bar", "migrate_fresh_partitions").unwrap();
        assert_eq!(fresh, 0);
        let running: Vec<_> = told.iter().map(|version| (*version, 1)).collect();
        assert_eq!(
            (head().flags, &head().partitions),
            (0, &running),
            "known to the file before anything else"
        );
        check_agreement(&server, "bar", &expected);
        if restart % 2 == 0 {
            server.stop();
            assert_eq!(head().flags, TRUSTED);
        } else {
            server.kill9();
        }
        assert_eq!(head().partitions, running, "the end changes nothing");
        server.restart();
    }
}

/// The C server has dropped a partition: its records are in the file, but with an old tree id. They stay away
/// at the first start and at all later ones, and new records have the next tree id.
#[test]
fn records_of_a_partition_that_was_dropped_stay_away() {
    const DROPPED_WARNING: &str = "partitions are not here";
    let expected = recorded("bar");
    let (_folder, path) = unpacked("bar");
    let partition_of = |digest: &[u8]| usize::from(u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF);
    let digest = expected.iter().find(|(_, record)| record.void_time == 0).unwrap().0;
    let dropped = partition_of(digest);
    let file = File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 8], 4096 + 16 * dropped as u64).unwrap();
    let mut left = expected.clone();
    left.retain(|digest, _| partition_of(digest) != dropped);

    let line = format!("file {}", path.display());
    let mut server = Server::start(&stored_config("bar", "device", &[&line, "filesize 128M"]));
    for restart in 0..3 {
        server.allow(DROPPED_WARNING);
        let fresh = server.connect().figure("namespace/bar", "migrate_fresh_partitions").unwrap();
        assert_eq!(fresh, u64::from(restart == 0));
        check_agreement(&server, "bar", &left);
        if restart == 1 {
            server.kill9();
        } else {
            server.stop();
        }
        assert_eq!(header(&fs::read(&path).unwrap()).partitions[dropped].1, 2);
        server.restart();
    }
    server.allow(DROPPED_WARNING);
    let put = Message { info2: info2::WRITE, ..Message::default() }
        .with_field(field::NAMESPACE, b"bar")
        .with_field(field::DIGEST, digest)
        .with_operation(Operation::integer(operation::WRITE, "n", 7));
    assert_eq!(server.connect().ask(&put).unwrap().result, result::OK);
    server.stop();
    let document = inspect(&path);
    let lines = document["list"].as_array().unwrap();
    let line = lines.iter().find(|line| unhex(line["digest"].as_str().unwrap()) == *digest).unwrap();
    let at = line["offset"].as_u64().unwrap() as usize;
    assert_eq!(device_file::record(&fs::read(&path).unwrap(), at).tree_id, 2);
    server.restart();
    server.allow(DROPPED_WARNING);
    let get = Message { info1: Message::get("").info1, ..Message::default() }
        .with_field(field::NAMESPACE, b"bar")
        .with_field(field::DIGEST, digest);
    let answer = server.connect().ask(&get).unwrap();
    assert_eq!((answer.result, answer.generation), (result::OK, 1), "a new record");
}

#[test]
fn own_file_follows_the_format_to_the_byte() {
    let mut server = Server::start(&stored_config("bar", "device", &["file {dir}/bar.dat", "filesize 128M"]));
    let path = server.folder().join("bar.dat");
    let running = header(&fs::read(&path).unwrap());
    assert_eq!((running.flags, running.pristine_offset), (0, 0), "not trusted while the server runs");
    let mut client = server.connect();
    let put = |key: &str, set: &str| Message { info2: info2::WRITE, ..Message::on_record("bar", set, key) };
    let small = put("small", "s").with_operation(Operation::integer(operation::WRITE, "n", 7));
    let keyed = Message { record_ttl: 500, ..put("keyed", "longer-name") }
        .with_field(field::KEY, b"\x03keyed")
        .with_operation(Operation::integer(operation::WRITE, "minus", -1))
        .with_operation(Operation::string(operation::WRITE, "text", "abc"));
    let large = put("large", "s").with_operation(Operation::blob(operation::WRITE, "b", vec![9; 20_000]));
    let before = now();
    for message in [&small, &keyed, &large, &small] {
        assert_eq!(client.ask(message).unwrap().result, result::OK);
    }
    let delete = Message {
        info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE,
        ..Message::on_record("bar", "s", "large")
    };
    assert_eq!(client.ask(&delete).unwrap().result, result::OK);
    server.stop();
    let after = now();

    let file = fs::read(&path).unwrap();
    assert_eq!(file.len(), 128 << 20);
    let head = header(&file);
    let expected = device_file::Header {
        version: 4,
        namespace: "bar".to_owned(),
        device_count: 1,
        flags: TRUSTED,
        wblock_size: WBLOCK_SIZE as u32,
        device_id: 0,
        pristine_offset: 2 * WBLOCK_SIZE as u64,
        ..head.clone()
    };
    assert_eq!(head, expected);
    assert_eq!(head.signature, running.signature);
    assert_ne!(head.signature, 0);
    let versions: BTreeSet<(u64, u8)> = head.partitions.iter().copied().collect();
    assert!(
        head.partitions.len() == 4096
            && versions.iter().all(|version| *version == (versions.first().unwrap().0, 1))
    );
    assert_ne!(versions.first().unwrap().0, 0);

    let records = device_file::records(&file);
    let shape =
        |record: &FlatRecord| (record.offset - WBLOCK_SIZE, record.size, record.digest, record.generation);
    let digest = |message: &Message| *message.field(field::DIGEST).unwrap().first_chunk().unwrap();
    let shapes: Vec<_> = records.iter().map(shape).collect();
    let expected = [
        (0, 48, digest(&small), 1),
        (48, 96, digest(&keyed), 1),
        (144, 20064, digest(&large), 1),
        (20208, 48, digest(&small), 2),
        (20256, 48, digest(&large), 2),
    ];
    assert_eq!(shapes, expected);
    let times = u64::from(before) * 1000..=u64::from(after) * 1000 + 999;
    assert!(records.iter().all(|record| times.contains(&record.last_update_time)));
    assert!(records.iter().all(|record| record.is_padded_with_zeros && record.tree_id == 1));
    assert!(records.is_sorted_by_key(|record| record.last_update_time));
    let tombstone = &records[4];
    assert_eq!((&tombstone.bins[..], tombstone.void_time, &tombstone.set[..]), (&[][..], 0, &b"s"[..]));
    let keyed = &records[1];
    assert!((before + 500..=after + 500).contains(&keyed.void_time));
    // Magic; size, void-time, set, key, bins, tree id; then bytes that are not known in advance.
    assert_eq!(file[WBLOCK_SIZE + 48..][..8], [0x01, 0xF2, 0x7A, 0x03, 0x05, 0x00, 0x78, 0x04]);
    let mut rest = b"\x0blonger-name\x06\x03keyed\x02".to_vec();
    rest.extend(b"\x05minus\x01\x08\xff\xff\xff\xff\xff\xff\xff\xff\x04text\x03\x03\x00\x00\x00abc");
    assert_eq!(file[WBLOCK_SIZE + 48 + 39..][..rest.len()], rest);
    assert_eq!(file[WBLOCK_SIZE + 35..][..6], *b"\x01s\x01\x01n\x01");

    let document = inspect(&path);
    assert_eq!(document["devices"][0]["header"]["signature"], format!("{:016x}", head.signature));
    assert_eq!(document["devices"][0]["header"]["pristine-offset"], head.pristine_offset);
    assert_eq!(document["devices"][0]["header"]["flags"], serde_json::json!(["trusted"]));
    assert_eq!((&document["records"]["live"], &document["records"]["tombstones"]), (&2.into(), &1.into()));
    for line in document["list"].as_array().unwrap() {
        let at = line["offset"].as_u64().unwrap() as usize;
        let record = device_file::record(&file, at);
        assert_eq!(unhex(line["digest"].as_str().unwrap()), record.digest);
        assert_eq!(line["last-update-time"], record.last_update_time);
        assert_eq!(line["tombstone"], record.bins.is_empty());
    }

    server.restart();
    let mut client = server.connect();
    let answer =
        client.ask(&Message { info1: 3, ..Message::on_record("bar", "longer-name", "keyed") }).unwrap();
    assert_eq!((answer.generation, answer.record_ttl), (1, keyed.void_time));
    assert_eq!(header(&fs::read(&path).unwrap()).flags, 0, "not trusted while the server runs");
}
