//! Pauses of clients: the time that a connection rests between an answer and its next request, and the
//! connections that are resting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::random::Random;

/// A rest of random length, uniform between half of the mean and one and a half times the mean. Without the
/// randomness, connections that coincided once would send their requests together for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    pub mean: Duration,
}

/// The resting connections of a thread.
#[derive(Debug)]
pub(super) struct Pauses {
    mean_ns: Option<u64>,
    random: Random,
    /// The end of each connection's rest, the earliest on top.
    resting: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Pauses {
    /// Makes the pauses of a thread. Without `pause` no connection rests. Different seeds give different
    /// pauses.
    pub(super) fn new(pause: Option<Pause>, seed: u64) -> Self {
        let mean_ns = pause.map(|pause| u64::try_from(pause.mean.as_nanos()).unwrap_or(u64::MAX / 2));
        Pauses { mean_ns, random: Random::new(seed), resting: BinaryHeap::new() }
    }

    /// Whether connections rest at all.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.mean_ns.is_some()
    }

    /// Starts the rest of a connection.
    pub(super) fn begin(&mut self, connection: usize, now_ns: u64) {
        let mean_ns = self.mean_ns.unwrap_or(0);
        let length_ns = mean_ns / 2 + self.random.below(mean_ns.saturating_add(1));
        self.resting.push(Reverse((now_ns.saturating_add(length_ns), connection)));
    }

    /// Removes and returns a connection whose rest is over.
    pub(super) fn next_rested(&mut self, now_ns: u64) -> Option<usize> {
        let Reverse((until_ns, connection)) = *self.resting.peek()?;
        (until_ns <= now_ns).then(|| {
            self.resting.pop();
            connection
        })
    }

    /// The time until the next rest is over.
    pub(super) fn until_next(&self, now_ns: u64) -> Option<Duration> {
        let Reverse((until_ns, _)) = *self.resting.peek()?;
        Some(Duration::from_nanos(until_ns.saturating_sub(now_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_end_in_order_and_have_the_configured_length() {
        let mut pauses = Pauses::new(Some(Pause { mean: Duration::from_micros(1) }), 7);
        assert!(pauses.are_wanted());
        (0..100).for_each(|connection| pauses.begin(connection, 10_000));
        assert_eq!(pauses.next_rested(10_499), None, "at least half of the mean");
        let until_next = pauses.until_next(10_000).unwrap();
        assert!(until_next >= Duration::from_nanos(500) && until_next < Duration::from_nanos(700));
        let early = std::iter::from_fn(|| pauses.next_rested(11_000)).count();
        assert!((30..70).contains(&early), "{early} of 100 within the mean");
        let late = std::iter::from_fn(|| pauses.next_rested(11_500)).count();
        assert_eq!((early + late, pauses.until_next(0)), (100, None));
    }

    #[test]
    fn without_a_pause_no_connection_rests() {
        assert!(!Pauses::new(None, 0).are_wanted());
        assert_eq!(Pauses::new(None, 0).until_next(0), None);
    }
}
