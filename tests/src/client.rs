//! A connection to a server that sends requests as bytes and receives answers as frames.
//!
//! Every wait ends: if the server stays silent, the wait fails after the timeout with an error of kind
//! `WouldBlock`.

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::corpus::latin1;
use crate::wire::{self, BODY_SIZE_MAX, FRAME_HEADER_SIZE, Frame, Message, body_size};

/// Default timeout of a wait for bytes. It is long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The transport of a connection: a socket, or TLS on a socket.
pub trait Channel: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Channel for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client<C: Channel = TcpStream> {
    stream: BufReader<C>,
}

impl<C: Channel> From<C> for Client<C> {
    fn from(stream: C) -> Client<C> {
        Client { stream: BufReader::with_capacity(1 << 16, stream) }
    }
}

impl Client {
    /// Connects. The timeout for each answer is `PATIENCE`.
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        Client::connect_patiently(address, PATIENCE)
    }

    /// Same as [`connect`](Self::connect), from a given address of this machine.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Client> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect(&address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream.into())
    }

    /// Connects. The timeout for each answer is `timeout`.
    pub fn connect_patiently(address: SocketAddr, timeout: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(stream.into())
    }
}

impl<C: Channel> Client<C> {
    /// Sends bytes unchanged.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Receives the next frame.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let mut header = [0; FRAME_HEADER_SIZE];
        self.stream.read_exact(&mut header)?;
        let size = body_size(&header);
        if header[0] != 2 || size > BODY_SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame header {header:02x?}")));
        }
        let mut body = vec![0; size as usize];
        self.stream.read_exact(&mut body)?;
        Ok(Frame { kind: header[1], body })
    }

    /// Receives the next frame, which must hold exactly one record message.
    pub fn receive_message(&mut self) -> io::Result<Message> {
        let frame = self.receive()?;
        let mut messages = frame.messages().filter(|messages| messages.len() == 1).unwrap_or_default();
        let unexpected = || io::Error::new(io::ErrorKind::InvalidData, format!("not one message: {frame:?}"));
        messages.pop().filter(|_| frame.kind == wire::kind::MESSAGE).ok_or_else(unexpected)
    }

    /// Sends a record request and receives its answer, which is one message.
    pub fn ask(&mut self, request: &Message) -> io::Result<Message> {
        self.send(&request.encode())?;
        self.receive_message()
    }

    /// All records of a namespace.
    pub fn scan(&mut self, namespace: &str) -> io::Result<Vec<Message>> {
        self.send(&Message::scan(namespace).encode())?;
        self.take_rows()
    }

    /// The records of an answer of several messages (to a scan or a batch), up to the last message.
    ///
    /// # Errors
    /// When a message has a result other than OK, or is invalid.
    pub fn take_rows(&mut self) -> io::Result<Vec<Message>> {
        let mut records = Vec::new();
        loop {
            let frame = self.receive()?;
            let unexpected =
                || io::Error::new(io::ErrorKind::InvalidData, format!("not messages: {frame:?}"));
            for message in frame.messages().ok_or_else(unexpected)? {
                if message.result != wire::result::OK {
                    return Err(io::Error::other(format!("a row with result {}", message.result)));
                }
                if message.is_last() {
                    return Ok(records);
                }
                if message.info3 & wire::info3::PARTITION_DONE == 0 {
                    records.push(message);
                }
            }
        }
    }

    /// Sends info names, one per line, and returns the answer's text.
    pub fn info(&mut self, names: &str) -> io::Result<String> {
        self.send(&wire::info_request(names))?;
        self.receive().map(|frame| latin1(&frame.body))
    }

    /// The value of one info name.
    pub fn info_value(&mut self, name: &str) -> io::Result<String> {
        let answer = self.info(name)?;
        let value = answer.strip_prefix(name).and_then(|rest| rest.strip_prefix('\t'));
        let value = value.and_then(|value| value.strip_suffix('\n')).map(str::to_owned);
        value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {answer:?}")))
    }

    /// The number for `key` in the answer to the info name `name`, which is a list of `key=value`.
    pub fn figure(&mut self, name: &str, key: &str) -> io::Result<u64> {
        let answer = self.info_value(name)?;
        let pairs = answer.split([';', ':']).filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(found, _)| *found == key).find_map(|(_, value)| value.parse().ok());
        value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {key}: {answer:?}")))
    }

    /// Whether the server closes the connection, instead of sending bytes or staying silent.
    pub fn is_closed_by_server(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Announces to the server that no more bytes will be sent.
    pub fn finish_sending(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// The socket, for other uses.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref().socket()
    }

    /// The transport of the connection.
    pub fn channel(&mut self) -> &mut C {
        self.stream.get_mut()
    }
}
