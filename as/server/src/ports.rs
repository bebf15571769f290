//! The ports of a server: all are bound before its devices are opened, because these may belong to a server that holds
//! the ports; they are opened when the server can answer.

use std::sync::Arc;

use crate::config::params::network::HeartbeatMode;
use crate::config::setting::{List, Number};
use crate::config::{Config, NetworkConfig};
use crate::node::PortAddresses;
use crate::service::{AccessParams, Advertised, Bound, Door, Entrance, ListenError, ListenPlace, Listener};
use crate::tls::{PeerDoor, TlsPort, TlsPorts};

/// Ports that are bound, but not open to connections yet.
pub(crate) struct Ports {
    clients: Bound,
    clients_tls: Bound,
    admin: Bound,
    admin_tls: Bound,
    info: Bound,
    metrics: Bound,
    fabric: Bound,
    fabric_tls: Bound,
    heartbeat: Bound,
    heartbeat_tls: Bound,
}

/// Ports open to connections.
pub(crate) struct OpenPorts {
    /// Ports of clients and of operators.
    pub(crate) doors: Vec<Door>,
    pub(crate) info: Vec<Listener>,
    pub(crate) metrics: Vec<Listener>,
    /// Ports of other nodes; none on a node that does not look for others.
    pub(crate) fabric: Vec<PeerDoor>,
    pub(crate) heartbeat: Vec<PeerDoor>,
}

/// Places of each kind of port; `None` if it is not configured.
struct Places {
    clients: Option<ListenPlace>,
    clients_tls: Option<ListenPlace>,
    admin: Option<ListenPlace>,
    admin_tls: Option<ListenPlace>,
    info: Option<ListenPlace>,
    metrics: Option<ListenPlace>,
    fabric: Option<ListenPlace>,
    fabric_tls: Option<ListenPlace>,
    heartbeat: Option<ListenPlace>,
    heartbeat_tls: Option<ListenPlace>,
}

impl Places {
    fn new(config: &Config) -> Self {
        let NetworkConfig { service, admin, info, metrics, client_ports, fabric, heartbeat, .. } =
            &config.network;
        let with_ipv6 = config.service.advertise_ipv6.get();
        let place = |configured: Vec<String>, port, with_localhost| ListenPlace {
            configured,
            port,
            with_localhost,
            with_ipv6,
        };
        let beside =
            |port: u16, address, with_localhost| (port != 0).then(|| place(address, port, with_localhost));
        // A port without configured addresses uses those of the other.
        let one_of = |own: &List<String>, other: &List<String>| {
            if own.is_empty() { other.get() } else { own.get() }
        };
        let clients = |own, other, port: &Number<u16>| {
            place(one_of(own, other), port.get(), !service.disable_localhost.get())
        };
        let operators = |own, other, port: &Number<u16>| {
            beside(port.get(), one_of(own, other), !admin.disable_localhost.get())
        };
        let network = &config.network;
        let is_clustered = network.is_clustered();
        let has_mesh = is_clustered && heartbeat.mode.get() == HeartbeatMode::Mesh;
        let nodes = |own, other, port: &Number<u16>| place(one_of(own, other), port.get(), false);
        Places {
            clients: client_ports
                .clear
                .then(|| clients(&service.address, &service.tls_address, &service.port)),
            clients_tls: client_ports
                .tls
                .then(|| clients(&service.tls_address, &service.address, &service.tls_port)),
            admin: operators(&admin.address, &admin.tls_address, &admin.port),
            admin_tls: operators(&admin.tls_address, &admin.address, &admin.tls_port),
            info: beside(info.port.get(), info.address.get(), false),
            metrics: beside(metrics.port.get(), metrics.address.get(), false),
            fabric: (is_clustered && network.has_fabric_clear())
                .then(|| nodes(&fabric.address, &fabric.tls_address, &fabric.port)),
            fabric_tls: network
                .has_fabric_tls()
                .then(|| nodes(&fabric.tls_address, &fabric.address, &fabric.tls_port)),
            heartbeat: (has_mesh && network.has_heartbeat_clear())
                .then(|| nodes(&heartbeat.address, &heartbeat.tls_address, &heartbeat.port)),
            heartbeat_tls: (has_mesh && heartbeat.tls_port.get() != 0)
                .then(|| nodes(&heartbeat.tls_address, &heartbeat.address, &heartbeat.tls_port)),
        }
    }
}

fn bind(place: Option<&ListenPlace>) -> Result<Bound, ListenError> {
    place.map_or_else(|| Ok(Bound::nowhere()), Bound::new)
}

/// The listeners for other nodes, without TLS and with it.
fn peer_doors(
    clear: Bound,
    (with_tls, tls): (Bound, Option<&Arc<TlsPort>>),
) -> Result<Vec<PeerDoor>, ListenError> {
    let door = |listener, tls: Option<&Arc<TlsPort>>| PeerDoor { listener, tls: tls.map(Arc::clone) };
    let mut doors: Vec<PeerDoor> = clear.listen()?.into_iter().map(|one| door(one, None)).collect();
    doors.extend(with_tls.listen()?.into_iter().map(|one| door(one, tls)));
    Ok(doors)
}

impl Ports {
    /// Binds all ports of `config`.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub(crate) fn bind(config: &Config) -> Result<Self, ListenError> {
        let places = Places::new(config);
        Ok(Ports {
            clients: bind(places.clients.as_ref())?,
            clients_tls: bind(places.clients_tls.as_ref())?,
            admin: bind(places.admin.as_ref())?,
            admin_tls: bind(places.admin_tls.as_ref())?,
            info: bind(places.info.as_ref())?,
            metrics: bind(places.metrics.as_ref())?,
            fabric: bind(places.fabric.as_ref())?,
            fabric_tls: bind(places.fabric_tls.as_ref())?,
            heartbeat: bind(places.heartbeat.as_ref())?,
            heartbeat_tls: bind(places.heartbeat_tls.as_ref())?,
        })
    }

    /// Tries to bind all ports of `config`, and returns the errors.
    pub(crate) fn obstacles(config: &Config) -> Vec<ListenError> {
        let mut obstacles = Vec::new();
        let mut tried = |place: Option<&ListenPlace>| {
            let bound = bind(place).map_err(|error| obstacles.push(error));
            bound.unwrap_or_else(|()| Bound::nowhere())
        };
        let places = Places::new(config);
        // Held together, as two of them may be the same port.
        let [clients, clients_tls, ..] = [
            tried(places.clients.as_ref()),
            tried(places.clients_tls.as_ref()),
            tried(places.admin.as_ref()),
            tried(places.admin_tls.as_ref()),
            tried(places.info.as_ref()),
            tried(places.metrics.as_ref()),
            tried(places.fabric.as_ref()),
            tried(places.fabric_tls.as_ref()),
            tried(places.heartbeat.as_ref()),
            tried(places.heartbeat_tls.as_ref()),
        ];
        let params = &config.network.service;
        let advertised = |access, bound: &Bound| Advertised::new(&access, &bound.addresses()).err();
        obstacles.extend(advertised(AccessParams::clear(params), &clients));
        if places.clients_tls.is_some() {
            obstacles.extend(advertised(AccessParams::tls(params), &clients_tls));
        }
        obstacles
    }

    /// The addresses of all ports, as bound.
    pub(crate) fn addresses(&self) -> PortAddresses {
        PortAddresses {
            clients: self.clients.addresses(),
            clients_tls: self.clients_tls.addresses(),
            admin: self.admin.addresses(),
            admin_tls: self.admin_tls.addresses(),
            info: self.info.addresses(),
            fabric: self.fabric.addresses(),
            fabric_tls: self.fabric_tls.addresses(),
            heartbeat: self.heartbeat.addresses(),
            heartbeat_tls: self.heartbeat_tls.addresses(),
        }
    }

    /// Opens the ports for connections. Ports with TLS use the settings of `tls`.
    ///
    /// # Errors
    /// When another process listens there by now.
    pub(crate) fn open(self, tls: &TlsPorts) -> Result<OpenPorts, ListenError> {
        let mut doors = Vec::new();
        for (bound, entrance, tls) in [
            (self.clients, Entrance::Clients, None),
            (self.clients_tls, Entrance::Clients, tls.service.as_ref()),
            (self.admin, Entrance::Admin, None),
            (self.admin_tls, Entrance::Admin, tls.admin.as_ref()),
        ] {
            let door = |listener| Door { listener, entrance, tls: tls.map(Arc::clone) };
            doors.extend(bound.listen()?.into_iter().map(door));
        }
        Ok(OpenPorts {
            doors,
            info: self.info.listen()?,
            metrics: self.metrics.listen()?,
            fabric: peer_doors(self.fabric, (self.fabric_tls, tls.fabric.as_ref()))?,
            heartbeat: peer_doors(self.heartbeat, (self.heartbeat_tls, tls.heartbeat.as_ref()))?,
        })
    }
}
