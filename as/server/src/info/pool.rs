//! The info threads: as many as `info-threads` says, also when it changes.
//!
//! # Locking
//! `threads` is held while threads are started or told to end, never while they work.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;

use cf::threads::{self, Handle};
use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::{answer, is_too_late, timeout};
use crate::metrics::ServerCounter;
use crate::service::{ConnectionToken, Mail, Mailbox};
use crate::state::State;

/// What info threads are given.
pub(crate) enum InfoJob {
    /// A client's request; the answer goes to the connection that waits for it.
    Answer { body: Box<[u8]>, received: Instant, mailbox: Arc<Mailbox>, token: ConnectionToken },
    /// One thread is to end.
    Stop,
}

/// The info threads of a server.
pub(crate) struct Pool {
    jobs: Sender<InfoJob>,
    queue: Receiver<InfoJob>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    /// Whom they work for; set when the first ones start.
    state: Weak<State>,
    /// Those that were not told to end.
    count: usize,
    started: usize,
    handles: Vec<Handle>,
}

impl Pool {
    /// Without threads; they take from `queue` what is sent to `jobs`.
    pub(crate) fn new(jobs: Sender<InfoJob>, queue: Receiver<InfoJob>) -> Self {
        Pool { jobs, queue, threads: Mutex::default() }
    }

    /// Starts `count` threads that answer about `state`, whose pool this is.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(&self, state: &Arc<State>, count: usize) -> io::Result<()> {
        self.threads.lock().state = Arc::downgrade(state);
        self.change_count(count)
    }

    /// Makes them `count`, as far as the system allows.
    pub(crate) fn resize(&self, count: usize) {
        if let Err(error) = self.change_count(count) {
            cf::warning!(Info, "cannot start another info thread: {error}");
        }
    }

    fn change_count(&self, count: usize) -> io::Result<()> {
        let mut threads = self.threads.lock();
        while threads.count > count {
            // The queue is open as long as this value lives.
            let _ = self.jobs.send(InfoJob::Stop);
            threads.count -= 1;
        }
        while threads.count < count {
            let Some(state) = threads.state.upgrade() else { return Ok(()) };
            let queue = self.queue.clone();
            let name = format!("info-{}", threads.started % 1000);
            threads.handles.push(threads::spawn(&name, move || serve(&state, &queue))?);
            threads.started += 1;
            threads.count += 1;
        }
        threads.handles.retain(|handle| !handle.is_finished());
        Ok(())
    }

    /// Ends all threads and waits for them. What was asked before is answered.
    pub(crate) fn stop(&self) {
        let handles = {
            let mut threads = self.threads.lock();
            threads.state = Weak::new();
            for _ in 0..std::mem::take(&mut threads.count) {
                let _ = self.jobs.send(InfoJob::Stop);
            }
            std::mem::take(&mut threads.handles)
        };
        for handle in handles {
            // One that panicked has logged it.
            let _ = handle.join();
        }
    }
}

/// Body of an info thread.
fn serve(state: &State, jobs: &Receiver<InfoJob>) {
    while let Ok(InfoJob::Answer { body, received, mailbox, token }) = jobs.recv() {
        let mut frame = Vec::new();
        if is_too_late(state, received) {
            proto::info::write_frame(&mut frame, format!("{}\n", timeout()).as_bytes());
            state.metrics.add(ServerCounter::InfoTimeout, 1);
        } else {
            proto::info::write_frame(&mut frame, &answer(state, &body));
            state.metrics.add(ServerCounter::InfoComplete, 1);
            state.measure_info(received);
        }
        mailbox.post(Mail::Reply(token, frame));
    }
}
