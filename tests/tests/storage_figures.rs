//! Figures of stripes, files and their write blocks are exact: writes, frees, emptied blocks and flushes are
//! counted when they happen.
//!
//! A record in these tests takes 1,000,064 bytes, as on the C server, so that a write block has room for
//! eight. No block is flushed or emptied before the test says so.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::time::Duration;

use ferrospike_tests::client::Client;
use ferrospike_tests::damage::{self, DataFile};
use ferrospike_tests::figures::{Figures, await_figures, figures, texts};
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;

const WBLOCK_SIZE: i64 = 8 << 20;
/// Size of a record's only bin and of the record, in bytes.
const VALUE_SIZE: usize = 1_000_000;
const RECORD_SIZE: i64 = 1_000_064;
/// Number of records in a write block.
const RECORDS_OF_BLOCK: usize = 8;
/// Settings that keep records in memory, and blocks unchanged.
const AT_REST: [&str; 2] = ["flush-max-ms 0", "defrag-queue-min 1000"];

fn put(client: &mut Client, key: &str) -> u8 {
    client.ask(&Message::put(key, vec![7; VALUE_SIZE])).unwrap().result
}

fn set(client: &mut Client, parameter: &str) {
    let request = format!("set-config:context=namespace;id=test;{parameter}");
    assert_eq!(client.info_value(&request).unwrap(), "ok");
}

/// The figure `name` of the first stripe or file of namespace `test`.
fn of_first(figures: &Figures, kind: &str, name: &str) -> i64 {
    figures[&format!("storage-engine.{kind}[0].{name}")]
}

/// Keys whose records are in the first stripe or file. Each record there had 64 bytes before, which is too
/// small to count.
fn keys_of_first(client: &mut Client, kind: &str, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let used = |client: &mut Client| of_first(&figures(client, "namespace/test"), kind, "used_bytes");
    for number in 0.. {
        if keys.len() == count {
            break;
        }
        let (key, before) = (number.to_string(), used(client));
        assert_eq!(client.ask(&Message::put(&key, vec![1; 5])).unwrap().result, result::OK);
        let grown = used(client) - before;
        assert!(grown == 0 || grown == 64, "{grown}");
        assert_eq!(client.ask(&Message::delete(&key)).unwrap().result, result::OK);
        if grown != 0 {
            keys.push(key);
        }
    }
    keys
}

/// Writes, deletes, lets defrag run and, if `on_disk`, flushes. Checks each figure at each step.
fn check_blocks(kind: &str, config: &str, on_disk: bool) {
    let server = Server::start(config);
    let mut client = server.connect();
    let client = &mut client;
    let keys = keys_of_first(client, kind, 5 * RECORDS_OF_BLOCK + 1);
    let start = figures(client, "namespace/test");
    let of = |figures: &Figures, name: &str| of_first(figures, kind, name);
    assert_eq!((of(&start, "writes"), of(&start, "used_bytes"), start["data_used_bytes"]), (0, 0, 0));
    let check = |now: &Figures, expected: [i64; 6]| {
        let names = ["used_bytes", "free_wblocks", "writes", "defrag_q", "defrag_reads", "defrag_writes"];
        let found = names.map(|name| of(now, name));
        assert_eq!(found, expected, "{kind}: {names:?}");
        assert_eq!(now["data_used_bytes"], expected[0]);
        assert_eq!(now["data_used_pct"], expected[0] * 100 / now["data_total_bytes"]);
        let total: i64 =
            (0..8).filter_map(|at| now.get(&format!("storage-engine.{kind}[{at}].free_wblocks"))).sum();
        // Each stripe or file knows its share. The smallest share counts.
        assert!(now["data_avail_pct"] <= total * WBLOCK_SIZE * 100 / now["data_total_bytes"]);
    };

    // Five blocks are full, and one is being filled. It was opened for the small records.
    keys.iter().for_each(|key| assert_eq!(put(client, key), result::OK));
    let free = of(&start, "free_wblocks");
    let queues = ["write_q", "shadow_write_q", "backing_write_q"];
    let written = await_figures(client, "namespace/test", |now| {
        queues
            .iter()
            .all(|queue| now.get(&format!("storage-engine.{kind}[0].{queue}")).is_none_or(|size| *size == 0))
    });
    check(&written, [41 * RECORD_SIZE, free - 5, 5, 0, 0, 0]);

    // About a third of four blocks remains.
    for block in 0..4 {
        for key in &keys[block * RECORDS_OF_BLOCK..][..5] {
            assert_eq!(client.ask(&Message::delete(key)).unwrap().result, result::OK);
        }
    }
    check(&figures(client, "namespace/test"), [21 * RECORD_SIZE, free - 5, 5, 4, 0, 0]);

    // Twelve records move. They fill a block and a half.
    set(client, "defrag-queue-min=0");
    let emptied = await_figures(client, "namespace/test", |now| of(now, "free_wblocks") == free - 3);
    check(&emptied, [21 * RECORD_SIZE, free - 3, 5, 0, 4, 1]);
    if on_disk {
        let partial = |now: &Figures| ["partial_writes", "defrag_partial_writes"].map(|name| of(now, name));
        // Earlier blocks are written before a full one, whether they are full or not.
        await_figures(client, "namespace/test", |now| partial(now) == [1, 0]);
        set(client, "flush-max-ms=10");
        await_figures(client, "namespace/test", |now| partial(now) == [1, 1]);
        let name = format!("storage-engine.{kind}[0].age");
        assert_eq!(texts(client, "namespace/test")[&name], "-1", "no file tells its age");
    }
}

#[test]
fn blocks_of_memory_are_counted() {
    let storage = ["data-size 2G", AT_REST[1]];
    check_blocks("stripe", &stored_config("test", "memory", &storage), false);
}

#[test]
fn blocks_of_memory_with_a_file_are_counted() {
    let storage = [&["file {dir}/test.dat", "filesize 256M"], &AT_REST[..]].concat();
    check_blocks("stripe", &stored_config("test", "memory", &storage), true);
}

#[test]
fn blocks_of_a_file_with_a_shadow_are_counted() {
    let storage = [&["file {dir}/test.dat {dir}/shadow.dat", "filesize 256M"], &AT_REST[..]].concat();
    check_blocks("file", &stored_config("test", "device", &storage), true);
}

/// Number of blocks of a file that have content.
/// Kilobytes of huge pages that a process has, according to proc_pid_smaps(5).
fn huge_page_kilobytes(process: u32) -> u64 {
    let memory = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = memory.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn blocks_that_are_taken_next_have_huge_pages() {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if enabled.is_empty() || enabled.contains("[never]") {
        eprintln!("this system has no huge pages: not tested");
        return;
    }
    let server = Server::start(&stored_config("test", "memory", &["data-size 2G"]));
    let process = server.process_id().unwrap();
    let mut client = server.connect();
    // The first blocks of each of the eight stripes are not prepared. Other tests may have taken all huge pages for a while.
    let is_there = (0..1000).any(|number: u32| {
        assert_eq!(put(&mut client, &number.to_string()), result::OK);
        number.is_multiple_of(32) && huge_page_kilobytes(process) >= 2048
    });
    assert!(is_there);
}

fn blocks_written(file: &DataFile) -> i64 {
    let bytes = file.bytes();
    let blocks = bytes.chunks(WBLOCK_SIZE as usize).skip(1);
    blocks.filter(|block| block.iter().any(|byte| *byte != 0)).count() as i64
}

/// Fills blocks that the system does not allow to be written. They wait, and the figure `queue` counts them.
fn check_queue(engine: &str, files: &str, kind: &str, queues: &[&str], failed: &str) {
    let file = format!("file {files}");
    let storage = [&[file.as_str(), "filesize 256M"], &AT_REST[..]].concat();
    // Files already have their full size, and no byte after their first part can be written. The unit of the
    // limit depends on the shell, so the limit is 40 MiB or 80 MiB.
    let script = format!("truncate -s 256M {files} && ulimit -S -f 81920 && exec \"$0\" \"$@\"");
    let config = stored_config("test", engine, &storage);
    let mut server = Server::start_under(&["sh", "-c", &script], &config);
    server.allow("make room, or raise the limit").allow("its device failed");
    let mut client = server.connect();
    let refused =
        (0..30 * RECORDS_OF_BLOCK).find(|number| put(&mut client, &number.to_string()) != result::OK);
    assert!(refused.is_some(), "more was written than may be");
    // Writes are applied until the first one that cannot be, even if some were refused before.
    server.await_log("writes are refused");
    let now = figures(&mut client, "namespace/test");
    server.await_log("bytes of records are in memory only");
    let written = blocks_written(&DataFile::of(&server, "test.dat"));
    let waiting = of_first(&now, kind, "writes") - written;
    assert!(written > 0 && waiting > 0, "{written} {now:?}");
    for queue in queues {
        assert_eq!(of_first(&now, kind, queue), waiting, "{queue}");
    }
    assert_eq!(now[failed], 1);
    // Records in memory cannot be flushed, and the log says so.
    server.allow("could not be written before the end and are lost").allow("acknowledged records are lost");
    server.stop_with_losses();
    server.await_log("could not be written before the end and are lost");
    // Also at an end in haste, during the tries to write them.
    server.restart();
    let mut client = server.connect();
    let refused =
        (0..30 * RECORDS_OF_BLOCK).find(|number| put(&mut client, &number.to_string()) != result::OK);
    assert!(refused.is_some(), "more was written than may be");
    server.allow("ending at once").allow("were not written before the end and are lost");
    server.signal(Signal::SIGINT);
    server.await_log("SIGINT received, shutting down");
    std::thread::sleep(Duration::from_millis(1200));
    server.stop_with_losses_by(Signal::SIGINT);
    server.await_log("were not written before the end and are lost");
}

#[test]
fn blocks_that_cannot_be_written_wait() {
    let queues = ["write_q", "shadow_write_q"];
    check_queue("device", "{dir}/test.dat {dir}/shadow.dat", "file", &queues, "failed_devices");
    check_queue("memory", "{dir}/test.dat", "stripe", &["backing_write_q"], "failed_devices");
}

#[test]
fn records_that_cannot_be_read_are_counted() {
    // Defrag would move the records.
    let storage = ["file {dir}/test.dat", "filesize 128M", "defrag-lwm-pct 1"];
    let mut server = Server::start(&stored_config("test", "device", &storage));
    damage::fill(&mut server.connect());
    server.stop();
    server.restart();
    let mut client = server.connect();
    assert_eq!(damage::get(&mut client, 1), result::OK);
    let errors = |client: &mut Client| of_first(&figures(client, "namespace/test"), "file", "read_errors");
    assert_eq!(errors(&mut client), 0);
    DataFile::of(&server, "test.dat").truncate(WBLOCK_SIZE as u64);
    server.allow("the file was cut to").allow("it is shorter than it was: restore it from a copy");
    server.allow("replace it or delete it");
    for number in 0..3 {
        assert_eq!(damage::get(&mut client, number), result::UNKNOWN);
        assert_eq!(errors(&mut client), i64::from(number) + 1);
    }
}
