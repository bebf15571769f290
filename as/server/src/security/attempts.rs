//! Failed logins: after repeated failures for one user from one address, further attempts are refused for a while
//! without a check of the credential.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Number of failures before further attempts are barred.
const FREE_FAILURES: u32 = 5;
/// Duration of the first bar. Each further failure doubles it.
const FIRST_BAR: Duration = Duration::from_millis(500);
const LONGEST_BAR: Duration = Duration::from_secs(60);
/// Maximum number of remembered pairs of user and address; above it, expired pairs are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// The leading bits of an IPv6 address that identify its network.
const NETWORK_BITS: u32 = 64;

/// The origin of a client that may have many addresses: an IPv4 address, or an IPv6 network.
pub(crate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host_bits = Ipv6Addr::BITS - NETWORK_BITS;
            Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits).into()
        }
        address => address,
    }
}

struct Failures {
    count: u32,
    barred_until: Instant,
}

/// Failures by user and [`origin`].
#[derive(Default)]
pub(super) struct Attempts(Mutex<HashMap<(String, IpAddr), Failures>>);

impl Attempts {
    /// Whether an attempt is refused without a check.
    pub(super) fn is_barred(&self, user: &str, address: IpAddr, now: Instant) -> bool {
        let failures = self.0.lock();
        failures.get(&(user.to_owned(), origin(address))).is_some_and(|failures| now < failures.barred_until)
    }

    /// Notes a failed attempt. Returns for how long further ones are barred.
    pub(super) fn fail(&self, user: &str, address: IpAddr, now: Instant) -> Duration {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED_MAX {
            all.retain(|_, failures| now < failures.barred_until + LONGEST_BAR);
            if all.len() >= REMEMBERED_MAX {
                all.clear();
            }
        }
        let failures =
            all.entry((user.to_owned(), origin(address))).or_insert(Failures { count: 0, barred_until: now });
        failures.count = failures.count.saturating_add(1);
        let bar = match failures.count.checked_sub(FREE_FAILURES + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_BAR.saturating_mul(1 << doublings.min(10)).min(LONGEST_BAR),
        };
        failures.barred_until = now + bar;
        bar
    }

    /// Notes a successful attempt.
    pub(super) fn succeed(&self, user: &str, address: IpAddr) {
        self.0.lock().remove(&(user.to_owned(), origin(address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_bar_for_longer_and_longer() {
        let attempts = Attempts::default();
        let (here, there): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let start = Instant::now();
        let bars: Vec<u64> = (0..14).map(|_| attempts.fail("bob", here, start).as_millis() as u64).collect();
        assert_eq!(bars, [0, 0, 0, 0, 0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert!(attempts.is_barred("bob", here, start + Duration::from_secs(59)));
        assert!(!attempts.is_barred("bob", here, start + Duration::from_secs(61)));
        assert!(!attempts.is_barred("bob", there, start), "another address");
        assert!(!attempts.is_barred("eve", here, start), "another user");
        attempts.succeed("bob", here);
        assert!(!attempts.is_barred("bob", here, start));
        assert_eq!(attempts.fail("bob", here, start), Duration::ZERO);
    }

    #[test]
    fn a_network_of_addresses_counts_as_one_client() {
        let [one, other, elsewhere, mapped] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:127.0.0.1"]
                .map(|text| text.parse::<IpAddr>().expect("an address"));
        assert_eq!(origin(one), origin(other));
        assert_ne!(origin(one), origin(elsewhere));
        assert_eq!(origin(mapped), IpAddr::from([127, 0, 0, 1]));
        let attempts = Attempts::default();
        let now = Instant::now();
        (0..10).for_each(|_| _ = attempts.fail("bob", one, now));
        assert!(attempts.is_barred("bob", other, now) && !attempts.is_barred("bob", elsewhere, now));
    }

    #[test]
    fn the_number_of_remembered_failures_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for user in 0..(3 * REMEMBERED_MAX) {
            attempts.fail(&user.to_string(), [127, 0, 0, 1].into(), now);
        }
        assert!(attempts.0.lock().len() <= REMEMBERED_MAX);
    }
}
