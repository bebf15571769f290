//! Messages between nodes. They are built and parsed byte by byte, for a test that acts as a node.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Opens a read-write connection from node `node` to the fabric port of another node.
///
/// # Panics
/// If it is refused.
pub fn connect(port: u16, node: u64) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let hello = [(0, 3, node.to_be_bytes().to_vec()), (5, 1, number(0))];
    stream.write_all(&peer_message(0, &hello)).expect("a hello");
    stream
}

/// A field of a message between nodes.
pub fn put_field(out: &mut Vec<u8>, id: u16, field_type: u8, value: &[u8]) {
    out.extend(id.to_be_bytes());
    out.push(field_type);
    if field_type == 6 {
        out.extend((value.len() as u32).to_be_bytes());
    }
    out.extend(value);
}

/// A message between nodes.
pub fn peer_message(message_type: u16, fields: &[(u16, u8, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    fields.iter().for_each(|(id, field_type, value)| put_field(&mut body, *id, *field_type, value));
    let mut message = (body.len() as u32).to_be_bytes().to_vec();
    message.extend(message_type.to_be_bytes());
    message.extend(body);
    message
}

/// The value of a field with a 32-bit number.
pub fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// The next message of type `wanted` on a connection between nodes, without its header.
///
/// # Panics
/// If there is none.
pub fn next_message(stream: &mut TcpStream, wanted: u16) -> Vec<u8> {
    loop {
        let mut header = [0; 6];
        stream.read_exact(&mut header).expect("a message");
        let mut body = vec![0; u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize];
        stream.read_exact(&mut body).expect("a message");
        if u16::from_be_bytes([header[4], header[5]]) == wanted {
            return body;
        }
    }
}
