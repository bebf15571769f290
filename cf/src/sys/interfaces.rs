//! Network interfaces: their addresses, and the hardware address that identifies this machine.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use ripemd::{Digest, Ripemd160};

/// Number of bytes of a hardware address that identify a machine.
pub const HARDWARE_ADDRESS_SIZE: usize = 6;

/// The folder in which the kernel has a folder for each interface.
const KERNEL_FOLDER: &str = "/sys/class/net";

/// A network interface, or an alias of one (`eth0:1`) with its own addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub name: String,
    /// Whether it is switched on and connected.
    pub is_up: bool,
    /// Whether packets to it stay on this machine.
    pub is_loopback: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address, or a digest of one that is not 6 bytes long (InfiniBand). `None` if it has none.
    pub hardware_address: Option<[u8; HARDWARE_ADDRESS_SIZE]>,
}

impl Interface {
    /// All interfaces of this machine, in the kernel's order.
    ///
    /// # Errors
    /// When the kernel does not report them (a sandbox).
    pub fn all() -> io::Result<Vec<Self>> {
        let mut interfaces: Vec<Interface> = Vec::new();
        for entry in getifaddrs()? {
            let index = interfaces.iter().position(|known| known.name == entry.interface_name);
            let index = index.unwrap_or_else(|| {
                interfaces.push(Interface::without_addresses(&entry));
                interfaces.len() - 1
            });
            let address = entry.address.as_ref().and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            });
            if let (Some(interface), Some(address)) = (interfaces.get_mut(index), address) {
                interface.addresses.push(address);
            }
        }
        Ok(interfaces)
    }

    fn without_addresses(entry: &InterfaceAddress) -> Self {
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        Interface {
            name: entry.interface_name.clone(),
            is_up: entry.flags.contains(up),
            is_loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            addresses: Vec::new(),
            hardware_address: read_hardware_address(&entry.interface_name),
        }
    }

    /// The largest packet that it takes, in bytes.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        let physical = self.name.split(':').next()?;
        fs::read_to_string(Path::new(KERNEL_FOLDER).join(physical).join("mtu")).ok()?.trim().parse().ok()
    }

    /// Whether its hardware address can identify this machine.
    fn identifies(&self, with_address: impl Fn(&IpAddr) -> bool) -> bool {
        let meaningful = |bytes: [u8; HARDWARE_ADDRESS_SIZE]| bytes != [0; 6] && bytes != [0xFF; 6];
        self.addresses.iter().any(with_address) && self.hardware_address.is_some_and(meaningful)
    }
}

/// Reads the kernel's text of the address, because `getifaddrs` has room for 8 bytes only.
fn read_hardware_address(interface: &str) -> Option<[u8; HARDWARE_ADDRESS_SIZE]> {
    // An alias has the address of its interface.
    let physical = interface.split(':').next()?;
    let text = fs::read_to_string(Path::new(KERNEL_FOLDER).join(physical).join("address")).ok()?;
    parse_hardware_address(text.trim())
}

fn parse_hardware_address(text: &str) -> Option<[u8; HARDWARE_ADDRESS_SIZE]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<_>>()?;
    if let Ok(address) = bytes.as_slice().try_into() {
        return Some(address);
    }
    if bytes.len() < HARDWARE_ADDRESS_SIZE {
        return None;
    }
    Some(shortened(&bytes))
}

/// Six bytes derived from `bytes`.
fn shortened(bytes: &[u8]) -> [u8; HARDWARE_ADDRESS_SIZE] {
    let digest: [u8; 20] = Ripemd160::digest(bytes).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// The hardware address that identifies this machine: that of `wanted` if given, otherwise that of the first
/// interface, in the order of [`rank`], with an IPv4 address, or, if none has one, with any address.
#[must_use]
pub fn identifying_address(
    interfaces: &[Interface],
    wanted: Option<&str>,
) -> Option<[u8; HARDWARE_ADDRESS_SIZE]> {
    if let Some(wanted) = wanted {
        return interfaces.iter().find(|interface| interface.name == wanted)?.hardware_address;
    }
    let best = |with_address: fn(&IpAddr) -> bool| {
        // The first of equal interfaces wins: the kernel's order is by age.
        interfaces
            .iter()
            .filter(|interface| interface.identifies(with_address))
            .min_by_key(|interface| rank(&interface.name))
    };
    best(IpAddr::is_ipv4).or_else(|| best(|_| true))?.hardware_address
}

/// Position of an interface in the order of preference, lowest first: `eth0`–`eth10`, `bond0`–`bond10`,
/// `wlan0`–`wlan10` in turn; then any other `eth`, `bond`, `wlan`, `emN_N`, `pNpN_N`; then `emN`, `pNpN`; then
/// the rest. C servers use the same order, so a node keeps its id.
fn rank(name: &str) -> u32 {
    const IN_TURN: u32 = 11;
    for (kind, prefix) in (0..).zip(["eth", "bond", "wlan"]) {
        if let Some(digits) = name.strip_prefix(prefix)
            && is_number(digits)
        {
            let in_turn = digits.parse::<u32>().ok().filter(|n| *n < IN_TURN && n.to_string() == digits);
            return in_turn.map_or(3 * IN_TURN, |n| kind * IN_TURN + n);
        }
    }
    let (name, has_port) = match name.split_once('_') {
        Some((name, port)) if is_number(port) => (name, true),
        Some(_) => return 3 * IN_TURN + 2,
        None => (name, false),
    };
    let is_onboard = name.strip_prefix("em").is_some_and(is_number);
    let in_slot = name.strip_prefix('p').and_then(|slot| slot.split_once('p'));
    if is_onboard || in_slot.is_some_and(|(slot, port)| is_number(slot) && is_number(port)) {
        return 3 * IN_TURN + u32::from(!has_port);
    }
    3 * IN_TURN + 2
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Six bytes that stay the same on this machine, for a machine that no interface identifies. They are derived
/// from the machine id, or, if there is none, from the host's name.
#[must_use]
pub fn substitute_address() -> [u8; HARDWARE_ADDRESS_SIZE] {
    let machine_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let host_name = nix::unistd::gethostname().unwrap_or_default();
    let seed = [machine_id.trim().as_bytes(), host_name.as_encoded_bytes()].concat();
    let mut address = shortened(&seed);
    // Sets the bits for a locally administered address of one machine.
    address[0] = address[0] & 0xFC | 0x02;
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, last_byte: u8) -> Interface {
        Interface {
            name: name.to_owned(),
            is_up: true,
            is_loopback: false,
            addresses: vec![IpAddr::from([192, 0, 2, last_byte])],
            hardware_address: Some([2, 0xFC, 0, 0, 0, last_byte]),
        }
    }

    fn chosen(interfaces: &[Interface]) -> u8 {
        identifying_address(interfaces, None).unwrap()[5]
    }

    #[test]
    fn interfaces_are_preferred_in_the_known_order() {
        let order = [
            "eth0", "eth10", "bond0", "bond10", "wlan3", "eth11", "em1_2", "p2p1_1", "em1", "p3p1", "docker0",
        ];
        let ranks: Vec<_> = order.map(rank).into();
        assert!(ranks.is_sorted(), "{ranks:?}");
        assert_eq!(rank("eth11"), rank("p2p1_1"));
        assert_eq!(rank("em1"), rank("p3p1"));
        for other in ["lo", "eth", "ethx", "em1_", "em_1", "p1", "pp", "wlp3s0", "enp0s1", "eth0:1"] {
            assert_eq!(rank(other), rank("docker0"), "{other}");
        }
        let all: Vec<_> = (0..11).zip(order).rev().map(|(n, name)| interface(name, n)).collect();
        assert_eq!(chosen(&all), 0);
        // The kernel's order decides among equals.
        assert_eq!(chosen(&[interface("veth1", 7), interface("docker0", 8)]), 7);
    }

    #[test]
    fn interfaces_that_do_not_identify_the_machine_are_skipped() {
        let mut loopback = interface("eth0", 1);
        loopback.hardware_address = Some([0; 6]);
        let mut unconnected = interface("eth1", 2);
        unconnected.addresses.clear();
        let mut only_v6 = interface("eth2", 3);
        only_v6.addresses = vec!["fd00::2".parse().unwrap()];
        let all = [loopback, unconnected, only_v6, interface("wlan0", 4)];
        assert_eq!(chosen(&all), 4);
        assert_eq!(chosen(&all[..3]), 3);
        assert_eq!(identifying_address(&all[..2], None), None);
        assert_eq!(identifying_address(&all, Some("eth1")).unwrap()[5], 2);
        assert_eq!(identifying_address(&all, Some("eth9")), None);
    }

    #[test]
    fn hardware_addresses_of_any_length() {
        assert_eq!(parse_hardware_address("02:fc:00:00:00:01"), Some([2, 0xFC, 0, 0, 0, 1]));
        assert_eq!(parse_hardware_address("02:fc:00"), None);
        assert_eq!(parse_hardware_address(""), None);
        let long = "80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:1c:8f:11";
        assert!(parse_hardware_address(long).is_some());
        assert_ne!(parse_hardware_address(long), Some([0x80, 0, 0, 0x48, 0xFE, 0x80]));
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let all = Interface::all().unwrap();
        let loopback = all.iter().find(|interface| interface.is_loopback).unwrap();
        assert!(loopback.addresses.iter().all(IpAddr::is_loopback), "{loopback:?}");
        assert_eq!(substitute_address(), substitute_address());
        assert_eq!(substitute_address()[0] & 3, 2);
    }
}
