//! A connection to a server: a socket, or TLS on a socket. The socket may be blocking or non-blocking.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustls::ClientConnection;

use crate::login::Login;
use crate::tls::TlsClient;

/// Approximate limit of encrypted bytes that wait for the socket.
const UNSENT_SIZE_MAX: usize = 64 << 10;

/// First byte of the alert with which a TLS port answers bytes without TLS. No message of a server begins
/// with it.
const TLS_ALERT: u8 = 21;

/// The requirements of a server for connections.
#[derive(Clone, Default, Debug)]
pub struct Access {
    /// The login at a server with access control.
    pub login: Option<Login>,
    /// The TLS settings for a port with TLS.
    pub tls: Option<TlsClient>,
}

impl Access {
    /// Whether nothing is required.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.login.is_none() && self.tls.is_none()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Whether a connection without TLS has received anything.
    has_received: bool,
}

impl Link {
    /// Connects without Nagle's delay, and sets up TLS and logs in as required. Each step takes at most
    /// `timeout`.
    ///
    /// # Errors
    /// When the server does not answer, its certificate is not accepted, or the login is refused.
    pub fn connect(address: &SocketAddr, timeout: Duration, access: &Access) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, timeout)?;
        stream.set_nodelay(true)?;
        let mut link = Link::from(stream);
        link.set_timeout(Some(timeout))?;
        if let Some(client) = &access.tls {
            let mut tls = Box::new(client.connection()?);
            tls.set_buffer_limit(Some(UNSENT_SIZE_MAX));
            while tls.is_handshaking() {
                tls.complete_io(&mut link.stream).map_err(without_handshake)?;
            }
            link.tls = Some(tls);
        }
        if let Some(login) = &access.login {
            login.enter(&mut link)?;
        }
        link.set_timeout(None)?;
        Ok(link)
    }

    /// Sets the timeout of reads and writes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a read that returns less than requested means that the socket has no more bytes.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.tls.is_none()
    }

    /// Sends encrypted bytes until none is left or the socket takes no more.
    fn send_encrypted(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl From<TcpStream> for Link {
    fn from(stream: TcpStream) -> Self {
        Link { stream, tls: None, has_received: false }
    }
}

/// The error of a failed handshake. A port without TLS just closes the connection.
fn without_handshake(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            io::Error::new(error.kind(), "the server ended the TLS handshake; is this a port with TLS?")
        }
        _ => error,
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let size = self.stream.read(buffer)?;
            if !std::mem::replace(&mut self.has_received, true) && buffer[..size].first() == Some(&TLS_ALERT)
            {
                return Err(io::Error::other(
                    "this is a port with TLS: give --tls-enable, and --tls-cafile with the certificate of its authority",
                ));
            }
            return Ok(size);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            if let Err(error) = tls.process_new_packets() {
                // It does not matter whether the alert reaches the server.
                let _ = tls.write_tls(&mut self.stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Write for Link {
    /// Accepted bytes may wait for later writes, or for [`flush`](Self::flush).
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.stream.write(bytes);
        }
        self.send_encrypted()?;
        let Some(tls) = &mut self.tls else { return Ok(0) };
        let taken = tls.writer().write(bytes)?;
        match self.send_encrypted() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_encrypted()
    }
}
