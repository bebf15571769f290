//! The ports of a server. All are bound before the devices are opened, because another server that holds the
//! ports may own these devices. They are opened when the server can answer.

use std::io;
use std::sync::Arc;

use crate::config::params::network::HeartbeatMode;
use crate::config::setting::{List, Number};
use crate::config::{Config, InUse, NetworkConfig, Obstacle};
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

/// Ports that are open to connections.
pub(crate) struct OpenPorts {
    /// Ports of clients and of operators.
    pub(crate) doors: Vec<Door>,
    pub(crate) info: Vec<Listener>,
    pub(crate) metrics: Vec<Listener>,
    /// Ports of other nodes; empty on a node that does not look for others.
    pub(crate) fabric: Vec<PeerDoor>,
    pub(crate) heartbeat: Vec<PeerDoor>,
}

/// Places of each kind of port; `None` for a kind that is not configured.
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

/// The parameters of a port. If it has no addresses, those of its sibling apply: the port with TLS takes
/// those of the port without, and the reverse.
struct PortParams<'c> {
    context: &'static str,
    with_tls: bool,
    own: &'c List<String>,
    sibling: &'c List<String>,
    port: &'c Number<u16>,
    with_localhost: bool,
}

impl PortParams<'_> {
    fn place(&self, with_ipv6: bool) -> ListenPlace {
        let is_own = !self.own.is_empty();
        ListenPlace {
            context: self.context,
            address_name: if self.with_tls == is_own { "tls-address" } else { "address" },
            port_name: if self.with_tls { "tls-port" } else { "port" },
            configured: if is_own { self.own.get() } else { self.sibling.get() },
            port: self.port.get(),
            with_localhost: self.with_localhost,
            with_ipv6,
        }
    }
}

impl Places {
    fn new(config: &Config) -> Self {
        let NetworkConfig { service, admin, info, metrics, client_ports, fabric, heartbeat, .. } =
            &config.network;
        let with_ipv6 = config.service.advertise_ipv6.get();
        let clear = |context, own, sibling, port, with_localhost| {
            PortParams { context, with_tls: false, own, sibling, port, with_localhost }.place(with_ipv6)
        };
        let tls = |context, own, sibling, port, with_localhost| {
            PortParams { context, with_tls: true, own, sibling, port, with_localhost }.place(with_ipv6)
        };
        let if_given = |place: ListenPlace| Some(place).filter(|place| place.port != 0);
        let network = &config.network;
        let is_clustered = network.is_clustered();
        let has_mesh = is_clustered && heartbeat.mode.get() == HeartbeatMode::Mesh;
        let (of_clients, of_operators) = (!service.disable_localhost.get(), !admin.disable_localhost.get());
        Places {
            clients: client_ports.clear.then(|| {
                clear("network.service", &service.address, &service.tls_address, &service.port, of_clients)
            }),
            clients_tls: client_ports.tls.then(|| {
                tls("network.service", &service.tls_address, &service.address, &service.tls_port, of_clients)
            }),
            admin: if_given(clear(
                "network.admin",
                &admin.address,
                &admin.tls_address,
                &admin.port,
                of_operators,
            )),
            admin_tls: if_given(tls(
                "network.admin",
                &admin.tls_address,
                &admin.address,
                &admin.tls_port,
                of_operators,
            )),
            info: if_given(clear("network.info", &info.address, &info.address, &info.port, false)),
            metrics: if_given(clear(
                "network.metrics",
                &metrics.address,
                &metrics.address,
                &metrics.port,
                false,
            )),
            fabric: (is_clustered && network.has_fabric_clear())
                .then(|| clear("network.fabric", &fabric.address, &fabric.tls_address, &fabric.port, false)),
            fabric_tls: network.has_fabric_tls().then(|| {
                tls("network.fabric", &fabric.tls_address, &fabric.address, &fabric.tls_port, false)
            }),
            heartbeat: (has_mesh && network.has_heartbeat_clear()).then(|| {
                clear("network.heartbeat", &heartbeat.address, &heartbeat.tls_address, &heartbeat.port, false)
            }),
            heartbeat_tls: (has_mesh && heartbeat.tls_port.get() != 0).then(|| {
                tls(
                    "network.heartbeat",
                    &heartbeat.tls_address,
                    &heartbeat.address,
                    &heartbeat.tls_port,
                    false,
                )
            }),
        }
    }

    /// All places, in the order in which they are bound.
    fn all(&self) -> impl Iterator<Item = &ListenPlace> {
        let Places {
            clients,
            clients_tls,
            admin,
            admin_tls,
            info,
            metrics,
            fabric,
            fabric_tls,
            heartbeat,
            heartbeat_tls,
        } = self;
        [clients, clients_tls, admin, admin_tls, info, metrics, fabric, fabric_tls, heartbeat, heartbeat_tls]
            .into_iter()
            .flatten()
    }

    /// The places that overlap with an earlier one. Both could be bound, but a listen on both would fail.
    fn overlaps(&self, config: &Config) -> Vec<Obstacle> {
        let overlap = |(position, place): (usize, &ListenPlace)| {
            let &ListenPlace { context, port_name, port, .. } = place;
            self.all().take(position).find_map(|before| {
                let address = place.overlap(before)?;
                let sentence = format!(
                    "'{port_name}' in {context} is {port}, but that is already the {} of {} on {address}",
                    before.port_name, before.context
                );
                Some(Obstacle::new(config.lines.last(context, port_name), sentence))
            })
        };
        self.all().enumerate().filter_map(overlap).collect()
    }
}

/// The obstacle for `error` at `place`, with the line of the address or port.
fn obstacle(config: &Config, place: &ListenPlace, error: &ListenError) -> Obstacle {
    let (context, taken) = match error {
        ListenError::Bind(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
            (place.context, Some(address.port()))
        }
        _ => (place.context, None),
    };
    let item = place.item_of(error).filter(|_| taken.is_none());
    let (name, line) = match item {
        Some(item) => (place.address_name, config.lines.of_item(context, place.address_name, item)),
        None => (place.port_name, config.lines.last(context, place.port_name)),
    };
    let in_use = taken.map(InUse::Port);
    Obstacle { in_use, ..Obstacle::new(line, format!("'{name}' in {context}: {error}")) }
}

/// The obstacle for an error in an access address of clients.
pub(crate) fn access_obstacle(config: &Config, error: &ListenError) -> Obstacle {
    let params = &config.network.service;
    let lists = [
        ("access-address", &params.access_address),
        ("tls-access-address", &params.tls_access_address),
        ("alternate-access-address", &params.alternate_access_address),
        ("tls-alternate-access-address", &params.tls_alternate_access_address),
    ];
    let context = "network.service";
    let found = lists.into_iter().find_map(|(name, list)| {
        let is_it = |text: &String| {
            matches!(error, ListenError::Unknown(wrong) | ListenError::NoAddress(wrong)
                | ListenError::Unreachable(wrong) if wrong == text)
        };
        Some((name, list.get().iter().position(is_it)?))
    });
    match found {
        Some((name, item)) => Obstacle::new(
            config.lines.of_item(context, name, item),
            format!("'{name}' in {context}: {error}"),
        ),
        None => Obstacle::new(None, error),
    }
}

fn bind(config: &Config, place: Option<&ListenPlace>) -> Result<Bound, Obstacle> {
    let Some(place) = place else { return Ok(Bound::nowhere()) };
    Bound::new(place).map_err(|error| obstacle(config, place, &error))
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
    /// When a port cannot be bound, or two of them are the same.
    pub(crate) fn bind(config: &Config) -> Result<Self, Obstacle> {
        let places = Places::new(config);
        if let Some(overlap) = places.overlaps(config).into_iter().next() {
            return Err(overlap);
        }
        let bind = |place| bind(config, place);
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

    /// Tries to bind all ports of `config`. Returns each error once.
    pub(crate) fn obstacles(config: &Config) -> Vec<Obstacle> {
        let mut obstacles: Vec<Obstacle> = Vec::new();
        let mut found = |obstacle| {
            if !obstacles.contains(&obstacle) {
                obstacles.push(obstacle);
            }
        };
        let mut tried = |place: Option<&ListenPlace>| {
            let Some(place) = place else { return Bound::nowhere() };
            let (bound, errors) = Bound::as_far_as_possible(place);
            errors.iter().for_each(|error| found(obstacle(config, place, error)));
            bound
        };
        let places = Places::new(config);
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
        places.overlaps(config).into_iter().for_each(&mut found);
        let params = &config.network.service;
        let mut advertised = |access, bound: &Bound| {
            if let Err(error) = Advertised::new(&access, &bound.addresses()) {
                found(access_obstacle(config, &error));
            }
        };
        advertised(AccessParams::clear(params), &clients);
        if places.clients_tls.is_some() {
            advertised(AccessParams::tls(params), &clients_tls);
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
    /// When another process has begun to listen there.
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
