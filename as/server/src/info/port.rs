//! The info port: requests in plain text, one a line, answered by their values alone, one a line. For a person with
//! `telnet` or `nc`, and for scripts.
//!
//! # Threads
//! One thread serves all connections, and answers what they ask itself. A connection whose answers are not taken is not
//! read from.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use cf::sys::epoll::{Epoll, Events, Trigger};
use cf::sys::eventfd::EventFd;

use super::{is_too_late, timeout, value_of};
use crate::metrics::ServerCounter;
use crate::node::Node;

const STOP_TOKEN: u64 = u64::MAX;
/// Most connections at a time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Longest line; whoever sends a longer one is cut off.
const LINE_SIZE_MAX: usize = 64 << 10;
/// Bytes read at a time.
const RECEIVE_SIZE: usize = 4096;
/// What telnet sends before its own commands, Ctrl-C among them.
const TELNET_COMMAND: u8 = 0xFF;

/// A connection: lines that have come, and what is left of the answer to one of them. The next is answered when that is
/// sent, so that a short request cannot ask for more memory than one answer.
struct InfoConnection {
    stream: TcpStream,
    input: Vec<u8>,
    /// How much of `input` is answered.
    answered: usize,
    /// When the last of it came.
    received: Instant,
    output: Vec<u8>,
}

/// Body of the info port's thread; ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve_port(node: &Node, listeners: &[TcpListener], stop: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop, STOP_TOKEN, Trigger::Level)?;
    for (at, listener) in listeners.iter().enumerate() {
        epoll.add(listener, at as u64, Trigger::Level)?;
    }
    let mut connections: Vec<Option<InfoConnection>> = Vec::new();
    let mut events = Events::with_capacity(32);
    loop {
        for event in epoll.wait(&mut events, None)? {
            let token = event.token();
            if token == STOP_TOKEN {
                return Ok(());
            }
            cf::fault_point!("info-port");
            if let Some(listener) = listeners.get(token as usize) {
                accept(listener, listeners.len(), &epoll, &mut connections);
                continue;
            }
            let Some(slot) = connections.get_mut(token as usize - listeners.len()) else { continue };
            let goes_on =
                slot.as_mut().is_some_and(|connection| !event.is_broken() && connection.serve(node));
            if !goes_on {
                *slot = None;
            }
        }
    }
}

/// Takes one connection; its token is its place behind those of the listeners.
fn accept(
    listener: &TcpListener,
    first_token: usize,
    epoll: &Epoll,
    connections: &mut Vec<Option<InfoConnection>>,
) {
    let (stream, peer) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
        Err(error) => return cf::warning_limited!(InfoPort, "cannot accept a connection: {error}"),
    };
    let free = connections.iter().position(Option::is_none).unwrap_or(connections.len());
    if free >= CONNECTIONS_MAX {
        return cf::warning_limited!(InfoPort, "refusing {peer}: {CONNECTIONS_MAX} connections are open");
    }
    if let Err(error) = watch(&stream, peer, epoll, (first_token + free) as u64) {
        return cf::warning_limited!(InfoPort, "cannot serve {peer}: {error}");
    }
    let connection = Some(InfoConnection::new(stream));
    if free == connections.len() {
        connections.push(connection);
    } else {
        connections[free] = connection;
    }
}

fn watch(stream: &TcpStream, peer: SocketAddr, epoll: &Epoll, token: u64) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll.add(stream, token, Trigger::Edge)?;
    cf::detail!(InfoPort, "new connection: {peer}");
    Ok(())
}

impl InfoConnection {
    fn new(stream: TcpStream) -> Self {
        InfoConnection {
            stream,
            input: Vec::new(),
            answered: 0,
            received: Instant::now(),
            output: Vec::new(),
        }
    }

    /// Sends, answers and reads until the socket has no more or takes no more. `false` when the connection is done.
    fn serve(&mut self, node: &Node) -> bool {
        let mut buffer = [0; RECEIVE_SIZE];
        loop {
            if self.send().is_err() {
                return false;
            }
            if !self.output.is_empty() {
                return true;
            }
            if self.answer_next(node) {
                continue;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(size) => {
                    self.received = Instant::now();
                    self.input.extend_from_slice(&buffer[..size]);
                    if self.input.len() > LINE_SIZE_MAX || self.input.contains(&TELNET_COMMAND) {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Answers the next line, if it is complete.
    fn answer_next(&mut self, node: &Node) -> bool {
        let rest = &self.input[self.answered..];
        let Some(size) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            self.input.drain(..std::mem::take(&mut self.answered));
            return false;
        };
        let line = String::from_utf8_lossy(&rest[..size]).into_owned();
        self.answered += size + 1;
        if line.is_empty() {
            return true;
        }
        let mut value = if is_too_late(node, self.received) {
            node.metrics.add(ServerCounter::InfoTimeout, 1);
            timeout().to_string()
        } else {
            node.metrics.add(ServerCounter::InfoComplete, 1);
            value_of(node, &line)
        };
        value.push('\n');
        self.output = value.into_bytes();
        true
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// When the connection is broken.
    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => drop(self.output.drain(..size)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
