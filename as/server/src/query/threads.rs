//! The threads of queries: started when needed, kept for a while, at most `query-threads-limit` at work.
//!
//! Threads of long queries have lower priority than service threads; short queries have threads of full priority.
//!
//! # Locking
//! `state` is taken alone and briefly. A task for an idle thread is queued under it, so every task is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use cf::threads::{self, Handle};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use std::sync::Arc;

/// How long an idle thread waits for work before it ends.
const IDLE_TIME: Duration = Duration::from_secs(10);

pub(super) type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    /// Threads at work, including those with a queued task.
    at_work: usize,
    /// Threads that wait for a task, minus the queued tasks.
    idle: usize,
    is_stopped: bool,
    handles: Vec<Handle>,
}

/// Threads of one kind.
pub(super) struct Threads {
    name: &'static str,
    niceness: i32,
    state: Mutex<State>,
    /// `None` ends the thread that takes it.
    tasks: Sender<Option<Task>>,
    queue: Receiver<Option<Task>>,
}

impl Threads {
    /// Threads called `name` with a priority lowered by `niceness`, see [`threads::lower_own_priority`].
    pub(super) fn new(name: &'static str, niceness: i32) -> Self {
        let (tasks, queue) = unbounded();
        Threads { name, niceness, state: Mutex::default(), tasks, queue }
    }

    /// Threads at work.
    pub(super) fn at_work(&self) -> usize {
        self.state.lock().at_work
    }

    /// Gives a thread `task`, unless `limit` are at work; returns whether it did.
    pub(super) fn try_spawn(self: &Arc<Self>, limit: usize, task: Task) -> bool {
        let mut state = self.state.lock();
        if state.is_stopped || state.at_work >= limit {
            return false;
        }
        if state.idle > 0 {
            state.idle -= 1;
            state.at_work += 1;
            // The queue is open as long as `self` exists.
            return self.tasks.send(Some(task)).is_ok();
        }
        let own = Arc::clone(self);
        let Ok(handle) = threads::spawn(self.name, move || own.serve(task)) else { return false };
        state.at_work += 1;
        state.handles.retain(|handle| !handle.is_finished());
        state.handles.push(handle);
        true
    }

    fn serve(&self, first: Task) {
        if self.niceness > 0 {
            threads::lower_own_priority(self.niceness);
        }
        let mut task = first;
        loop {
            // A panic is a bug of ours: it costs only the task, and the thread counts as idle again.
            if catch_unwind(AssertUnwindSafe(task)).is_err() {
                cf::critical!(Query, "a query thread continues after an internal error");
            }
            {
                let mut state = self.state.lock();
                state.at_work -= 1;
                if state.is_stopped {
                    return;
                }
                state.idle += 1;
            }
            task = match self.queue.recv_timeout(IDLE_TIME) {
                Ok(Some(next)) => next,
                Ok(None) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => match self.end_idle() {
                    Some(next) => next,
                    None => return,
                },
            };
        }
    }

    /// Takes a task that was just queued, or else stops counting the thread as idle.
    fn end_idle(&self) -> Option<Task> {
        let mut state = self.state.lock();
        match self.queue.try_recv() {
            Ok(next) => next,
            Err(_) => {
                state.idle -= 1;
                None
            }
        }
    }

    /// Waits for all threads to end, until `deadline` at most. No thread starts afterwards. Returns the names of
    /// those that still run.
    pub(super) fn stop_until(&self, deadline: Instant) -> Vec<String> {
        let handles = {
            let mut state = self.state.lock();
            state.is_stopped = true;
            for _ in 0..state.idle {
                let _ = self.tasks.send(None);
            }
            std::mem::take(&mut state.handles)
        };
        threads::join_until(handles, deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::*};

    use super::*;

    #[test]
    fn tasks_are_done_up_to_the_limit() {
        let threads = Arc::new(Threads::new("test", 0));
        let (done, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
        for round in 0..50 {
            let held = gate.lock();
            for n in 0..5 {
                let (done, gate) = (Arc::clone(&done), Arc::clone(&gate));
                let task = Box::new(move || {
                    drop(gate.lock());
                    done.fetch_add(1, AcqRel);
                });
                assert_eq!(threads.try_spawn(3, task), n < 3, "round {round}");
            }
            assert_eq!(threads.at_work(), 3);
            drop(held);
            while threads.at_work() > 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(done.load(Acquire), 150);
        assert!(threads.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
        assert!(!threads.try_spawn(3, Box::new(|| ())));
    }

    #[test]
    fn a_task_that_panics_takes_no_place_from_others() {
        let threads = Arc::new(Threads::new("test", 0));
        for _ in 0..5 {
            assert!(threads.try_spawn(1, Box::new(|| panic!("for the test"))));
            while threads.at_work() > 0 {
                std::thread::yield_now();
            }
        }
        let done = Arc::new(AtomicUsize::new(0));
        let own = Arc::clone(&done);
        assert!(threads.try_spawn(1, Box::new(move || own.store(1, Release))));
        assert!(threads.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
        assert_eq!(done.load(Acquire), 1);
    }
}
