//! Limits a thread to a number of requests per second.

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Limit of the requests with which a thread may catch up after the server delayed it, in nanoseconds of its
/// rate. It is long enough to bridge the millisecond steps of epoll, and short enough that no burst follows a
/// stall.
const CATCH_UP_NS: u64 = 50_000_000;

/// Allows requests at an even rate.
#[derive(Debug)]
pub(super) struct Pace {
    /// Requests per second; `None` allows any number.
    rate: Option<u64>,
    /// Time at which counting began, on the monotonic clock.
    start_ns: u64,
    /// Number of requests allowed since then.
    allowed: u64,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>, start_ns: u64) -> Self {
        Pace { rate, start_ns, allowed: 0 }
    }

    /// Whether a request may be sent at `now_ns`. If so, it is counted.
    #[inline]
    pub(super) fn allow(&mut self, now_ns: u64) -> bool {
        let Some(rate) = self.rate else { return true };
        let elapsed = now_ns.saturating_sub(self.start_ns);
        if self.allowed > due(rate, elapsed) {
            return false;
        }
        let least = due(rate, elapsed.saturating_sub(CATCH_UP_NS));
        self.allowed = self.allowed.max(least) + 1;
        true
    }
}

/// Number of requests that are due after `elapsed_ns`.
fn due(rate: u64, elapsed_ns: u64) -> u64 {
    (u128::from(elapsed_ns) * u128::from(rate) / NANOS_PER_SECOND) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rate_everything_is_allowed() {
        let mut pace = Pace::new(None, 0);
        assert!((0..1000).all(|_| pace.allow(0)));
    }

    #[test]
    fn a_rate_is_kept() {
        let mut pace = Pace::new(Some(1000), 5);
        let allowed = (0..1_000_000u64).step_by(100).filter(|us| pace.allow(5 + us * 1000)).count();
        assert_eq!(allowed, 1000);
    }

    #[test]
    fn a_stall_is_not_followed_by_a_storm() {
        let mut pace = Pace::new(Some(1000), 0);
        assert!(pace.allow(0));
        let burst = (0..10_000).filter(|_| pace.allow(10_000_000_000)).count();
        assert_eq!(burst, 51);
    }
}
