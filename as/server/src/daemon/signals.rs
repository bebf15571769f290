//! What signals do to the server.
//!
//! The thread `signals` takes them one by one. SIGHUP reopens the log there, and has the service read its files anew. A request to stop ends the process at
//! once while the service is still starting (which can take hours, and nothing has been acknowledged yet), and is
//! handed to the thread that waits in [`Watch::next_request`] when it runs. What is acknowledged and not on disk yet is
//! lost if that is not waited for. So SIGTERM can be repeated without harm, and only an impatient second SIGINT ends the
//! process whatever the first one is doing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cf::sys::process::exit_now;
use cf::sys::signals::{Signal, Signals};
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::version::edition_and_build;

/// What the waiting thread is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Stop,
    Dump,
    /// Read files anew.
    Reload,
}

/// The waiting side.
pub(super) struct Watch {
    requests: Receiver<Request>,
    started: Arc<AtomicBool>,
}

impl Watch {
    /// Starts the thread. Threads started before would get signals too, so there must be none.
    ///
    /// It has no end of its own: it waits for signals as long as there is a process to get them.
    pub(super) fn start() -> io::Result<Self> {
        let signals = Signals::block()?;
        let (sender, requests) = unbounded();
        let started = Arc::new(AtomicBool::new(false));
        let thread = Watcher { signals, sender, started: Arc::clone(&started), stopping_since: None };
        cf::threads::spawn_essential("signals", move || thread.run())?;
        Ok(Watch { requests, started })
    }

    /// From now on a request to stop is left to the waiting thread.
    pub(super) fn service_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Waits for a request.
    pub(super) fn next_request(&self) -> Request {
        // The other side is gone, so no request can come any more. A server that nothing can stop is worse than none.
        self.requests.recv().unwrap_or(Request::Stop)
    }
}

/// Signals that come closer together than this are one request to stop.
const SAME_REQUEST: Duration = Duration::from_secs(1);

struct Watcher {
    signals: Signals,
    sender: Sender<Request>,
    started: Arc<AtomicBool>,
    stopping_since: Option<Instant>,
}

impl Watcher {
    fn run(mut self) {
        loop {
            match self.signals.wait() {
                Ok(signal @ (Signal::Terminate | Signal::Interrupt)) => self.stop(signal),
                Ok(Signal::HangUp) => {
                    cf::info!(As, "SIGHUP received, rolling log");
                    cf::log::logger().reopen();
                    self.ask(Request::Reload);
                }
                Ok(Signal::Dump) => self.ask(Request::Dump),
                Err(error) => {
                    cf::critical!(As, "cannot wait for signals: {error}");
                    return;
                }
            }
        }
    }

    fn stop(&mut self, signal: Signal) {
        let name = signal.name();
        if let Some(since) = self.stopping_since {
            // A person who started the server through another program often signals both, and that program passes the signal on.
            if signal == Signal::Interrupt && since.elapsed() > SAME_REQUEST {
                cf::warning!(As, "{name} received again, ending at once");
                exit_now(1);
            }
            return cf::info!(As, "{name} received again, already shutting down");
        }
        cf::info!(As, "{name} received, shutting down {}", edition_and_build());
        if !self.started.load(Ordering::Acquire) {
            cf::warning!(As, "startup was not complete, ending at once");
            exit_now(i32::from(signal == Signal::Interrupt));
        }
        self.stopping_since = Some(Instant::now());
        self.ask(Request::Stop);
    }

    fn ask(&self, request: Request) {
        // The other side is gone when the process is about to end.
        let _ = self.sender.send(request);
    }
}
