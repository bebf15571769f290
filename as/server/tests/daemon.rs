//! The life of the daemon's process, with a stand-in for the server.
//!
//! The test runs itself again as the daemon: if `ASD_TEST_SERVICE` is set, `main` is that of `asd` with
//! [`StandIn`] as its service. The test has no harness, because the harness's threads would receive the
//! signals.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use asd::cli::Options;
use asd::daemon::{Ending, Run, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The behaviour of the child's service: `good`, `slow-start`, `slow-stop`, `unclean-stop`, `no-start` or `crash`.
const BEHAVIOUR: &str = "ASD_TEST_SERVICE";
const TOO_LONG: Duration = Duration::from_secs(20);

type Test = fn(&Folder);

struct StandIn {
    slow_stop: bool,
    ending: Ending,
}

impl Run for StandIn {
    fn dump(&self) {
        cf::info!(As, "the state of the stand-in");
    }

    fn stop(self) -> Result<Ending, String> {
        cf::info!(As, "stand-in stops");
        if self.slow_stop {
            std::thread::sleep(TOO_LONG);
        }
        Ok(self.ending)
    }
}

fn child(behaviour: &str) -> ExitCode {
    let options = match Options::from_arguments(std::env::args_os()) {
        Ok(options) => options,
        Err(_) => return ExitCode::from(99),
    };
    run(&options, |config, _| {
        cf::info!(As, "stand-in starts with {} namespaces", config.namespaces.len());
        match behaviour {
            "slow-start" => std::thread::sleep(TOO_LONG),
            "crash" => std::process::abort(),
            "no-start" => return Err("cannot listen on 127.0.0.1:3000: it is taken".to_owned()),
            _ => {}
        }
        cf::info!(As, "stand-in runs");
        let ending = match behaviour {
            "unclean-stop" => Ending::Unclean("a thread was still at work".to_owned()),
            _ => Ending::Clean,
        };
        Ok(StandIn { slow_stop: behaviour == "slow-stop", ending })
    })
}

fn main() -> ExitCode {
    if let Ok(behaviour) = std::env::var(BEHAVIOUR) {
        return child(&behaviour);
    }
    let tests: [(&str, Test); 14] = [
        ("rolls_dumps_and_stops", rolls_dumps_and_stops),
        ("second_request_ends_at_once", second_request_ends_at_once),
        ("unclean_stop_is_not_called_clean", unclean_stop_is_not_called_clean),
        ("start_can_be_given_up", start_can_be_given_up),
        ("failing_to_start_is_a_critical_line", failing_to_start_is_a_critical_line),
        ("goes_on_in_the_background", goes_on_in_the_background),
        (
            "who_starts_it_in_the_background_hears_why_it_failed",
            who_starts_it_in_the_background_hears_why_it_failed,
        ),
        ("a_start_in_the_background_can_be_given_up", a_start_in_the_background_can_be_given_up),
        ("a_long_start_goes_on_in_the_background", a_long_start_goes_on_in_the_background),
        ("pid_file_is_for_one", pid_file_is_for_one),
        ("files_have_one_purpose", files_have_one_purpose),
        ("runs_as_the_configured_user", runs_as_the_configured_user),
        ("checks_and_versions", checks_and_versions),
        ("tells_the_service_manager", tells_the_service_manager),
    ];
    for (name, test) in tests {
        let _ = writeln!(std::io::stderr(), "test {name}");
        test(&Folder::new(name));
    }
    ExitCode::SUCCESS
}

/// The files of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("asd-daemon-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the temporary folder takes files");
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a configuration with a log file, a pid file and `service_lines`.
    fn configure(&self, service_lines: &str) {
        let text = format!(
            "service {{\n pidfile {}\n {service_lines}\n}}\n\
             logging {{\n file {} {{\n context any info\n }}\n}}\n\
             network {{\n service {{\n address 127.0.0.1\n port 4400\n }}\n}}\n\
             namespace test {{\n storage-engine memory {{\n data-size 1G\n }}\n}}\n",
            self.path("asd.pid"),
            self.path("asd.log"),
        );
        fs::write(self.path("asd.conf"), text).expect("the folder was just made");
    }

    fn daemon(&self, behaviour: &str, arguments: &[&str]) -> Child {
        self.command(behaviour, arguments).spawn().expect("this program starts")
    }

    fn command(&self, behaviour: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program exists"));
        command
            .args(["--config-file", &self.path("asd.conf")])
            .args(arguments)
            .env(BEHAVIOUR, behaviour)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("asd.log")).unwrap_or_default()
    }

    /// Waits until the log contains `text`.
    fn wait_for(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.path("asd.pid")).unwrap_or_default();
        Pid::from_raw(text.trim().parse().expect("a pid file holds a number"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TOO_LONG / 2, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("process ids are small");
    kill(Pid::from_raw(pid), signal).expect("the child runs");
}

/// Exit code, standard output and standard error.
fn end_of(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("the child can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("the daemon speaks UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn rolls_dumps_and_stops(folder: &Folder) {
    folder.configure("");
    let child = folder.daemon("good", &["--foreground"]);
    folder.wait_for("stand-in runs");
    assert_eq!(folder.pid().as_raw().unsigned_abs(), child.id());
    let first = folder.log().lines().next().unwrap_or_default().to_owned();
    assert!(first.contains(" GMT: INFO (as): (daemon.mod.rs:") && first.contains("build 8.0.0.7"), "{first}");
    assert!(folder.log().contains("data-size 1G"), "the configuration is echoed");

    send(&child, Signal::SIGUSR1);
    folder.wait_for("the state of the stand-in");
    fs::rename(folder.path("asd.log"), folder.path("old.log")).expect("the log is there");
    send(&child, Signal::SIGHUP);
    wait_until("a new log", || Path::new(&folder.path("asd.log")).exists());
    send(&child, Signal::SIGUSR1);
    folder.wait_for("the state of the stand-in");
    send(&child, Signal::SIGTERM);
    let (code, out, err) = end_of(child);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    assert!(folder.log().trim_end().ends_with("finished clean shutdown - exiting"), "{}", folder.log());
    assert!(!Path::new(&folder.path("asd.pid")).exists());
}

fn second_request_ends_at_once(folder: &Folder) {
    folder.configure("");
    let child = folder.daemon("slow-stop", &["--foreground"]);
    folder.wait_for("stand-in runs");
    let start = Instant::now();
    send(&child, Signal::SIGINT);
    folder.wait_for("stand-in stops");
    // Another program passes the same request on; then a person sends a second one.
    send(&child, Signal::SIGTERM);
    folder.wait_for("SIGTERM received again, already shutting down");
    wait_until("the end that was asked for again", || {
        send(&child, Signal::SIGINT);
        folder.log().contains("SIGINT received again, ending at once")
    });
    assert_eq!(end_of(child).0, Some(1));
    assert!(start.elapsed() < TOO_LONG);
}

fn unclean_stop_is_not_called_clean(folder: &Folder) {
    folder.configure("");
    let child = folder.daemon("unclean-stop", &["--foreground"]);
    folder.wait_for("stand-in runs");
    send(&child, Signal::SIGTERM);
    assert_eq!(end_of(child).0, Some(0), "nothing is lost");
    let log = folder.log();
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.ends_with("was not clean: a thread was still at work - exiting"), "{log}");
    assert!(last.contains("WARNING") && !log.contains("finished clean shutdown"), "{log}");
}

fn start_can_be_given_up(folder: &Folder) {
    folder.configure("");
    let start = Instant::now();
    for (signal, code) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 1)] {
        let _ = fs::remove_file(folder.path("asd.log"));
        let child = folder.daemon("slow-start", &["--foreground"]);
        folder.wait_for("stand-in starts with 1 namespaces");
        send(&child, signal);
        assert_eq!(end_of(child).0, Some(code));
        assert!(folder.log().contains("startup was not complete"));
    }
    assert!(start.elapsed() < TOO_LONG / 2);
}

fn failing_to_start_is_a_critical_line(folder: &Folder) {
    folder.configure("");
    assert_eq!(end_of(folder.daemon("no-start", &["--foreground"])).0, Some(1));
    let log = folder.log();
    assert!(log.contains("CRITICAL (as): ") && log.contains("127.0.0.1:3000: it is taken"), "{log}");
}

fn goes_on_in_the_background(folder: &Folder) {
    folder.configure("");
    let child = folder.daemon("good", &[]);
    let first_pid = child.id();
    // The pipes are closed when the parent ends: the daemon does not hold the terminal.
    assert_eq!(end_of(child), (Some(0), String::new(), String::new()));
    assert!(folder.log().contains("stand-in runs"), "it serves when the command returns");
    let pid = folder.pid();
    assert_ne!(pid.as_raw().unsigned_abs(), first_pid);
    assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid));
    kill(pid, Signal::SIGTERM).expect("the daemon runs");
    wait_until("the end of the daemon", || !Path::new(&folder.path("asd.pid")).exists());
    assert!(folder.log().contains("finished clean shutdown"));
    let _ = fs::remove_file(format!("/tmp/aerospike-console.{pid}"));
}

fn who_starts_it_in_the_background_hears_why_it_failed(folder: &Folder) {
    folder.configure("");
    for (behaviour, reason) in [
        ("no-start", "cannot listen on 127.0.0.1:3000: it is taken"),
        ("crash", "the server has ended during its start: SIGABRT"),
    ] {
        let (code, out, err) = end_of(folder.daemon(behaviour, &[]));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{behaviour}");
        assert_eq!(err, format!("asd: {reason}\nThe log is {}.\n", folder.path("asd.log")));
    }
    let held = folder.daemon("good", &["--foreground"]);
    wait_until("the pid file", || folder.log().contains("stand-in runs"));
    let (code, _, err) = end_of(folder.daemon("good", &[]));
    assert!(code == Some(1) && err.contains("cannot hold the pidfile"), "{code:?}: {err}");
    send(&held, Signal::SIGTERM);
    assert_eq!(end_of(held).0, Some(0));
    // The console of a server in the background is a file.
    let text = fs::read_to_string(folder.path("asd.conf")).expect("a configuration");
    let console = text.replace(&format!("file {}", folder.path("asd.log")), "console");
    fs::write(folder.path("asd.conf"), console).expect("the folder takes files");
    let err = end_of(folder.daemon("no-start", &[])).2;
    let (_, log) = err.split_once("The log is ").expect("the place of the log");
    let log = log.trim_end().trim_end_matches('.');
    let logged = fs::read_to_string(log).expect("the log");
    assert!(logged.contains("CRITICAL (as): ") && logged.contains("it is taken"), "{logged}");
    fs::remove_file(log).expect("the log is ours");
}

fn a_start_in_the_background_can_be_given_up(folder: &Folder) {
    folder.configure("");
    for (signal, name) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGINT, "SIGINT")] {
        let _ = fs::remove_file(folder.path("asd.log"));
        let start = Instant::now();
        let child = folder.daemon("slow-start", &[]);
        folder.wait_for("stand-in starts with 1 namespaces");
        let pid = folder.pid();
        kill(pid, signal).expect("the daemon runs");
        let (code, out, err) = end_of(child);
        let said = format!(
            "asd: the server was stopped by {name} during its start\nThe log is {}.\n",
            folder.path("asd.log")
        );
        assert_eq!((code, out.as_str(), err), (Some(1), "", said));
        assert!(start.elapsed() < TOO_LONG / 2 && folder.log().contains("startup was not complete"));
        let _ = fs::remove_file(format!("/tmp/aerospike-console.{pid}"));
    }
}

fn a_long_start_goes_on_in_the_background(folder: &Folder) {
    folder.configure("");
    let (code, _, err) = end_of(folder.daemon("slow-start", &[]));
    let pid = folder.pid();
    assert!(code == Some(0) && err.contains(&format!("process {pid}, is still starting")), "{code:?}: {err}");
    kill(pid, Signal::SIGTERM).expect("the daemon runs");
    folder.wait_for("startup was not complete");
    let _ = fs::remove_file(format!("/tmp/aerospike-console.{pid}"));
}

fn pid_file_is_for_one(folder: &Folder) {
    folder.configure("");
    let first = folder.daemon("good", &["--foreground"]);
    folder.wait_for("stand-in runs");
    assert_eq!(end_of(folder.daemon("good", &["--foreground"])).0, Some(1));
    assert!(folder.log().contains("cannot hold the pidfile"), "{}", folder.log());
    // With --fgdaemon the service manager knows the process id.
    let second = folder.daemon("good", &["--fgdaemon"]);
    folder.wait_for("is not written under --fgdaemon");
    wait_until("both", || folder.log().matches("stand-in runs").count() == 2);
    for child in [first, second] {
        send(&child, Signal::SIGTERM);
        assert_eq!(end_of(child).0, Some(0));
    }
}

/// A log or pid file is not written over data, the configuration or each other, also not through a link. A pipe
/// without a reader is not waited for.
fn files_have_one_purpose(folder: &Folder) {
    let data = folder.path("test.dat");
    fs::write(&data, "data").expect("the folder takes files");
    std::os::unix::fs::symlink(&data, folder.path("link")).expect("the folder takes links");
    let new = folder.path("new.dat");
    nix::unistd::mkfifo(Path::new(&folder.path("pipe")), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    fs::write(folder.path("foreign"), "some text\n").expect("the folder takes files");
    for (pid, log, error) in [
        (
            "asd.pid",
            "test.dat",
            format!("asd.conf:6: the log {data} is the same file as the data of namespace 'test' on line 18"),
        ),
        (
            "asd.pid",
            "link",
            format!("asd.conf:6: the log {} is the same file as the data", folder.path("link")),
        ),
        (
            "asd.pid",
            "new.dat",
            format!("asd.conf:6: the log {new} is the same file as a shadow of namespace 'test'"),
        ),
        ("asd.pid", "asd.conf", "is the same file as the configuration; name another file".to_owned()),
        ("asd.pid", "asd.pid", "is the same file as the pidfile on line 2".to_owned()),
        ("link", "asd.log", "asd.conf:2: the pidfile".to_owned()),
        (
            "foreign",
            "asd.log",
            format!(
                "asd.conf:2: cannot hold the pidfile {}: the file holds something other",
                folder.path("foreign")
            ),
        ),
        ("asd.pid", "pipe", "it is a pipe that no process reads".to_owned()),
        ("pipe", "asd.log", "asd.conf:2: cannot hold the pidfile".to_owned()),
    ] {
        folder.configure("");
        let text = fs::read_to_string(folder.path("asd.conf")).expect("a configuration");
        let storage = format!("storage-engine device {{\n file {data} {new}\n filesize 1G");
        let text = text
            .replace("storage-engine memory {\n data-size 1G", &storage)
            .replace(&format!("pidfile {}", folder.path("asd.pid")), &format!("pidfile {}", folder.path(pid)))
            .replace(&format!("file {}", folder.path("asd.log")), &format!("file {}", folder.path(log)));
        fs::write(folder.path("asd.conf"), &text).expect("the folder takes files");
        for argument in ["--check-config", "--foreground"] {
            let (mut child, start) = (folder.daemon("good", &[argument]), Instant::now());
            while child.try_wait().expect("the child can be waited for").is_none() {
                if start.elapsed() > TOO_LONG {
                    child.kill().expect("the child runs");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let (code, _, err) = end_of(child);
            assert!(code == Some(1) && err.contains(&error), "{argument} {error}: {code:?} {err}");
        }
        assert_eq!(fs::read_to_string(&data).expect("data"), "data");
        assert_eq!(fs::read_to_string(folder.path("foreign")).expect("text"), "some text\n");
        assert_eq!(fs::read_to_string(folder.path("asd.conf")).expect("a configuration"), text);
        assert!(!Path::new(&new).exists());
    }
}

fn runs_as_the_configured_user(folder: &Folder) {
    folder.configure("user no-such-user");
    let (code, _, err) = end_of(folder.daemon("good", &["--foreground"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no user no-such-user"), "{err}");
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let nobody =
        nix::unistd::User::from_name("nobody").expect("users can be looked up").expect("nobody is there");
    nix::unistd::chown(&folder.0, Some(nobody.uid), Some(nobody.gid)).expect("root may give away");
    folder.configure("user nobody");
    let child = folder.daemon("good", &["--foreground"]);
    folder.wait_for("stand-in runs");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("the child runs");
    let ids = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("status has ids and groups");
        line.split_whitespace().skip(1).map(|id| id.parse().expect("a number")).collect::<Vec<u32>>()
    };
    assert_eq!(ids("Uid:"), [nobody.uid.as_raw(); 4]);
    assert_eq!(ids("Gid:"), [nobody.gid.as_raw(); 4]);
    assert_eq!(ids("Groups:"), [0u32; 0]);
    send(&child, Signal::SIGTERM);
    assert_eq!(end_of(child).0, Some(0));
    assert!(!Path::new(&folder.path("asd.pid")).exists());
}

fn checks_and_versions(folder: &Folder) {
    folder.configure("");
    let (code, out, _) = end_of(folder.daemon("good", &["--check-config"]));
    assert_eq!(code, Some(0));
    assert_eq!(out, format!("{} is accepted\n", folder.path("asd.conf")));
    folder.configure("proto-fd-max many");
    let (code, out, err) = end_of(folder.daemon("good", &["--check-config"]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("asd.conf:3: ") && err.contains("nothing was started"), "{err}");
    let (code, out, _) = end_of(folder.daemon("good", &["--version"]));
    assert_eq!(code, Some(0));
    assert!(out.starts_with("Aerospike Community Edition build 8.0.0.7\n"), "{out}");
    assert!(!Path::new(&folder.path("asd.log")).exists(), "nothing was started");
}

fn tells_the_service_manager(folder: &Folder) {
    folder.configure("");
    let manager = UnixDatagram::bind(folder.path("notify")).expect("a socket");
    manager.set_read_timeout(Some(TOO_LONG)).expect("a timeout");
    let heard = || {
        let mut buffer = [0; 64];
        let size = manager.recv(&mut buffer).expect("to be told");
        String::from_utf8(buffer[..size].to_vec()).expect("text")
    };
    let mut command = folder.command("good", &["--fgdaemon"]);
    let child = command.env("NOTIFY_SOCKET", folder.path("notify")).spawn().expect("this program starts");
    assert_eq!(heard(), "READY=1");
    assert!(folder.log().contains("stand-in runs"), "{}", folder.log());
    send(&child, Signal::SIGTERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(end_of(child).0, Some(0));
}
