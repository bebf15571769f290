//! A blocking connection of a hostile client. Each operation ends as soon as the stop flag is set.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::record::request::PROTO_SIZE;

/// How often the stop flag is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for the server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest frame kept, in bytes.
const FRAME_SIZE_MAX: u64 = 192 << 20;

pub(super) struct Connection<'a> {
    stream: TcpStream,
    stop: &'a AtomicBool,
}

impl<'a> Connection<'a> {
    /// Connects. A small `receive_buffer` (in bytes) makes the server notice early that the client does not
    /// read.
    ///
    /// # Errors
    /// When the server does not accept the connection.
    pub(super) fn open(
        address: SocketAddr,
        receive_buffer: Option<usize>,
        stop: &'a AtomicBool,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        socket.set_write_timeout(Some(POLL_INTERVAL))?;
        Ok(Connection { stream: socket.into(), stop })
    }

    /// Sends `bytes`. Returns `false` if the stop flag was set before the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            if self.is_stopped() {
                return Ok(false);
            }
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends as many of `bytes` as the kernel takes within a moment. Returns their number.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if is_timeout(&error) => Ok(0),
            result => result,
        }
    }

    /// Reads one frame into `frame`, header and body. Returns `false` if the stop flag was set before the
    /// end.
    ///
    /// # Errors
    /// When the connection breaks, or the frame is invalid.
    pub(super) fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        frame.clear();
        if !self.read_up_to(frame, PROTO_SIZE)? {
            return Ok(false);
        }
        let header = frame.first_chunk::<PROTO_SIZE>().ok_or(io::ErrorKind::InvalidData)?;
        let size = u64::from_be_bytes(*header) & 0xFFFF_FFFF_FFFF;
        if size > FRAME_SIZE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.read_up_to(frame, PROTO_SIZE + size as usize)
    }

    /// Reads and discards at most `count` bytes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) fn trickle(&mut self, count: usize) -> io::Result<()> {
        match self.stream.read(&mut vec![0; count]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if !is_timeout(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Closes the connection with a reset, so that its port does not stay in TIME_WAIT.
    pub(super) fn reset(self) {
        // If this fails, the connection is closed in the normal way.
        drop(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
    }

    fn read_up_to(&mut self, frame: &mut Vec<u8>, size: usize) -> io::Result<bool> {
        let mut filled = frame.len();
        frame.resize(size, 0);
        while filled < size {
            if self.is_stopped() {
                return Ok(false);
            }
            match self.stream.read(&mut frame[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
