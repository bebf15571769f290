//! One thread of the load generator: its epoll loop.
//!
//! The thread ends when its requests are used up, when time is up and all requests in flight are answered,
//! when another thread has failed (`stop`), or with an error when the server is lost or does not answer.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cf::clock::monotonic_nanos;
use cf::sys::epoll::{Epoll, Event, Events, Trigger};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::connection::{Connection, InFlight, Received};
use super::counters::ThreadCounters;
use super::pace::Pace;
use super::pause::{Pause, Pauses};
use super::protocol::{KIND_COUNT, Outcome, Protocol};
use crate::link::{Access, Link};

const EVENTS_PER_WAIT: usize = 256;
/// Interval of the check for overdue requests, and the longest sleep.
const CHECK_EVERY_NS: u64 = 10_000_000;
/// Longest sleep while the pace holds requests back.
const PACE_STEP: Duration = Duration::from_millis(1);

/// The task of a thread. Times are on the monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) address: SocketAddr,
    pub(super) depth: usize,
    pub(super) start_ns: u64,
    /// No request starts after this time.
    pub(super) deadline_ns: Option<u64>,
    pub(super) requests_max: Option<u64>,
    /// Requests per second.
    pub(super) rate: Option<u64>,
    /// Pause of a connection between an answer and its next request.
    pub(super) pause: Option<Pause>,
    /// Seed that makes the pauses of this thread differ from those of other threads.
    pub(super) seed: u64,
    pub(super) access: Access,
    pub(super) connect_timeout: Duration,
    /// Time without any reply after which the run ends.
    pub(super) silence_max_ns: u64,
    /// Longest wait for one reply, by kind of request.
    pub(super) timeout_ns: [Option<u64>; KIND_COUNT],
}

pub(super) struct Worker<P> {
    task: Task,
    protocol: P,
    connections: Vec<Connection>,
    epoll: Epoll,
    scratch: Vec<u8>,
    pace: Pace,
    /// Connections with a free slot that the pace holds back.
    held_back: VecDeque<usize>,
    pauses: Pauses,
    in_flight: usize,
    requests_left: u64,
    /// Whether there are no more requests. The thread then waits for those in flight.
    is_draining: bool,
    last_reply_ns: u64,
    counters: Arc<ThreadCounters>,
    stop: Arc<AtomicBool>,
}

impl<P: Protocol> Worker<P> {
    pub(super) fn new(
        task: Task,
        protocol: P,
        streams: Vec<Link>,
        counters: Arc<ThreadCounters>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            let connection = Connection::new(stream, task.depth)?;
            epoll.add(connection.stream(), index as u64, Trigger::Edge)?;
            connections.push(connection);
        }
        Ok(Worker {
            pace: Pace::new(task.rate, task.start_ns),
            pauses: Pauses::new(task.pause, task.seed),
            requests_left: task.requests_max.unwrap_or(u64::MAX),
            last_reply_ns: task.start_ns,
            task,
            protocol,
            connections,
            epoll,
            scratch: Vec::new(),
            held_back: VecDeque::new(),
            in_flight: 0,
            is_draining: false,
            counters,
            stop,
        })
    }

    /// Runs until the task is done.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        let mut check_at_ns = self.task.start_ns + CHECK_EVERY_NS;
        self.last_reply_ns = monotonic_nanos();
        for index in 0..self.connections.len() {
            self.go_on(index, monotonic_nanos());
            self.flush(index)?;
        }
        loop {
            let now_ns = monotonic_nanos();
            self.is_draining |= self.task.deadline_ns.is_some_and(|deadline| now_ns >= deadline);
            if self.stop.load(Ordering::Relaxed) || self.is_draining && self.in_flight == 0 {
                return Ok(());
            }
            if now_ns >= check_at_ns {
                self.check_overdue(now_ns)?;
                check_at_ns = now_ns + CHECK_EVERY_NS;
            }
            self.release_held_back(now_ns)?;
            self.release_rested(now_ns)?;
            let ready = self.wait(&mut events).map_err(|error| format!("cannot wait for events: {error}"))?;
            for event in ready {
                let index = event.token() as usize;
                self.flush(index)?;
                if event.is_readable() || event.is_broken() {
                    self.serve(index)?;
                }
            }
        }
    }

    /// Waits for events, but no longer than until the next timed action.
    fn wait<'a>(&self, events: &'a mut Events) -> io::Result<&'a [Event]> {
        let longest =
            if self.held_back.is_empty() { Duration::from_nanos(CHECK_EVERY_NS) } else { PACE_STEP };
        let Some(until_next) = self.pauses.until_next(monotonic_nanos()) else {
            return self.epoll.wait(events, Some(longest));
        };
        // Epoll counts whole milliseconds, which is too coarse for pauses.
        let timeout = TimeSpec::from_duration(until_next.min(longest));
        let mut descriptors = [PollFd::new(self.epoll.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut descriptors, Some(timeout), None) {
            Ok(_) | Err(Errno::EINTR) => self.epoll.wait(events, Some(Duration::ZERO)),
            Err(error) => Err(error.into()),
        }
    }

    /// The error of the first bad reply.
    pub(super) fn first_fault(&self) -> Option<String> {
        self.protocol.first_fault()
    }

    /// Takes the replies on a connection and sends the next requests.
    fn serve(&mut self, index: usize) -> Result<(), String> {
        loop {
            let received = match self.connections[index].receive(&mut self.scratch) {
                Ok(Received::Bytes { filled, drained }) => (filled, drained),
                Ok(Received::Nothing) => return Ok(()),
                Err(error) => return Err(self.lost(&error)),
            };
            let now_ns = monotonic_nanos();
            self.last_reply_ns = now_ns;
            let answered = self.take_replies(index, received.0, now_ns)?;
            if answered > 0 || !self.pauses.are_wanted() {
                self.go_on(index, now_ns);
            }
            self.flush(index)?;
            if received.1 {
                return Ok(());
            }
        }
    }

    /// Takes replies. Returns their number.
    fn take_replies(&mut self, index: usize, filled: usize, now_ns: u64) -> Result<usize, String> {
        let in_flight_before = self.in_flight;
        let connection = &mut self.connections[index];
        let mut at = 0;
        while at < filled {
            let Some(request) = connection.in_flight.front() else {
                return Err(format!("{} sent {} bytes that answer nothing", self.task.address, filled - at));
            };
            let bytes = &self.scratch[at..filled];
            let Some(reply) = self.protocol.reply(request.kind, bytes)? else { break };
            let latency_ns = now_ns.saturating_sub(request.start_ns);
            self.counters.replied(request.kind, reply.outcome, reply.code, latency_ns);
            connection.in_flight.pop_front();
            self.in_flight -= 1;
            at += reply.size;
            if reply.outcome == Outcome::Fatal {
                let fault = self.protocol.first_fault();
                return Err(fault.unwrap_or_else(|| "the server refuses every request".to_owned()));
            }
        }
        connection.keep(&self.scratch[at..filled]);
        Ok(in_flight_before - self.in_flight)
    }

    /// Continues with a connection after an answer, or for the first time, at once or after a pause.
    #[inline]
    fn go_on(&mut self, index: usize, now_ns: u64) {
        if self.pauses.are_wanted() {
            self.pauses.begin(index, now_ns);
        } else {
            self.refill(index, now_ns);
        }
    }

    fn release_rested(&mut self, now_ns: u64) -> Result<(), String> {
        while let Some(index) = self.pauses.next_rested(now_ns) {
            // The clock is read again, because earlier connections took time.
            self.refill(index, monotonic_nanos());
            self.flush(index)?;
        }
        Ok(())
    }

    /// Encodes requests for the free slots of a connection, if the pace and the task allow.
    fn refill(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.connections[index];
        while connection.in_flight.len() < self.task.depth && !self.is_draining {
            if !self.pace.allow(now_ns) {
                if !connection.is_held_back {
                    connection.is_held_back = true;
                    self.held_back.push_back(index);
                }
                return;
            }
            let kind =
                if self.requests_left == 0 { None } else { self.protocol.next_request(&mut connection.out) };
            let Some(kind) = kind else {
                self.is_draining = true;
                return;
            };
            self.requests_left -= 1;
            connection.in_flight.push_back(InFlight { start_ns: now_ns, kind });
            self.in_flight += 1;
            self.counters.requested();
        }
    }

    fn flush(&mut self, index: usize) -> Result<(), String> {
        self.connections[index].flush().map_err(|error| self.lost(&error))
    }

    /// Continues with the connections that the pace held back. The one that waited longest comes first.
    fn release_held_back(&mut self, now_ns: u64) -> Result<(), String> {
        for _ in 0..self.held_back.len() {
            let Some(index) = self.held_back.pop_front() else { return Ok(()) };
            self.connections[index].is_held_back = false;
            self.refill(index, now_ns);
            self.flush(index)?;
            if self.connections[index].is_held_back {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends the run if the server is silent. Replaces connections whose oldest request is overdue.
    fn check_overdue(&mut self, now_ns: u64) -> Result<(), String> {
        let silence_max_ns = self.task.silence_max_ns;
        if self.in_flight > 0 && now_ns.saturating_sub(self.last_reply_ns) > silence_max_ns {
            return Err(self.silent());
        }
        for index in 0..self.connections.len() {
            let Some(oldest) = self.connections[index].in_flight.front() else { continue };
            let waited_ns = now_ns.saturating_sub(oldest.start_ns);
            if self.task.timeout_ns[oldest.kind as usize].is_some_and(|timeout| waited_ns > timeout) {
                self.replace(index, now_ns)?;
            } else if waited_ns > silence_max_ns {
                return Err(self.silent());
            }
        }
        Ok(())
    }

    /// Gives up the requests in flight on a connection and opens a new connection in its place, because late
    /// replies could not be distinguished from later ones.
    fn replace(&mut self, index: usize, now_ns: u64) -> Result<(), String> {
        for request in &self.connections[index].in_flight {
            self.counters.gave_up(request.kind);
            self.in_flight -= 1;
        }
        let was_held_back = self.connections[index].is_held_back;
        let address = self.task.address;
        let fresh = Link::connect(&address, self.task.connect_timeout, &self.task.access)
            .and_then(|stream| Connection::new(stream, self.task.depth))
            .and_then(|fresh| self.epoll.add(fresh.stream(), index as u64, Trigger::Edge).map(|()| fresh))
            .map_err(|error| format!("cannot connect to {address} again after a timeout: {error}"))?;
        self.connections[index] = fresh;
        self.connections[index].is_held_back = was_held_back;
        self.refill(index, now_ns);
        self.flush(index)
    }

    fn lost(&self, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
            _ => error.to_string(),
        };
        format!("lost a connection to {}: {why} ({} requests in flight)", self.task.address, self.in_flight)
    }

    fn silent(&self) -> String {
        let (address, in_flight) = (self.task.address, self.in_flight);
        let seconds = Duration::from_nanos(self.task.silence_max_ns).as_secs_f64();
        format!("no answer from {address} for {seconds} s ({in_flight} requests in flight)")
    }
}
