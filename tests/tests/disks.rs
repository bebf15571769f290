//! Changed disks: devices that are added, removed, exchanged or replaced, outdated shadows, files that
//! vanish, shrink or fill up while the server runs, and paths that cannot be a disk at all.
//!
//! Records are spread over the disks of a namespace, so a test determines which records are on which disk.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::damage::{
    DataFile, RECORDS, check_all, check_all_but, fill, get, is_there, key, line_with, put, put_other, value,
};
use ferrospike_tests::device_file::header;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config};
use ferrospike_tests::wire::{Message, result};
use nix::sys::stat::Mode;

/// Longest wait for background work of the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration with these files and, if they have any, their shadows.
fn files(names: &[&str]) -> String {
    let mut lines: Vec<String> = names
        .iter()
        .map(|names| {
            let paths: Vec<String> = names.split(' ').map(|name| format!("{{dir}}/{name}.dat")).collect();
            format!("file {}", paths.join(" "))
        })
        .collect();
    lines.push("filesize 128M".to_owned());
    lines.push("commit-to-device true".to_owned());
    lines.push("stop-writes-avail-pct 0".to_owned());
    // Records must stay on the disks where the test found them.
    lines.push("defrag-lwm-pct 1".to_owned());
    stored_config("test", "device", &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A server that has written all records to these files and has been stopped.
fn stopped(names: &[&str]) -> Server {
    let mut server = Server::start(&files(names));
    fill(&mut server.connect());
    server.stop();
    server
}

/// Starts the server with these files.
fn start_with(server: &mut Server, names: &[&str]) {
    server.configure(&files(names));
    server.restart();
}

/// Fails unless the server refuses to start, with all of `words` in the reason, and leaves the files of
/// `unchanged` as they are.
fn check_refused(server: &mut Server, unchanged: &[&str], words: &[&str]) {
    let unchanged: Vec<DataFile> =
        unchanged.iter().map(|name| DataFile::of(server, &format!("{name}.dat"))).collect();
    let before: Vec<Vec<u8>> = unchanged.iter().map(DataFile::bytes).collect();
    let log = server.refusal();
    line_with(&log, &[&[": CRITICAL ("], words].concat());
    for (file, before) in unchanged.iter().zip(before) {
        assert!(file.bytes() == before, "{} was changed", file.name());
    }
}

fn file(server: &Server, name: &str) -> DataFile {
    DataFile::of(server, &format!("{name}.dat"))
}

/// Repeats `attempt` until it returns true.
fn await_that(what: &str, mut attempt: impl FnMut() -> bool) {
    let start = Instant::now();
    while !attempt() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

const NOT_CONFIGURED: &str = "is not configured any more";
const MISSING: &str = "of those used last is missing";

#[test]
fn devices_change_places() {
    let mut server = stopped(&["a", "b", "c"]);
    for names in [["c", "a", "b"], ["b", "c", "a"]] {
        start_with(&mut server, &names);
        check_all(&mut server.connect());
        assert_eq!(put(&mut server.connect(), 5), result::OK);
        server.stop();
    }
}

#[test]
fn an_empty_start_drops_the_content_of_the_disks_for_good() {
    let names = ["a shadow-a", "b shadow-b"];
    let mut server = stopped(&names);
    server.allow("of a former use were erased");
    server.configure(&files(&names).replace("filesize", "cold-start-empty true\n        filesize"));
    server.restart();
    let mut client = server.connect();
    (0..RECORDS).for_each(|number| assert_eq!(get(&mut client, number), result::NOT_FOUND, "{number}"));
    assert_eq!(put(&mut client, 5), result::OK);
    server.kill9();
    start_with(&mut server, &names);
    let mut client = server.connect();
    for number in 0..RECORDS {
        let expected = if number == 5 { result::OK } else { result::NOT_FOUND };
        assert_eq!(get(&mut client, number), expected, "{number}");
    }
}

#[test]
fn a_device_joins() {
    let mut server = stopped(&["a"]);
    start_with(&mut server, &["a", "b"]);
    line_with(&server.log(), &[&file(&server, "b").name(), "is empty"]);
    let mut client = server.connect();
    check_all(&mut client);
    fill(&mut client);
    server.stop();
    assert!(!file(&server, "b").places().numbers().is_empty());
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_removed_device_takes_its_records_along_and_cannot_return() {
    let mut server = stopped(&["a", "b"]);
    let gone = file(&server, "b").places().numbers();
    assert!(!gone.is_empty() && gone.len() < RECORDS as usize);
    server.allow(NOT_CONFIGURED);
    start_with(&mut server, &["a"]);
    line_with(&server.log(), &[": WARNING (", "device 1 of those used last is not configured any more"]);
    check_all_but(&mut server.connect(), &gone, result::NOT_FOUND);
    server.stop();
    server.configure(&files(&["a", "b"]));
    let names = ["a", "b"].map(|name| file(&server, name).name());
    check_refused(&mut server, &["a", "b"], &[&names[0], &names[1], "at offset 48: ", "signatures", "erase"]);
}

#[test]
fn a_device_is_replaced_by_an_empty_one() {
    let mut server = stopped(&["a", "b"]);
    let gone = file(&server, "a").places().numbers();
    fs::remove_file(file(&server, "a").0).unwrap();
    server.allow(MISSING);
    server.restart();
    let log = server.log();
    let name = file(&server, "a").name();
    line_with(
        &log,
        &[": WARNING (", "device 0 of those used last is missing", &name, "is empty: ", "not mounted"],
    );
    line_with(&log, &[&name, "is empty"]);
    let mut client = server.connect();
    check_all_but(&mut client, &gone, result::NOT_FOUND);
    assert!(gone.iter().all(|number| put(&mut client, *number) == result::OK));
    server.stop();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_device_of_another_set_is_refused() {
    let (mut server, other) = (stopped(&["a", "b"]), stopped(&["a", "b"]));
    fs::copy(file(&other, "b").0, file(&server, "b").0).unwrap();
    let names = ["a", "b"].map(|name| file(&server, name).name());
    check_refused(&mut server, &["a", "b"], &[&names[0], &names[1], "at offset 48: ", "erase"]);
}

#[test]
fn a_device_together_with_its_copy_is_refused() {
    let mut server = stopped(&["a", "b"]);
    fs::copy(file(&server, "a").0, file(&server, "copy").0).unwrap();
    server.configure(&files(&["a", "b", "copy"]));
    let names = ["a", "copy"].map(|name| file(&server, name).name());
    check_refused(
        &mut server,
        &["a", "b", "copy"],
        &[&names[0], &names[1], "at offset 69632: ", "one is a copy"],
    );
    fs::remove_file(file(&server, "copy").0).unwrap();
    fs::hard_link(file(&server, "a").0, file(&server, "copy").0).unwrap();
    check_refused(&mut server, &["a"], &[&names[1], "in use by another process or configured twice"]);
}

#[test]
fn an_empty_disk_is_filled_from_its_shadow() {
    let mut server = stopped(&["a a-shadow", "b b-shadow"]);
    fs::remove_file(file(&server, "a").0).unwrap();
    server.restart();
    line_with(
        &server.log(),
        &[&file(&server, "a").name(), "is rewritten from", &file(&server, "a-shadow").name()],
    );
    check_all(&mut server.connect());
    server.stop();
    start_with(&mut server, &["a", "b"]);
    check_all(&mut server.connect());
}

/// Otherwise the data of the other namespace would be overwritten.
#[test]
fn a_disk_of_another_namespace_is_not_filled_from_a_shadow() {
    let mut server = stopped(&["a a-shadow"]);
    let mut other = Server::start(&files(&["a"]).replace("namespace test", "namespace other"));
    other.stop();
    fs::copy(file(&other, "a").0, file(&server, "a").0).unwrap();
    let names = ["a", "a-shadow"].map(|name| file(&server, name).name());
    let words = ["at offset 12: ", "holds namespace \"other\", not \"test\"", "erase"];
    check_refused(&mut server, &["a", "a-shadow"], &[&[&names[0][..], &names[1]], &words[..]].concat());
    file(&server, "a").overwrite(0, &vec![0; 8 << 20]);
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_shadow_that_was_left_out_is_rewritten() {
    let mut server = stopped(&["a a-shadow"]);
    start_with(&mut server, &["a"]);
    let mut client = server.connect();
    for number in 0..10 {
        assert_eq!(put_other(&mut client, number, number + 1_000), result::OK);
    }
    server.stop();
    server.allow("is out of date, because ");
    start_with(&mut server, &["a a-shadow"]);
    let names = ["a-shadow", "a"].map(|name| file(&server, name).name());
    line_with(
        &server.log(),
        &[": WARNING (", &format!("{} is out of date, because {} was used", names[0], names[1])],
    );
    let check = |client: &mut Client| {
        for number in 0..RECORDS {
            let answer = client.ask(&Message::get(&key(number))).unwrap();
            let expected = if number < 10 { number + 1_000 } else { number };
            assert!(answer.bin("b") == Some(&value(expected)), "record {number}: {}", answer.result);
        }
    };
    check(&mut server.connect());
    server.stop();
    // At first only the shadow has all records. Later the disk is the medium that was not used.
    start_with(&mut server, &["a-shadow"]);
    check(&mut server.connect());
    assert_eq!(put(&mut server.connect(), 0), result::OK);
    server.stop();
    start_with(&mut server, &["a a-shadow"]);
    assert_eq!(get(&mut server.connect(), 0), result::OK);
}

#[test]
fn a_disk_and_a_shadow_that_went_different_ways_are_refused() {
    let mut server = stopped(&["a a-shadow"]);
    for name in ["a", "a-shadow"] {
        start_with(&mut server, &[name]);
        assert_eq!(put(&mut server.connect(), 3), result::OK);
        server.stop();
    }
    server.configure(&files(&["a a-shadow"]));
    let names = ["a", "a-shadow"].map(|name| file(&server, name).name());
    check_refused(
        &mut server,
        &["a", "a-shadow"],
        &[&names[0], &names[1], "written to without the other", "erase"],
    );
    fs::remove_file(file(&server, "a").0).unwrap();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_shadow_of_another_disk_is_refused() {
    let mut server = stopped(&["a a-shadow", "b b-shadow"]);
    server.configure(&files(&["a b-shadow", "b a-shadow"]));
    let names = ["a", "b-shadow"].map(|name| file(&server, name).name());
    check_refused(
        &mut server,
        &["a", "b", "a-shadow", "b-shadow"],
        &[&names[0], &names[1], "at offset 69632: ", "check"],
    );
}

#[test]
fn reads_continue_when_the_file_is_removed_and_writes_are_refused() {
    let mut server = stopped(&["a"]);
    server.restart();
    let path = file(&server, "a").0;
    fs::remove_file(&path).unwrap();
    server.allow("the file was removed").allow("its device failed");
    server.await_log("the file was removed");
    let log = server.log();
    let line =
        line_with(&log, &[": CRITICAL (", &path.display().to_string(), "writes are refused", "copy it from"]);
    let mut client = server.connect();
    check_all(&mut client);
    assert_eq!(put(&mut client, 1), result::UNKNOWN);
    // The file is restored as the log line advises.
    let place = line.split("copy it from ").nth(1).unwrap().split(':').next().unwrap();
    fs::copy(place, &path).unwrap();
    server.kill9();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn reads_continue_before_the_end_of_a_truncated_file_and_writes_are_refused() {
    let mut server = stopped(&["a"]);
    let (file, places) = (file(&server, "a"), file(&server, "a").places());
    server.restart();
    let end = places.of(20).start.next_multiple_of(4096);
    let lost: Vec<u32> = (0..RECORDS).filter(|number| places.of(*number).end > end).collect();
    file.truncate(end);
    server.allow("the file was cut to").allow("it is shorter than it was: restore it from a copy");
    server.allow("replace it or delete it");
    let cut = format!("the file was cut to {end} of {} bytes", 128 << 20);
    server.await_log(&cut);
    line_with(
        &server.log(),
        &[": CRITICAL (", &file.name(), &cut, "restore it from a copy", "writes are refused"],
    );
    let mut client = server.connect();
    check_all_but(&mut client, &lost, result::UNKNOWN);
    line_with(&server.log(), &[": WARNING (", &file.name(), " at offset ", "it is shorter than it was"]);
    assert_eq!(put(&mut client, 1), result::UNKNOWN);
    server.stop();
    check_refused(&mut server, &["a"], &[&file.name(), "at offset 69720: ", "restore the complete file"]);
    // An operator without a copy can continue with the remaining records.
    file.truncate(128 << 20);
    server.allow("damaged and left out: ").allow("were not loaded");
    server.restart();
    let mut client = server.connect();
    check_all_but(&mut client, &lost, result::NOT_FOUND);
    fill(&mut client);
    server.stop();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn a_file_that_became_read_only_is_written_on() {
    let mut server = stopped(&["a"]);
    server.restart();
    fs::set_permissions(file(&server, "a").0, fs::Permissions::from_mode(0o400)).unwrap();
    let mut client = server.connect();
    fill(&mut client);
    check_all(&mut client);
}

/// A user other than root cannot open the file.
#[test]
fn a_file_that_may_not_be_written_is_refused() {
    let script = "cp \"$0\" {dir}/asd && chmod 755 {dir} {dir}/asd && chown 65534:65534 {dir} &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs {dir}/asd \"$@\" --instance 4";
    let launcher: &[&str] = if nix::unistd::geteuid().is_root() { &["sh", "-c", script] } else { &[] };
    let mut server = Server::start_under(launcher, &files(&["a"]));
    fill(&mut server.connect());
    server.stop();
    let path = file(&server, "a").0;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let words =
        [path.to_str().unwrap(), "open failed", "let the user that the server runs as read and write it"];
    check_refused(&mut server, &["a"], &words);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    server.restart();
    check_all(&mut server.connect());
}

#[test]
fn paths_that_are_not_files_are_refused() {
    let mut server = stopped(&["a"]);
    let names = ["folder", "pipe"].map(|name| file(&server, name).name());
    fs::create_dir(&names[0]).unwrap();
    server.configure(&files(&["a", "folder"]));
    check_refused(&mut server, &["a"], &[&names[0], "open failed", "configure a file in it"]);
    nix::unistd::mkfifo(names[1].as_str(), Mode::S_IRWXU).unwrap();
    server.configure(&files(&["a", "pipe"]));
    check_refused(&mut server, &["a"], &[&names[1], "neither a block device nor a file"]);
    server.configure(&files(&["a", "no/such/folder"]));
    check_refused(&mut server, &["a"], &["no/such/folder", "open failed", "check the path"]);
    // A file that is configured as a device must exist with its full size.
    let as_device =
        |name: &str| files(&[name]).replace("file {dir}", "device {dir}").replace("filesize 128M", "");
    server.configure(&as_device("missing"));
    check_refused(&mut server, &["a"], &["missing.dat", "open failed", "check the path"]);
    assert!(!is_there(&file(&server, "missing").0), "devices are not created");
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    let mut server = stopped(&["a"]);
    server.configure(&files(&["a"]).replace("filesize 128M", "filesize 64M"));
    let log = server_log_of_refusal(&mut server);
    assert!(log.contains("filesize"), "{log}");
    let path = file(&server, "small").0;
    fs::write(&path, vec![0; 100 << 20]).unwrap();
    let config = files(&["small"]).replace("file {dir}", "device {dir}").replace("filesize 128M", "");
    server.configure(&config);
    check_refused(&mut server, &["small"], &[path.to_str().unwrap(), "104857600 bytes", "128 MiB at least"]);
    let Some(device) = LoopDevice::of(&path) else { return };
    server.configure(&config.replace("{dir}/small.dat", &device.0));
    check_refused(&mut server, &["small"], &[&device.0, "104857600 bytes", "128 MiB at least"]);
}

/// The error output of a refused configuration. There is no log yet.
fn server_log_of_refusal(server: &mut Server) -> String {
    let before = server.log().len();
    let output = Command::new(ferrospike_tests::programs::binary())
        .arg("--config-file")
        .arg(server.folder().join("aerospike.conf"))
        .arg("--foreground")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.log().len(), before);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A server that does not know this lock opens a device exclusively with `O_EXCL`. This server does so too.
#[test]
fn a_device_belongs_to_one_server() {
    let mut server = stopped(&["a"]);
    let path = file(&server, "disk").0;
    fs::File::create(&path).unwrap().set_len(128 << 20).unwrap();
    let Some(device) = LoopDevice::of(&path) else { return };
    let open_alone =
        || fs::File::options().read(true).write(true).custom_flags(nix::libc::O_EXCL).open(&device.0);
    let config = files(&["disk"]).replace("file {dir}", "device {dir}").replace("filesize 128M", "");
    server.configure(&config.replace("{dir}/disk.dat", &device.0));
    server.restart();
    fill(&mut server.connect());
    assert_eq!(open_alone().unwrap_err().raw_os_error(), Some(nix::libc::EBUSY));
    server.stop();
    let other = open_alone().unwrap();
    check_refused(
        &mut server,
        &["a"],
        &[&device.0, "in use by another process, mounted, or configured twice"],
    );
    drop(other);
    server.restart();
    check_all(&mut server.connect());
}

/// Whether the system permits this command.
fn can(command: &[&str]) -> bool {
    Command::new(command[0]).args(&command[1..]).output().is_ok_and(|output| output.status.success())
}

/// A block device that uses a file, until the value is dropped.
struct LoopDevice(String);

impl LoopDevice {
    /// `None`, with a message, if the system has no such devices.
    fn of(file: &Path) -> Option<LoopDevice> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        match output.ok().filter(|output| output.status.success()) {
            Some(output) => Some(LoopDevice(String::from_utf8(output.stdout).unwrap().trim().to_owned())),
            None => {
                report("SKIPPED: this system gives no loop device, so no real block device was tried");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Writes until the server refuses, then calls `make_room`. Fails unless all acknowledged writes are kept and
/// the server accepts writes again.
fn check_full_disk(server: &mut Server, path: &Path, make_room: impl Fn(&Server)) {
    server.allow("make room, or raise the limit").allow("can be written to again").allow("its device failed");
    let mut client = server.connect();
    fill(&mut client);
    let large = |number: u32| vec![number as u8; 900_000];
    let name = |number: u32| format!("large-{number}");
    let mut stored = 0;
    let refused = loop {
        let answer = client.ask(&Message::put(&name(stored), large(stored))).unwrap();
        if answer.result != result::OK {
            break answer.result;
        }
        stored += 1;
        assert!(stored < 100, "the disk never fills up");
    };
    assert_eq!(refused, result::UNKNOWN);
    let log = server.log();
    line_with(
        &log,
        &[
            ": CRITICAL (",
            path.to_str().unwrap(),
            " at offset ",
            "make room, or raise the limit",
            "writes are refused",
        ],
    );
    let check = |client: &mut Client| {
        check_all(client);
        for number in 0..stored {
            let answer = client.ask(&Message::get(&name(number))).unwrap();
            assert!(answer.bin("b") == Some(&large(number)), "large record {number}: {}", answer.result);
        }
    };
    check(&mut client);
    assert_eq!(put(&mut client, 1), result::UNKNOWN);
    make_room(server);
    await_that("the server takes no writes any more", || put(&mut client, 1) == result::OK);
    server.await_log("can be written to again");
    check(&mut client);
    server.kill9();
    server.restart();
    check(&mut server.connect());
}

#[test]
fn a_file_system_that_is_full_refuses_writes_until_there_is_room() {
    let mount = "mkdir -p {dir}/small && mount -t tmpfs -o size=40m none {dir}/small && exec \"$0\" \"$@\"";
    if !can(&["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/proc"]) {
        return report("SKIPPED: this system gives no mount name spaces, so no file system was filled");
    }
    // Files in that file system vanish when the server ends, so the server cannot be restarted.
    let config = files(&["small/a"]);
    let mut server =
        Server::start_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", mount], &config);
    server.allow("make room, or raise the limit").allow("can be written to again").allow("its device failed");
    let mut client = server.connect();
    fill(&mut client);
    let large = |number: u32| Message::put(&format!("large-{number}"), vec![1; 900_000]);
    let full = (0..100).find(|number| client.ask(&large(*number)).unwrap().result != result::OK);
    assert!(full.is_some(), "the disk never fills up");
    let path = server.folder().join("small/a.dat");
    let log = server.log();
    line_with(
        &log,
        &[": CRITICAL (", path.to_str().unwrap(), "make room, or raise the limit", "writes are refused"],
    );
    check_all(&mut client);
    assert_eq!(put(&mut client, 1), result::UNKNOWN);
    let id = server.process_id().unwrap().to_string();
    let enter = ["--target", &id, "--user", "--mount", "--preserve-credentials"];
    let remount = ["mount", "-o", "remount,size=200m", path.parent().unwrap().to_str().unwrap()];
    let status = Command::new("nsenter").args(enter).args(remount).status();
    if !status.is_ok_and(|status| status.success()) {
        return report("SKIPPED: this system lets nobody enter a name space, so no room was made");
    }
    await_that("the server takes no writes any more", || put(&mut client, 1) == result::OK);
    check_all(&mut client);
}

/// Limits the size of the server's files to `bytes`. Writes beyond it fail.
fn limit(server: &Server, bytes: &str) {
    let id = server.process_id().unwrap().to_string();
    let status = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(status.unwrap().success(), "prlimit");
}

const NO_LIMIT: &str = "SKIPPED: this system has no prlimit, so no file was limited";

#[test]
fn a_write_in_front_of_a_batch_hears_that_its_disk_failed() {
    if !can(&["prlimit", "--fsize"]) {
        return report(NO_LIMIT);
    }
    let mut server = Server::start(&files(&["a"]));
    server.allow("raise the limit").allow("can be written to again").allow("its device failed");
    let mut client = server.connect();
    assert_eq!(put(&mut client, 1), result::OK);
    limit(&server, "4000000");
    let batch = Message::get_all([key(1)].iter().map(String::as_str));
    let together = [Message::put(&key(2), value(2)).encode(), batch.encode()].concat();
    client.send(&together).unwrap();
    assert_eq!(client.receive_message().unwrap().result, result::UNKNOWN);
    assert_eq!(client.receive_message().unwrap().result, result::OK, "of the batch's row");
    limit(&server, "unlimited");
    await_that("the server takes no writes any more", || put(&mut client, 1) == result::OK);
}

#[test]
fn a_limit_on_the_size_of_files_refuses_writes_until_it_is_raised() {
    if !can(&["prlimit", "--fsize"]) {
        return report(NO_LIMIT);
    }
    let mut server = Server::start(&files(&["a"]));
    limit(&server, "40000000");
    let path = file(&server, "a").0;
    check_full_disk(&mut server, &path, |server| limit(server, "unlimited"));
    assert_eq!(header(&file(&server, "a").bytes()).namespace, "test");
}
