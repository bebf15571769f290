//! Code shared by targets that need a whole server: a server in this process, with or without access control,
//! and connections to it.
//!
//! The server runs with all its threads, so that the fuzzer covers each of them. It keeps its records from
//! one input to the next. To repeat a finding that depends on them, run the corpus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use asd::config;
use asd::server::Server;
use cf::log::{Level, Levels, Settings, SinkSettings, Target};

/// A slower answer counts as a finding.
const PATIENCE: Duration = Duration::from_secs(10);
const INFO: u8 = 1;
const SECURITY: u8 = 2;
const MESSAGE: u8 = 3;
const COMPRESSED: u8 = 4;
/// The login of the first administrator: user `admin`, password `admin`.
const LOGIN: &[u8] = b"\0\0\x14\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0admin\
    \0\0\0\x3d\x03$2a$10$7EqJtq98hPqEX7fNZaFWoO1mVO/4MLpGzsqojz6E9Gef6iXDjXdDa";

const CONFIG: &str = "
service {
    cluster-name fuzz
    service-threads 1
}
network {
    service {
        address 127.0.0.1
        port 0
    }
}
namespace test {
    replication-factor 1
    allow-ttl-without-nsup true
    storage-engine memory {
        data-size 512M
    }
}
";
const ACCESS_CONTROL: &str = "
security {
    enable-quotas true
}
";

/// The user of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Who {
    /// Any client of a server without access control.
    #[default]
    Anybody,
    /// A client without a login at a server with access control.
    Stranger,
    /// The user administrator at the same server.
    Administrator,
}

/// A connection to a server of this process. It is reopened whenever the server closes it.
#[derive(Debug, Default)]
pub(crate) struct Client {
    who: Who,
    stream: Option<TcpStream>,
}

impl Client {
    /// A connection of `who`.
    pub(crate) fn of(who: Who) -> Self {
        Client { who, stream: None }
    }

    /// Sends a record message, then waits until it is answered or the connection ends. Answers come in order,
    /// so the answer to an info request that follows shows which.
    pub(crate) fn message(&mut self, body: &[u8]) {
        self.send_and_wait(&[frame(MESSAGE, body), frame(INFO, b"status\n")].concat());
    }

    /// Same as [`message`](Self::message), with the body of a compressed message.
    pub(crate) fn compressed_message(&mut self, body: &[u8]) {
        self.send_and_wait(&[frame(COMPRESSED, body), frame(INFO, b"status\n")].concat());
    }

    /// Same as [`message`](Self::message), with a request of the security protocol; returns the result in each frame of
    /// the answer.
    pub(crate) fn security(&mut self, body: &[u8]) -> Vec<u8> {
        self.send_and_wait(&[frame(SECURITY, body), frame(INFO, b"status\n")].concat()).results
    }

    /// Sends an info request and waits for the answer.
    pub(crate) fn info(&mut self, body: &[u8]) {
        self.send_and_wait(&frame(INFO, body));
    }

    /// As [`info`](Self::info), for a command that the following input relies on.
    ///
    /// # Panics
    /// If the answer is not `ok`.
    pub(crate) fn prepare(&mut self, command: &[u8]) {
        let answer = self.send_and_wait(&frame(INFO, command)).info;
        assert!(answer.ends_with(b"\tok\n"), "{}", String::from_utf8_lossy(&answer));
    }

    fn send_and_wait(&mut self, bytes: &[u8]) -> Answers {
        let who = self.who;
        let stream = self.stream.get_or_insert_with(|| connect(who));
        let answers = stream.write_all(bytes).ok().and_then(|()| receive_until_info(stream));
        if answers.is_none() {
            self.stream = None;
        }
        answers.unwrap_or_default()
    }
}

/// The answers up to that of an info request.
#[derive(Default)]
struct Answers {
    /// The second byte of each frame of the security protocol: its result.
    results: Vec<u8>,
    info: Vec<u8>,
}

/// Reads answers up to that of an info request; `None` if the connection ends before.
fn receive_until_info(stream: &mut TcpStream) -> Option<Answers> {
    let mut results = Vec::new();
    loop {
        let mut header = [0; 8];
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("neither answered nor closed")
            }
            Err(_) => return None,
        }
        let size = u64::from_be_bytes(header) & 0xffff_ffff_ffff;
        let mut body = Vec::new();
        stream.take(size).read_to_end(&mut body).expect("the rest of an answer");
        match header[1] {
            INFO => return Some(Answers { results, info: body }),
            SECURITY => results.push(*body.get(1).expect("a message in each frame")),
            _ => {}
        }
    }
}

fn start(config: &str) -> Server {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        // Lines are formatted, because that may fail too, but are not written.
        let sink =
            SinkSettings { target: Target::File("/dev/null".into()), levels: Levels::all(Level::Detail) };
        let settings = Settings { sinks: vec![sink], ..Settings::default() };
        cf::log::logger().configure(&settings).expect("a log");
    });
    let (config, _) = config::parse(config, "fuzz").expect("a valid configuration");
    config.keep_no_metadata();
    Server::start(config).expect("a server")
}

fn connect(who: Who) -> TcpStream {
    static OPEN: OnceLock<Server> = OnceLock::new();
    static SECURED: OnceLock<Server> = OnceLock::new();
    let server = match who {
        Who::Anybody => OPEN.get_or_init(|| start(CONFIG)),
        _ => SECURED.get_or_init(|| start(&[CONFIG, ACCESS_CONTROL].concat())),
    };
    let address: SocketAddr = server.client_addresses()[0];
    let mut stream = TcpStream::connect(address).expect("connect to the server of this process");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    stream.set_nodelay(true).expect("set no delay");
    if who == Who::Administrator {
        let login = [frame(SECURITY, LOGIN), frame(INFO, b"status\n")].concat();
        stream.write_all(&login).expect("send the login");
        let answers = receive_until_info(&mut stream).expect("an answer");
        assert_eq!(answers.results, [0], "the administrator logs in");
    }
    stream
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let header = 0x0200_0000_0000_0000 | u64::from(kind) << 48 | body.len() as u64;
    [&header.to_be_bytes()[..], body].concat()
}

/// The request that registers a module.
pub(crate) fn udf_put(file_name: &str, text: &str) -> Vec<u8> {
    let content = base64(text.as_bytes());
    format!("udf-put:filename={file_name};content-len={};content={content};\n", content.len()).into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
