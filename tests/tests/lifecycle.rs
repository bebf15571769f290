//! Starts, stops, kills, signals, and refused starts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::fast_folder::fast_folder;
use ferrospike_tests::programs::binary;
use ferrospike_tests::server::{Server, stored_config, usual_config};
use ferrospike_tests::wire::{Message, result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

/// Runs the binary until it ends.
fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("run the server's binary")
}

/// The whole output of a run.
fn printed(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].concat().into_iter().map(char::from).collect()
}

/// A file with this text, and its name.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("aerospike.conf");
    fs::write(&path, text.replace("{dir}", folder.path().to_str().expect("plain text")))
        .expect("write a file");
    (folder, path.to_str().expect("plain text").to_owned())
}

fn put(server: &Server) -> u8 {
    server.connect().ask(&Message::put("lifecycle", b"value".to_vec())).expect("an answer").result
}

fn get(server: &Server) -> u8 {
    server.connect().ask(&Message::get("lifecycle")).expect("an answer").result
}

#[test]
fn stops_and_starts_again() {
    let mut server = Server::start(&usual_config());
    for _ in 0..3 {
        assert_eq!(put(&server), result::OK);
        server.stop();
        server.restart();
        assert_eq!(get(&server), result::NOT_FOUND, "memory does not outlive its process");
    }
}

#[test]
fn writes_its_pid_and_a_log_as_configured() {
    let config = usual_config()
        .replace(
            "work-directory",
            "pidfile {dir}/asd.pid\n    os-group-perms true\n    log-millis true\n    work-directory",
        )
        .replace("logging {", "logging {\n    file {dir}/own.log {\n        context any info\n    }");
    let mut server = Server::start(&config);
    let (pid_file, log) = (server.folder().join("asd.pid"), server.folder().join("own.log"));
    let pid = fs::read_to_string(&pid_file).expect("a pid file");
    assert_eq!(pid.trim().parse().ok(), server.process_id());
    for path in [&pid_file, &log] {
        let mode = fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o066, 0o060, "{} is for the group too, not for others", path.display());
    }
    // "Nov 21 2026 12:34:56.789 GMT: INFO (as): …"
    let text = fs::read_to_string(&log).expect("a log");
    for line in text.lines() {
        let (seconds, millis) = line.split_once('.').expect("a point");
        assert!(seconds.len() == "Nov 21 2026 12:34:56".len(), "{line}");
        assert!(millis[..3].parse::<u16>().is_ok() && millis[3..].starts_with(" GMT: "), "{line}");
    }
    assert!(text.contains("service ready"));
    let output = run(&[
        "--foreground",
        "--config-file",
        &server.folder().join("aerospike.conf").display().to_string(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("cannot hold the pidfile"), "{}", printed(&output));
    server.allow("cannot hold the pidfile");
    server.stop();
    assert!(!pid_file.exists());
}

#[test]
fn stops_while_it_is_busy() {
    let mut server = Server::start(&usual_config());
    let address = server.address();
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let mut client = ferrospike_tests::client::Client::connect(address).expect("connect");
                let request = Message::put(&format!("busy {number}"), vec![0; 1000]);
                while client.ask(&request).is_ok() {}
            });
        }
        thread::sleep(Duration::from_millis(300));
        server.stop();
    });
}

/// This happens when a terminal or a supervisor sends a signal to a whole group, and a program in the group
/// passes the signal on.
#[test]
fn repeated_signals_stop_it_cleanly() {
    let folder = fast_folder(128 << 20);
    let file = format!("file {}", folder.path().join("test.dat").display());
    // Records that a clean stop does not flush stay in memory.
    let storage = [&file[..], "filesize 128M", "flush-max-ms 0"];
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&stored_config("test", "device", &storage));
        let request = Message::put(signal.as_str(), vec![7; 100]);
        assert_eq!(server.connect().ask(&request).expect("an answer").result, result::OK);
        server.signal(signal);
        server.signal(signal);
        server.stop();
        server.restart();
        let answer = server.connect().ask(&Message::get(signal.as_str())).expect("an answer");
        assert_eq!(answer.result, result::OK, "{signal}");
    }
}

#[test]
fn is_killed_and_starts_again() {
    let mut server = Server::start(&usual_config());
    assert_eq!(put(&server), result::OK);
    server.kill9();
    server.restart();
    assert_eq!(get(&server), result::NOT_FOUND);
    assert_eq!(put(&server), result::OK);
}

#[test]
fn a_hangup_makes_it_reopen_its_log() {
    let sinks = "console {\n        context any info\n    }\n    file {dir}/asd.log {\n        context any info\n    }";
    let config = usual_config().replacen("console {\n        context any info\n    }", sinks, 1);
    let server = Server::start(&config);
    let (log, rolled) = (server.folder().join("asd.log"), server.folder().join("asd.log.1"));
    assert!(fs::read_to_string(&log).expect("a log file").contains("client port"));
    fs::rename(&log, &rolled).expect("roll the log");
    server.signal(Signal::SIGHUP);
    let start = Instant::now();
    while !log.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "no new log file");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(put(&server), result::OK);
}

#[test]
fn a_user_signal_does_not_end_it() {
    let server = Server::start(&usual_config());
    for _ in 0..10 {
        server.signal(Signal::SIGUSR1);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(put(&server), result::OK);
}

#[test]
fn raises_the_limit_of_open_files_itself() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("read the limit");
    setrlimit(Resource::RLIMIT_NOFILE, 1024, hard).expect("lower the soft limit");
    let server = Server::start(&usual_config());
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("restore the limit");
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.process_id().expect("a process")));
    let limits = limits.expect("the limits of the server");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line about files");
    let raised: u64 = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect("a number");
    assert!(raised > 1024, "{line}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let (_folder, path) = file(&usual_config().replacen("port 0", &format!("port {port}"), 1));
    let output = run(&["--config-file", &path, "--foreground"]);
    assert!(!output.status.success());
    assert!(printed(&output).contains(&port.to_string()), "{}", printed(&output));
}

/// The process that holds the ports may be a server that uses the same devices.
#[test]
fn a_port_in_use_is_reported_before_devices_are_opened() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let storage = ["file {dir}/test.dat", "filesize 128M"];
    let config = stored_config("test", "device", &storage).replacen("port 0", &format!("port {port}"), 1);
    let (folder, path) = file(&config);
    let output = run(&["--config-file", &path, "--foreground"]);
    assert!(!output.status.success() && printed(&output).contains(&port.to_string()), "{}", printed(&output));
    assert!(!folder.path().join("test.dat").exists());
}

/// The terminal from which the server was started shows the reason of a failed start, once, wherever the log
/// goes, and the place of the log.
#[test]
fn the_reason_of_a_failed_start_is_shown_at_the_terminal_too() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let config = usual_config().replacen("port 0", &format!("port {port}"), 1);
    let (_folder, path) = file(&config);
    let told =
        |output: &Output| printed(output).matches(&format!("cannot listen on 127.0.0.1:{port}")).count();
    assert_eq!(told(&run(&["--config-file", &path, "--foreground"])), 1);

    let (folder, path) = file(&config.replacen("console {", "file {dir}/asd.log {", 1));
    let output = run(&["--config-file", &path, "--foreground"]);
    let log = folder.path().join("asd.log");
    assert_eq!(told(&output), 1, "{}", printed(&output));
    assert!(printed(&output).contains(&format!("The log is {}.", log.display())), "{}", printed(&output));
    assert!(fs::read_to_string(log).expect("a log").contains("CRITICAL (as): "));
}

#[test]
fn a_start_without_permission_for_the_configured_user_gives_advice() {
    let names = "service {\n    user no-such-user-here\n    group no-such-group-here";
    let config = usual_config().replacen("service {", names, 1);
    let (_folder, path) = file(&config);
    let output = run(&["--config-file", &path, "--foreground"]);
    let said = printed(&output);
    assert!(!output.status.success());
    assert!(
        said.contains("there is no user no-such-user-here, and there is no group no-such-group-here; create them, or leave 'user'"),
        "{said}"
    );
}

#[test]
fn a_configuration_is_refused_with_all_its_errors() {
    let config = usual_config()
        .replacen(
            "cluster-name tests",
            "cluster-name tests\n    proto-fd-maxx 2000\n    service-threads many",
            1,
        )
        .replacen("data-size 1G", "data-size 1Q", 1);
    let (_folder, path) = file(&config);
    for arguments in
        [&["--check-config", "--config-file", &path][..], &["--config-file", &path, "--foreground"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = printed(&output);
        for word in ["proto-fd-maxx", "proto-fd-max", "many", "1Q"] {
            assert!(text.contains(word), "{word} is not named in: {text}");
        }
        for line in [4, 5, 28] {
            assert!(text.contains(&format!("{path}:{line}:")), "line {line} is not named in: {text}");
        }
    }
}

#[test]
fn a_valid_configuration_passes_the_check_without_a_start() {
    let (_folder, path) = file(&usual_config());
    let output = run(&["--check-config", "--config-file", &path]);
    assert!(output.status.success(), "{}", printed(&output));
    let missing = run(&["--check-config", "--config-file", "/nonexistent/aerospike.conf"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(printed(&missing).contains("/nonexistent/aerospike.conf"));
}

#[test]
fn shows_its_version_and_its_usage() {
    let version = run(&["--version"]);
    assert!(version.status.success() && printed(&version).contains("8.0.0.7"), "{}", printed(&version));
    let help = run(&["--help"]);
    assert!(help.status.success());
    for option in ["--config-file", "--foreground", "--check-config", "--dev", "--instance"] {
        assert!(printed(&help).contains(option), "{option} is not in the help");
    }
    assert!(!run(&["--no-such-option"]).status.success());
}

/// Two servers run on one machine if each has its own ports and folder.
#[test]
fn several_servers_do_not_disturb_each_other() {
    let servers = [Server::start(&usual_config()), Server::start(&usual_config())];
    assert_eq!(put(&servers[0]), result::OK);
    assert_eq!((get(&servers[0]), get(&servers[1])), (result::OK, result::NOT_FOUND));
}
