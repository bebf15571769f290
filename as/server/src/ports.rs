//! The ports of a server: bound together before its devices are touched, which may be those of a server that holds the
//! ports; opened when it can answer.

use std::net::SocketAddr;

use crate::config::params::network::HeartbeatMode;
use crate::config::{Config, NetworkConfig};
use crate::service::{Advertised, Bound, Door, Entrance, ListenError, ListenPlace, Listener};

/// Ports that are taken, but where nobody can connect yet.
pub(crate) struct Ports {
    clients: Bound,
    admin: Bound,
    info: Bound,
    metrics: Bound,
    fabric: Bound,
    heartbeat: Bound,
}

/// Ports where clients can connect.
pub(crate) struct OpenPorts {
    /// Of clients, and of operators.
    pub(crate) doors: Vec<Door>,
    pub(crate) info: Vec<Listener>,
    pub(crate) metrics: Vec<Listener>,
    /// Of other nodes; none of a node that does not look for others.
    pub(crate) fabric: Vec<Listener>,
    pub(crate) heartbeat: Vec<Listener>,
}

/// Where clients, operators, info requests, requests for metrics, and other nodes come in; `None` for ports that are not
/// configured, or of which no use is made.
fn places(config: &Config) -> [Option<ListenPlace>; 6] {
    let NetworkConfig { service, admin, info, metrics, fabric, heartbeat, .. } = &config.network;
    let with_ipv6 = config.service.advertise_ipv6.get();
    let place = |address: Vec<String>, port, with_localhost| ListenPlace {
        configured: address,
        port,
        with_localhost,
        with_ipv6,
    };
    let beside =
        |port: u16, address, with_localhost| (port != 0).then(|| place(address, port, with_localhost));
    [
        Some(place(service.address.get(), service.port.get(), !service.disable_localhost.get())),
        beside(admin.port.get(), admin.address.get(), !admin.disable_localhost.get()),
        beside(info.port.get(), info.address.get(), false),
        beside(metrics.port.get(), metrics.address.get(), false),
        config.network.is_clustered().then(|| place(fabric.address.get(), fabric.port.get(), false)),
        (config.network.is_clustered() && heartbeat.mode.get() == HeartbeatMode::Mesh)
            .then(|| place(heartbeat.address.get(), heartbeat.port.get(), false)),
    ]
}

fn bind(place: Option<&ListenPlace>) -> Result<Bound, ListenError> {
    place.map_or_else(|| Ok(Bound::nowhere()), Bound::new)
}

impl Ports {
    /// Takes all ports of `config`.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub(crate) fn bind(config: &Config) -> Result<Self, ListenError> {
        let [clients, admin, info, metrics, fabric, heartbeat] = places(config);
        Ok(Ports {
            clients: bind(clients.as_ref())?,
            admin: bind(admin.as_ref())?,
            info: bind(info.as_ref())?,
            metrics: bind(metrics.as_ref())?,
            fabric: bind(fabric.as_ref())?,
            heartbeat: bind(heartbeat.as_ref())?,
        })
    }

    /// Tries all ports of `config`, and gives what stands in the way of each.
    pub(crate) fn obstacles(config: &Config) -> Vec<ListenError> {
        let mut obstacles = Vec::new();
        let bound: Vec<Bound> = places(config)
            .iter()
            .filter_map(|place| bind(place.as_ref()).map_err(|error| obstacles.push(error)).ok())
            .collect();
        let clients = bound.first().map(Bound::addresses).unwrap_or_default();
        obstacles.extend(Advertised::new(&config.network.service, &clients).err());
        obstacles
    }

    pub(crate) fn client_addresses(&self) -> Vec<SocketAddr> {
        self.clients.addresses()
    }

    pub(crate) fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.admin.addresses()
    }

    pub(crate) fn info_addresses(&self) -> Vec<SocketAddr> {
        self.info.addresses()
    }

    /// Where other nodes reach the fabric.
    pub(crate) fn fabric_addresses(&self) -> Vec<SocketAddr> {
        self.fabric.addresses()
    }

    /// Where they reach the heartbeat of a mesh.
    pub(crate) fn heartbeat_addresses(&self) -> Vec<SocketAddr> {
        self.heartbeat.addresses()
    }

    /// From now on clients can connect.
    ///
    /// # Errors
    /// When somebody else listens there by now.
    pub(crate) fn open(self) -> Result<OpenPorts, ListenError> {
        let door = |entrance| move |listener| Door { listener, entrance };
        let mut doors: Vec<Door> = self.clients.listen()?.into_iter().map(door(Entrance::Clients)).collect();
        doors.extend(self.admin.listen()?.into_iter().map(door(Entrance::Admin)));
        Ok(OpenPorts {
            doors,
            info: self.info.listen()?,
            metrics: self.metrics.listen()?,
            fabric: self.fabric.listen()?,
            heartbeat: self.heartbeat.listen()?,
        })
    }
}
