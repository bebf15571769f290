//! The loop of a service thread.
//!
//! A wake-up of a connection costs one `recv`, and one `send` for all the replies together. Requests are parsed where
//! `recv` put them, in a buffer of the thread; only an incomplete rest is copied to the connection. A connection with
//! unsent replies, or parked for a reply made elsewhere, is left unread: back-pressure is TCP's.
//!
//! What several connections have sent is read first, then carried out, then answered: memory is asked for all their records
//! at once, and the processor finds the code of each of the three steps in its caches. Replies that wait for the disk wait
//! until all that happened since the last wait has been carried out, so that one flush serves them all.
//!
//! A connection that has more to read than one buffer goes to the end of the line, so that none starves the others.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use cf::sys::epoll::{Epoll, Event, Events, Trigger};
use proto::ResultCode;
use proto::frame::{self, FrameHeader, FrameType, HEADER_SIZE};
use proto::message::{Request, info1};
use proto::reply::{self, ReplyHeader};
use smallvec::SmallVec;

use super::KEEP_SIZE_MAX;
use super::activity::Activity;
use super::connection::Connection;
use super::connections::Connections;
use super::crew::Crew;
use super::mailbox::{ConnectionToken, Mail, Mailbox};
use super::messages::{Message, Messages};
use super::outbox::Outbox;
use super::stream::ReplyStream;
use crate::config::model::Config;
use crate::info::InfoJob;
use crate::metrics::{ServerCounter, ServerMetrics};
use crate::namespace::Namespace;
use crate::query::{self, Queries, Query};
use crate::transaction::{BatchPool, Execution, Executor, PREPARED_REQUESTS};
use crate::workers::Workers;

const EVENTS_MAX: usize = 256;
/// Bytes read from a connection at a time.
const RECEIVE_SIZE: usize = 64 << 10;
/// Replies are sent when they reach this size even if more requests wait.
const REPLIES_SIZE_MAX: usize = 256 << 10;
/// How long the client of a batch without a timeout may leave its replies unread.
const BATCH_TIME_MAX: Duration = Duration::from_secs(30);
const MAILBOX_TOKEN: u64 = u64::MAX;
/// How often idle connections are looked for.
const TICK: Duration = Duration::from_secs(1);

/// What all service threads share.
pub(crate) struct SharedState {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// Open client connections.
    pub(crate) connection_count: AtomicUsize,
    pub(crate) info: Workers<InfoJob>,
    pub(crate) queries: Arc<Queries>,
    pub(crate) batches: BatchPool,
    pub(crate) crew: Crew,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Close,
}

pub(crate) struct ServiceThread {
    shared: Arc<SharedState>,
    /// Which one of the crew it is.
    position: usize,
    mailbox: Arc<Mailbox>,
    activity: Arc<Activity>,
    epoll: Epoll,
    connections: Connections,
    /// Places of connections that may have more to read.
    ready: Vec<u32>,
    executor: Executor,
    /// Room for [`RECEIVE_SIZE`] bytes from each of the connections that are read together; the system gives it as it is
    /// used.
    receive_buffer: Box<[u8]>,
    /// Replies that were made since the last wait and not sent yet.
    outbox: Outbox,
    /// Requests carried out since the last wait.
    request_count: u64,
    now: StoredMillis,
    is_stopping: bool,
}

impl ServiceThread {
    /// Starts a thread, which joins the crew.
    ///
    /// # Errors
    /// When the process has no file descriptor left, or the system refuses another thread.
    pub(crate) fn start(shared: &Arc<SharedState>, position: usize, executor: Executor) -> io::Result<()> {
        let (mailbox, activity) = (Mailbox::new()?, Arc::new(Activity::new()));
        let epoll = Epoll::new()?;
        epoll.add(&mailbox.wake, MAILBOX_TOKEN, Trigger::Level)?;
        let thread = ServiceThread {
            shared: Arc::clone(shared),
            position,
            mailbox: Arc::clone(&mailbox),
            activity: Arc::clone(&activity),
            epoll,
            connections: Connections::default(),
            ready: Vec::new(),
            executor,
            receive_buffer: vec![0; PREPARED_REQUESTS * RECEIVE_SIZE].into_boxed_slice(),
            outbox: Outbox::default(),
            request_count: 0,
            now: StoredMillis::now(),
            is_stopping: false,
        };
        let handle = cf::threads::spawn(&format!("service-{position}"), move || {
            cf::counters::claim_shard(position + 1);
            thread.activity.belong_to_this_thread();
            thread.run();
        })?;
        shared.crew.add(mailbox, activity, handle);
        Ok(())
    }

    /// Serves connections until told to stop.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut serving = Vec::new();
        let mut next_tick_ms = self.now.0 + TICK.as_millis() as u64;
        while !self.is_stopping {
            let timeout = if self.ready.is_empty() { TICK } else { Duration::ZERO };
            let epoll = &self.epoll;
            let happened = match epoll.wait(&mut events, Some(timeout)) {
                Ok(happened) => happened,
                Err(error) => cf::fatal!("epoll of a service thread failed: {error}"),
            };
            self.now = StoredMillis::now();
            let woken = Instant::now();
            self.activity.wake(woken);
            self.executor.wake(woken);
            for event in happened {
                if event.token() == MAILBOX_TOKEN {
                    self.look_into_mailbox();
                } else {
                    self.on_event(event);
                }
            }
            std::mem::swap(&mut serving, &mut self.ready);
            self.serve_all(&serving);
            serving.clear();
            self.send_replies(None);
            let done = Instant::now();
            self.executor.measure(done);
            self.activity.sleep(done, std::mem::take(&mut self.request_count));
            if self.now.0 >= next_tick_ms {
                next_tick_ms = self.now.0 + TICK.as_millis() as u64;
                self.reap_idle();
            }
        }
        for at in 0..self.connections.place_count() {
            self.close(at);
        }
    }

    fn look_into_mailbox(&mut self) {
        self.mailbox.open();
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Connection(connection) => self.add(*connection),
                Mail::Part(token, replies) => self.deliver_part(token, &replies),
                Mail::Reply(token, reply) => self.deliver(token, &reply),
                Mail::Stop => self.is_stopping = true,
            }
        }
    }

    fn add(&mut self, connection: Connection) {
        let token = self.connections.next_token();
        if let Err(error) = self.epoll.add(&connection.stream, token.0, Trigger::Edge) {
            cf::warning_limited!(Service, "cannot watch the connection of {}: {error}", connection.peer);
            return self.count_closed();
        }
        self.connections.add(connection);
    }

    /// Gives the connection at a place to the thread that it belongs to, if that is another one.
    fn send_home(&mut self, at: u32) -> bool {
        let Some(connection) = self.connections.at(at) else { return false };
        let home = self.shared.crew.home_of(connection.number);
        if home == self.position || !connection.may_serve() {
            return false;
        }
        let Some(connection) = self.connections.remove(at) else { return false };
        self.epoll.remove(&connection.stream);
        self.shared.crew.post(home, Mail::Connection(Box::new(connection)));
        true
    }

    /// The live connection of `token`, and its place.
    fn find(&mut self, token: ConnectionToken) -> Option<(u32, &mut Connection)> {
        let at = self.connections.place_of(token)?;
        Some((at, self.connections.at(at)?))
    }

    fn on_event(&mut self, event: &Event) {
        let Some((at, connection)) = self.find(ConnectionToken(event.token())) else { return };
        if event.is_broken() {
            return self.close(at);
        }
        connection.may_read |= event.is_readable();
        connection.peer_is_done |= event.is_last_to_read();
        if event.is_writable() && connection.is_blocked() && connection.send_rest().is_err() {
            return self.close(at);
        }
        if !self.send_home(at) {
            self.ready.push(at);
        }
    }

    /// Gives a parked connection some of its replies.
    fn deliver_part(&mut self, token: ConnectionToken, replies: &[u8]) {
        let now_ms = self.now.0;
        let Some((at, connection)) = self.find(token) else { return };
        connection.last_active_ms = now_ms;
        if connection.send(replies).is_err() {
            self.close(at);
        }
    }

    /// Gives a parked connection its last reply and goes on with it.
    fn deliver(&mut self, token: ConnectionToken, reply: &[u8]) {
        let now_ms = self.now.0;
        let Some((at, connection)) = self.find(token) else { return };
        connection.is_parked = false;
        connection.stream_of_replies = None;
        connection.last_active_ms = now_ms;
        if connection.send(reply).is_err() {
            return self.close(at);
        }
        self.ready.push(at);
    }

    /// Carries out what the connections at `places` have sent, as far as each may.
    fn serve_all(&mut self, places: &[u32]) {
        for together in places.chunks(PREPARED_REQUESTS) {
            self.serve_together(together);
        }
    }

    /// Reads from all of `places` before it carries out what came, so that memory is asked for the records of all of them
    /// at once.
    fn serve_together(&mut self, places: &[u32]) {
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        let mut arrivals = Arrivals::new();
        let mut end = 0;
        for &at in places {
            if arrivals.iter().any(|arrival| arrival.at == at) {
                continue;
            }
            let Some(connection) = self.connections.at(at) else { continue };
            if !connection.may_serve() {
                continue;
            }
            if !connection.input.is_empty() {
                self.serve_waiting(at);
            } else if connection.may_read {
                let room = &mut buffer[end..end + RECEIVE_SIZE];
                match connection.receive(room) {
                    Some(size) => {
                        arrivals.push(Arrival { at, start: end, size });
                        end += size;
                    }
                    None => self.close(at),
                }
            }
        }
        let firsts: SmallVec<[Option<Message<'_>>; PREPARED_REQUESTS]> =
            arrivals.iter().map(|arrival| Message::in_front_of(arrival.bytes(&buffer))).collect();
        // A connection's further requests are prepared for in their turn.
        if firsts.len() > 1 {
            self.executor.prepare(firsts.iter().flatten().filter_map(Message::record));
        }
        for (arrival, first) in arrivals.iter().zip(firsts) {
            self.serve_arrival(arrival.at, arrival.bytes(&buffer), first);
        }
        self.receive_buffer = buffer;
        if !self.executor.has_unsettled() {
            self.send_replies(None);
        }
    }

    /// Carries out what has come from connection `at`, of which nothing waits; it begins with `first`.
    fn serve_arrival<'b>(&mut self, at: u32, bytes: &'b [u8], first: Option<Message<'b>>) {
        self.with_connection(at, |thread, connection, token| {
            let (used, verdict) = thread.serve_requests(connection, token, bytes, first);
            if verdict == Verdict::Keep && used < bytes.len() {
                connection.input.extend_from_slice(&bytes[used..]);
            }
            verdict
        });
    }

    /// Carries out requests of connection `at` that waited behind a parked or blocked one, then what comes behind them.
    fn serve_waiting(&mut self, at: u32) {
        self.with_connection(at, |thread, connection, token| {
            let mut input = std::mem::take(&mut connection.input);
            let mut verdict = thread.serve_buffered(connection, token, &mut input);
            if verdict == Verdict::Keep && connection.may_read && connection.may_serve() {
                verdict = receive_behind(connection, &mut input);
                if verdict == Verdict::Keep {
                    verdict = thread.serve_buffered(connection, token, &mut input);
                }
            }
            if !input.is_empty() {
                connection.input = input;
            }
            verdict
        });
    }

    /// Does something to connection `at`, then puts it in line if there is more to read, or closes it.
    fn with_connection(
        &mut self,
        at: u32,
        act: impl FnOnce(&mut Self, &mut Connection, ConnectionToken) -> Verdict,
    ) {
        let Some((token, mut connection)) = self.connections.take(at) else { return };
        let verdict = act(self, &mut connection, token);
        if verdict == Verdict::Keep && connection.may_read && connection.may_serve() {
            self.ready.push(at);
        }
        self.connections.put_back(at, connection);
        if verdict == Verdict::Close {
            self.close(at);
        }
    }

    fn serve_buffered(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        input: &mut Vec<u8>,
    ) -> Verdict {
        let (used, verdict) = self.serve_requests(connection, token, input, Message::in_front_of(input));
        if used == input.len() && input.capacity() > KEEP_SIZE_MAX {
            *input = Vec::new();
        } else {
            input.drain(..used);
        }
        verdict
    }

    /// Carries out the complete requests in `bytes`, which begin with `first` if that is a record message; their replies
    /// wait in the outbox. Gives how many bytes they took.
    fn serve_requests<'b>(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        bytes: &'b [u8],
        mut first: Option<Message<'b>>,
    ) -> (usize, Verdict) {
        let mut replies = std::mem::take(&mut self.outbox.replies);
        let (mut used, mut verdict) = (0, Verdict::Keep);
        while used < bytes.len() && verdict == Verdict::Keep && connection.may_serve() {
            let first = first.take().or_else(|| Message::in_front_of(&bytes[used..]));
            let messages = Messages::from_first(first, &bytes[used..]);
            if messages.requests.is_empty() {
                match self.carry_out_other(connection, token, &bytes[used..], &mut replies) {
                    Some((size, after)) => (used, verdict) = (used + size, after),
                    None => break,
                }
            } else {
                let (size, after) = self.carry_out_messages(connection, token, &messages, &mut replies);
                (used, verdict) = (used + size, after);
            }
            if replies.len() >= REPLIES_SIZE_MAX || verdict == Verdict::Close {
                self.outbox.replies = replies;
                self.outbox.address(token);
                if self.send_replies(Some((token, connection))) == Verdict::Close {
                    verdict = Verdict::Close;
                }
                replies = std::mem::take(&mut self.outbox.replies);
            }
        }
        if used > 0 {
            connection.last_active_ms = self.now.0;
        }
        self.outbox.replies = replies;
        self.outbox.address(token);
        (used, verdict)
    }

    /// Sends each connection its replies, once what they tell of is on disk; the first of them to settle does so for the
    /// others. A connection that is being served is at no place and has to be named; gives whether it goes on.
    fn send_replies(&mut self, mut served: Option<(ConnectionToken, &mut Connection)>) -> Verdict {
        let mut verdict = Verdict::Keep;
        let mut outbox = std::mem::take(&mut self.outbox);
        self.executor.settle_all(&mut outbox.replies);
        for (token, replies) in outbox.parts() {
            if let Some((served, connection)) = &mut served
                && *served == token
            {
                if connection.send(replies).is_err() {
                    verdict = Verdict::Close;
                }
            } else if let Some((at, connection)) = self.find(token)
                && connection.send(replies).is_err()
            {
                self.close(at);
            }
        }
        outbox.clear();
        self.outbox = outbox;
        verdict
    }

    /// Carries out the request at the start of `bytes`, which is no record message; gives its size. `None` while it is
    /// incomplete.
    fn carry_out_other(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        bytes: &[u8],
        replies: &mut Vec<u8>,
    ) -> Option<(usize, Verdict)> {
        let header = match FrameHeader::parse(bytes) {
            Ok(header) => header?,
            Err(error) => {
                cf::warning_limited!(Proto, "closing the connection of {}: {error}", connection.peer);
                return Some((0, Verdict::Close));
            }
        };
        let size = HEADER_SIZE + header.body_size;
        let body = bytes.get(HEADER_SIZE..size)?;
        let verdict = match header.frame_type {
            FrameType::Info => {
                // Info is answered by other threads; what was asked before is answered first.
                let (received, mailbox) = (Instant::now(), Arc::clone(&self.mailbox));
                let job = InfoJob { body: body.into(), received, mailbox, token };
                connection.is_parked = true;
                self.shared.info.give(job);
                Verdict::Keep
            }
            FrameType::Security => {
                frame::write_security_not_enabled(replies);
                Verdict::Keep
            }
            FrameType::CompressedMessage => {
                reply::write_header_only(replies, &ReplyHeader::result(ResultCode::EnterpriseOnly));
                Verdict::Keep
            }
            FrameType::Message => {
                // It was not taken as a message because it does not parse as one.
                self.shared.metrics.add(ServerCounter::DemarshalError, 1);
                if let Err(error) = Request::parse(body) {
                    cf::warning_limited!(Proto, "bad message from {}: {error}", connection.peer);
                }
                // The client of a batch waits for its last message.
                let is_batch = body.get(1).is_some_and(|bits| bits & info1::BATCH != 0);
                let header = if is_batch { ReplyHeader::last } else { ReplyHeader::result };
                reply::write_header_only(replies, &header(ResultCode::Parameter));
                Verdict::Keep
            }
            FrameType::InternalXdr => {
                cf::warning_limited!(Proto, "closing the connection of {}: XDR frame", connection.peer);
                Verdict::Close
            }
        };
        Some((size, verdict))
    }

    /// Carries out record messages one after the other, until their replies are large enough to be sent; gives how many
    /// bytes those carried out have.
    fn carry_out_messages(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        messages: &Messages<'_>,
        replies: &mut Vec<u8>,
    ) -> (usize, Verdict) {
        if messages.requests.len() > 1 {
            self.executor.prepare(messages.requests.iter().filter_map(Message::record));
        }
        let mut used = 0;
        for message in &messages.requests {
            used += message.size();
            let verdict = self.carry_out_message(connection, token, message, replies);
            if verdict == Verdict::Close || connection.is_parked || replies.len() >= REPLIES_SIZE_MAX {
                return (used, verdict);
            }
        }
        (used, Verdict::Keep)
    }

    /// A panic in here is a bug of ours. It must not end the server: the client gets an error and is cut off.
    fn carry_out_message(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        message: &Message<'_>,
        replies: &mut Vec<u8>,
    ) -> Verdict {
        let Message { request, body } = message;
        let (start, settled) = (replies.len(), self.executor.unsettled_count());
        self.request_count += 1;
        let (executor, now) = (&mut self.executor, self.now);
        match catch_unwind(AssertUnwindSafe(|| executor.execute(request, now, replies))) {
            Ok(Execution::Replied) => Verdict::Keep,
            Ok(Execution::Batch) => {
                let timeout = match request.transaction_ttl_ms {
                    0 => BATCH_TIME_MAX,
                    ms => Duration::from_millis(u64::from(ms)),
                };
                let stream = self.park_for_stream(connection, token, Some(timeout));
                self.shared.batches.start(body, now, stream);
                Verdict::Keep
            }
            Ok(Execution::Query(namespace)) => {
                if let Err(result) = self.start_query(connection, token, request, &namespace) {
                    self.shared.metrics.add(ServerCounter::EarlyTsvcClientError, 1);
                    query::refuse(replies, result);
                }
                Verdict::Keep
            }
            Err(_) => {
                cf::critical!(Tsvc, "a request failed on an internal error; its connection is closed");
                replies.truncate(start);
                self.executor.forget_unsettled(settled);
                reply::write_header_only(replies, &ReplyHeader::result(ResultCode::Unknown));
                Verdict::Close
            }
        }
    }

    /// Starts a query and parks its connection until it has ended.
    fn start_query(
        &mut self,
        connection: &mut Connection,
        token: ConnectionToken,
        request: &Request<'_>,
        namespace: &Arc<Namespace>,
    ) -> Result<(), ResultCode> {
        let query = Query::from_request(request, namespace)?;
        let stream = self.park_for_stream(connection, token, query.socket_timeout);
        self.shared.queries.start(query, connection.peer, stream).inspect_err(|_| {
            connection.stream_of_replies = None;
            connection.is_parked = false;
        })
    }

    /// Parks a connection for replies that other threads make.
    fn park_for_stream(
        &self,
        connection: &mut Connection,
        token: ConnectionToken,
        timeout: Option<Duration>,
    ) -> Arc<ReplyStream> {
        let (stream, progress) = ReplyStream::new(Arc::clone(&self.mailbox), token, timeout);
        connection.stream_of_replies = Some(progress);
        connection.is_parked = true;
        Arc::new(stream)
    }

    fn close(&mut self, at: u32) {
        if self.connections.remove(at).is_some() {
            self.count_closed();
        }
    }

    fn count_closed(&self) {
        self.shared.connection_count.fetch_sub(1, Relaxed);
        self.shared.metrics.add(ServerCounter::ClientConnectionsClosed, 1);
    }

    /// Closes connections that have been idle for longer than `proto-fd-idle-ms`.
    fn reap_idle(&mut self) {
        let idle_ms = u64::from(self.shared.config.service.proto_fd_idle_ms.get());
        if idle_ms == 0 {
            return;
        }
        for at in 0..self.connections.place_count() {
            if let Some(connection) = self.connections.at(at)
                && !connection.is_parked
                && self.now.0.saturating_sub(connection.last_active_ms) > idle_ms
            {
                self.close(at);
                self.shared.metrics.add(ServerCounter::ReapedFds, 1);
            }
        }
    }
}

/// What has come from a connection, in the receive buffer of the thread.
struct Arrival {
    at: u32,
    start: usize,
    size: usize,
}

impl Arrival {
    fn bytes<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.start..self.start + self.size]
    }
}

type Arrivals = SmallVec<[Arrival; PREPARED_REQUESTS]>;

/// Reads behind the incomplete request in `input`.
fn receive_behind(connection: &mut Connection, input: &mut Vec<u8>) -> Verdict {
    let start = input.len();
    // Grows with what has come, never with what was announced.
    input.resize(start + start.clamp(RECEIVE_SIZE, 16 * RECEIVE_SIZE), 0);
    match connection.receive(&mut input[start..]) {
        None => Verdict::Close,
        Some(size) => {
            input.truncate(start + size);
            Verdict::Keep
        }
    }
}
