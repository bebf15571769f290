//! Dispatch of received bytes: reads them, splits them into requests, and carries these out.
//!
//! A wake-up of a connection costs one `recv`. Requests are parsed where `recv` put them, in a buffer of the
//! thread; only an incomplete rest is copied to the connection. The bytes of several connections are first
//! read, then carried out, then answered, so that the records of all can be prefetched together, and the code
//! of each step stays in the processor's caches. Few connections are answered one by one instead: then their
//! clients work while the rest is carried out, and neither side has to sleep and be woken for each request.

use std::cell::Cell;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proto::ResultCode;
use proto::frame::{FrameHeader, FrameType, HEADER_SIZE};
use proto::message::{Request, field, info1};
use proto::reply::{self, ReplyHeader};
use smallvec::SmallVec;

use super::KEEP_SIZE_MAX;
use super::connection::Connection;
use super::delivery::ConnectionToken;
use super::event_loop::{PutOff, RECEIVE_SIZE, RoomOf, ServiceThread, Verdict};
use super::messages::{Followers, Message, find_followers};
use super::reply_budget::Charge;
use crate::metrics::ServerCounter;
use crate::query;
use crate::transaction::{OwnedRequest, PREPARED_REQUESTS, Step, Wait};

/// Up to this many connections that are ready together are answered one by one.
const FEW_CONNECTIONS: usize = 4;
/// Replies are sent when they reach this size even if more requests wait.
const REPLIES_SIZE_MAX: usize = 256 << 10;
/// How long the client of a batch without a timeout may leave replies unread.
const BATCH_TIME_MAX: Duration = Duration::from_secs(30);

/// Largest accepted frame before a login. It exceeds every request that is answered before one.
const STRANGERS_FRAME_MAX: usize = 64 << 10;

/// First bytes of a client that uses TLS on a port without it.
const TLS_HELLO: [u8; 2] = [0x16, 0x03];

/// Bytes received from a connection, in the receive buffer of the thread.
struct Arrival {
    token: ConnectionToken,
    start: usize,
    size: usize,
}

impl Arrival {
    fn bytes<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.start..self.start + self.size]
    }
}

/// Result of a record message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dispatched {
    Done,
    /// The connection is parked until other threads have answered the message.
    Parked,
    /// The message is retried when its reply has room, and does not count as carried out.
    PutOff,
}

/// How many of `ready_count` ready connections are read before they are answered.
fn count_together(ready_count: usize) -> usize {
    if ready_count <= FEW_CONNECTIONS { 1 } else { PREPARED_REQUESTS }
}

type Arrivals = SmallVec<[Arrival; PREPARED_REQUESTS]>;

impl ServiceThread {
    /// Carries out the requests of those connections in `slots` that may be served.
    pub(super) fn serve_all(&mut self, slots: &[u32]) {
        for together in slots.chunks(count_together(slots.len())) {
            let mut buffer = std::mem::take(&mut self.receive_buffer);
            let mut arrivals = Arrivals::new();
            self.receive_all(together, &mut buffer, &mut arrivals);
            self.serve_arrivals(&arrivals, &buffer);
            self.receive_buffer = buffer;
            if !self.executor.has_unsettled() {
                self.send_replies();
            }
        }
    }

    /// Reads from all of `slots` before any of these requests are carried out. Requests that waited behind an
    /// earlier one are carried out at once.
    fn receive_all(&mut self, slots: &[u32], buffer: &mut [u8], arrivals: &mut Arrivals) {
        let mut end = 0;
        for &slot in slots {
            let Some(token) = self.connections.token(slot) else { continue };
            if arrivals.iter().any(|arrival| arrival.token == token) {
                continue;
            }
            self.guard(token, |thread, slot| {
                let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
                if !connection.may_serve() {
                    return Verdict::Keep;
                }
                if !connection.input.is_empty() {
                    return thread.serve_waiting(slot, token);
                }
                if connection.may_read {
                    cf::fault_point!("receive");
                    match connection.receive(&mut buffer[end..end + RECEIVE_SIZE]) {
                        Some(size) => {
                            arrivals.push(Arrival { token, start: end, size });
                            end += size;
                        }
                        None => return Verdict::Close,
                    }
                }
                Verdict::Keep
            });
        }
    }

    /// Carries out the received requests of each connection in turn. Their first records are prefetched together.
    fn serve_arrivals(&mut self, arrivals: &Arrivals, buffer: &[u8]) {
        if let [arrival] = &arrivals[..] {
            return self.guard(arrival.token, |thread, slot| {
                thread.set_checkpoint();
                cf::fault_point!("parse");
                thread.serve_arrival(slot, arrival.token, arrival.bytes(buffer), None)
            });
        }
        let mut firsts = SmallVec::<[Option<Message<'_>>; PREPARED_REQUESTS]>::new();
        for arrival in arrivals {
            firsts.push(None);
            self.guard(arrival.token, |thread, _| {
                thread.set_checkpoint();
                cf::fault_point!("parse");
                if let Some(first) = firsts.last_mut() {
                    *first = Message::in_front_of(arrival.bytes(buffer));
                }
                Verdict::Keep
            });
        }
        // A connection's further requests are prefetched in their turn.
        self.prepare(firsts.iter().flatten());
        for (arrival, first) in arrivals.iter().zip(&firsts) {
            self.guard(arrival.token, |thread, slot| {
                thread.serve_arrival(slot, arrival.token, arrival.bytes(buffer), first.as_ref())
            });
        }
    }

    /// Prefetches the records of `messages`. This is a hint: if it fails, the requests may still succeed.
    fn prepare<'a: 'm, 'm>(&self, messages: impl Iterator<Item = &'m Message<'a>>) {
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            cf::fault_point!("prepare");
            self.executor.prepare(messages.filter_map(Message::record));
        }));
        if prepared.is_err() {
            cf::critical!(Tsvc, "preparing for requests failed on an internal error");
        }
    }

    /// Carries out the requests received from a connection without waiting ones. They begin with `first`, if
    /// that has been parsed.
    fn serve_arrival<'b>(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        bytes: &'b [u8],
        first: Option<&Message<'b>>,
    ) -> Verdict {
        let (used, verdict) = self.serve_requests(slot, token, bytes, first);
        if let Some(connection) = self.connections.get(slot)
            && verdict == Verdict::Keep
        {
            if used < bytes.len() {
                connection.input.extend_from_slice(&bytes[used..]);
            }
            self.queue_if_ready(slot);
        }
        verdict
    }

    /// Carries out requests of a connection that waited behind a parked or blocked one, and then the ones
    /// after them.
    fn serve_waiting(&mut self, slot: u32, token: ConnectionToken) -> Verdict {
        let Some(connection) = self.connections.get(slot) else { return Verdict::Keep };
        let mut input = std::mem::take(&mut connection.input);
        let mut verdict = self.serve_buffered(slot, token, &mut input);
        if let Some(connection) = self.connections.get(slot)
            && verdict == Verdict::Keep
            && connection.may_read
            && connection.may_serve()
        {
            verdict = receive_behind(connection, &mut input);
            if verdict == Verdict::Keep {
                verdict = self.serve_buffered(slot, token, &mut input);
            }
        }
        if let Some(connection) = self.connections.get(slot)
            && verdict == Verdict::Keep
        {
            if !input.is_empty() {
                if connection.input.is_empty() {
                    connection.input = input;
                } else {
                    connection.input.append(&mut input);
                }
            }
            if !connection.is_parked && connection.put_off.is_none() {
                connection.inflated_room = None;
            }
            self.queue_if_ready(slot);
        }
        verdict
    }

    /// Queues a connection that has more to read. If its replies were held before all of its requests were
    /// carried out, the rest waits for their release.
    fn queue_if_ready(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        let has_more = connection.may_read || !connection.input.is_empty();
        if connection.is_held && has_more {
            self.want_release(slot);
        } else if connection.may_read && connection.may_serve() {
            self.ready.push(slot);
        }
    }

    fn serve_buffered(&mut self, slot: u32, token: ConnectionToken, input: &mut Vec<u8>) -> Verdict {
        let (used, verdict) = self.serve_requests(slot, token, input, None);
        if used == input.len() && input.capacity() > KEEP_SIZE_MAX {
            *input = Vec::new();
        } else {
            input.drain(..used);
        }
        verdict
    }

    /// Carries out the complete requests in `bytes`, which begin with `first` if that has been parsed. Their
    /// replies wait in the outbox. Returns the number of bytes consumed.
    fn serve_requests<'b>(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        bytes: &'b [u8],
        mut first: Option<&Message<'b>>,
    ) -> (usize, Verdict) {
        let (mut used, mut verdict) = (0, Verdict::Keep);
        while used < bytes.len() && verdict == Verdict::Keep && self.may_serve(slot) {
            self.set_checkpoint();
            let found;
            let message = match first.take() {
                Some(first) => Some(first),
                None => {
                    found = Message::in_front_of(&bytes[used..]);
                    found.as_ref()
                }
            };
            let dispatched = match message {
                Some(message) => {
                    let behind = &bytes[used + message.size()..];
                    Some(self.dispatch_messages(slot, token, message, behind))
                }
                None => self.dispatch_other(slot, token, &bytes[used..]),
            };
            let Some((size, after)) = dispatched else { break };
            (used, verdict) = (used + size, after);
            if self.outbox.replies.len() >= REPLIES_SIZE_MAX {
                self.outbox.address(token);
                self.send_replies();
            }
        }
        self.checkpoint = None;
        self.outbox.address(token);
        if used > 0
            && let Some(connection) = self.connections.get(slot)
        {
            connection.last_active = self.woken;
        }
        (used, verdict)
    }

    fn may_serve(&mut self, slot: u32) -> bool {
        self.connections.get(slot).is_some_and(|connection| connection.may_serve())
    }

    /// Carries out the request at the start of `bytes`, which is not a record message, and returns its size.
    /// `None` while it is incomplete.
    pub(super) fn dispatch_other(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        bytes: &[u8],
    ) -> Option<(usize, Verdict)> {
        cf::fault_point!("dispatch");
        let connection = self.connections.get(slot)?;
        let header = match FrameHeader::parse(bytes) {
            Ok(header) => header?,
            Err(_) if bytes.starts_with(&TLS_HELLO) => {
                cf::warning_limited!(Service, "ignoring TLS connection from {}", connection.peer);
                return Some((0, Verdict::Close));
            }
            Err(error) => {
                cf::warning_limited!(Proto, "closing the connection of {}: {error}", connection.peer);
                return Some((0, Verdict::Close));
            }
        };
        let size = HEADER_SIZE + header.body_size;
        if size > STRANGERS_FRAME_MAX && connection.check_login().is_err() {
            let peer = connection.peer;
            cf::warning_limited!(Security, "closing the connection of {peer}: {size} bytes before a login");
            return Some((0, Verdict::Close));
        }
        let body = bytes.get(HEADER_SIZE..size)?;
        let verdict = match header.frame_type {
            FrameType::Info => {
                // Info threads answer the request; earlier requests are answered first.
                self.start_info(slot, token, body);
                Verdict::Keep
            }
            FrameType::Security => {
                self.start_security(slot, token, body);
                Verdict::Keep
            }
            FrameType::CompressedMessage => match connection.check_login() {
                Ok(()) => self.dispatch_compressed(slot, token, body)?,
                Err(result) => {
                    // The request is not even inflated.
                    reply::write_header_only(&mut self.outbox.replies, &ReplyHeader::result(result));
                    Verdict::Keep
                }
            },
            FrameType::Message => {
                // The frame was not recognised as a message because it does not parse.
                self.context.metrics.add(ServerCounter::DemarshalError, 1);
                if let Err(error) = Request::parse(body) {
                    cf::warning_limited!(Proto, "bad message from {}: {error}", connection.peer);
                }
                // The client of a batch waits for its last message.
                let is_batch = body.get(1).is_some_and(|bits| bits & info1::BATCH != 0);
                let header = if is_batch { ReplyHeader::last } else { ReplyHeader::result };
                reply::write_header_only(&mut self.outbox.replies, &header(ResultCode::Parameter));
                Verdict::Keep
            }
            FrameType::InternalXdr => {
                cf::warning_limited!(Proto, "closing the connection of {}: XDR frame", connection.peer);
                Verdict::Close
            }
        };
        Some((size, verdict))
    }

    /// Carries out a record message and those after it in `behind`, until their replies are large enough to
    /// be sent or one is to be answered elsewhere. Returns the number of bytes consumed.
    pub(super) fn dispatch_messages<'b>(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        first: &Message<'b>,
        behind: &'b [u8],
    ) -> (usize, Verdict) {
        let mut followers = Followers::new();
        find_followers(behind, &mut followers);
        if !followers.is_empty() {
            self.prepare(iter::once(first).chain(&followers));
        }
        let mut used = 0;
        for message in iter::once(first).chain(&followers) {
            self.set_checkpoint();
            let dispatched = self.dispatch_message(slot, token, message);
            if dispatched == Dispatched::PutOff {
                break;
            }
            used += message.size();
            if dispatched == Dispatched::Parked || self.outbox.replies.len() >= REPLIES_SIZE_MAX {
                break;
            }
        }
        (used, Verdict::Keep)
    }

    /// Puts the connection off until a reply of `size` bytes has room, for a request that may take
    /// `time_max`. `since` is when the request was first put off, if it was put off before.
    #[cold]
    fn put_off(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        size: usize,
        (since, time_max): (Option<Instant>, Duration),
    ) {
        let since = since.unwrap_or(self.woken);
        if let Some(connection) = self.connections.get(slot) {
            connection.put_off(self.context.replies.wait(), since);
            let deadline = since + time_max;
            self.put_off.push(PutOff { token, size, room: RoomOf::Replies, deadline });
        }
    }

    /// Answers a request that timed out while it was put off.
    #[cold]
    fn refuse_late(&mut self, request: &Request<'_>) -> Dispatched {
        // Clients of batches and queries wait for their last message.
        let is_of_many = request.info1 & info1::BATCH != 0 || !request.has_field(field::DIGEST);
        let header = if is_of_many { ReplyHeader::last } else { ReplyHeader::result };
        reply::write_header_only(&mut self.outbox.replies, &header(ResultCode::Timeout));
        Dispatched::Done
    }

    /// Carries out a record message, or has it carried out by other threads.
    #[inline(always)]
    fn dispatch_message(&mut self, slot: u32, token: ConnectionToken, message: &Message<'_>) -> Dispatched {
        let Message { request, body } = message;
        self.request_count += 1;
        cf::fault_point!("execute");
        let mut put_off_since = None;
        // The standing is borrowed, so that a request changes no reference count.
        let standing = self.connections.get(slot).and_then(|connection| {
            put_off_since = connection.put_off_since.take();
            connection.standing.as_mut()
        });
        let standing = standing.map(|standing| {
            standing.refresh();
            &*standing
        });
        if let Some(since) = put_off_since
            && self.woken.saturating_duration_since(since) >= self.context.transactions.time_max(request)
        {
            return self.refuse_late(request);
        }
        let so_far = (self.outbox.replies.len(), self.executor.unsettled_count());
        // The room is released when the connection has the reply and counts its unsent rest.
        let room = Cell::new(self.large_reply.take());
        let take_room = |size| {
            room.set(None);
            let taken = Charge::reserve(&self.context.replies, size);
            let has_room = taken.is_some();
            room.set(taken);
            has_room
        };
        let step = self.executor.execute(request, standing, self.now, &take_room, &mut self.outbox.replies);
        self.large_reply = room.into_inner();
        match step {
            Step::Done if request.info1 & info1::COMPRESS_RESPONSE != 0 => {
                let is_parked = self.compress_reply(slot, token, request, so_far);
                if is_parked { Dispatched::Parked } else { Dispatched::Done }
            }
            Step::Done => Dispatched::Done,
            Step::Restart(Wait::ReplyRoom(size)) => {
                let time_max = self.context.transactions.time_max(request);
                self.put_off(slot, token, size, (put_off_since, time_max));
                Dispatched::PutOff
            }
            Step::Restart(wait) => {
                let compressor = self.compressor_of(request);
                if let Some(stream) = self.park_for_stream(slot, token, None) {
                    compressor.into_iter().for_each(|compressor| stream.compress_by(compressor));
                    if let Some(room) = self.large_reply.take() {
                        stream.keep_room(room);
                    }
                    let owned = OwnedRequest::new(body, self.woken, stream);
                    self.context.transactions.restart(wait, owned);
                }
                Dispatched::Parked
            }
            Step::Batch(mut rest) => {
                let timeout = match request.transaction_ttl_ms {
                    0 => BATCH_TIME_MAX,
                    ms => Duration::from_millis(u64::from(ms)),
                };
                let access = self.connections.get(slot).and_then(|connection| connection.access());
                let compressor = self.compressor_of(request);
                if compressor.is_some() && self.executor.unsettled_count() == so_far.1 {
                    rest.take_over(self.outbox.replies.split_off(so_far.0));
                }
                if let Some(stream) = self.park_for_stream(slot, token, Some(timeout)) {
                    compressor.into_iter().for_each(|compressor| stream.compress_by(compressor));
                    cf::fault_point!("start-batch");
                    self.context.batches.start(body, rest, self.woken, access, stream);
                }
                Dispatched::Parked
            }
            Step::Query(namespace, permit) => {
                match self.start_query(slot, token, (request, body), &namespace, permit) {
                    Ok(true) => {
                        // The query has copied what it needs from the message.
                        if let Some(connection) = self.connections.get(slot) {
                            connection.inflated_room = None;
                        }
                        Dispatched::Parked
                    }
                    Ok(false) => Dispatched::Done,
                    Err(result) => {
                        self.context.metrics.add(ServerCounter::EarlyTsvcClientError, 1);
                        query::refuse(&mut self.outbox.replies, result);
                        Dispatched::Done
                    }
                }
            }
        }
    }
}

/// Reads more bytes after the incomplete request in `input`.
fn receive_behind(connection: &mut Connection, input: &mut Vec<u8>) -> Verdict {
    let start = input.len();
    // The buffer grows with the received bytes, never with an announced size.
    input.resize(start + start.clamp(RECEIVE_SIZE, 16 * RECEIVE_SIZE), 0);
    match connection.receive(&mut input[start..]) {
        None => Verdict::Close,
        Some(size) => {
            input.truncate(start + size);
            Verdict::Keep
        }
    }
}
