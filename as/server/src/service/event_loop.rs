//! The loop of a service thread: it waits for events, serves their connections, and sends the replies.
//!
//! One wake-up serves all connections that are ready. [Dispatch](super::dispatch) reads and carries out their
//! requests; the replies gather in the outbox and are [sent](super::sending) together, or, of few connections,
//! one by one. Replies that must wait for the disk are held when the whole wake-up has been carried out, so that
//! one flush serves them all. A connection with unsent or held replies, or [parked](super::park) for a reply made elsewhere, is not read:
//! TCP provides the back-pressure. A connection with more to read than one buffer is read again after the
//! others, so that none starves.
//!
//! # Panics
//! A panic is a bug of ours. It costs only the connection being served: the connection gets an error if a
//! request was being carried out, and is closed. The thread continues.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use cf::sys::epoll::{Epoll, Event, Events, Trigger};
use cf::turns::{TURN, Turn};
use proto::ResultCode;
use proto::reply::{self, ReplyHeader};

use super::activity::Activity;
use super::connection::Connection;
use super::connections::Connections;
use super::context::ServiceContext;
use super::delivery::{ConnectionToken, Delivery};
use super::handshakes::Handshakes;
use super::mailbox::{Mail, Mailbox};
use super::outbox::Outbox;
use super::reply_budget::{Charge, STALLED_TIME_MAX};
use crate::fabric::Gathering;
use crate::index::NoSleep;
use crate::metrics::ServerCounter;
use crate::transaction::{Executor, PREPARED_REQUESTS};

const EVENTS_MAX: usize = 256;
/// Number of bytes read from a connection at a time.
pub(super) const RECEIVE_SIZE: usize = 64 << 10;
const MAILBOX_TOKEN: u64 = u64::MAX;
/// How often the thread searches for idle connections.
const TICK: Duration = Duration::from_secs(1);
/// How often requests that are put off are tried again.
const PUT_OFF_PERIOD: Duration = Duration::from_millis(10);

/// Whether a connection stays open after it was served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Close,
}

/// The kind of room that a request that is put off waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomOf {
    Replies,
    Inflated,
}

/// A connection whose request is put off until there is room for this many bytes, or until `deadline`.
pub(super) struct PutOff {
    pub(super) token: ConnectionToken,
    pub(super) size: usize,
    pub(super) room: RoomOf,
    pub(super) deadline: Instant,
}

/// State of the outbox when the current request began.
#[derive(Clone, Copy)]
pub(super) struct Checkpoint {
    replies_size: usize,
    unsettled_count: usize,
}

pub(crate) struct ServiceThread {
    pub(super) context: Arc<ServiceContext>,
    /// The index of the thread in the pool.
    position: usize,
    pub(super) mailbox: Arc<Mailbox>,
    activity: Arc<Activity>,
    epoll: Epoll,
    pub(super) connections: Connections,
    /// Slots of connections that may have more to read.
    pub(super) ready: Vec<u32>,
    /// TLS connections whose handshake is in progress.
    pub(super) handshakes: Handshakes,
    pub(super) executor: Executor,
    /// Room for [`RECEIVE_SIZE`] bytes from each of the connections that are read together. The system
    /// provides pages as they are used.
    pub(super) receive_buffer: Box<[u8]>,
    /// Replies made since the last wait that are not sent yet.
    pub(super) outbox: Outbox,
    /// Bytes of a message while it is inflated or compressed.
    pub(super) spare_buffer: Vec<u8>,
    /// Connections whose requests are put off until there is room for them or for their replies.
    pub(super) put_off: Vec<PutOff>,
    /// Room for the large reply that is being made.
    pub(super) large_reply: Option<Charge>,
    /// Set while a request is being carried out.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Number of requests carried out since the last wait.
    pub(super) request_count: u64,
    /// The wall clock at the last wake-up.
    pub(super) now: StoredMillis,
    /// The monotonic clock at the last wake-up.
    pub(super) woken: Instant,
    turn: Turn,
    next_tick: Instant,
    is_stopping: bool,
}

impl ServiceThread {
    /// Starts a thread, which joins the pool.
    ///
    /// # Errors
    /// When the process has no file descriptor left, or the system refuses another thread.
    pub(crate) fn start(
        context: &Arc<ServiceContext>,
        position: usize,
        executor: Executor,
    ) -> io::Result<()> {
        let (mailbox, activity) = (Mailbox::new()?, Arc::new(Activity::new()));
        let epoll = Epoll::new()?;
        epoll.add(mailbox.bell.wake(), MAILBOX_TOKEN, Trigger::Signal)?;
        let thread = ServiceThread {
            context: Arc::clone(context),
            position,
            mailbox: Arc::clone(&mailbox),
            activity: Arc::clone(&activity),
            epoll,
            connections: Connections::default(),
            ready: Vec::new(),
            handshakes: Handshakes::default(),
            executor,
            receive_buffer: new_receive_buffer(),
            outbox: Outbox::default(),
            spare_buffer: Vec::new(),
            put_off: Vec::new(),
            large_reply: None,
            checkpoint: None,
            request_count: 0,
            now: StoredMillis::now(),
            woken: Instant::now(),
            turn: Turn::begin(),
            next_tick: Instant::now() + TICK,
            is_stopping: false,
        };
        let handle = cf::threads::spawn_essential(&format!("service-{position}"), move || {
            cf::counters::claim_shard(position + 1);
            thread.activity.belong_to_this_thread();
            thread.run();
        })?;
        context.pool.add(mailbox, activity, handle);
        Ok(())
    }

    /// Serves connections until told to stop.
    fn run(mut self) {
        let _no_sleep = NoSleep::for_this_thread();
        cf::threads::take_short_turns(TURN);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut done = self.woken;
        while !self.is_stopping {
            let is_idle = self.ready.is_empty() && !self.handshakes.has_waiting();
            let is_waited_for = self.context.replies.is_waited_for() || self.context.inflated.is_waited_for();
            let timeout = match (is_idle, is_waited_for) {
                (true, false) => TICK,
                (true, true) => PUT_OFF_PERIOD,
                (false, _) => Duration::ZERO,
            };
            let happened = match self.epoll.wait(&mut events, Some(timeout)) {
                Ok(happened) => happened,
                Err(error) => cf::fatal!("epoll of a service thread failed: {error}"),
            };
            self.now = StoredMillis::now();
            self.woken = Instant::now();
            self.activity.wake(self.woken);
            self.turn.waited(done, self.woken);
            if catch_unwind(AssertUnwindSafe(|| self.wake_up(happened))).is_err() {
                self.recover();
            }
            done = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| self.executor.measure(done))).is_err() {
                self.recover();
            }
            self.activity.sleep(done, std::mem::take(&mut self.request_count));
            done = self.turn.go_on(done);
        }
        for slot in 0..self.connections.slot_count() {
            self.close(slot);
        }
    }

    /// Handles all events and all mail of one wake-up.
    fn wake_up(&mut self, events: &[Event]) {
        let gathering = Gathering::begin();
        self.executor.wake(self.woken);
        // Some mail arrives without a signal.
        self.take_mail();
        for event in events {
            if event.token() == MAILBOX_TOKEN {
                self.read_mail();
            } else {
                self.on_event(event);
            }
        }
        self.resume_put_off();
        let mut serving = std::mem::take(&mut self.ready);
        self.serve_all(&serving);
        serving.clear();
        if self.ready.is_empty() {
            // The vector is kept, so that its allocation is reused.
            self.ready = serving;
        }
        // The messages are sent first, so that replicas begin with their work while the replies are sent
        // here.
        drop(gathering);
        self.send_replies();
        self.go_on_with_handshakes();
        if self.woken >= self.next_tick {
            self.next_tick = self.woken + TICK;
            self.close_unfinished_handshakes();
            self.look_for_reading();
            self.close_stalled();
            self.reap_idle();
        }
    }

    fn read_mail(&mut self) {
        self.mailbox.open();
        self.take_mail();
    }

    fn take_mail(&mut self) {
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Connection(connection) => self.add(*connection),
                Mail::Delivery(token, delivery) => self.take_up(token, delivery),
                Mail::Released(held) => self.release(*held),
                Mail::Stop => self.is_stopping = true,
            }
        }
    }

    /// Handles a delivery for a parked connection.
    pub(super) fn take_up(&mut self, token: ConnectionToken, delivery: Delivery) {
        match delivery {
            Delivery::Part(replies) => self.deliver_part(token, replies),
            Delivery::Reply(reply) => self.deliver(token, reply),
            Delivery::Inflated(frame, room) => self.deliver_inflated(token, frame, room),
            Delivery::Abandoned => self.close_abandoned(token),
        }
    }

    fn add(&mut self, connection: Connection) {
        cf::fault_point!("add");
        let token = self.connections.next_token();
        if let Err(error) = self.epoll.add(&*connection.stream, token.0, Trigger::Edge) {
            return cf::warning_limited!(
                Service,
                "cannot watch the connection of {}: {error}",
                connection.peer
            );
        }
        if connection.is_handshaking {
            self.handshakes.begin(token, self.woken);
        }
        self.connections.add(connection);
    }

    /// Moves the connection of a slot to the thread that owns it, if that is another one. Returns whether it
    /// did.
    fn hand_over(&mut self, slot: u32) -> bool {
        let Some(connection) = self.connections.get(slot) else { return false };
        let owner = self.context.pool.owner_of(connection.number);
        if owner == self.position || !connection.may_serve() {
            return false;
        }
        let Some(connection) = self.connections.remove(slot) else { return false };
        self.epoll.remove(&*connection.stream);
        self.context.pool.post(owner, Mail::Connection(Box::new(connection)));
        true
    }

    fn on_event(&mut self, event: &Event) {
        let token = ConnectionToken(event.token());
        self.guard(token, |thread, slot| {
            let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
            if event.is_broken() {
                // The held replies are dropped too, because there is no client.
                thread.close(slot);
                return Verdict::Keep;
            }
            cf::fault_point!("event");
            connection.may_read |= event.is_readable();
            if event.is_last_to_read() {
                connection.note_peer_is_done();
            }
            if event.is_writable() && connection.is_blocked() {
                connection.last_active = thread.woken;
                if connection.send_rest().is_err() {
                    return Verdict::Close;
                }
            }
            if connection.is_handshaking {
                thread.handshakes.wait(token);
            } else if connection.is_held {
                thread.want_release(slot);
            } else if !thread.hand_over(slot) {
                thread.ready.push(slot);
            }
            Verdict::Keep
        });
    }

    /// Runs `act` for the live connection of `token`, and closes the connection if `act` says so or panics.
    pub(super) fn guard(&mut self, token: ConnectionToken, act: impl FnOnce(&mut Self, u32) -> Verdict) {
        let Some(slot) = self.connections.slot_of(token) else { return };
        self.checkpoint = None;
        let verdict = match catch_unwind(AssertUnwindSafe(|| act(self, slot))) {
            Ok(verdict) => verdict,
            Err(_) => {
                cf::critical!(Tsvc, "a request failed on an internal error; its connection is closed");
                self.answer_panic(token);
                Verdict::Close
            }
        };
        self.checkpoint = None;
        if verdict == Verdict::Close {
            if self.outbox.has_part_of(token) {
                self.send_replies();
            }
            self.close_behind_held(slot);
        }
    }

    /// Replaces the partial reply of the request that panicked with an error, if one was being carried out.
    fn answer_panic(&mut self, token: ConnectionToken) {
        if let Some(Checkpoint { replies_size, unsettled_count }) = self.checkpoint.take() {
            self.outbox.replies.truncate(replies_size);
            self.executor.forget_unsettled(unsettled_count);
            reply::write_header_only(&mut self.outbox.replies, &ReplyHeader::result(ResultCode::Unknown));
            self.outbox.address(token);
        }
    }

    /// Notes that a request begins here.
    pub(super) fn set_checkpoint(&mut self) {
        self.checkpoint = Some(Checkpoint {
            replies_size: self.outbox.replies.len(),
            unsettled_count: self.executor.unsettled_count(),
        });
    }

    /// The live connection of `token`.
    pub(super) fn find(&mut self, token: ConnectionToken) -> Option<&mut Connection> {
        let slot = self.connections.slot_of(token)?;
        self.connections.get(slot)
    }

    /// Continues after a panic outside of a connection. Connections whose replies are lost are closed; the
    /// others are checked again, because an event of theirs may be lost.
    #[cold]
    fn recover(&mut self) {
        cf::critical!(Service, "a service thread continues after an internal error");
        self.checkpoint = None;
        self.executor.forget_unsettled(0);
        let outbox = std::mem::take(&mut self.outbox);
        for part in 0..outbox.part_count() {
            if let Some(slot) = self.connections.slot_of(outbox.part(part).0) {
                self.close(slot);
            }
        }
        if self.receive_buffer.is_empty() {
            self.receive_buffer = new_receive_buffer();
        }
        self.ready.clear();
        self.put_off.clear();
        self.large_reply = None;
        // Some mail may not have been handled yet, and its signal has been consumed.
        self.mailbox.open();
        self.mailbox.bell.ring();
        for slot in 0..self.connections.slot_count() {
            if let Some(connection) = self.connections.get(slot) {
                connection.may_read = true;
                connection.put_off = None;
                let is_handshaking = connection.is_handshaking;
                self.want_release(slot);
                match self.connections.token(slot) {
                    Some(token) if is_handshaking => self.handshakes.wait(token),
                    _ => self.ready.push(slot),
                }
            }
        }
    }

    pub(super) fn close(&mut self, slot: u32) {
        drop(self.connections.remove(slot));
    }

    /// Retries requests that were put off, as far as there is room. Those without room are put off again.
    fn resume_put_off(&mut self) {
        let (replies, inflated) = (&self.context.replies, &self.context.inflated);
        if !replies.is_waited_for() && !inflated.is_waited_for() {
            return;
        }
        replies.release_queued(self.woken);
        let mut put_off = std::mem::take(&mut self.put_off);
        put_off.retain(|PutOff { token, size, room, deadline }| {
            let Some(slot) = self.connections.slot_of(*token) else { return false };
            let has_room = match room {
                RoomOf::Replies => self.context.replies.has_room(*size),
                RoomOf::Inflated => self.context.inflated.has_room(*size),
            };
            let Some(connection) = self.connections.get(slot) else { return false };
            if connection.is_given_up(self.woken) {
                self.close(slot);
                return false;
            }
            // A late request is carried out although its time is over, so that it is answered with a timeout.
            let is_tried = has_room || self.woken >= *deadline;
            if is_tried {
                connection.put_off = None;
                self.ready.push(slot);
            }
            !is_tried
        });
        self.put_off = put_off;
    }

    /// Notes which clients read their waiting replies, if those that do not may have to be closed.
    fn look_for_reading(&mut self) {
        if self.context.config.service.proto_fd_idle_ms.get() == 0 && !self.context.replies.is_waited_for() {
            return;
        }
        for slot in 0..self.connections.slot_count() {
            if let Some(connection) = self.connections.get(slot) {
                connection.look_for_reading(self.woken);
            }
        }
    }

    /// Closes connections whose clients have long read nothing, while requests of others are put off.
    fn close_stalled(&mut self) {
        if !self.context.replies.is_waited_for() && !self.context.inflated.is_waited_for() {
            return;
        }
        for slot in 0..self.connections.slot_count() {
            if let Some(connection) = self.connections.get(slot)
                && connection.is_blocked()
                && self.woken.saturating_duration_since(connection.last_active) > STALLED_TIME_MAX
            {
                cf::warning_limited!(
                    Service,
                    "closing the connection of {}: it does not read its replies, and others wait for room",
                    connection.peer
                );
                self.close(slot);
                self.context.metrics.add(ServerCounter::UnreadConnectionsClosed, 1);
            }
        }
    }

    /// Closes connections that have been idle for longer than `proto-fd-idle-ms`.
    fn reap_idle(&mut self) {
        cf::fault_point!("reap");
        let idle_ms = u64::from(self.context.config.service.proto_fd_idle_ms.get());
        if idle_ms == 0 {
            return;
        }
        for slot in 0..self.connections.slot_count() {
            if let Some(connection) = self.connections.get(slot)
                && !connection.is_parked
                && !connection.is_held
                && self.woken.saturating_duration_since(connection.last_active)
                    > Duration::from_millis(idle_ms)
            {
                self.close(slot);
                self.context.metrics.add(ServerCounter::ReapedFds, 1);
            }
        }
    }
}

fn new_receive_buffer() -> Box<[u8]> {
    vec![0; PREPARED_REQUESTS * RECEIVE_SIZE].into_boxed_slice()
}
