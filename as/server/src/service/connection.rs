//! One client connection: its socket, the received part of a request, and unsent replies.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use cf::sys::socket::held_bytes;
use proto::ResultCode;

use super::KEEP_SIZE_MAX;
use super::connection_count::Admission;
use super::delivery::Delivery;
use super::presence::{DONE_PATIENCE, Presence};
use super::release_watch::ReleaseWatch;
use super::reply_budget::{Charge, ReplyBudget, Waiting};
use super::stream_progress::StreamProgress;
use crate::security::Standing;
use crate::tls::{Received, TlsSession};
use crate::transaction::Access;

/// A connection and its buffers, which are empty while it is idle.
pub(crate) struct Connection {
    /// The number that determines the thread which owns the connection.
    pub(super) number: u64,
    /// Shared with the thread that sends a held reply; see `sending.rs`.
    pub(super) stream: Arc<TcpStream>,
    pub(super) peer: SocketAddr,
    /// The TLS session; `None` on a clear port.
    tls: Option<Box<TlsSession>>,
    /// Whether the TLS handshake is not complete yet. No request is carried out before.
    pub(super) is_handshaking: bool,
    /// The name in the client's certificate, if it has shown one.
    pub(super) certificate_name: Option<Arc<str>>,
    /// Bytes of a request that is not complete, or that waits for the reply to an earlier one.
    pub(super) input: Vec<u8>,
    /// Bytes that the socket did not take.
    output: Vec<u8>,
    sent: usize,
    /// The bytes in `output`, unless the stream counts them.
    charge: Charge,
    /// Room of the last inflated request, until that request is done.
    pub(super) inflated_room: Option<Charge>,
    /// Set while the next request is put off until there is room for its reply.
    pub(super) put_off: Option<Waiting>,
    /// Start of the current series of delays of the next request. The request is late when the client's time
    /// has passed.
    pub(super) put_off_since: Option<Instant>,
    /// Whether another thread makes the next reply. Nothing is read or parsed meanwhile.
    pub(super) is_parked: bool,
    /// Whether some replies are held. No further request is carried out meanwhile.
    pub(super) is_held: bool,
    /// Shared with the thread that sends the held replies, if that thread need not always wake this one.
    pub(super) release_watch: Option<Arc<ReleaseWatch>>,
    /// Deliveries of other threads that arrived while replies were held.
    pub(super) behind_held: Vec<Delivery>,
    /// Whether to close the connection after the held replies are sent.
    pub(super) is_last_held: bool,
    /// The progress of the stream that makes many replies for the request for which the connection is parked.
    pub(super) stream_of_replies: Option<Arc<StreamProgress>>,
    /// Shared with the threads that make the single reply for which the connection is parked. Created when
    /// the connection is first parked.
    pub(super) presence: Option<Arc<Presence>>,
    /// Whether the socket may have bytes that were not read.
    pub(super) may_read: bool,
    /// Whether the peer has closed its sending side, so that no further event reports the end after its last
    /// bytes.
    pub(super) peer_is_done: bool,
    /// When the last request was carried out, when the socket last took a reply or a part of one, or when the
    /// peer was last seen to read replies, whichever is latest. Read from the monotonic clock once per
    /// wake-up.
    pub(super) last_active: Instant,
    /// The state at the last check: how many bytes of the waiting replies the socket had taken, and how many
    /// the kernel held for the peer.
    seen_waiting: Option<(usize, Option<u32>)>,
    /// The user's login and rights; `None` without access control.
    pub(super) standing: Option<Standing>,
    /// The connection's place in the count of open connections.
    _admission: Admission,
}

impl Connection {
    pub(super) fn new(
        number: u64,
        (stream, peer): (TcpStream, SocketAddr),
        tls: Option<Box<TlsSession>>,
        admission: Admission,
        budget: &Arc<ReplyBudget>,
        access: Access,
    ) -> Self {
        Connection {
            number,
            stream: Arc::new(stream),
            peer,
            is_handshaking: tls.is_some(),
            tls,
            certificate_name: None,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            charge: Charge::new(budget),
            inflated_room: None,
            put_off: None,
            put_off_since: None,
            is_parked: false,
            is_held: false,
            release_watch: None,
            behind_held: Vec::new(),
            is_last_held: false,
            stream_of_replies: None,
            presence: None,
            may_read: true,
            peer_is_done: false,
            last_active: Instant::now(),
            seen_waiting: None,
            standing: access.map(Standing::new),
            _admission: admission,
        }
    }

    /// Whether replies wait for the peer to read. Such a connection takes no further requests.
    pub(super) fn is_blocked(&self) -> bool {
        self.sent < self.output.len() || self.tls.as_ref().is_some_and(|tls| tls.has_unsent())
    }

    /// Notes that the client sends nothing more, and informs the threads that make replies.
    pub(super) fn note_peer_is_done(&mut self) {
        self.peer_is_done = true;
        self.stream_of_replies.iter().for_each(|stream| stream.peer_is_done());
        self.presence.iter().for_each(|presence| presence.peer_is_done());
    }

    /// Notes that the next request is put off; `waiting` counts it.
    pub(super) fn put_off(&mut self, waiting: Waiting, now: Instant) {
        self.put_off = Some(waiting);
        self.put_off_since.get_or_insert(now);
    }

    /// Whether the client has closed its sending side while a request is put off for long, so that the client
    /// must be gone.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        let waits_long = |since| now.saturating_duration_since(since) >= DONE_PATIENCE;
        self.peer_is_done && self.put_off_since.is_some_and(waits_long)
    }

    /// The access that requests of this connection have, for other threads.
    pub(super) fn access(&self) -> Access {
        self.standing.as_ref().map(|standing| Arc::clone(standing.session()))
    }

    /// Checks that a permitted user has logged in, if there is access control.
    ///
    /// # Errors
    /// As [`Standing::logged_in`].
    pub(super) fn check_login(&mut self) -> Result<(), ResultCode> {
        let Some(standing) = &mut self.standing else { return Ok(()) };
        standing.refresh();
        standing.logged_in().map(|_| ()).inspect_err(|result| {
            standing.report_refused(*result, ("request", String::new()));
        })
    }

    /// Checks, if replies wait, whether the peer has read more of what the socket had taken. With a slow
    /// client it may take long until there is room for more.
    pub(super) fn look_for_reading(&mut self, now: Instant) {
        let waiting = self.is_blocked().then(|| (self.sent, held_bytes(&*self.stream)));
        if waiting.is_some() && waiting != self.seen_waiting {
            self.last_active = now;
        }
        self.seen_waiting = waiting;
    }

    /// Whether replies may be written to the socket as they are.
    pub(super) fn is_clear(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether the server has nothing to do for the connection: its client is silent, and waits for no other
    /// reply.
    pub(super) fn has_nothing_to_do(&self) -> bool {
        !self.may_read && !self.peer_is_done && self.input.is_empty() && !self.is_parked && !self.is_last_held
    }

    /// Whether the next requests of the connection may be carried out.
    pub(super) fn may_serve(&self) -> bool {
        !self.is_parked
            && !self.is_held
            && !self.is_handshaking
            && !self.is_blocked()
            && self.put_off.is_none()
    }

    /// Puts a request in front of the waiting bytes.
    pub(super) fn put_in_front(&mut self, mut frame: Vec<u8>) {
        frame.append(&mut self.input);
        self.input = frame;
    }

    /// Reads into `buffer` with one `recv`. Returns the number of bytes, or `None` if the peer is done or the
    /// connection is broken.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.tls.is_some() {
            return self.receive_encrypted(buffer).unwrap_or_else(|error| {
                cf::detail!(Tls, "closing the connection of {}: {error}", self.peer);
                None
            });
        }
        match (&*self.stream).read(buffer) {
            Ok(0) => None,
            Ok(size) => {
                // A stream socket that returns fewer bytes than requested is empty.
                if size < buffer.len() {
                    self.may_read = self.peer_is_done;
                }
                Some(size)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.may_read = self.peer_is_done;
                Some(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(0),
            Err(_) => None,
        }
    }

    /// As [`receive`](Self::receive), through TLS.
    ///
    /// # Errors
    /// When the connection is broken, or the received bytes are not acceptable.
    fn receive_encrypted(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else { return Ok(None) };
        let Received { size, is_drained, is_end } = tls.receive(&self.stream, buffer)?;
        if is_drained {
            self.may_read = self.peer_is_done;
        }
        Ok((!is_end).then_some(size))
    }

    /// Continues the handshake with the received bytes. Afterwards `is_handshaking` tells whether it is still
    /// in progress. Requests received after it wait in `input`.
    ///
    /// # Errors
    /// When the connection is broken, or the client is refused, in which case it has been sent an alert.
    pub(super) fn go_on_with_handshake(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let size = self.receive_encrypted(buffer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.input.extend_from_slice(&buffer[..size]);
        if let Some(tls) = &self.tls
            && !tls.is_handshaking()
        {
            self.is_handshaking = false;
            self.certificate_name = tls.peer_user();
        }
        Ok(())
    }

    /// Sends `replies` behind the bytes that are not sent yet, or as many of them as the socket takes. The
    /// rest is kept for [`send_rest`](Self::send_rest).
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn send(&mut self, replies: &[u8]) -> io::Result<()> {
        if self.is_blocked() {
            if self.sent >= KEEP_SIZE_MAX {
                self.output.drain(..std::mem::take(&mut self.sent));
            }
            self.output.extend_from_slice(replies);
            self.count_kept();
            return Ok(());
        }
        let sent = send_through(self.tls.as_deref_mut(), &self.stream, replies)?;
        self.note_sent(sent);
        if sent < replies.len() {
            self.output.clear();
            self.output.extend_from_slice(&replies[sent..]);
            self.sent = 0;
            self.count_kept();
        }
        Ok(())
    }

    /// As [`send`](Self::send), without a copy of the bytes that are kept.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn send_owned(&mut self, replies: Vec<u8>) -> io::Result<()> {
        if self.is_blocked() || replies.len() <= KEEP_SIZE_MAX {
            return self.send(&replies);
        }
        let sent = send_through(self.tls.as_deref_mut(), &self.stream, &replies)?;
        self.note_sent(sent);
        if sent < replies.len() {
            (self.output, self.sent) = (replies, sent);
            self.count_kept();
        }
        Ok(())
    }

    /// Counts the unsent bytes in the budget of all replies.
    pub(super) fn count_kept(&mut self) {
        self.charge.set(if self.stream_of_replies.is_some() { 0 } else { self.output.len() });
    }

    /// Sends the rest of earlier replies.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn send_rest(&mut self) -> io::Result<()> {
        let unsent = &self.output[self.sent..];
        let sent = send_through(self.tls.as_deref_mut(), &self.stream, unsent)?;
        self.note_sent(sent);
        self.sent += sent;
        if !self.is_blocked() {
            self.output = Vec::new();
            self.sent = 0;
            self.count_kept();
        }
        Ok(())
    }

    /// Reports sent bytes to the thread that makes a stream of replies.
    fn note_sent(&self, size: usize) {
        if let Some(stream) = &self.stream_of_replies {
            stream.sent(size);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream_of_replies {
            stream.close();
        }
        if let Some(tls) = &mut self.tls {
            tls.close(&self.stream);
        }
    }
}

/// Sends until done or the socket is full, encrypted if there is a TLS session. Returns how many bytes were
/// taken.
fn send_through(tls: Option<&mut TlsSession>, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match tls {
        Some(tls) => tls.send(stream, bytes),
        None => send_some(stream, bytes),
    }
}

/// Sends until done or the socket is full. Returns how many bytes the socket took.
pub(super) fn send_some(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(size) => sent += size,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
