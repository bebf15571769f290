//! A server process with the test's own configuration and folder, on a port that the system chooses. The test
//! watches its log, stops it and checks how it ends.
//!
//! When the value is dropped, the server ends. Unless the test has already failed, the server is asked to
//! stop. It must do so with exit status 0, and its log must have no lines at WARNING or above that the test
//! did not allow.
//!
//! `ASD` names another binary; without it, the server is built beside the tests ([`crate::programs`]).
//! `ASD_ADDRESS` names a running server, for tests that do not depend on its configuration.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::programs::binary;

/// A warning about the machine, which every test allows.
const OF_THE_MACHINE: &str = "failed best-practices check";
/// Warnings about refused operations. The test that sent them checks their result codes.
const OF_REFUSED_OPS: &str = "WARNING (particle): (refused.rs:";
/// Longest time for a server to open its port, or to stop.
const START_STOP_MAX: Duration = Duration::from_secs(60);
/// Folder in the server's folder, in which tests request faults.
const FAULTS_FOLDER: &str = "faults";
/// How often the log or state is checked.
const POLL: Duration = Duration::from_millis(2);
/// The text before the address in the log line for each client port.
const PORT_LINE: (&str, &str) = (" (service): ", " client port ");
/// Number of log lines shown when a test fails.
const LOG_TAIL: usize = 60;

/// The start of most tests' configuration: a client port that the system chooses, and the log on the console.
/// `{dir}` is replaced by the server's folder.
pub const BASICS: &str = "
service {
    cluster-name tests
    work-directory {dir}
}
mod-lua {
    user-path {dir}/udf
}
logging {
    console {
        context any info
    }
}
network {
    service {
        address 127.0.0.1
        port 0
    }
}
";

/// The namespaces with which the corpora were recorded.
pub const NAMESPACES: &str = "
namespace test {
    replication-factor 1
    nsup-period 1
    allow-ttl-without-nsup true
    storage-engine memory {
        data-size 1G
    }
}
namespace bar {
    replication-factor 1
    storage-engine memory {
        data-size 512M
    }
}
";

/// `BASICS` and `NAMESPACES`.
pub fn usual_config() -> String {
    [BASICS, NAMESPACES].concat()
}

/// `BASICS`, and a namespace with replication factor 1 that allows TTLs without nsup and has the lines
/// `storage` in its `storage-engine` context.
pub fn stored_config(namespace: &str, engine: &str, storage: &[&str]) -> String {
    stored_config_with(namespace, &[], engine, storage)
}

/// Same as [`stored_config`], with further lines in the namespace.
pub fn stored_config_with(namespace: &str, lines: &[&str], engine: &str, storage: &[&str]) -> String {
    let (lines, storage) = (lines.join("\n    "), storage.join("\n        "));
    format!(
        "{BASICS}namespace {namespace} {{\n    replication-factor 1\n    allow-ttl-without-nsup true\n    {lines}\n    \
         storage-engine {engine} {{\n        {storage}\n    }}\n}}\n"
    )
}

/// A server process, or the address of a server that was started elsewhere.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    process: Option<Child>,
    address: SocketAddr,
    allowed: Vec<String>,
    /// Length of the log before the current process started.
    log_before: usize,
    /// Program that becomes the server's process, with the arguments that it gets before the server's binary.
    launcher: Vec<String>,
}

impl Server {
    /// Starts a server with this configuration and waits until its port is open.
    pub fn start(config: &str) -> Server {
        Server::start_under(&[], config)
    }

    /// Same as [`start`](Self::start), by a command that gets the binary and its arguments as its last
    /// arguments, and that finally becomes that process. `{dir}` in it stands for the server's folder.
    pub fn start_under(launcher: &[&str], config: &str) -> Server {
        let folder = tempfile::Builder::new().prefix("ferrospike-").tempdir().expect("a temporary folder");
        let path = folder.path().to_str().expect("a folder name of plain text");
        let launcher = launcher.iter().map(|word| word.replace("{dir}", path)).collect();
        let address = ([127, 0, 0, 1], 0).into();
        let mut server =
            Server { folder, process: None, address, allowed: always_allowed(), log_before: 0, launcher };
        server.configure(config);
        server.run();
        server
    }

    /// Starts a server that allows [injected faults](Self::inject_fault); the build must have debug assertions.
    pub fn start_with_faults(config: &str) -> Server {
        let folder = format!("FERROSPIKE_FAULTS={{dir}}/{FAULTS_FOLDER}");
        let server = Server::start_under(&["env", "RUST_BACKTRACE=0", &folder], config);
        fs::create_dir(server.folder.path().join(FAULTS_FOLDER)).expect("a folder");
        server
    }

    /// A server for tests that use their own records and the usual namespaces: the one that `ASD_ADDRESS`
    /// names, otherwise a new one.
    pub fn usual() -> Server {
        let Ok(name) = std::env::var("ASD_ADDRESS") else { return Server::start(&usual_config()) };
        let address = name.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.unwrap_or_else(|| panic!("ASD_ADDRESS={name} is not host:port"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        Server {
            folder,
            process: None,
            address,
            allowed: always_allowed(),
            log_before: 0,
            launcher: Vec::new(),
        }
    }

    /// Allows log lines at WARNING or above that contain `text`.
    pub fn allow(&mut self, text: &str) -> &mut Server {
        self.allowed.push(text.to_owned());
        self
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).unwrap_or_else(|error| panic!("connect to {}: {error}", self.address))
    }

    /// The folder that `{dir}` stands for.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The id of the process, if this value started it.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Memory of the process in megabytes, if this value started it.
    pub fn resident_megabytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process_id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
    }

    /// The whole log so far, of all processes in this folder.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of the log contains `text`.
    pub fn await_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().lines().any(|line| line.contains(text)) {
            assert!(start.elapsed() < START_STOP_MAX, "never logged: {text}\n{}", self.log_tail());
            thread::sleep(POLL);
        }
    }

    /// Kills the process. It ends as in a crash.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("a running process");
        process.kill().and_then(|()| process.wait()).expect("kill the server");
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        let id = self.process_id().expect("a running process").try_into().expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signal the server");
    }

    /// Asks the process to stop, and checks how it ends.
    pub fn stop(&mut self) {
        if self.process.is_some() {
            self.signal(Signal::SIGTERM);
        }
        let Some(mut process) = self.process.take() else { return };
        let status = self.await_end(&mut process);
        assert!(status.success(), "the server ended with {status}\n{}", self.log_tail());
        self.check_log();
    }

    /// Asks the process to stop. It must end with an error, because data is lost.
    pub fn stop_with_losses(&mut self) {
        self.stop_with_losses_by(Signal::SIGTERM);
    }

    /// As `stop_with_losses`, asked by another signal.
    pub fn stop_with_losses_by(&mut self, signal: Signal) {
        self.signal(signal);
        let mut process = self.process.take().expect("a running process");
        let status = self.await_end(&mut process);
        assert_eq!(status.code(), Some(1), "how the server ended\n{}", self.log_tail());
        self.check_log();
    }

    /// Starts the server again in the same folder, after `stop` or `kill9`. Its port may be different.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        self.run();
    }

    /// Starts the server in the same folder. It must refuse, with the reason in a line at CRITICAL. Returns
    /// the log.
    pub fn refusal(&mut self) -> String {
        assert!(self.process.is_none(), "the server still runs");
        let before = self.log().len();
        let mut child = self.spawn();
        let status = self.await_end(&mut child);
        let log = self.log().split_off(before);
        assert_eq!(status.code(), Some(1), "how the server ended\n{log}");
        assert!(log.contains(": CRITICAL (") && !log.contains("panicked at"), "why the server ended:\n{log}");
        // The test expects these lines.
        self.allowed.extend(log.lines().map(str::to_owned));
        log
    }

    /// Replaces the configuration for the next start.
    pub fn configure(&self, config: &str) {
        let path = self.folder.path().to_str().expect("a folder name of plain text");
        fs::write(self.folder.path().join("aerospike.conf"), config.replace("{dir}", path))
            .expect("write configuration");
    }

    /// Starts the server in the same folder, and kills it after this time, whether its port is open or not.
    pub fn start_and_kill9(&mut self, after: Duration) {
        assert!(self.process.is_none(), "the server still runs");
        let mut child = self.spawn();
        thread::sleep(after);
        child.kill().and_then(|()| child.wait()).expect("kill the server");
    }

    /// Waits until the process has ended itself with a signal. Returns the signal's number.
    pub fn await_abort(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("a running process");
        self.await_end(&mut process).signal()
    }

    /// Makes the process panic when it next passes the point `name`. The server must have been started by
    /// [`start_with_faults`](Self::start_with_faults).
    pub fn inject_fault(&mut self, name: &str) {
        self.allow(&format!("injected fault at {name}"));
        fs::write(self.fault_path(name), "").expect("a file");
    }

    /// Makes every thread of the process wait at the point `name` until it is [released](Self::release).
    pub fn stall(&self, name: &str) {
        fs::write(self.fault_path(&[name, ".stall"].concat()), "").expect("a file");
    }

    /// Releases the threads that wait at the point `name`.
    pub fn release(&self, name: &str) {
        fs::remove_file(self.fault_path(&[name, ".stall"].concat())).expect("the file");
    }

    /// Whether the process has not yet passed the point `name` and panicked there.
    pub fn has_fault(&self, name: &str) -> bool {
        self.fault_path(name).exists()
    }

    /// Waits until the process has passed the point `name`, where it panicked.
    pub fn await_fault(&self, name: &str) {
        let start = Instant::now();
        while self.has_fault(name) {
            assert!(start.elapsed() < START_STOP_MAX, "{name} is never passed\n{}", self.log_tail());
            thread::sleep(POLL);
        }
    }

    fn fault_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(FAULTS_FOLDER).join(name)
    }

    /// Fails if the log has a line at WARNING or above that was not allowed, or a panic that no test
    /// requested.
    pub fn check_log(&self) {
        let log = self.log();
        let alarming = |line: &&str| {
            let marked = [": WARNING (", ": CRITICAL ("].iter().any(|mark| line.contains(mark));
            let allowed = self.allowed.iter().any(|allowed| line.contains(allowed.as_str()));
            marked && !allowed || line.contains("panicked at") && !line.contains(": injected fault at ")
        };
        let lines: Vec<&str> = log.lines().filter(alarming).collect();
        assert!(
            lines.is_empty(),
            "the server's log holds what the test does not allow:\n{}",
            lines.join("\n")
        );
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("open the log");
        let binary = binary();
        let mut words: Vec<OsString> = self.launcher.iter().map(OsString::from).collect();
        words.push(binary.clone().into());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg("--config-file")
            .arg(self.folder.path().join("aerospike.conf"))
            .arg("--foreground")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn();
        child.unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
    }

    fn run(&mut self) {
        self.log_before = self.log().len();
        let mut child = self.spawn();
        let start = Instant::now();
        self.address = loop {
            if let Some(address) = self.announced() {
                break address;
            }
            if let Some(status) = child.try_wait().expect("look at the server") {
                panic!("the server did not start: {status}\n{}", self.log_tail());
            }
            if start.elapsed() > START_STOP_MAX {
                child.kill().expect("kill the server");
                panic!("the server opened no port\n{}", self.log_tail());
            }
            thread::sleep(POLL);
        };
        self.process = Some(child);
    }

    /// The client address that the current process has logged.
    fn announced(&self) -> Option<SocketAddr> {
        let log = self.log();
        let mut lines = log.get(self.log_before..)?.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.find_map(|line| {
            let text = line.split_once(PORT_LINE.0)?.1;
            text.split_once(PORT_LINE.1)?.1.split_whitespace().next()?.parse().ok()
        })
    }

    fn await_end(&self, process: &mut Child) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("look at the server") {
                return status;
            }
            if start.elapsed() > START_STOP_MAX {
                process.kill().expect("kill the server");
                panic!("the server does not stop\n{}", self.log_tail());
            }
            thread::sleep(POLL);
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        } else if self.process.is_some() {
            self.kill9();
            crate::report(&format!("end of the server's log:\n{}", self.log_tail()));
        }
    }
}

fn always_allowed() -> Vec<String> {
    vec![OF_THE_MACHINE.to_owned(), OF_REFUSED_OPS.to_owned()]
}
