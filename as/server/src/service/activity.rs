//! Activity: how service threads spend their time.
//!
//! # Threads
//! Each [`Activity`] is written only by its service thread, with plain stores; the sizing thread reads them
//! all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::sys::facts;

/// The value of [`Activity::awake_since`] of a thread that waits for events.
const ASLEEP: u64 = u64::MAX;

/// How one thread spends its time.
#[repr(align(128))]
pub(super) struct Activity {
    /// The origin of the times below.
    zero: Instant,
    /// The system's number for the thread; 0 until it runs.
    thread_id: AtomicU32,
    /// Nanoseconds not spent waiting for events, up to the last wait.
    awake: AtomicU64,
    /// Start of the current time awake, in nanoseconds; [`ASLEEP`] while the thread waits for events.
    awake_since: AtomicU64,
    /// Number of requests carried out.
    requests: AtomicU64,
    /// Number of wake-ups that found requests.
    wake_ups: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Activity {
            zero: Instant::now(),
            thread_id: AtomicU32::new(0),
            awake: AtomicU64::new(0),
            awake_since: AtomicU64::new(ASLEEP),
            requests: AtomicU64::new(0),
            wake_ups: AtomicU64::new(0),
        }
    }

    /// Makes this the activity of the calling thread.
    pub(super) fn belong_to_this_thread(&self) {
        self.thread_id.store(facts::own_thread_id(), Relaxed);
    }

    /// Notes that the thread has waited for events until `now`.
    #[inline]
    pub(super) fn wake(&self, now: Instant) {
        self.awake_since.store(self.nanos(now), Relaxed);
    }

    /// Notes that the thread has carried out `requests` since it woke up, and waits for events from `now` on.
    #[inline]
    pub(super) fn sleep(&self, now: Instant, requests: u64) {
        let since = self.awake_since.load(Relaxed);
        let awake = self.nanos(now).saturating_sub(since);
        self.awake.store(self.awake.load(Relaxed) + awake, Relaxed);
        self.awake_since.store(ASLEEP, Relaxed);
        if requests > 0 {
            self.requests.store(self.requests.load(Relaxed) + requests, Relaxed);
            self.wake_ups.store(self.wake_ups.load(Relaxed) + 1, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn request_count(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.zero).as_nanos()).unwrap_or(ASLEEP - 1)
    }

    /// The figures up to `now`. If the thread falls asleep meanwhile, its current work counts in the next
    /// sample.
    fn totals(&self, now: Instant) -> Totals {
        let (awake, since) = (self.awake.load(Relaxed), self.awake_since.load(Relaxed));
        let awake_now = if since == ASLEEP { 0 } else { self.nanos(now).saturating_sub(since) };
        Totals {
            awake: awake + awake_now,
            requests: self.requests.load(Relaxed),
            wake_ups: self.wake_ups.load(Relaxed),
            ..Totals::default()
        }
    }
}

/// Figures of a thread since it began; times in nanoseconds.
#[derive(Clone, Copy, Default)]
struct Totals {
    awake: u64,
    requests: u64,
    wake_ups: u64,
    /// Time on a processor.
    ran: u64,
    /// Time ready to run, but without a processor.
    delayed: u64,
}

/// The work of a service thread between two samples.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct WorkerStats {
    /// Time that the thread needed for requests, on a processor or waiting for a device, but not while others
    /// had its processor.
    pub(super) worked: Duration,
    pub(super) requests: u64,
    /// Number of wake-ups that found requests.
    pub(super) wake_ups: u64,
}

/// Samples the activity of one thread.
#[derive(Default)]
pub(super) struct Meter {
    last: Totals,
}

impl Meter {
    /// The work of the thread since the last sample.
    pub(super) fn sample(&mut self, activity: &Activity, now: Instant) -> WorkerStats {
        let mut totals = activity.totals(now);
        if totals.awake <= self.last.awake && totals.requests == self.last.requests {
            return WorkerStats::default();
        }
        if let Some(schedule) = facts::schedule_of(activity.thread_id.load(Relaxed)) {
            (totals.ran, totals.delayed) = (schedule.ran, schedule.delayed);
        }
        let last = std::mem::replace(&mut self.last, totals);
        let awake = totals.awake.saturating_sub(last.awake);
        let ran = totals.ran.saturating_sub(last.ran);
        let delayed = totals.delayed.saturating_sub(last.delayed);
        WorkerStats {
            worked: Duration::from_nanos(needed(awake, ran, delayed)),
            requests: totals.requests.saturating_sub(last.requests),
            wake_ups: totals.wake_ups.saturating_sub(last.wake_ups),
        }
    }
}

/// The part of a thread's time `awake` in which it had a processor or needed none. It is unknown which part
/// of `delayed` followed a wait for events and is therefore not in `awake`. But the thread certainly needed
/// the time that it `ran`.
fn needed(awake: u64, ran: u64, delayed: u64) -> u64 {
    awake.saturating_sub(delayed).max(ran.min(awake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_time_between_waits_and_the_requests_in_it() {
        let activity = Activity::new();
        let at = |millis| activity.zero + Duration::from_millis(millis);
        activity.wake(at(10));
        activity.sleep(at(25), 3);
        activity.wake(at(40));
        let totals = activity.totals(at(42));
        assert_eq!((totals.awake, totals.requests), (17_000_000, 3));
        activity.sleep(at(50), 1);
        let totals = activity.totals(at(90));
        assert_eq!((totals.awake, totals.requests, totals.wake_ups), (25_000_000, 4, 2));
        activity.wake(at(90));
        activity.sleep(at(91), 0);
        assert_eq!(activity.totals(at(92)).wake_ups, 2, "it found nothing to do");
    }

    #[test]
    fn samples_cover_the_time_since_the_last_one() {
        let activity = Activity::new();
        activity.belong_to_this_thread();
        let mut meter = Meter::default();
        assert_eq!(meter.sample(&activity, Instant::now()), WorkerStats::default());
        activity.wake(Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        activity.sleep(Instant::now(), 5);
        assert_eq!(meter.sample(&activity, Instant::now()).requests, 5);
        assert_eq!(meter.sample(&activity, Instant::now()), WorkerStats::default());
    }

    #[test]
    fn time_without_a_processor_is_not_work() {
        assert_eq!(needed(100, 100, 0), 100);
        assert_eq!(needed(100, 60, 40), 60);
        assert_eq!(needed(100, 20, 0), 80 + 20);
        assert_eq!(needed(100, 20, 70), 30);
        // Most of the delay came before the thread was awake.
        assert_eq!(needed(100, 90, 300), 90);
        // The kernel counts the time that a thread ran later than the thread itself does.
        assert_eq!(needed(100, 104, 0), 100);
        assert_eq!(needed(0, 1, 1), 0);
    }
}
