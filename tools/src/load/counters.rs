//! The counters of a run: one set for each thread. Readers sum them.
//!
//! Each [`ThreadCounters`] has one writing thread; readers sum over all of them with relaxed loads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Histogram, Snapshot};
use super::protocol::{KIND_COUNT, Kind, Outcome};

/// Counts of one thread.
#[derive(Debug)]
pub struct ThreadCounters {
    kinds: [KindCounters; KIND_COUNT],
    codes: [AtomicU64; 256],
    requests: AtomicU64,
}

#[derive(Debug, Default)]
struct KindCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    timeouts: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    latency_ns: Histogram,
}

impl Default for ThreadCounters {
    fn default() -> Self {
        ThreadCounters {
            kinds: Default::default(),
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
        }
    }
}

impl ThreadCounters {
    /// Counts a sent request.
    #[inline]
    pub(crate) fn requested(&self) {
        bump(&self.requests, 1);
    }

    /// Counts a reply. Only the latencies of successful requests count.
    #[inline]
    pub(crate) fn replied(&self, kind: Kind, outcome: Outcome, code: u8, latency_ns: u64) {
        let counters = &self.kinds[kind as usize];
        bump(&self.codes[usize::from(code)], 1);
        let counter = match outcome {
            Outcome::Hit => &counters.hits,
            Outcome::Miss => &counters.misses,
            Outcome::Timeout => &counters.timeouts,
            Outcome::Error | Outcome::Fatal => &counters.errors,
            Outcome::Wrong => &counters.wrong,
        };
        bump(counter, 1);
        if matches!(outcome, Outcome::Hit | Outcome::Miss) {
            counters.latency_ns.record(latency_ns);
        }
    }

    /// Counts a request whose reply is not awaited any longer.
    pub(super) fn gave_up(&self, kind: Kind) {
        bump(&self.kinds[kind as usize].timeouts, 1);
    }
}

/// Adds to a counter that only the calling thread writes.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// Counts of one kind of request over all threads.
#[derive(Clone, Debug, Default)]
pub struct KindTotals {
    /// Successful requests for which the record existed.
    pub hits: u64,
    /// Successful requests for which there was no record.
    pub misses: u64,
    /// Requests that the server or the client gave up.
    pub timeouts: u64,
    /// Requests that the server refused.
    pub errors: u64,
    /// Requests that were answered with other data than requested.
    pub wrong: u64,
    /// Time from the encoding of the request to the parsing of its reply, for hits and misses.
    pub latency_ns: Snapshot,
}

impl KindTotals {
    /// Number of successful requests.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.hits + self.misses
    }

    /// Number of requests of this kind that have ended in any way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.done() + self.timeouts + self.errors + self.wrong
    }
}

/// Counts of a whole run.
#[derive(Clone, Debug)]
pub struct Totals {
    pub kinds: [KindTotals; KIND_COUNT],
    /// Replies by the server's result code.
    pub codes: [u64; 256],
    /// Requests sent.
    pub requests: u64,
}

impl Totals {
    #[must_use]
    pub fn sum<'a>(threads: impl Iterator<Item = &'a ThreadCounters>) -> Self {
        let mut totals = Totals { kinds: Default::default(), codes: [0; 256], requests: 0 };
        for thread in threads {
            totals.requests += thread.requests.load(Ordering::Relaxed);
            for (total, counter) in totals.codes.iter_mut().zip(&thread.codes) {
                *total += counter.load(Ordering::Relaxed);
            }
            for (total, counters) in totals.kinds.iter_mut().zip(&thread.kinds) {
                total.hits += counters.hits.load(Ordering::Relaxed);
                total.misses += counters.misses.load(Ordering::Relaxed);
                total.timeouts += counters.timeouts.load(Ordering::Relaxed);
                total.errors += counters.errors.load(Ordering::Relaxed);
                total.wrong += counters.wrong.load(Ordering::Relaxed);
                total.latency_ns.add(&counters.latency_ns);
            }
        }
        totals
    }

    /// Counts of `kind`.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &KindTotals {
        &self.kinds[kind as usize]
    }

    /// Latencies of requests of all kinds.
    #[must_use]
    pub fn latency_ns(&self) -> Snapshot {
        let mut all = Snapshot::default();
        self.kinds.iter().for_each(|kind| all.merge(&kind.latency_ns));
        all
    }

    /// Number of successful requests.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.kinds.iter().map(KindTotals::done).sum()
    }

    /// Number of requests that were not successful, for any reason.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.timeouts + kind.errors + kind.wrong).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_by_outcome_and_code() {
        let threads = [ThreadCounters::default(), ThreadCounters::default()];
        threads[0].requested();
        threads[0].replied(Kind::Read, Outcome::Hit, 0, 100);
        threads[1].replied(Kind::Read, Outcome::Miss, 2, 300);
        threads[1].replied(Kind::Write, Outcome::Error, 8, 500);
        threads[1].replied(Kind::Write, Outcome::Wrong, 0, 500);
        threads[1].gave_up(Kind::Write);
        let totals = Totals::sum(threads.iter());
        let (read, write) = (totals.of(Kind::Read), totals.of(Kind::Write));
        assert_eq!((read.hits, read.misses, read.latency_ns.count(), read.latency_ns.max()), (1, 1, 2, 300));
        assert_eq!((totals.latency_ns().count(), totals.latency_ns().min()), (2, 100));
        assert_eq!((write.errors, write.wrong, write.timeouts, write.latency_ns.count()), (1, 1, 1, 0));
        assert_eq!((totals.codes[0], totals.codes[2], totals.codes[8]), (2, 1, 1));
        assert_eq!((totals.requests, totals.done(), totals.failed()), (1, 2, 3));
    }
}
