//! A non-blocking connection of the load generator, with its requests in flight.
//!
//! Replies come in the order of the requests, so the requests in flight are a queue.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::protocol::Kind;
use crate::link::Link;

/// Smallest buffer space for a read, in bytes.
const READ_SIZE_MIN: usize = 64 << 10;

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// Time at which it was encoded, on the monotonic clock.
    pub(super) start_ns: u64,
    pub(super) kind: Kind,
}

/// The result of one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Received {
    /// The scratch buffer begins with this many bytes. `drained` says whether the kernel has no more.
    Bytes { filled: usize, drained: bool },
    /// No bytes are available yet.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    /// Encoded requests. The kernel has taken those before `sent`.
    pub(super) out: Vec<u8>,
    sent: usize,
    /// The beginning of an incomplete reply.
    partial: Vec<u8>,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Whether the connection is in its thread's queue until the pace allows a request.
    pub(super) is_held_back: bool,
}

impl Connection {
    /// Makes a connection of `link`, with at most `depth` requests in flight.
    pub(super) fn new(link: Link, depth: usize) -> io::Result<Self> {
        link.stream().set_nonblocking(true)?;
        Ok(Connection {
            link,
            out: Vec::new(),
            sent: 0,
            partial: Vec::new(),
            in_flight: VecDeque::with_capacity(depth),
            is_held_back: false,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.link.stream()
    }

    /// Passes encoded requests to the kernel until it takes no more. The rest follows when the connection is
    /// writable again.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.link.write(&self.out[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        match self.link.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Fills `scratch` with the kept beginning of a reply and the bytes that the kernel has.
    ///
    /// A short read means that the kernel has no more bytes. Events are edge-triggered, so further bytes are
    /// a new event.
    pub(super) fn receive(&mut self, scratch: &mut Vec<u8>) -> io::Result<Received> {
        let kept = self.partial.len();
        if scratch.len() < kept + READ_SIZE_MIN {
            scratch.resize((kept + READ_SIZE_MIN).max(scratch.len() * 2), 0);
        }
        loop {
            match self.link.read(&mut scratch[kept..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    scratch[..kept].copy_from_slice(&self.partial);
                    self.partial.clear();
                    let filled = kept + count;
                    let drained = filled < scratch.len() && self.link.is_clear();
                    return Ok(Received::Bytes { filled, drained });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps the beginning of a reply for the next [`Connection::receive`].
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Connection::new(client.into(), 4).unwrap(), listener.accept().unwrap().0)
    }

    fn receive_soon(connection: &mut Connection, scratch: &mut Vec<u8>) -> usize {
        loop {
            if let Received::Bytes { filled, .. } = connection.receive(scratch).unwrap() {
                return filled;
            }
        }
    }

    #[test]
    fn kept_bytes_come_before_new_ones() {
        let (mut connection, mut peer) = pair();
        let mut scratch = Vec::new();
        peer.write_all(b"abcd").unwrap();
        assert_eq!(receive_soon(&mut connection, &mut scratch), 4);
        connection.keep(b"cd");
        assert_eq!(connection.receive(&mut scratch).unwrap(), Received::Nothing);
        peer.write_all(b"ef").unwrap();
        let filled = receive_soon(&mut connection, &mut scratch);
        assert_eq!(&scratch[..filled], b"cdef");
    }

    #[test]
    fn bytes_that_the_kernel_refuses_are_sent_later() {
        let (mut connection, mut peer) = pair();
        let big: Vec<u8> = (0..20_000_000u32).map(|i| i as u8).collect();
        connection.out.extend_from_slice(&big);
        connection.flush().unwrap();
        assert!(!connection.out.is_empty(), "the socket buffers should not hold this much");
        let mut got = vec![0; big.len()];
        let mut at = 0;
        while at < got.len() {
            at += peer.read(&mut got[at..]).unwrap();
            connection.flush().unwrap();
        }
        assert!(got == big && connection.out.is_empty());
    }

    #[test]
    fn a_closed_connection_is_an_error() {
        let (mut connection, peer) = pair();
        drop(peer);
        let mut scratch = Vec::new();
        let error = loop {
            match connection.receive(&mut scratch) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
