//! Servers that run in the test process and answer correctly, wrongly or not at all, for tests of the tools.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use cf::threads;

/// Proto type of info requests.
const INFO: u8 = 1;

/// How the server treats a request.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Stores and returns records.
    Honest,
    /// Returns one bin fewer than stored for every read.
    Cutting,
    /// Answers every request with this result code.
    Refusing(u8),
    /// Closes the connection after this many requests.
    Leaving(usize),
    /// Accepts requests and never answers.
    Silent,
}

type Records = Arc<Mutex<HashMap<Vec<u8>, (u16, Vec<u8>)>>>;

/// Starts a server whose threads live as long as the test process.
pub(crate) fn server(manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let records = Records::default();
    let accept = move || {
        for stream in listener.incoming() {
            let records = records.clone();
            threads::spawn("connection", move || serve(&mut stream.unwrap(), manner, &records)).unwrap();
        }
    };
    threads::spawn("accept", accept).unwrap();
    address
}

fn serve(stream: &mut TcpStream, manner: Manner, records: &Records) {
    stream.set_nodelay(true).unwrap();
    let mut served = 0;
    let mut header = [0; 8];
    while stream.read_exact(&mut header).is_ok() {
        let length = u64::from_be_bytes(header) & 0xFFFF_FFFF_FFFF;
        let mut body = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut body).unwrap();
        if header[1] == INFO {
            stream
                .write_all(
                    b"\x02\x01\0\0\0\0\0\x39build\tsmall\nget-config:context=service\tservice-threads=1\n",
                )
                .unwrap();
            continue;
        }
        assert_eq!(header[..2], [2, 3]);
        match manner {
            Manner::Silent => continue,
            Manner::Leaving(after) if served == after => return,
            _ => served += 1,
        }
        let (code, op_count, ops) = answer(&body, manner, records);
        let mut reply = ((22 + ops.len()) as u64).to_be_bytes().to_vec();
        reply[..2].copy_from_slice(&[2, 3]);
        reply.resize(30, 0);
        (reply[8], reply[13]) = (22, code);
        reply[28..30].copy_from_slice(&op_count.to_be_bytes());
        reply.extend_from_slice(&ops);
        // Replies are split on purpose, so that the client has to join them.
        let middle = reply.len() / 2;
        let torn = [&reply[..middle], &reply[middle..]];
        if torn.iter().any(|part| stream.write_all(part).is_err()) {
            return;
        }
    }
}

/// Result code, number of ops and ops for the request in `body`.
fn answer(body: &[u8], manner: Manner, records: &Records) -> (u8, u16, Vec<u8>) {
    if let Manner::Refusing(code) = manner {
        return (code, 0, Vec::new());
    }
    let field_count = u16::from_be_bytes([body[18], body[19]]);
    let op_count = u16::from_be_bytes([body[20], body[21]]);
    let mut at = 22;
    let mut digest = Vec::new();
    for _ in 0..field_count {
        let size = u32::from_be_bytes(body[at..at + 4].try_into().unwrap()) as usize;
        if body[at + 4] == 4 {
            digest = body[at + 5..at + 4 + size].to_vec();
        }
        at += 4 + size;
    }
    assert_eq!(digest.len(), 20);
    let mut records = records.lock().unwrap();
    let (is_write, is_delete) = (body[2] & 1 != 0, body[2] & 2 != 0);
    if is_delete {
        return (if records.remove(&digest).is_some() { 0 } else { 2 }, 0, Vec::new());
    }
    if is_write {
        records.insert(digest, (op_count, body[at..].to_vec()));
        return (0, 0, Vec::new());
    }
    match records.get(&digest) {
        None => (2, 0, Vec::new()),
        Some((count, ops)) if matches!(manner, Manner::Cutting) => (0, count - 1, ops.clone()),
        Some((count, ops)) => (0, *count, ops.clone()),
    }
}
