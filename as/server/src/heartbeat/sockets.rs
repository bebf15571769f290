//! The sockets that receive heartbeats: listeners of a mesh, or members of multicast groups.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use cf::sys::interfaces::Interface;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::params::network::HeartbeatParams;
use crate::tls::PeerDoor;

/// A member of a multicast group.
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
    /// Joins the groups of `params`, on the interfaces with its addresses or on the one chosen by the system.
    ///
    /// # Errors
    /// When one of them cannot be joined.
    pub(crate) fn multicast(params: &HeartbeatParams) -> io::Result<Self> {
        let interfaces: Vec<Ipv4Addr> =
            params.address.get().iter().flat_map(|text| addresses_of(text)).collect();
        let mut members = Vec::new();
        for text in params.multicast_group.get() {
            let group: Ipv4Addr = text.parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("multicast-group {text} is not an IPv4 address"),
                )
            })?;
            let group = SocketAddr::new(group.into(), params.port.get());
            members.push(join(group, &interfaces, params.multicast_ttl.get())?);
        }
        Ok(HeartbeatSockets::Multicast(members))
    }
}

fn join(group: SocketAddr, interfaces: &[Ipv4Addr], ttl: u16) -> io::Result<GroupMember> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&group.into())?;
    if ttl != 0 {
        socket.set_multicast_ttl_v4(ttl.into())?;
    }
    let IpAddr::V4(address) = group.ip() else { return Err(io::ErrorKind::InvalidInput.into()) };
    match interfaces {
        [] => socket.join_multicast_v4(&address, &Ipv4Addr::UNSPECIFIED)?,
        some => {
            some.iter().try_for_each(|interface| socket.join_multicast_v4(&address, interface))?;
            socket.set_multicast_if_v4(&some[0])?;
        }
    }
    Ok(GroupMember { socket: socket.into(), group })
}

/// The addresses of `text`: an address or an interface.
fn addresses_of(text: &str) -> Vec<Ipv4Addr> {
    if let Ok(address) = text.parse() {
        return vec![address];
    }
    let interfaces = Interface::all().unwrap_or_default();
    let named = interfaces.into_iter().filter(|interface| interface.name == text);
    let addresses = named.flat_map(|interface| interface.addresses);
    addresses
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}
