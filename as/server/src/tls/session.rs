//! One TLS connection: converts records to plain text and back. It never waits: its socket does not block.
//!
//! Received bytes are decrypted in the caller's buffer, so a connection holds only the incomplete part of a record (18
//! KiB) and up to [`UNSENT_SIZE_MAX`] of encrypted bytes to send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::SystemTime;

use certificates::CertificateFacts;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

/// Approximate limit of encrypted bytes that wait for the socket.
const UNSENT_SIZE_MAX: usize = 64 << 10;
/// Offset in the caller's buffer to which encrypted bytes are read. Plain text is written from the start of the buffer:
/// it never reaches bytes that are not decrypted yet, as it is no longer than the decrypted bytes and the part of a
/// record that came before.
const CIPHERTEXT_AT: usize = 24 << 10;
/// The smallest usable buffer.
pub(crate) const BUFFER_SIZE_MIN: usize = CIPHERTEXT_AT + (16 << 10);

/// Result of reading from the socket.
pub(crate) struct Received {
    /// Bytes of plain text at the start of the buffer.
    pub(crate) size: usize,
    /// Whether the socket has no more bytes now.
    pub(crate) is_drained: bool,
    /// Whether the peer sends no more.
    pub(crate) is_end: bool,
}

/// The state of one connection.
pub(crate) struct TlsSession {
    connection: ServerConnection,
    /// Whether the peer has announced that it sends no more.
    is_ended: bool,
    /// Whether the handshake has ended and its outcome is accepted.
    is_accepted: bool,
    /// Whether the user's name is made from the certificate's name and its organizational unit.
    appends_unit: bool,
}

impl TlsSession {
    /// A connection without any bytes yet.
    pub(super) fn new(config: Arc<ServerConfig>, appends_unit: bool) -> Result<Self, rustls::Error> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(Some(UNSENT_SIZE_MAX));
        Ok(TlsSession { connection, is_ended: false, is_accepted: false, appends_unit })
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether encrypted bytes wait for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// One `recv` from `socket`; the plain text is at the start of `buffer` afterwards. Answers of the protocol itself
    /// are sent, as far as the socket takes them.
    ///
    /// # Errors
    /// When the connection is broken, or the received bytes are no TLS, are forged, or are refused; then the peer has
    /// been sent an alert.
    pub(crate) fn receive(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<Received> {
        assert!(buffer.len() >= BUFFER_SIZE_MIN, "room for records and what they mean");
        if self.is_ended {
            return Ok(Received { size: 0, is_drained: true, is_end: true });
        }
        let room = buffer.len() - CIPHERTEXT_AT;
        let came = match socket.read(&mut buffer[CIPHERTEXT_AT..]) {
            Ok(0) => return Ok(Received { size: 0, is_drained: true, is_end: true }),
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Received { size: 0, is_drained: true, is_end: false });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Received { size: 0, is_drained: false, is_end: false });
            }
            Err(error) => return Err(error),
        };
        let size = self.decrypt(socket, buffer, came)?;
        if !self.is_accepted && !self.connection.is_handshaking() {
            self.check_resumed()?;
            self.is_accepted = true;
        }
        self.flush(socket)?;
        Ok(Received { size, is_drained: came < room && !self.is_ended, is_end: false })
    }

    /// Refuses to resume a session after the peer's certificate has expired; rustls checks that only in a full
    /// handshake.
    fn check_resumed(&self) -> io::Result<()> {
        let is_resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let certificate = self.connection.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = certificate.filter(|_| is_resumed) else { return Ok(()) };
        let facts = CertificateFacts::read(certificate);
        match facts.and_then(|facts| facts.fault_at(SystemTime::now())) {
            None => Ok(()),
            Some(fault) => {
                let text = format!("the certificate of the client, whose session is resumed, {fault}");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// Decrypts the `came` bytes at [`CIPHERTEXT_AT`] to the start of the buffer.
    fn decrypt(&mut self, socket: &TcpStream, buffer: &mut [u8], came: usize) -> io::Result<usize> {
        let (mut used, mut size) = (0, 0);
        while used < came && !self.is_ended {
            let next = CIPHERTEXT_AT + used;
            used += self.connection.read_tls(&mut &buffer[next..CIPHERTEXT_AT + came])?;
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // The alert is for the peer; it does not matter whether it arrives.
                    let _ = self.flush(socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let read = self.connection.reader().read(&mut buffer[size..CIPHERTEXT_AT + used])?;
                if read == 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                (size, left) = (size + read, left - read.min(left));
            }
            self.is_ended = state.peer_has_closed();
        }
        Ok(size)
    }

    /// Encrypts and sends until done or the socket is full; returns how many of the `bytes` were taken. Some of them
    /// may wait [unsent](Self::has_unsent) for further calls.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn send(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            self.flush(socket)?;
            if taken == bytes.len() || self.has_unsent() {
                return Ok(taken);
            }
            taken += self.connection.writer().write(&bytes[taken..])?;
        }
    }

    /// Sends encrypted bytes as far as the socket takes them.
    fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Informs the peer that nothing more follows, if the socket takes that message.
    pub(crate) fn close(&mut self, socket: &TcpStream) {
        if !self.has_unsent() {
            self.connection.send_close_notify();
            let _ = self.flush(socket);
        }
    }

    /// The user in the peer's verified certificate; `None` without a certificate.
    pub(crate) fn peer_user(&self) -> Option<Arc<str>> {
        let certificate = self.connection.peer_certificates()?.first()?;
        CertificateFacts::read(certificate)?.user_name(self.appends_unit).map(Arc::from)
    }
}
