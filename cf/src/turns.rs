//! Turns of threads that share their processors with others.
//!
//! A thread that has worked for a turn without a wait lets others run: clients, and service threads. Without it, they would
//! wait until the system takes the processor away, for one to four milliseconds.

use std::time::{Duration, Instant};

/// Length of a turn. It is also the time slice that service threads request from the system.
pub const TURN: Duration = Duration::from_micros(100);
/// A wait longer than this has let others run: the thread has slept. A wait that finds an event at once takes about a
/// microsecond.
const RESTING_TIME: Duration = Duration::from_micros(5);

/// The turn of a thread.
#[derive(Debug)]
pub struct Turn {
    /// When the thread last let others run.
    rested: Instant,
}

impl Turn {
    /// A turn that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Turn { rested: Instant::now() }
    }

    /// Notes that the thread waited from `since` until `now`: a new turn may begin.
    #[inline]
    pub fn waited(&mut self, since: Instant, now: Instant) {
        if now - since > RESTING_TIME {
            self.rested = now;
        }
    }

    /// Lets others run if the turn is over at `now`; returns the time afterwards. The caller holds no lock.
    #[inline]
    pub fn go_on(&mut self, now: Instant) -> Instant {
        if now - self.rested <= TURN {
            return now;
        }
        std::thread::yield_now();
        self.rested = Instant::now();
        self.rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_run_after_a_turn_or_in_a_wait() {
        let mut turn = Turn::begin();
        let start = turn.rested;
        assert_eq!(turn.go_on(start + TURN), start + TURN);
        assert_eq!(turn.rested, start, "the turn goes on");
        turn.waited(start + TURN, start + TURN + RESTING_TIME);
        assert_eq!(turn.rested, start, "the wait was short");
        let long_after = start + 2 * TURN;
        turn.waited(start + TURN, long_after);
        assert_eq!(turn.go_on(long_after + TURN), long_after + TURN);
        std::thread::sleep(2 * TURN);
        let later = turn.go_on(long_after + 2 * TURN);
        assert!(later == turn.rested && later > start);
    }
}
