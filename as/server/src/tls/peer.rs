//! TLS with another node on a non-blocking socket, as a stream of bytes for both ends of a connection.
//!
//! Both sides present a certificate for the one name that the nodes of a cluster share. One thread owns a session.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{IpAddr, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, InvalidMessage, ServerConfig, ServerConnection,
};

/// Approximate limit of encrypted bytes that wait for the socket.
const UNSENT_SIZE_MAX: usize = 256 << 10;

/// The state of one connection.
pub(crate) struct PeerSession {
    connection: Connection,
    is_established: bool,
}

impl PeerSession {
    /// The session of a connection that another node made.
    ///
    /// # Errors
    /// Those of rustls.
    pub(super) fn accepted(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(ServerConnection::new(config)?.into()))
    }

    /// The session of a connection that this node makes.
    ///
    /// # Errors
    /// Those of rustls.
    pub(super) fn connecting(config: Arc<ClientConfig>) -> Result<Self, Error> {
        // The name of a cluster need not be a DNS name: the verifier checks it, and none is sent.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED.into()));
        Ok(Self::new(ClientConnection::new(config, nobody)?.into()))
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(UNSENT_SIZE_MAX));
        PeerSession { connection, is_established: false }
    }

    /// Whether the handshake has ended since the last call.
    pub(crate) fn has_just_been_established(&mut self) -> bool {
        let is_new = !self.is_established && !self.connection.is_handshaking();
        self.is_established |= is_new;
        is_new
    }

    /// Sends encrypted bytes as far as the socket takes them; returns whether none is left.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn flush(&mut self, mut socket: &TcpStream) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn read(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            self.flush(socket)?;
            if self.connection.read_tls(&mut socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = self.connection.process_new_packets() {
                // The alert is for the peer; it does not matter whether it arrives.
                let _ = self.flush(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.flush(socket)?;
        }
    }

    fn write(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush(socket)? || self.connection.is_handshaking() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = self.connection.writer().write(bytes)?;
        // Bytes that the socket does not take are sent before any others.
        self.flush(socket)?;
        Ok(size)
    }
}

/// Whether a stream failed with `error` because the other side sends something other than TLS.
pub(crate) fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

/// A socket, and the session on it if it uses TLS. Reads and writes behave as on the socket itself: until `WouldBlock`.
/// Written bytes may wait encrypted, to be [flushed](PeerSession::flush) when the socket is writable.
pub(crate) struct PeerStream<'a> {
    pub(crate) socket: &'a TcpStream,
    pub(crate) tls: Option<&'a mut PeerSession>,
}

impl Read for PeerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(session) => session.read(self.socket, buffer),
            None => (&mut &*self.socket).read(buffer),
        }
    }
}

impl Write for PeerStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(session) => session.write(self.socket, bytes),
            None => (&mut &*self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(session) => session.flush(self.socket).map(|_| ()),
            None => Ok(()),
        }
    }
}
