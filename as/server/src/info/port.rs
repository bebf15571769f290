//! The info port: requests and answers in plain text. Each line is a request; its answer is the bare value on
//! one line. The port serves scripts, and people with `telnet` or `nc`.
//!
//! # Threads
//! One thread serves all connections, a few lines of each at a time, and computes the answers. It does not
//! read from a connection whose client does not read its answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cf::sys::eventfd::EventFd;
use proto::ResultCode;

use super::{InfoError, is_too_late, timeout, value_of};
use crate::metrics::ServerCounter;
use crate::node::Node;
use crate::side_port::{self, Bounds, Guests, Turn};

/// A connection without requests is closed after this time.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest line; a client that sends a longer one is disconnected.
const LINE_SIZE_MAX: usize = 64 << 10;
/// Bytes read at a time.
const RECEIVE_SIZE: usize = 4096;
/// Number of lines of a connection that are answered before other connections get their turn.
const LINES_AT_ONCE: usize = 4;
/// The byte that telnet sends before its own commands, such as Ctrl-C.
const TELNET_COMMAND: u8 = 0xFF;

/// A connection: received lines and the unsent rest of one answer. The next line is answered only after that
/// rest is sent, so the memory of a connection is limited to one answer.
struct InfoConnection {
    stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of `input` that are answered.
    answered: usize,
    /// The time at which the last bytes came.
    received: Instant,
    output: Vec<u8>,
}

/// Body of the info port's thread; ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve_port(node: &Node, listeners: &[TcpListener], stop: &EventFd) -> io::Result<()> {
    let connections = node.config.network.connection_limits.info.get() as usize;
    side_port::serve(&mut Port { node }, listeners, Bounds { connections, idle: IDLE_TIME_MAX }, stop)
}

struct Port<'n> {
    node: &'n Node,
}

impl Guests for Port<'_> {
    type Guest = InfoConnection;

    fn welcome(&mut self, stream: TcpStream, _: SocketAddr) -> Option<InfoConnection> {
        cf::fault_point!("info-port");
        Some(InfoConnection {
            stream,
            input: Vec::new(),
            answered: 0,
            received: Instant::now(),
            output: Vec::new(),
        })
    }

    fn stream(guest: &InfoConnection) -> &TcpStream {
        &guest.stream
    }

    fn serve(&mut self, guest: &mut InfoConnection) -> Turn {
        guest.take_turn(self.node).unwrap_or(Turn::Over)
    }
}

impl InfoConnection {
    /// Sends, answers and reads until the socket would block or the turn is over.
    ///
    /// # Errors
    /// When the connection is done or broken.
    fn take_turn(&mut self, node: &Node) -> io::Result<Turn> {
        let mut buffer = [0; RECEIVE_SIZE];
        let (mut lines, mut waits) = (0, Turn::Waits);
        loop {
            if self.send()? {
                waits = Turn::Served;
            }
            if !self.output.is_empty() {
                return Ok(waits);
            }
            if lines == LINES_AT_ONCE {
                return Ok(Turn::HasMore);
            }
            if self.answer_next(node) {
                (lines, waits) = (lines + 1, Turn::Served);
                continue;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Turn::Over),
                Ok(size) => {
                    self.received = Instant::now();
                    self.input.extend_from_slice(&buffer[..size]);
                    if self.input.len() > LINE_SIZE_MAX || self.input.contains(&TELNET_COMMAND) {
                        return Ok(Turn::Over);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(waits),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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
        let mut value = if node.security.is_some() {
            // This port has no login.
            InfoError::new(ResultCode::NotAuthenticated, "not authenticated").to_string()
        } else if is_too_late(node, self.received) {
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

    /// Sends as much as the socket takes; returns whether it took anything.
    ///
    /// # Errors
    /// When the connection is broken.
    fn send(&mut self) -> io::Result<bool> {
        let before = self.output.len();
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => drop(self.output.drain(..size)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.output.len() < before)
    }
}
