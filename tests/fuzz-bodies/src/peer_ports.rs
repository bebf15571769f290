//! Bytes that strangers send to a node's fabric and heartbeat ports: whole streams, with or without a hello,
//! and split into messages or not. The node must continue and answer its clients.
//!
//! The first byte of the input selects the port and how the rest is sent. In a stream of messages, each
//! message begins with two bytes of the input: type and size.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use asd::config;
use asd::server::Server;
use proto::peer::NodeId;
use proto::peer::hello::{Channel, Hello};

/// A slower answer counts as a finding.
const PATIENCE: Duration = Duration::from_secs(10);
const MESSAGE_TYPES: u16 = 16;

struct Node {
    clients: SocketAddr,
    fabric: SocketAddr,
    heartbeat: SocketAddr,
    _server: Server,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let (fabric, heartbeat) = (free_address(), free_address());
        let text = format!(
            "service {{\n cluster-name fuzz\n service-threads 1\n}}\n\
             network {{\n service {{\n address 127.0.0.1\n port 0\n }}\n\
             fabric {{\n address 127.0.0.1\n port {}\n }}\n\
             heartbeat {{\n mode mesh\n address 127.0.0.1\n port {}\n mesh-seed-address-port 127.0.0.1 {}\n }}\n}}\n\
             namespace test {{\n storage-engine memory {{\n data-size 512M\n }}\n}}\n",
            fabric.port(),
            heartbeat.port(),
            heartbeat.port()
        );
        let (config, _) = config::parse(&text, "fuzz").expect("a valid configuration");
        config.keep_no_metadata();
        let server = Server::start(config).expect("a server");
        Node { clients: server.client_addresses()[0], fabric, heartbeat, _server: server }
    })
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let node = node();
    let is_fabric = choice & 1 == 0;
    let mut bytes = Vec::new();
    if is_fabric && choice & 2 == 0 {
        let channel = Channel::ALL[usize::from(choice >> 4) % Channel::ALL.len()];
        Hello { node: NodeId(u64::from(choice >> 6) + 0x77), channel }.encode(&mut bytes);
    }
    if choice & 4 == 0 {
        bytes.extend_from_slice(rest);
    } else {
        put_messages(rest, &mut bytes);
    }
    let address = if is_fabric { node.fabric } else { node.heartbeat };
    let mut stream = TcpStream::connect(address).expect("the port is open");
    // The node may close the connection before everything is sent.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Both);
    check_clients(node.clients);
}

fn put_messages(mut rest: &[u8], bytes: &mut Vec<u8>) {
    while let [kind, size, behind @ ..] = rest {
        let (body, behind) = behind.split_at(usize::from(*size).min(behind.len()));
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&(u16::from(*kind) % MESSAGE_TYPES).to_be_bytes());
        bytes.extend_from_slice(body);
        rest = behind;
    }
}

/// Checks that the node answers a client.
fn check_clients(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("the node takes clients");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    stream.write_all(b"\x02\x01\0\0\0\0\0\x07status\n").expect("send a question");
    let mut answer = [0; 8 + 10];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer[8..], b"status\tok\n");
}
