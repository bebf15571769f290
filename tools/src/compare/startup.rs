//! The time from a server's start to its first acknowledged write.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cf::Digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::options::StartupOptions;
use super::table::median;
use crate::host::Host;
use crate::load::random::Random;
use crate::record::object_spec::ObjectSpec;
use crate::record::reply;
use crate::record::request::{BinWrites, Header, KEY_TYPE_INTEGER, Target, Template, info};

/// Pause between attempts. It limits the error of the result.
const RETRY_EVERY: Duration = Duration::from_micros(500);

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the server several times and reports the times.
///
/// # Errors
/// When another server already uses the port, or the server does not start or end in time.
pub(super) fn measure(options: &StartupOptions, progress: &mut impl Write) -> Result<String, String> {
    let host = Host::parse(&options.host, options.port)?;
    let address = host.resolve().map_err(|error| format!("{host}: {error}"))?;
    let timeout = Duration::from_secs(options.timeout);
    let request = write_request(&options.namespace)?;
    let mut times_ms = Vec::new();
    for round in 1..=options.rounds {
        if TcpStream::connect(address).is_ok() {
            return Err(format!("something serves {host} already"));
        }
        let start = Instant::now();
        let mut server = start_server(options)?;
        let taken = first_write(address, &request, &mut server, start + timeout);
        stop_server(&mut server, timeout)?;
        let taken_ms = (taken? - start).as_secs_f64() * 1000.0;
        super::say(progress, &format!("round {round}: {taken_ms:.1} ms"));
        times_ms.push(taken_ms);
    }
    let middle = median(times_ms.clone()).ok_or("there are no rounds")?;
    let (least, most) =
        times_ms.iter().fold((f64::MAX, 0f64), |(least, most), t| (least.min(*t), most.max(*t)));
    Ok(format!(
        "from exec to the first acknowledged write: {middle:.1} ms (median of {}; {least:.1} to {most:.1})\n",
        options.rounds
    ))
}

/// The request that writes one small record.
fn write_request(namespace: &str) -> Result<Vec<u8>, String> {
    let writes = BinWrites::new(ObjectSpec::parse("1")?, vec!["a".to_owned()], vec![0]);
    let header = Header { info2: info::INFO2_WRITE, ..Header::default() };
    let (set, key) = ("startup", 1i64);
    let template = Template::new(header, Target { namespace, set, send_key: false });
    let digest = Digest::of_key(set.as_bytes(), KEY_TYPE_INTEGER, &key.to_be_bytes());
    let mut request = Vec::new();
    template.with_writes(&writes, &mut Random::new(0)).append(&digest, key, &mut request);
    Ok(request)
}

fn start_server(options: &StartupOptions) -> Result<Child, String> {
    let (program, arguments) = options.server.split_first().ok_or("there is no command")?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))
}

/// Tries until the write is acknowledged.
fn first_write(
    address: SocketAddr,
    request: &[u8],
    server: &mut Child,
    deadline: Instant,
) -> Result<Instant, String> {
    loop {
        if is_written(address, request) {
            return Ok(Instant::now());
        }
        if let Ok(Some(status)) = server.try_wait() {
            return Err(format!("the server ended: {status}"));
        }
        if Instant::now() > deadline {
            return Err("the server did not acknowledge a write in time".to_owned());
        }
        std::thread::sleep(RETRY_EVERY);
    }
}

/// Whether the server accepted the write. A closed port, a closed connection and a refusal all mean that it
/// is not ready.
fn is_written(address: SocketAddr, request: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT) else { return false };
    // Without a listener, the system may choose this port for the connection's own end, so that the
    // connection is with itself.
    if stream.local_addr().is_ok_and(|local| local == address) {
        return false;
    }
    let prepared = stream.set_read_timeout(Some(ANSWER_TIMEOUT)).and_then(|()| stream.write_all(request));
    if prepared.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 256];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return false,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
        }
        match reply::parse(&answer) {
            Ok(Some(reply)) => return reply.code == 0,
            Ok(None) => {}
            Err(_) => return false,
        }
    }
}

/// Asks the server to end, and kills it if it does not.
fn stop_server(server: &mut Child, timeout: Duration) -> Result<(), String> {
    // A server that has already ended needs no signal.
    let _ = kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM);
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if server.try_wait().map_err(|error| format!("cannot wait for the server: {error}"))?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    server.kill().and_then(|()| server.wait()).map_err(|error| format!("cannot end the server: {error}"))?;
    Err("the server did not end when asked".to_owned())
}
