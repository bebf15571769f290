//! The time of a running function.
//!
//! A function may use some time of a processor. On a busy machine its thread has only a part of one, so it may take longer by
//! the clock, up to a limit: a function that needs a second of work is carried out, however many others run beside it.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use cf::clock::thread_cpu_nanos;

/// How many times as long a function may take by the clock as it may use a processor.
const CLOCK_FACTOR: u32 = 10;
/// The same while other requests wait for its end.
const AWAITED_CLOCK_FACTOR: u32 = 3;
/// The longest that it may take by the clock.
const CLOCK_TIME_MAX: Duration = Duration::from_secs(30);
/// Shortest time between two looks at the time of the processor, which is a system call.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

thread_local! {
    /// Whether the time of a function was over at the last look of this thread.
    static WAS_OVER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the time of the running function was over at the last look: a look is worth its cost.
pub(super) fn was_over() -> bool {
    WAS_OVER.get()
}

/// How long something may run on the thread that makes this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimit {
    /// Its end by the clock.
    deadline: Instant,
    /// Its end in nanoseconds of the thread's processor time; none if only the clock counts.
    processor: Option<u64>,
    /// The time that it allows.
    time: Duration,
}

impl TimeLimit {
    /// This time by the clock.
    pub(crate) fn by_clock(time: Duration) -> Self {
        TimeLimit { deadline: Instant::now() + time, processor: None, time }
    }

    /// Until `deadline` by the clock.
    pub(crate) fn until(deadline: Instant) -> Self {
        let time = deadline.saturating_duration_since(Instant::now());
        TimeLimit { deadline, processor: None, time }
    }

    /// This time of a processor.
    pub(crate) fn of_processor(time: Duration) -> Self {
        let clock = time.saturating_mul(CLOCK_FACTOR).min(CLOCK_TIME_MAX);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        TimeLimit {
            deadline: Instant::now() + clock,
            processor: Some(thread_cpu_nanos().saturating_add(nanos)),
            time,
        }
    }

    /// The limit of a function for whose end other requests wait from now on: it has less time by the clock.
    pub(crate) fn while_awaited(self) -> Self {
        let clock = self.time.saturating_mul(AWAITED_CLOCK_FACTOR).min(CLOCK_TIME_MAX);
        TimeLimit { deadline: self.deadline.min(Instant::now() + clock), ..self }
    }

    /// The time that it allows in all.
    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// The time before which it cannot be over.
    fn left(&self) -> Duration {
        let by_clock = self.deadline.saturating_duration_since(Instant::now());
        match self.processor {
            Some(end) if !by_clock.is_zero() => {
                by_clock.min(Duration::from_nanos(end.saturating_sub(thread_cpu_nanos())))
            }
            _ => by_clock,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

/// What [`Watch::look`] sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// The time of the function is over.
    Over,
    /// More time has passed since the last look than is usual.
    Slow,
    Usual,
}

/// The time of the running function.
#[derive(Default)]
pub(super) struct Watch {
    limit: Cell<Option<TimeLimit>>,
    /// The time of a processor from which the limit is made at the next look. Most steps end before it.
    renewed: Cell<Option<Duration>>,
    /// When the limit is looked at again.
    look_at: Cell<Option<Instant>>,
    /// Returns whether the function is no longer wanted.
    is_unwanted: RefCell<Option<Box<dyn Fn() -> bool>>>,
    has_expired: Cell<bool>,
    /// Last call of [`look`](Self::look).
    looked: Cell<Option<Instant>>,
}

impl Watch {
    /// Starts the time of a function.
    pub(super) fn begin(&self, limit: TimeLimit) {
        let now = Instant::now();
        self.has_expired.set(false);
        WAS_OVER.set(false);
        self.looked.set(Some(now));
        self.limit.set(Some(limit));
        self.renewed.set(None);
        // Most functions end before the processor's time is asked for.
        let first = || now + limit.time.min(LOOK_PERIOD);
        self.look_at.set(Some(if limit.processor.is_some() { first() } else { limit.deadline }));
    }

    /// Starts the time of a function that may run as long as `limit` says, or until `is_unwanted` returns true.
    pub(super) fn begin_while_wanted(&self, limit: TimeLimit, is_unwanted: Box<dyn Fn() -> bool>) {
        self.begin(limit);
        *self.is_unwanted.borrow_mut() = Some(is_unwanted);
    }

    /// Gives the running function this time of a processor from now on, unless its time is over already.
    pub(super) fn renew(&self, time: Duration) {
        self.renewed.set(Some(time));
        self.look_at.set(Some(Instant::now() + LOOK_PERIOD));
    }

    /// Ends the time of the function. Returns whether it was over; if so, the interpreter must not be used
    /// again.
    pub(super) fn end(&self) -> bool {
        self.limit.set(None);
        self.renewed.set(None);
        *self.is_unwanted.borrow_mut() = None;
        self.has_expired.get()
    }

    /// Ends the time of the running function.
    pub(super) fn expire(&self) {
        self.has_expired.set(true);
    }

    /// Whether the time of the function is over, or more has passed since the last look than `usual`.
    pub(super) fn look(&self, usual: Duration) -> Look {
        let now = Instant::now();
        let is_slow = self.looked.replace(Some(now)).is_some_and(|looked| now - looked > usual);
        match self.is_over_at(now) {
            true => Look::Over,
            false if is_slow => Look::Slow,
            false => Look::Usual,
        }
    }

    /// Counts the time to the next look from now on.
    pub(super) fn note_look(&self) {
        self.looked.set(Some(Instant::now()));
    }

    /// Whether the time of the function is over.
    pub(super) fn is_over(&self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&self, now: Instant) -> bool {
        if self.has_expired.get() {
            return true;
        }
        let is_over = self.limit.get().is_some_and(|limit| self.has_passed(&limit, now))
            || self.is_unwanted.borrow().as_ref().is_some_and(|is_unwanted| is_unwanted());
        self.has_expired.set(is_over);
        WAS_OVER.set(is_over);
        is_over
    }

    fn has_passed(&self, limit: &TimeLimit, now: Instant) -> bool {
        if self.look_at.get().is_some_and(|look_at| now < look_at) {
            return false;
        }
        if let Some(time) = self.renewed.take() {
            self.limit.set(Some(TimeLimit::of_processor(time)));
            self.look_at.set(Some(now + LOOK_PERIOD));
            return false;
        }
        let left = limit.left();
        let next = if limit.processor.is_some() { left.max(LOOK_PERIOD) } else { left };
        self.look_at.set(Some(now + next));
        left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses a processor for a while.
    fn work(time: Duration) {
        let end = thread_cpu_nanos() + time.as_nanos() as u64;
        while thread_cpu_nanos() < end {}
    }

    #[test]
    fn only_work_counts_until_the_clock_has_gone_much_further() {
        let (watch, time) = (Watch::default(), Duration::from_millis(40));
        watch.begin(TimeLimit::of_processor(time));
        std::thread::sleep(time * 2);
        assert!(!watch.is_over(), "nothing was done yet");
        work(time);
        assert!(watch.is_over());
        watch.begin(TimeLimit::of_processor(time));
        assert!(!watch.is_over());
        std::thread::sleep(time * (CLOCK_FACTOR + 1));
        assert!(watch.is_over(), "that much time is too much");
        assert!(watch.end());
        watch.begin(TimeLimit::by_clock(time));
        std::thread::sleep(time);
        assert!(watch.is_over());
        for much in [CLOCK_TIME_MAX / 2, CLOCK_TIME_MAX * 2] {
            let limit = TimeLimit::of_processor(much);
            assert!(limit.deadline <= Instant::now() + CLOCK_TIME_MAX);
        }
    }

    #[test]
    fn others_wait_for_less_time_by_the_clock() {
        let (watch, time) = (Watch::default(), Duration::from_millis(150));
        watch.begin(TimeLimit::of_processor(time).while_awaited());
        std::thread::sleep(time);
        assert!(!watch.is_over(), "nothing was done yet");
        std::thread::sleep(time * AWAITED_CLOCK_FACTOR);
        assert!(watch.is_over());
        // The time does not begin anew, and what only the clock limits has no more of it.
        let deadline = Instant::now() + time;
        assert_eq!(TimeLimit::until(deadline).while_awaited().deadline, deadline);
        let limit = TimeLimit::of_processor(time).while_awaited();
        assert!(limit.while_awaited().deadline == limit.deadline && limit.processor.is_some());
    }

    #[test]
    fn further_time_counts_from_then_on() {
        let (watch, time) = (Watch::default(), Duration::from_millis(30));
        watch.begin(TimeLimit::of_processor(time));
        for _ in 0..4 {
            work(time / 2);
            watch.renew(time);
            assert_ne!(watch.look(time), Look::Over);
        }
        let is_over = || {
            work(time / 4);
            watch.look(time) == Look::Over
        };
        let count = std::iter::repeat_with(is_over).take_while(|is_over| !is_over).count();
        assert!((3..6).contains(&count), "over after {count} quarters");
        watch.renew(time);
        assert!(watch.is_over(), "its time was over already");
    }
}
