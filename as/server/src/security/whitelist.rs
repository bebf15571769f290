//! Addresses from which a role may be used: IPv4 and IPv6 addresses and networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    /// The address as IPv6; IPv4 addresses in the mapped form.
    address: u128,
    /// Number of leading bits that count.
    bits: u32,
}

/// Bits in front of a mapped IPv4 address.
const MAPPED_BITS: u32 = 96;

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Network {
    /// Parses `address` or `address/bits`; the bits after those that count must be zero.
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let is_number = |bits: &str| bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => None,
            Some(bits) if is_number(bits) => Some(bits.parse::<u32>().ok()?),
            Some(_) => return None,
        };
        let (address, most, before) = match address.parse::<Ipv4Addr>() {
            Ok(address) => (IpAddr::V4(address), 32, MAPPED_BITS),
            Err(_) => (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), 128, 0),
        };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return None;
        }
        let network = Network { address: to_bits(address), bits: before + bits };
        (network.address & !network.mask() == 0).then_some(network)
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(u128::BITS - self.bits).unwrap_or(0)
    }

    fn contains(self, address: u128) -> bool {
        address & self.mask() == self.address
    }
}

/// A list of networks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Whitelist(Vec<Network>);

impl Whitelist {
    /// Parses addresses and networks separated by commas.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split(',').map(Network::parse).collect::<Option<Vec<_>>>().map(Whitelist)
    }

    pub(super) fn extend(&mut self, other: &Whitelist) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = to_bits(address);
        self.0.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_are_found() {
        let list = Whitelist::parse("127.0.0.1,10.1.2.0/24,2001:db8::/32,::1").expect("a list");
        for inside in ["127.0.0.1", "10.1.2.255", "2001:db8:1::9", "::1", "::ffff:10.1.2.3"] {
            assert!(list.contains(inside.parse().expect("an address")), "{inside}");
        }
        for outside in ["127.0.0.2", "10.1.3.0", "2001:db9::", "::2", "::ffff:10.2.2.3"] {
            assert!(!list.contains(outside.parse().expect("an address")), "{outside}");
        }
        let all = Whitelist::parse("0.0.0.0/0").expect("a list");
        assert!(all.contains("9.9.9.9".parse().expect("an address")));
        assert!(!all.contains("2001::".parse().expect("an address")), "IPv4 only");
        assert!(Whitelist::parse("::/0").expect("a list").contains("9.9.9.9".parse().expect("an address")));
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for wrong in [
            "",
            ",",
            "bad_IP",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "1.2.3.4/+8",
            "1.2.3.4/24",
            "1.2.3.4/",
            "::1/129",
            "1.2.3.4, 1.2.3.5",
            "::/0/0",
        ] {
            assert_eq!(Whitelist::parse(wrong), None, "{wrong}");
        }
    }
}
