//! The sockets that receive heartbeats: listeners of a mesh, or members of multicast groups.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use cf::sys::interfaces::Interface;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::params::network::HeartbeatParams;
use crate::tls::PeerDoor;

/// A member of a multicast group on one interface.
pub(crate) struct GroupMember {
    pub(super) socket: UdpSocket,
    /// Destination of sent messages.
    pub(super) group: SocketAddr,
}

/// The receiving sockets.
pub(crate) enum HeartbeatSockets {
    Mesh(Vec<PeerDoor>),
    Multicast(Vec<GroupMember>),
}

impl HeartbeatSockets {
    /// Joins the groups of `params`, on each of the interfaces with its addresses, or on the one chosen by
    /// the system.
    ///
    /// # Errors
    /// When a group cannot be joined, or there is no such interface.
    pub(crate) fn multicast(params: &HeartbeatParams) -> io::Result<Self> {
        let mut interfaces = Vec::new();
        for text in params.address.get() {
            interfaces.extend(addresses_of(&text)?);
        }
        let mut seen = std::collections::HashSet::new();
        interfaces.retain(|interface| seen.insert(*interface));
        if interfaces.is_empty() {
            interfaces.push(Ipv4Addr::UNSPECIFIED);
        }
        let mut members = Vec::new();
        for text in params.multicast_group.get() {
            let group: Ipv4Addr = text.parse().map_err(|_| invalid("multicast-group", &text))?;
            for interface in &interfaces {
                let joined = join(group, params.port.get(), *interface, params.multicast_ttl.get());
                members.push(joined.map_err(|error| {
                    io::Error::other(format!(
                        "cannot join the multicast group {group} on {interface}: {error}"
                    ))
                })?);
            }
        }
        Ok(HeartbeatSockets::Multicast(members))
    }
}

/// Largest packet that each interface with one of these addresses takes, in bytes; 0 if that is not known.
pub(crate) fn packet_size_max(addresses: &[IpAddr]) -> u32 {
    let interfaces = Interface::all().unwrap_or_default();
    let is_used = |interface: &&Interface| {
        addresses.iter().any(|address| address.is_unspecified() || interface.addresses.contains(address))
    };
    interfaces.iter().filter(is_used).filter_map(Interface::mtu).min().unwrap_or(0)
}

fn join(group: Ipv4Addr, port: u16, interface: Ipv4Addr, ttl: u16) -> io::Result<GroupMember> {
    let to = SocketAddr::new(group.into(), port);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&to.into())?;
    if ttl != 0 {
        socket.set_multicast_ttl_v4(ttl.into())?;
    }
    socket.set_multicast_if_v4(&interface)?;
    // Otherwise the socket also gets the datagrams that arrive on the interfaces of other sockets.
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4(&group, &interface)?;
    Ok(GroupMember { socket: socket.into(), group: to })
}

/// The IPv4 addresses of `text`, which is an interface, an address or a name. Empty for any interface.
pub(crate) fn addresses_of(text: &str) -> io::Result<Vec<Ipv4Addr>> {
    if text == "any" {
        return Ok(Vec::new());
    }
    let interfaces = Interface::all().unwrap_or_default();
    let named = interfaces.into_iter().filter(|interface| interface.name == text);
    let mut addresses: Vec<IpAddr> = named.flat_map(|interface| interface.addresses).collect();
    if addresses.is_empty() {
        let resolved = (text, 0).to_socket_addrs().map_err(|_| invalid("address", text))?;
        addresses = resolved.map(|address| address.ip()).collect();
    }
    let of_ipv4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let addresses: Vec<Ipv4Addr> = addresses.into_iter().filter_map(of_ipv4).collect();
    if addresses.is_empty() { Err(invalid("address", text)) } else { Ok(addresses) }
}

fn invalid(name: &str, text: &str) -> io::Error {
    let message = format!(
        "'{name}' in network.heartbeat: '{text}' is neither an interface nor a host nor an IPv4 address"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_size_of_the_smallest_interface() {
        let loopback = packet_size_max(&[Ipv4Addr::LOCALHOST.into()]);
        assert!(loopback >= 1500, "{loopback}");
        let any = packet_size_max(&[Ipv4Addr::UNSPECIFIED.into()]);
        assert!((68..=loopback).contains(&any), "{any}");
        assert_eq!(packet_size_max(&[Ipv4Addr::new(192, 0, 2, 1).into()]), 0);
    }
}
