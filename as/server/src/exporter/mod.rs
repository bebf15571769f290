//! `/metrics` for Prometheus, `/healthz` and `/readyz`, over HTTP on a separate port, without a second process.
//!
//! The port is off unless `network { metrics { port … } }` is configured. Its answers contain the figures of
//! info commands; it takes no part in requests for records.
//!
//! # Threads
//! One thread accepts, reads requests and answers health checks. Each `/metrics` request gets a separate thread, a few
//! at a time, so that slow clients do not delay health checks.

mod exposition;
mod http;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::time::Duration;

use cf::sys::eventfd::EventFd;
use cf::threads;

use crate::node::Node;
use crate::side_port::{self, Bounds, Guests, Turn};
use http::{Part, Request, Status, Visitor};

/// Requests for metrics that are carried out at a time. The answer to further ones is to try again.
const REQUESTS_MAX: usize = 8;
/// Longest time for a client to send its request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest time for a client to read the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum number of bytes after a request that are read and discarded.
const PASSED_OVER_MAX: usize = 256 << 10;
const TEXT: &str = "text/plain";

/// Body of the thread that accepts; ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve(node: &Arc<Node>, listeners: &[TcpListener], stop: &EventFd) -> io::Result<()> {
    let connections = node.config.network.connection_limits.metrics.get() as usize;
    let mut desk = Desk { node, active: Active::default(), ticks: Arc::default() };
    side_port::serve(&mut desk, listeners, Bounds { connections, idle: REQUEST_TIME_MAX }, stop)
}

/// State of the accepting thread.
struct Desk<'n> {
    node: &'n Arc<Node>,
    active: Active,
    /// Number of requests for metrics so far.
    ticks: Arc<AtomicU64>,
}

/// A client that has not sent its whole request.
struct Asker {
    stream: TcpStream,
    head: Vec<u8>,
    /// The complete request, if it needs a thread.
    request: Option<Request>,
    /// Whether the answer is sent. Further bytes are read and discarded: closing a socket with unread bytes
    /// could destroy the answer on its way.
    is_answered: bool,
}

impl Guests for Desk<'_> {
    type Guest = Asker;

    fn welcome(&mut self, stream: TcpStream, _: SocketAddr) -> Option<Asker> {
        cf::fault_point!("metrics-port");
        Some(Asker { stream, head: Vec::new(), request: None, is_answered: false })
    }

    fn stream(guest: &Asker) -> &TcpStream {
        &guest.stream
    }

    fn serve(&mut self, asker: &mut Asker) -> Turn {
        if asker.is_answered {
            return asker.pass_over().unwrap_or(Turn::Over);
        }
        match asker.read_request() {
            Ok(None) => Turn::Waits,
            Ok(Some(Ok(request))) if request.page() == "/metrics" => {
                asker.request = Some(request);
                Turn::Leaves
            }
            Ok(Some(request)) => {
                // A line fits into the buffers of the socket. A client that cannot take it gets no answer.
                let answered = answer_line(self.node, &asker.stream, request);
                asker.is_answered = true;
                if answered.is_ok() { asker.pass_over().unwrap_or(Turn::Over) } else { Turn::Over }
            }
            Err(_) => Turn::Over,
        }
    }

    fn leave(&mut self, asker: Asker) {
        let Some(place) = self.active.enter() else {
            let _ = http::respond(
                &mut &asker.stream,
                Part::All,
                Status::Unavailable,
                TEXT,
                "too many requests\n",
            );
            return;
        };
        let (node, ticks) = (Arc::clone(self.node), Arc::clone(&self.ticks));
        let started = threads::spawn("metrics", move || {
            // A panic ends only this request: its place is given back, and its connection is closed.
            let _place = place;
            cf::fault_point!("metrics");
            if let Err(error) = answer_metrics(&node, &asker, &ticks) {
                cf::debug!(InfoPort, "a request for metrics failed: {error}");
            }
        });
        if let Err(error) = started {
            cf::warning_limited!(InfoPort, "cannot start a thread for a request for metrics: {error}");
        }
    }
}

impl Asker {
    /// Reads and discards further bytes of the client, within bounds, until it disconnects.
    fn pass_over(&mut self) -> io::Result<Turn> {
        let mut buffer = [0; 1024];
        for _ in 0..PASSED_OVER_MAX / buffer.len() {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Turn::Over),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(Turn::Over)
    }

    /// Reads the available bytes. Returns the request when it is complete, or the status to answer instead.
    ///
    /// # Errors
    /// When the client has disconnected.
    fn read_request(&mut self) -> io::Result<Option<Result<Request, Status>>> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(size) => self.head.extend_from_slice(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(request) = http::request_in(&self.head) {
                return Ok(Some(request));
            }
        }
    }
}

/// Number of requests being carried out.
#[derive(Clone, Default)]
struct Active(Arc<AtomicUsize>);

impl Active {
    /// A place for one more request; `None` if all places are taken.
    fn enter(&self) -> Option<Place> {
        let place = Place(self.clone());
        (self.0.fetch_add(1, AcqRel) < REQUESTS_MAX).then_some(place)
    }
}

/// A place of a request. It is given back when this is dropped, however the request ends.
struct Place(Active);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, AcqRel);
    }
}

fn part_of(request: &Request) -> Part {
    if request.is_head { Part::Head } else { Part::All }
}

/// Answers all requests except those for metrics.
fn answer_line(node: &Node, mut stream: &TcpStream, request: Result<Request, Status>) -> io::Result<()> {
    let readiness = readiness(node);
    let (part, status, line) = match &request {
        Err(status) => (Part::All, *status, "GET or HEAD /metrics\n"),
        // A server that answers is alive.
        Ok(request) if request.page() == "/healthz" => (part_of(request), Status::Ok, "ok\n"),
        Ok(request) if request.page() == "/readyz" => (part_of(request), readiness.0, readiness.1.as_str()),
        Ok(request) => (part_of(request), Status::NotFound, "try /metrics, /healthz or /readyz\n"),
    };
    http::respond(&mut stream, part, status, TEXT, line)?;
    stream.shutdown(Shutdown::Write)
}

fn answer_metrics(node: &Node, asker: &Asker, ticks: &AtomicU64) -> io::Result<()> {
    let Some(request) = &asker.request else { return Ok(()) };
    let text = exposition::metrics(node, ticks.fetch_add(1, Relaxed) + 1);
    asker.stream.set_nonblocking(false)?;
    let mut visitor = Visitor::new(&asker.stream, ANSWER_TIME_MAX);
    http::respond(&mut visitor, part_of(request), Status::Ok, exposition::CONTENT_TYPE, &text)?;
    asker.stream.shutdown(Shutdown::Write)
}

/// Whether the server can carry out all requests. Its ports are open by now; if a disk cannot be written,
/// some writes fail.
fn readiness(node: &Node) -> (Status, String) {
    let mut text = String::new();
    for namespace in node.namespaces.iter() {
        let failed = namespace.storage.failed_count();
        if failed > 0 {
            text +=
                &format!("namespace {}: {failed} of its devices cannot be written to\n", namespace.name());
        }
    }
    if text.is_empty() { (Status::Ok, "ok\n".to_owned()) } else { (Status::Unavailable, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gives_its_place_back_even_if_it_fails_on_a_bug() {
        let active = Active::default();
        for _ in 0..3 * REQUESTS_MAX {
            let place = active.enter().unwrap();
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _place = place;
                std::panic::resume_unwind(Box::new("a bug"));
            }));
            assert!(failed.is_err());
        }
        let places: Vec<Place> = (0..REQUESTS_MAX).map(|_| active.enter().unwrap()).collect();
        assert!(active.enter().is_none(), "one too many");
        drop(places);
        assert!(active.enter().is_some());
    }
}
