//! TLS with another node, on a socket that does not block: as a stream of bytes, whoever has made the connection.
//!
//! Both sides show a certificate, which must be for the one name that the nodes of a cluster share. A session is one thread's.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{IpAddr, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};

/// Encrypted bytes that may wait for the socket, about.
const UNSENT_SIZE_MAX: usize = 256 << 10;

/// The state of one connection.
pub(crate) struct PeerSession {
    connection: Connection,
    is_established: bool,
}

impl PeerSession {
    /// Of a connection that another node has made.
    ///
    /// # Errors
    /// Those of rustls.
    pub(super) fn accepted(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(ServerConnection::new(config)?.into()))
    }

    /// Of a connection that this node makes.
    ///
    /// # Errors
    /// Those of rustls.
    pub(super) fn connecting(config: Arc<ClientConfig>) -> Result<Self, Error> {
        // Names of clusters need not be such as DNS has: the verifier looks at the name, and none is sent.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED.into()));
        Ok(Self::new(ClientConnection::new(config, nobody)?.into()))
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(UNSENT_SIZE_MAX));
        PeerSession { connection, is_established: false }
    }

    /// Whether the handshake has ended since this was asked last.
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
                // The alert is for the peer; whether it comes there is of no concern.
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
        // What the socket does not take is sent before anything else.
        self.flush(socket)?;
        Ok(size)
    }
}

/// A socket, and the session on it if TLS is spoken. It reads and writes as the socket itself: until `WouldBlock`. What it has
/// taken may wait encrypted, to be [flushed](PeerSession::flush) when the socket is writable.
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
