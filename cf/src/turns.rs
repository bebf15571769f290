//! Turns of threads that share processors with other threads.
//!
//! A thread that has worked for a turn without a wait lets others run: clients, and service threads. Without it, they would
//! wait until the system takes the processor away, for one to four milliseconds.
//!
//! A thread whose processor the system has taken away meanwhile has let others run already. It does not yield as well:
//! Linux makes a thread that yields wait for its whole next time slice, so on a busy machine it would get much less than its
//! share.

use std::time::{Duration, Instant};

use crate::sys::facts;

/// Length of a turn. It is also the time slice that service threads request from the system.
pub const TURN: Duration = Duration::from_micros(100);
/// A longer wait than this has let other threads run, because the thread has slept. A wait that finds an
/// event at once takes about a microsecond.
const RESTING_TIME: Duration = Duration::from_micros(5);

/// The turn of a thread.
#[derive(Debug)]
pub struct Turn {
    /// The time at which the thread last let others run.
    rested: Instant,
    /// How often the system had taken the processor away from the thread, yields included, when it was last asked.
    taken_away: u64,
    /// Whether the thread has yielded since then.
    has_yielded: bool,
}

impl Turn {
    /// A turn that begins now.
    #[must_use]
    pub fn begin() -> Self {
        let taken_away = facts::own_preemptions().unwrap_or(0);
        Turn { rested: Instant::now(), taken_away, has_yielded: false }
    }

    /// Notes that the thread waited from `since` until `now`: a new turn may begin.
    #[inline]
    pub fn waited(&mut self, since: Instant, now: Instant) {
        if now - since > RESTING_TIME {
            self.rested = now;
        }
    }

    /// Lets others run if the turn is over at `now` and they have not run meanwhile; returns the time afterwards. The
    /// caller holds no lock.
    #[inline]
    pub fn go_on(&mut self, now: Instant) -> Instant {
        if now - self.rested <= TURN { now } else { self.end(now) }
    }

    fn end(&mut self, now: Instant) -> Instant {
        if self.was_interrupted(facts::own_preemptions()) {
            self.rested = now;
        } else {
            std::thread::yield_now();
            self.has_yielded = true;
            self.rested = Instant::now();
        }
        self.rested
    }

    /// Whether the system has taken the processor away since the last call, other than at a yield. `taken_away` is how
    /// often it has ever done so, if that is known.
    fn was_interrupted(&mut self, taken_away: Option<u64>) -> bool {
        let Some(taken_away) = taken_away else { return false };
        let times = taken_away.wrapping_sub(std::mem::replace(&mut self.taken_away, taken_away));
        times > u64::from(std::mem::take(&mut self.has_yielded))
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

    #[test]
    fn an_interruption_is_not_the_switch_of_a_yield() {
        let mut turn = Turn { rested: Instant::now(), taken_away: 0, has_yielded: false };
        assert!(!turn.was_interrupted(None) && !turn.was_interrupted(Some(0)));
        assert!(turn.was_interrupted(Some(1)));
        assert!(!turn.was_interrupted(Some(1)));
        turn.has_yielded = true;
        assert!(!turn.was_interrupted(Some(2)), "the yield");
        assert!(turn.was_interrupted(Some(3)));
        turn.has_yielded = true;
        assert!(turn.was_interrupted(Some(5)), "the yield and another one");
    }

    #[test]
    fn a_thread_that_was_interrupted_does_not_yield() {
        let mut turn = Turn::begin();
        turn.taken_away = turn.taken_away.wrapping_sub(1);
        let now = turn.rested + 2 * TURN;
        assert_eq!(turn.go_on(now), now, "the clock was not read again");
    }
}
