//! Handling of signals.
//!
//! The thread `signals` takes them one by one. SIGHUP reopens the log there, and makes the service read its files
//! again. A request to stop ends the process at once while the service is still starting (which can take hours, and
//! nothing is acknowledged yet), and whoever waits for a start in the background is told; once it runs, the request
//! is handed to the thread that waits in [`Watch::next_request`], because acknowledged writes that are not on disk
//! yet would be lost otherwise. So SIGTERM can be repeated without harm, and only a second SIGINT ends the process
//! at once, and says what that loses. The thread is essential: without it nothing could stop the server in order.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cf::sys::process::{Starter, exit_now};
use cf::sys::signals::{Signal, Signals};
use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use crate::version::edition_and_build;

/// Makes sentences that say which acknowledged writes are lost if the process ends at this moment.
pub type Losses = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// The process that waits until this one, in the background, is ready; empty once it was told how the start went.
pub(super) type SharedStarter = Arc<Mutex<Option<Starter>>>;

/// A request to the waiting thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Stop,
    Dump,
    /// Read files again.
    Reload,
}

/// The side that waits for requests.
pub(super) struct Watch {
    requests: Receiver<Request>,
    started: Arc<OnceLock<Losses>>,
}

impl Watch {
    /// Starts the thread. No thread may be started before it, because that one would get signals too.
    ///
    /// The thread never ends: it waits for signals as long as the process runs.
    pub(super) fn start(starter: &SharedStarter) -> io::Result<Self> {
        let signals = Signals::block()?;
        let (sender, requests) = unbounded();
        let started = Arc::default();
        let thread = Watcher {
            signals,
            sender,
            started: Arc::clone(&started),
            starter: Arc::clone(starter),
            stopping_since: None,
        };
        cf::threads::spawn_essential("signals", move || thread.run())?;
        Ok(Watch { requests, started })
    }

    /// From now on the waiting thread handles requests to stop. `losses` tells what an end at once loses.
    pub(super) fn service_started(&self, losses: Losses) {
        let is_first = self.started.set(losses).is_ok();
        assert!(is_first, "a service starts once");
    }

    /// Waits for a request.
    pub(super) fn next_request(&self) -> Request {
        // The sender is gone, so no request can come any more. The server stops, because otherwise nothing could stop
        // it.
        self.requests.recv().unwrap_or(Request::Stop)
    }
}

/// Signals that are closer together than this count as one request to stop.
const SAME_REQUEST: Duration = Duration::from_secs(1);

struct Watcher {
    signals: Signals,
    sender: Sender<Request>,
    started: Arc<OnceLock<Losses>>,
    starter: SharedStarter,
    stopping_since: Option<Instant>,
}

impl Watcher {
    fn run(mut self) {
        loop {
            let signal = self.signals.wait();
            cf::fault_point!("signals");
            match signal {
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
            // A launcher often gets the signal too and passes it on, so that it arrives twice.
            if signal == Signal::Interrupt && since.elapsed() > SAME_REQUEST {
                cf::warning!(As, "{name} received again, ending at once");
                let losses = self.started.get().map(|losses| losses()).unwrap_or_default();
                losses.iter().for_each(|loss| cf::critical!(Storage, "{loss}"));
                exit_now(1);
            }
            return cf::info!(As, "{name} received again, already shutting down");
        }
        cf::info!(As, "{name} received, shutting down {}", edition_and_build());
        if self.started.get().is_none() {
            cf::warning!(As, "startup was not complete, ending at once");
            let starter = self.starter.lock().take();
            // The end of a start that somebody waits for must not look like a start.
            let is_failure = starter.is_some() || signal == Signal::Interrupt;
            if let Some(starter) = starter {
                starter.report_failure(&format!("the server was stopped by {name} during its start"));
            }
            exit_now(i32::from(is_failure));
        }
        self.stopping_since = Some(Instant::now());
        self.ask(Request::Stop);
    }

    fn ask(&self, request: Request) {
        // The receiver no longer exists when the process is about to end.
        let _ = self.sender.send(request);
    }
}
