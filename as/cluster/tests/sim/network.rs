//! The network: decides which messages arrive, when, and how often.

use std::collections::BTreeSet;

use cluster::time::Random;

/// A message between hosts and clients.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Heartbeat(Vec<u8>),
    Fabric(Vec<u8>),
    Record(crate::store::RecordMessage),
}

/// Random numbers in a range, derived from a seed.
pub(crate) trait Choice {
    fn below(&mut self, limit: u64) -> u64;
    fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Choice for Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit.max(1)
    }
}

/// Links between hosts, identified by place.
#[derive(Debug)]
pub(crate) struct Network {
    /// Directions in which no message arrives.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Number of lost messages in a thousand.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Delay of some messages.
    pub(crate) slow_ms: u64,
}

impl Network {
    pub(crate) fn new(random: &mut Random) -> Self {
        let lost = [0, 0, 5, 20, 50][random.below(5) as usize];
        let doubled = [0, 0, 10, 30][random.below(4) as usize];
        let slow_ms = [2, 5, 40, 120][random.below(4) as usize];
        Network { cut: BTreeSet::new(), lost, doubled, slow_ms }
    }

    /// When copies of a message arrive, in milliseconds from now.
    pub(crate) fn arrivals(&self, from: usize, to: usize, random: &mut Random) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || random.below(1000) < self.lost {
            return Vec::new();
        }
        let copies = if random.below(1000) < self.doubled { 2 } else { 1 };
        let delay = |_| if random.chance(95) { random.range(0, 2) } else { random.range(0, self.slow_ms) };
        (0..copies).map(delay).collect()
    }
}
