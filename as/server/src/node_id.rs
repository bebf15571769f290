//! The id of this node in its cluster.
//!
//! ```text
//! bit   63            48 47                                            0
//!      +---------------+-----------------------------------------------+
//!      | fabric port   | hardware address, its first byte at bits 7..0 |
//!      +---------------+-----------------------------------------------+
//! ```
//! So 02:fc:00:00:00:01 with port 4201 (0x1069) is 106901000000FC02, the id that other servers of the cluster derive
//! for the same machine.

use cf::sys::interfaces::{HARDWARE_ADDRESS_SIZE, Interface, identifying_address, substitute_address};

/// The id that consists of a port and a hardware address.
#[must_use]
pub fn compose(fabric_port: u16, hardware_address: [u8; HARDWARE_ADDRESS_SIZE]) -> u64 {
    let [a, b, c, d, e, f] = hardware_address;
    let [port_low, port_high] = fabric_port.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, port_low, port_high])
}

/// The id of this machine with `fabric_port`. It uses the address of `interface` (`node-id-interface`), or of the
/// interface that cluster nodes prefer.
///
/// A machine without a suitable interface gets an id that stays the same on this machine; the log says so.
///
/// # Errors
/// When `interface` is given and does not exist.
pub fn of_this_machine(fabric_port: u16, interface: Option<&str>) -> Result<u64, UnknownInterface> {
    let interfaces = Interface::all().unwrap_or_else(|error| {
        cf::warning!(Socket, "cannot list the network interfaces: {error}");
        Vec::new()
    });
    let address = match (identifying_address(&interfaces, interface), interface) {
        (Some(address), _) => address,
        (None, Some(name)) => {
            let known = interfaces.into_iter().map(|interface| interface.name).collect::<Vec<_>>().join(", ");
            return Err(UnknownInterface { name: name.to_owned(), known });
        }
        (None, None) => {
            cf::warning!(
                Socket,
                "no network interface identifies this machine, its node id comes from its name"
            );
            substitute_address()
        }
    };
    Ok(compose(fabric_port, address))
}

/// `node-id-interface` names an interface that does not exist or has no hardware address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node-id-interface {name} is not an interface of this machine that has a hardware address; there are {known}"
)]
pub struct UnknownInterface {
    name: String,
    known: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_address_make_the_id_other_servers_make() {
        assert_eq!(compose(4201, [0x02, 0xFC, 0, 0, 0, 0x01]), 0x1069_0100_0000_FC02);
        assert_eq!(compose(3001, [0x0A, 0x1B, 0x2C, 0x3D, 0x4E, 0x5F]), 0x0BB9_5F4E_3D2C_1B0A);
    }

    #[test]
    fn this_machine_has_the_same_id_each_time() {
        let id = of_this_machine(3001, None).unwrap();
        assert_eq!(id >> 48, 3001);
        assert_eq!(of_this_machine(3001, None).unwrap(), id);
        let error = of_this_machine(3001, Some("no-such-if")).unwrap_err();
        assert!(error.to_string().contains("no-such-if is not an interface"), "{error}");
    }
}
