//! Accepts client connections and distributes them among the service threads.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cf::sys::epoll::{Epoll, Events, Trigger};
use cf::sys::eventfd::EventFd;
use socket2::{SockRef, TcpKeepalive};

use super::connection::Connection;
use super::connection_count::Admission;
use super::context::ServiceContext;
use super::mailbox::Mail;
use crate::side_port::is_exhausted;
use crate::tls::TlsPort;

/// A bound socket.
pub(crate) type Listener = TcpListener;

/// The kind of a listener's clients, with its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entrance {
    /// Clients, at most `proto-fd-max` of them.
    Clients,
    /// Operators, who may connect even if clients may not.
    Admin,
}

/// A listener of clients.
pub(crate) struct Door {
    pub(crate) listener: Listener,
    pub(crate) entrance: Entrance,
    /// TLS of the port; `None` for a clear port.
    pub(crate) tls: Option<Arc<TlsPort>>,
}

const STOP_TOKEN: u64 = u64::MAX;
/// Largest number of connections accepted from one listener before the others are served.
const ACCEPTS_AT_ONCE: usize = 64;
/// Pause when the process has run out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// TCP keepalive of client connections. A peer that vanished is noticed after three minutes.
const KEEPALIVE_SECONDS: u64 = 60;
const KEEPALIVE_PROBES: u32 = 2;

/// Body of the accept thread. Ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn accept_clients(doors: &[Door], context: &ServiceContext, stop: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop, STOP_TOKEN, Trigger::Level)?;
    for (at, door) in doors.iter().enumerate() {
        epoll.add(&door.listener, at as u64, Trigger::Level)?;
    }
    let mut events = Events::with_capacity(16);
    let mut number = 0;
    loop {
        for event in epoll.wait(&mut events, None)? {
            let Some(door) = doors.get(event.token() as usize) else { return Ok(()) };
            for _ in 0..ACCEPTS_AT_ONCE {
                match door.listener.accept() {
                    Ok(accepted) => {
                        if let Some(connection) = take_in(door, number, accepted, context) {
                            let pool = &context.pool;
                            pool.post(pool.owner_of(number), Mail::Connection(Box::new(connection)));
                            number += 1;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_exhausted(&error) => {
                        cf::warning_limited!(Service, "cannot accept a connection: {error}");
                        std::thread::sleep(EXHAUSTED_PAUSE);
                        break;
                    }
                    // The peer closed the connection before it was accepted.
                    Err(_) => {}
                }
            }
        }
    }
}

/// Makes a connection of an accepted socket, unless it is refused.
fn take_in(
    door: &Door,
    number: u64,
    (stream, peer): (TcpStream, SocketAddr),
    context: &ServiceContext,
) -> Option<Connection> {
    let admission = admit(&stream, context, door.entrance)?;
    cf::fault_point!("accept");
    let tls = match &door.tls {
        Some(port) => Some(port.session()?),
        None => None,
    };
    let access = context.access_control.as_ref().map(|access| access.session(peer));
    Some(Connection::new(number, (stream, peer), tls, admission, &context.replies, access))
}

/// Prepares an accepted socket, or refuses it beyond the limit of the entrance.
fn admit(stream: &TcpStream, context: &ServiceContext, entrance: Entrance) -> Option<Admission> {
    let config = &context.config;
    let (count, name, limit) = match entrance {
        Entrance::Clients => {
            (&context.connection_count, "client connection - proto-fd-max", &config.service.proto_fd_max)
        }
        Entrance::Admin => (
            &context.admin_connection_count,
            "admin connection - limit",
            &config.network.connection_limits.admin,
        ),
    };
    let limit = limit.get();
    if count.get() >= limit as usize {
        cf::warning_limited!(Service, "refusing {name} {limit}");
        return None;
    }
    stream.set_nonblocking(true).ok()?;
    stream.set_nodelay(true).ok()?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(KEEPALIVE_SECONDS))
        .with_interval(Duration::from_secs(KEEPALIVE_SECONDS))
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive).ok()?;
    Some(count.admit())
}
