//! A port other than the client port, such as the one for info requests in plain text: one thread serves all its
//! connections.
//!
//! The number of connections is bounded. A silent connection is closed after a while. If all places are taken
//! and another client connects, it is closed at once, so that silent clients do not lock others out. If the
//! process has no file descriptor left, the listeners pause for a moment.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cf::sys::epoll::{Epoll, Events, Trigger};
use cf::sys::eventfd::EventFd;

const STOP_TOKEN: u64 = u64::MAX;
/// Connections accepted before other events are handled.
const ACCEPTS_AT_ONCE: usize = 16;
/// Length of the listeners' pause when there is no file descriptor.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// How often silent connections are checked.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Result of a connection's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// The connection is finished or broken.
    Over,
    /// The connection waits for its peer. In this turn it neither received a request nor sent anything.
    Waits,
    /// The connection waits for its peer, after it received a request or sent something.
    Served,
    /// The connection can continue after others had their turn.
    HasMore,
    /// Another part of the server takes the connection over: see [`Guests::leave`].
    Leaves,
}

/// The code that serves a port's connections.
pub(crate) trait Guests {
    /// One connection.
    type Guest;

    /// Makes the state of a new connection; its socket does not block. `None` refuses it.
    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Self::Guest>;

    /// The socket of a connection.
    fn stream(guest: &Self::Guest) -> &TcpStream;

    /// Serves a connection that has received something, can send, or has more to do. The turn is short.
    fn serve(&mut self, guest: &mut Self::Guest) -> Turn;

    /// Takes over a connection that leaves this port.
    fn leave(&mut self, _guest: Self::Guest) {}
}

/// Limits of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum number of connections at a time.
    pub(crate) connections: usize,
    /// Longest time for which a connection may be silent.
    pub(crate) idle: Duration,
}

struct Slot<G> {
    guest: G,
    /// Time of the last service.
    served: Instant,
}

/// Serves `listeners` until `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve<G: Guests>(
    guests: &mut G,
    listeners: &[TcpListener],
    bounds: Bounds,
    stop: &EventFd,
) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop, STOP_TOKEN, Trigger::Level)?;
    let mut port = Port {
        guests,
        listeners,
        bounds,
        epoll: &epoll,
        slots: Vec::new(),
        ready: Vec::new(),
        resting: None,
    };
    port.listen()?;
    let mut events = Events::with_capacity(32);
    let mut swept = Instant::now();
    loop {
        for event in epoll.wait(&mut events, port.patience())? {
            if event.token() == STOP_TOKEN {
                return Ok(());
            }
            match listeners.get(event.token() as usize) {
                Some(listener) => port.accept(listener),
                None if event.is_broken() => port.close(event.token() as usize - listeners.len()),
                None => port.serve(event.token() as usize - listeners.len()),
            }
        }
        for at in std::mem::take(&mut port.ready) {
            port.serve(at);
        }
        if swept.elapsed() >= SWEEP_PERIOD {
            swept = Instant::now();
            port.sweep();
        }
        if port.resting.is_some_and(|since| since.elapsed() >= EXHAUSTED_PAUSE) {
            port.resting = None;
            port.listen()?;
        }
    }
}

struct Port<'p, G: Guests> {
    guests: &'p mut G,
    listeners: &'p [TcpListener],
    bounds: Bounds,
    epoll: &'p Epoll,
    /// Connections by slot; the token of a connection is its slot number plus the number of listeners.
    slots: Vec<Option<Slot<G::Guest>>>,
    /// Slots of connections that can continue.
    ready: Vec<usize>,
    /// Start of the listeners' pause.
    resting: Option<Instant>,
}

impl<G: Guests> Port<'_, G> {
    fn listen(&self) -> io::Result<()> {
        let mut listeners = self.listeners.iter().enumerate();
        listeners.try_for_each(|(at, listener)| self.epoll.add(listener, at as u64, Trigger::Level))
    }

    /// The longest wait for events.
    fn patience(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            Some(Duration::ZERO)
        } else if self.resting.is_some() {
            Some(EXHAUSTED_PAUSE)
        } else {
            self.slots.iter().any(Option::is_some).then_some(SWEEP_PERIOD)
        }
    }

    fn accept(&mut self, listener: &TcpListener) {
        for _ in 0..ACCEPTS_AT_ONCE {
            match listener.accept() {
                Ok((stream, peer)) => self.welcome(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhausted(&error) => {
                    cf::warning_limited!(InfoPort, "cannot accept a connection: {error}");
                    self.listeners.iter().for_each(|listener| self.epoll.remove(listener));
                    self.resting = Some(Instant::now());
                    return;
                }
                // The peer closed the connection before it was accepted.
                Err(_) => {}
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(at) = self.free_place() else {
            return cf::warning_limited!(InfoPort, "refusing {peer}: no connections are allowed");
        };
        if let Err(error) = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)) {
            return cf::warning_limited!(InfoPort, "cannot serve {peer}: {error}");
        }
        let Some(guest) = self.guests.welcome(stream, peer) else { return };
        let token = (self.listeners.len() + at) as u64;
        if let Err(error) = self.epoll.add(G::stream(&guest), token, Trigger::Edge) {
            return cf::warning_limited!(InfoPort, "cannot serve {peer}: {error}");
        }
        cf::detail!(InfoPort, "new connection: {peer}");
        self.slots[at] = Some(Slot { guest, served: Instant::now() });
    }

    /// A slot for one more connection. If all are taken, the one that has been silent longest is freed.
    fn free_place(&mut self) -> Option<usize> {
        if let Some(free) = self.slots.iter().position(Option::is_none) {
            return Some(free);
        }
        if self.slots.len() < self.bounds.connections {
            self.slots.push(None);
            return Some(self.slots.len() - 1);
        }
        let places = self.slots.iter().enumerate();
        let (_, at) = places.filter_map(|(at, slot)| Some((slot.as_ref()?.served, at))).min()?;
        cf::debug!(InfoPort, "closing a silent connection: {} are open", self.bounds.connections);
        self.slots[at] = None;
        Some(at)
    }

    fn serve(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::as_mut) else { return };
        match self.guests.serve(&mut slot.guest) {
            Turn::Over => self.close(at),
            Turn::Waits => {}
            Turn::Served => slot.served = Instant::now(),
            Turn::HasMore => {
                slot.served = Instant::now();
                self.ready.push(at);
            }
            Turn::Leaves => {
                if let Some(slot) = self.slots[at].take() {
                    self.epoll.remove(G::stream(&slot.guest));
                    self.guests.leave(slot.guest);
                }
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = None;
        }
    }

    /// Closes connections that were silent for too long.
    fn sweep(&mut self) {
        let idle = self.bounds.idle;
        for slot in &mut self.slots {
            *slot = slot.take().filter(|slot| slot.served.elapsed() < idle);
        }
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
    }
}

/// Whether a connection could not be accepted because the process or the system has no descriptor or memory for it.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
