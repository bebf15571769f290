//! Time in the cluster: the time of an event, intervals derived from the configuration, and the hybrid logical clock.

/// The time of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Never goes back and measures all intervals; it continues while the process is stopped.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970; may jump.
    pub wall_ms: u64,
}

/// The intervals of the cluster. All nodes should use the same ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Interval between two pulses: `heartbeat` `interval`.
    pub interval_ms: u64,
    /// Number of intervals without a pulse after which a node has departed: `heartbeat` `timeout`.
    pub timeout_intervals: u64,
    /// Longest delay of a message: `fabric` `latency-max-ms`.
    pub latency_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { interval_ms: 150, timeout_intervals: 10, latency_ms: 5 }
    }
}

impl Timing {
    /// Longest time between two ticks.
    pub const TICK_MS: u64 = 75;
    const QUANTUM_MAX_MS: u64 = 5000;
    const PAXOS_RESEND_MAX_MS: u64 = 100;

    /// Time without a pulse after which a node has departed.
    #[must_use]
    pub const fn node_timeout_ms(&self) -> u64 {
        self.interval_ms * self.timeout_intervals
    }

    /// Time until another node knows, by pulses, a fact that a node notices.
    #[must_use]
    pub const fn told_by_pulse_ms(&self) -> u64 {
        self.interval_ms + self.latency_ms
    }

    /// The quantum interval. The cluster changes at most once in it, so that simultaneous events are handled
    /// together.
    #[must_use]
    pub fn quantum_ms(&self) -> u64 {
        let max = Self::QUANTUM_MAX_MS.max(2 * self.interval_ms);
        let wanted = self.node_timeout_ms() + 2 * self.told_by_pulse_ms();
        wanted.min(max).max(8 * self.latency_ms)
    }

    /// Time after which a round of agreement fails.
    #[must_use]
    pub fn proposal_timeout_ms(&self) -> u64 {
        (self.quantum_ms() / 2).max(2 * self.latency_ms)
    }

    /// Time after which messages of a round are sent again.
    #[must_use]
    pub fn paxos_resend_ms(&self) -> u64 {
        (self.quantum_ms() / 4).min(Self::PAXOS_RESEND_MAX_MS).max(2 * self.latency_ms)
    }

    /// Time after which a join request has failed.
    #[must_use]
    pub fn join_timeout_ms(&self) -> u64 {
        self.quantum_ms() * 5 / 2
    }

    /// Time after which a join request is sent again.
    #[must_use]
    pub fn join_resend_ms(&self) -> u64 {
        (self.interval_ms / 2).min(self.quantum_ms() / 2)
    }

    /// Time during which a principal is not asked again.
    #[must_use]
    pub fn join_blackout_ms(&self) -> u64 {
        (self.quantum_ms() / 2).min(2 * self.interval_ms)
    }

    /// Age at which a join request is stale.
    #[must_use]
    pub const fn join_age_max_ms(&self) -> u64 {
        2 * self.interval_ms + self.latency_ms
    }

    /// Time after a change of the cluster during which a peer's message may be older than its knowledge of the change.
    #[must_use]
    pub const fn stale_after_change_ms(&self) -> u64 {
        2 * self.told_by_pulse_ms()
    }

    /// Time after which an exchange message is first sent again.
    #[must_use]
    pub fn exchange_resend_ms(&self) -> u64 {
        Self::TICK_MS.max(self.interval_ms / 2)
    }

    /// Time for which a node without a cluster continues to serve.
    #[must_use]
    pub fn orphan_serves_ms(&self) -> u64 {
        5 * self.quantum_ms()
    }
}

/// A hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16. It never
/// goes back, and an event after the receipt of a message is later than its sending, whatever the wall clocks
/// say.
#[derive(Clone, Debug, Default)]
pub struct Hlc {
    last: u64,
}

const COUNTER_BITS: u32 = 16;

impl Hlc {
    /// The time of an event that happens now. All returned times are different.
    pub fn tick(&mut self, now: Now) -> u64 {
        self.last = (self.last + 1).max(now.wall_ms << COUNTER_BITS);
        self.last
    }

    /// Takes a peer's clock into account, unless it is further ahead than `ahead_max_ms`, so that a peer's
    /// bytes cannot carry the clock away.
    pub fn received(&mut self, remote: u64, now: Now, ahead_max_ms: u64) {
        let limit = (now.wall_ms + ahead_max_ms) << COUNTER_BITS;
        if remote <= limit {
            self.last = self.last.max(remote);
        }
    }

    /// The latest time that the clock has returned or received.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The milliseconds of a time.
    #[must_use]
    pub const fn ms(time: u64) -> u64 {
        time >> COUNTER_BITS
    }
}

/// Random numbers from the caller's seed: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_c_server() {
        let timing = Timing::default();
        let seen = [
            timing.node_timeout_ms(),
            timing.quantum_ms(),
            timing.proposal_timeout_ms(),
            timing.paxos_resend_ms(),
            timing.join_timeout_ms(),
            timing.join_resend_ms(),
            timing.join_blackout_ms(),
            timing.join_age_max_ms(),
        ];
        assert_eq!(seen, [1500, 1810, 905, 100, 4525, 75, 300, 305]);
    }

    #[test]
    fn the_clock_never_goes_back_and_follows_peers() {
        let mut clock = Hlc::default();
        let now = |wall_ms| Now { monotonic_ms: 0, wall_ms };
        let first = clock.tick(now(1000));
        assert_eq!(Hlc::ms(first), 1000);
        assert!(clock.tick(now(500)) > first);
        clock.received(5000 << 16 | 7, now(1000), 60_000);
        assert_eq!(Hlc::ms(clock.tick(now(1001))), 5000);
        clock.received(u64::MAX, now(1000), 60_000);
        assert_eq!(Hlc::ms(clock.tick(now(1001))), 5000);
    }
}
