//! The cost of protection. The same loads run on two servers of one program, one with access control, TLS or
//! an encrypted device, the other without. This module starts both with the same records, and measures them
//! in turns in each round.

use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::options::ProtectionOptions;
use super::phase::{Phase, Sample, Settings};
use super::table::{append_header, append_values, median};
use super::target::Target;
use crate::asdtls;
use crate::host::Host;
use crate::link::{Access, Link};
use crate::login::{self, Login};
use crate::tls::TlsOptions;

const HOST: &str = "127.0.0.1";
const NAMESPACE: &str = "test";
const SET: &str = "bench";
/// The administrator of a newly created server.
const ADMIN: (&str, &str) = ("admin", "admin");
const CERTIFICATE_NAME: &str = "bench";
/// Longest wait for a start or an end.
const START_STOP_MAX: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);

/// The measured protections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protection {
    AccessControl,
    Tls12,
    Tls13,
    Aes128,
    Aes256,
}

impl Protection {
    const ALL: [Protection; 5] = [
        Protection::AccessControl,
        Protection::Tls12,
        Protection::Tls13,
        Protection::Aes128,
        Protection::Aes256,
    ];

    fn name(self) -> &'static str {
        match self {
            Protection::AccessControl => "access control",
            Protection::Tls12 => "tls 1.2",
            Protection::Tls13 => "tls 1.3",
            Protection::Aes128 => "encrypted device, aes-128",
            Protection::Aes256 => "encrypted device, aes-256",
        }
    }

    fn is_of_device(self) -> bool {
        matches!(self, Protection::Aes128 | Protection::Aes256)
    }

    /// The configuration of a server in `folder`, protected or not.
    fn config(self, folder: &Path, port: u16, is_on: bool) -> Result<String, String> {
        let (dir, on) = (folder.display(), |text: String| if is_on { text } else { String::new() });
        let mut network = format!("service {{\n address {HOST}\n port {port}\n }}");
        let mut others = String::new();
        let mut storage = "storage-engine memory {\n data-size 1G\n }".to_owned();
        match self {
            Protection::AccessControl => others = on("security {\n}\n".to_owned()),
            Protection::Tls12 | Protection::Tls13 if is_on => {
                let [ca, certificate, key] = asdtls::make_node(folder, CERTIFICATE_NAME)?;
                let version = if self == Protection::Tls12 { "TLSv1.2" } else { "TLSv1.3" };
                network = format!(
                    "tls {CERTIFICATE_NAME} {{\n ca-file {}\n cert-file {}\n key-file {}\n protocols {version}\n }}\n \
                     service {{\n tls-address {HOST}\n tls-port {port}\n tls-name {CERTIFICATE_NAME}\n \
                     tls-authenticate-client false\n }}",
                    ca.display(),
                    certificate.display(),
                    key.display()
                );
            }
            Protection::Tls12 | Protection::Tls13 => {}
            Protection::Aes128 | Protection::Aes256 => {
                fs::write(folder.join("key"), "a key for a measurement")
                    .map_err(|error| error.to_string())?;
                let strength = if self == Protection::Aes128 { "aes-128" } else { "aes-256" };
                let key = on(format!("encryption-key-file {dir}/key\n encryption {strength}\n "));
                storage = format!(
                    "storage-engine device {{\n file {dir}/data\n filesize 1G\n {key}read-page-cache true\n }}"
                );
            }
        }
        Ok(format!(
            "service {{\n cluster-name bench\n work-directory {dir}\n}}\nlogging {{\n file {dir}/log {{\n context any warning\n \
             }}\n}}\nnetwork {{\n {network}\n}}\n{others}namespace {NAMESPACE} {{\n replication-factor 1\n {storage}\n}}\n"
        ))
    }

    /// The access data of a client for the protected server.
    fn access(self, folder: &Path) -> Result<Access, String> {
        Ok(match self {
            Protection::AccessControl => {
                Access { login: Login::given(Some(ADMIN.0), Some(ADMIN.1))?, ..Access::default() }
            }
            Protection::Tls12 | Protection::Tls13 => {
                let options = TlsOptions::trusting(folder.join("ca.pem"));
                Access { tls: options.client(CERTIFICATE_NAME)?, ..Access::default() }
            }
            Protection::Aes128 | Protection::Aes256 => Access::default(),
        })
    }
}

/// A server started for the measurement. Its folder is removed when it is dropped.
struct Server {
    folder: PathBuf,
    process: Child,
    target: Target,
}

impl Server {
    fn start(
        options: &ProtectionOptions,
        protection: Protection,
        folder: &Path,
        is_on: bool,
    ) -> Result<Self, String> {
        let folder = folder.join(if is_on { "with" } else { "without" });
        fs::create_dir_all(folder.join("smd")).map_err(|error| format!("{}: {error}", folder.display()))?;
        let port = free_port().map_err(|error| format!("there is no port left: {error}"))?;
        let path = folder.join("asd.conf");
        let config = protection.config(&folder, port, is_on)?;
        fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut process = Command::new(&options.server)
            .arg("--foreground")
            .arg("--config-file")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", options.server.display()))?;
        let target = await_target(&mut process, protection, &folder, port, is_on);
        match target {
            Ok(target) => Ok(Server { folder, process, target }),
            Err(why) => {
                let _ = process.kill();
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                Err(format!("{}: {why}\n{log}", protection.name()))
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = i32::try_from(self.process.id()).map(Pid::from_raw);
        let is_asked = id.is_ok_and(|id| kill(id, Signal::SIGTERM).is_ok());
        let since = Instant::now();
        while is_asked && since.elapsed() < START_STOP_MAX && matches!(self.process.try_wait(), Ok(None)) {
            thread::sleep(POLL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that is currently free.
fn free_port() -> io::Result<u16> {
    TcpListener::bind((HOST, 0))?.local_addr().map(|address| address.port())
}

/// Waits until the server accepts connections, including the connections of the loads.
fn await_target(
    process: &mut Child,
    protection: Protection,
    folder: &Path,
    port: u16,
    is_on: bool,
) -> Result<Target, String> {
    let host = Host::parse(HOST, port)?;
    let address = host.resolve().map_err(|error| error.to_string())?;
    let since = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Ok(Some(status)) = process.try_wait() {
            return Err(format!("the server has ended: {status}"));
        }
        if since.elapsed() > START_STOP_MAX {
            return Err("the server takes no connection".to_owned());
        }
        thread::sleep(POLL);
    }
    let access = if is_on { protection.access(folder)? } else { Access::default() };
    if access.login.is_some() {
        let mut link = Link::connect(&address, START_STOP_MAX, &access).map_err(|error| error.to_string())?;
        login::grant(&mut link, ADMIN.0, "read-write").map_err(|error| error.to_string())?;
    }
    let label = if is_on { "with" } else { "without" };
    Target::aerospike(label, &host, access, Some(process.id()), NAMESPACE, SET)
}

/// Measures all requested protections; returns a table.
///
/// # Errors
/// When a server does not start, or a request fails.
pub(super) fn measure(options: &ProtectionOptions, progress: &mut impl Write) -> Result<String, String> {
    let folder = options
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("asd-bench-protection-{}", std::process::id())));
    let settings = options.settings();
    let mut text = String::new();
    append_header(&mut text, &["with", "without"]);
    for protection in Protection::ALL.into_iter().filter(|one| options.wants(one.name())) {
        let servers = [true, false].map(|is_on| Server::start(options, protection, &folder, is_on));
        let [with, without] = servers;
        measure_one(protection, [&with?.target, &without?.target], &settings, &mut text, progress)?;
    }
    let _ = fs::remove_dir(&folder);
    text.push_str(&format!(
        "\n{} records of one {}-byte value; {} connections; median of {} rounds of {:.1} s; ratio: with to without.\n",
        settings.keys,
        settings.value_size,
        settings.connections,
        settings.rounds,
        settings.duration.as_secs_f64()
    ));
    Ok(text)
}

fn measure_one(
    protection: Protection,
    targets: [&Target; 2],
    settings: &Settings,
    text: &mut String,
    progress: &mut impl Write,
) -> Result<(), String> {
    for target in targets {
        Phase::Load.run(target, settings, Duration::MAX, None, 0)?;
    }
    for phase in [Phase::Read, Phase::Write] {
        for target in targets {
            phase.run(target, settings, WARM_UP.min(settings.duration), None, 0)?;
        }
        let mut values = [Vec::new(), Vec::new()];
        for round in 0..settings.rounds {
            for turn in 0..targets.len() {
                let at = (turn + round) % targets.len();
                let run = phase.run(targets[at], settings, settings.duration, None, 1 + round as u64)?;
                let sample = Sample::of(&run, phase);
                let (name, label) = (protection.name(), &targets[at].label);
                super::say(
                    progress,
                    &format!("round {}: {name}, {label}, {}: {sample}", round + 1, phase.name()),
                );
                values[at].extend(sample.cpu_us);
            }
        }
        if median(values[0].clone()).is_none() {
            return Err("the CPU time of the servers cannot be measured".to_owned());
        }
        let what = if protection.is_of_device() { "records of a file" } else { "records in memory" };
        let name = format!("{}: {} of {what}: server CPU per request, µs", protection.name(), phase.name());
        append_values(text, &name, 2, &values);
    }
    Ok(())
}
