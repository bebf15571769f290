//! Shared by targets that need a whole server: one in the process, and a connection to it.
//!
//! The server runs with all its threads, so that the fuzzer sees what a request does in each of them. It keeps
//! its records from one input to the next; a finding that depends on them is repeated by running the corpus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use asd::config;
use asd::server::Server;
use cf::log::{Level, Levels, Settings, SinkSettings, Target};

/// An answer that takes longer is a finding.
const PATIENCE: Duration = Duration::from_secs(10);
const MESSAGE: u8 = 3;
const COMPRESSED: u8 = 4;
const INFO: u8 = 1;

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

/// A connection to the server of this process, opened anew whenever the server ends it.
#[derive(Debug, Default)]
pub(crate) struct Client {
    stream: Option<TcpStream>,
}

impl Client {
    /// Sends a record message, then waits until it was dealt with: answered, or met with the end of the
    /// connection. An info request behind it tells which, as answers come in order.
    pub(crate) fn message(&mut self, body: &[u8]) {
        self.send_and_wait(&[frame(MESSAGE, body), frame(INFO, b"status\n")].concat());
    }

    /// As [`message`](Self::message), with a body of a compressed message.
    pub(crate) fn compressed_message(&mut self, body: &[u8]) {
        self.send_and_wait(&[frame(COMPRESSED, body), frame(INFO, b"status\n")].concat());
    }

    /// Sends an info request and waits for the answer.
    pub(crate) fn info(&mut self, body: &[u8]) {
        self.send_and_wait(&frame(INFO, body));
    }

    fn send_and_wait(&mut self, bytes: &[u8]) {
        let stream = self.stream.get_or_insert_with(connect);
        if stream.write_all(bytes).is_err() {
            self.stream = None;
            return;
        }
        loop {
            let mut header = [0; 8];
            match stream.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("neither answered nor closed")
                }
                Err(_) => {
                    self.stream = None;
                    return;
                }
            }
            let size = u64::from_be_bytes(header) & 0xffff_ffff_ffff;
            std::io::copy(&mut stream.take(size), &mut std::io::sink()).expect("the rest of an answer");
            if header[1] == INFO {
                return;
            }
        }
    }
}

fn connect() -> TcpStream {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        // Lines are made, as their making may fail too, but nobody reads them.
        let sink =
            SinkSettings { target: Target::File("/dev/null".into()), levels: Levels::all(Level::Detail) };
        let settings = Settings { sinks: vec![sink], ..Settings::default() };
        cf::log::logger().configure(&settings).expect("a log");
        let (config, _) = config::parse(CONFIG, "fuzz").expect("a valid configuration");
        Server::start(config).expect("a server")
    });
    let address: SocketAddr = server.client_addresses()[0];
    let stream = TcpStream::connect(address).expect("connect to the server of this process");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    stream.set_nodelay(true).expect("set no delay");
    stream
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let header = 0x0200_0000_0000_0000 | u64::from(kind) << 48 | body.len() as u64;
    [&header.to_be_bytes()[..], body].concat()
}
