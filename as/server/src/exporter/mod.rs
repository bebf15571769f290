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
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::time::Duration;

use cf::sys::epoll::{Epoll, Event, Trigger};
use cf::sys::eventfd::EventFd;
use cf::threads;

use crate::state::State;
use http::Status;

const STOP_TOKEN: u64 = u64::MAX;
/// Requests carried out at a time; further ones are told to come again.
const REQUESTS_MAX: usize = 8;
/// Longest a client may take to send its request, and to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Body of the thread that accepts; ends when `stop` is signalled.
///
/// # Errors
/// When the listeners cannot be watched.
pub(crate) fn serve(state: &Arc<State>, listeners: &[TcpListener], stop: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(stop, STOP_TOKEN, Trigger::Level)?;
    for (at, listener) in listeners.iter().enumerate() {
        epoll.add(listener, at as u64, Trigger::Level)?;
    }
    let active = Arc::new(AtomicUsize::new(0));
    let mut events = [Event::EMPTY; 8];
    loop {
        for event in epoll.wait(&mut events, None)? {
            match listeners.get(event.token() as usize).map(TcpListener::accept) {
                None => return Ok(()),
                Some(Ok((stream, _))) => start_request(state, stream, &active),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Some(Err(error)) => cf::warning_limited!(InfoPort, "cannot accept a connection: {error}"),
            }
        }
    }
}

fn start_request(state: &Arc<State>, stream: TcpStream, active: &Arc<AtomicUsize>) {
    if active.fetch_add(1, AcqRel) >= REQUESTS_MAX {
        active.fetch_sub(1, AcqRel);
        // Who cannot take a line at once does not get it.
        let _ = http::respond(&stream, Status::Unavailable, "text/plain", "too many requests\n");
        return;
    }
    let (state, counted) = (Arc::clone(state), Arc::clone(active));
    let started = threads::spawn("metrics", move || {
        if let Err(error) = answer(&state, &stream) {
            cf::debug!(InfoPort, "a request for metrics failed: {error}");
        }
        counted.fetch_sub(1, AcqRel);
    });
    if let Err(error) = started {
        active.fetch_sub(1, AcqRel);
        cf::warning_limited!(InfoPort, "cannot start a thread for a request for metrics: {error}");
    }
}

fn answer(state: &State, stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let path = match http::read_path(stream)? {
        Ok(path) => path,
        Err(status) => return http::respond(stream, status, "text/plain", "GET or HEAD /metrics\n"),
    };
    match path.split('?').next().unwrap_or_default() {
        "/metrics" => {
            http::respond(stream, Status::Ok, exposition::CONTENT_TYPE, &exposition::metrics(state))
        }
        // Whoever answers is alive; what answers requests is ready, as the ports are open by then.
        "/healthz" | "/readyz" => http::respond(stream, Status::Ok, "text/plain", "ok\n"),
        _ => http::respond(stream, Status::NotFound, "text/plain", "try /metrics, /healthz or /readyz\n"),
    }
}
