//! Nodes that use TLS on a port without it, or do not use it on a port with it: a mistake in a configuration, which
//! they repeat several times a second. Each gets a line in the log, once a minute, that says which mistake is likely.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Time between two lines about one address.
const AGAIN_PERIOD: Duration = Duration::from_secs(60);
/// Largest number of remembered addresses.
const ADDRESSES_MAX: usize = 64;
/// The first bytes of a connection with TLS: a handshake in a version from 3.0 on.
const TLS_HELLO: [u8; 2] = [0x16, 0x03];

/// Whether a connection that begins with `bytes` is one with TLS. No message of a node begins like that: it would be
/// larger than any is.
pub(crate) fn begins_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&TLS_HELLO)
}

/// What does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misfit {
    /// The peer uses TLS on a port of this node without it.
    TlsOnClearPort { port: u16 },
    /// The peer does not use TLS on a port of this node with it.
    ClearOnTlsPort { port: u16 },
    /// The peer's port, to which this node has connected, has no TLS.
    ClearPeer,
}

impl Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::TlsOnClearPort { port } => write!(
                out,
                "it uses TLS, and port {port} has none: name that port there by mesh-seed-address-port, without tls-, or give \
                 this node a tls-port and name that one"
            ),
            Misfit::ClearOnTlsPort { port } => write!(
                out,
                "it does not use TLS, and port {port} requires it: name that port there by tls-mesh-seed-address-port, or give \
                 this node a port without TLS and name that one"
            ),
            Misfit::ClearPeer => write!(
                out,
                "its port has no TLS: name that port here by mesh-seed-address-port, without tls-, or give that node a \
                 tls-port and name that one"
            ),
        }
    }
}

/// The addresses about which there was a line lately.
#[derive(Default)]
pub(crate) struct Misfits {
    told: HashMap<IpAddr, Instant>,
}

impl Misfits {
    /// Whether a line about `address` is due at `now`. If so, none is for a while.
    pub(crate) fn is_due(&mut self, address: IpAddr, now: Instant) -> bool {
        self.told.retain(|_, told| now.saturating_duration_since(*told) < AGAIN_PERIOD);
        let is_due = !self.told.contains_key(&address) && self.told.len() < ADDRESSES_MAX;
        if is_due {
            self.told.insert(address, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_once_a_minute() {
        let (mut misfits, start) = (Misfits::default(), Instant::now());
        let address = |number: u8| IpAddr::from([10, 0, 0, number]);
        let at = |seconds| start + Duration::from_secs(seconds);
        let due = (0..180).filter(|second| misfits.is_due(address(1), at(*second)));
        assert_eq!(due.collect::<Vec<_>>(), [0, 60, 120]);
        assert!(misfits.is_due(address(2), at(121)) && !misfits.is_due(address(2), at(122)));
        let told = (3..=255).filter(|number| misfits.is_due(address(*number), at(122))).count();
        assert_eq!(told, ADDRESSES_MAX - 2);
        assert!(misfits.is_due(address(255), at(200)));
    }

    #[test]
    fn a_handshake_is_no_message() {
        assert!(begins_tls(&[0x16, 3, 1, 2, 0, 1]) && begins_tls(&[0x16, 3]));
        assert!(!begins_tls(&[]) && !begins_tls(&[0x16]) && !begins_tls(&[0, 0, 0, 100]));
    }
}
