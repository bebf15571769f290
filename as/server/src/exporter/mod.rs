//! `/metrics` for Prometheus, `/healthz` and `/readyz`, over HTTP on a port of their own: what else needs a second process.
//!
//! Off unless `network { metrics { port … } }` is configured. It reads what info commands read, and never touches the way
//! of a request.
//!
//! # Threads
//! One thread accepts; each request has a thread for as long as it takes, a few at a time.

mod exposition;
mod http;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::time::Duration;

use cf::sys::epoll::{Epoll, Events, Trigger};
use cf::sys::eventfd::EventFd;
use cf::threads;

use crate::node::Node;
use http::{Part, Status, Visitor};

const STOP_TOKEN: u64 = u64::MAX;
/// Requests carried out at a time; further ones are told to come again.
const REQUESTS_MAX: usize = 8;
/// Longest a client may take to send its request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest a client may take to take the answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// The same for a line that fits into the buffers of its socket.
const LINE_TIME_MAX: Duration = Duration::from_millis(100);

/// Body of the thread that accepts; ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve(node: &Arc<Node>, listeners: &[TcpListener], stop: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop, STOP_TOKEN, Trigger::Level)?;
    for (at, listener) in listeners.iter().enumerate() {
        epoll.add(listener, at as u64, Trigger::Level)?;
    }
    let (active, ticks) = (Active::default(), Arc::new(AtomicU64::new(0)));
    let mut events = Events::with_capacity(8);
    loop {
        for event in epoll.wait(&mut events, None)? {
            cf::fault_point!("metrics-port");
            match listeners.get(event.token() as usize).map(TcpListener::accept) {
                None => return Ok(()),
                Some(Ok((stream, _))) => start_request(node, stream, &active, &ticks),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Some(Err(error)) => cf::warning_limited!(InfoPort, "cannot accept a connection: {error}"),
            }
        }
    }
}

/// The requests being carried out.
#[derive(Clone, Default)]
struct Active(Arc<AtomicUsize>);

impl Active {
    /// A place for one more; `None` if that were too many.
    fn enter(&self) -> Option<Place> {
        let place = Place(self.clone());
        (self.0.fetch_add(1, AcqRel) < REQUESTS_MAX).then_some(place)
    }
}

/// Is counted until it is dropped, so that a request gives its place back however it ends.
struct Place(Active);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, AcqRel);
    }
}

/// `ticks` counts how often metrics were asked for.
fn start_request(node: &Arc<Node>, stream: TcpStream, active: &Active, ticks: &Arc<AtomicU64>) {
    let Some(place) = active.enter() else {
        // Who cannot take a line at once does not get it.
        let visitor = Visitor::new(&stream, LINE_TIME_MAX);
        let _ = http::respond(visitor, Part::All, Status::Unavailable, "text/plain", "too many requests\n");
        return;
    };
    let (node, ticks) = (Arc::clone(node), Arc::clone(ticks));
    let started = threads::spawn("metrics", move || {
        let _place = place;
        if let Err(error) = answer(&node, &stream, &ticks) {
            cf::debug!(InfoPort, "a request for metrics failed: {error}");
        }
    });
    if let Err(error) = started {
        cf::warning_limited!(InfoPort, "cannot start a thread for a request for metrics: {error}");
    }
}

fn answer(node: &Node, stream: &TcpStream, ticks: &AtomicU64) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let request = http::read_request(&mut Visitor::new(stream, REQUEST_TIME_MAX))?;
    let visitor = || Visitor::new(stream, ANSWER_TIME_MAX);
    let request = match request {
        Ok(request) => request,
        Err(status) => {
            return http::respond(visitor(), Part::All, status, "text/plain", "GET or HEAD /metrics\n");
        }
    };
    let part = if request.is_head { Part::Head } else { Part::All };
    match request.path.split('?').next().unwrap_or_default() {
        "/metrics" => {
            let text = exposition::metrics(node, ticks.fetch_add(1, Relaxed) + 1);
            http::respond(visitor(), part, Status::Ok, exposition::CONTENT_TYPE, &text)
        }
        // Whoever answers is alive; what answers requests is ready, as the ports are open by then.
        "/healthz" | "/readyz" => http::respond(visitor(), part, Status::Ok, "text/plain", "ok\n"),
        _ => http::respond(
            visitor(),
            part,
            Status::NotFound,
            "text/plain",
            "try /metrics, /healthz or /readyz\n",
        ),
    }
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
