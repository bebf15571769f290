//! Starts clustering on a node: the endpoints and services it publishes, and the handlers of peers' messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::peer::nested::Endpoint;
use proto::peer::{MessageType, NodeId};

use crate::config::params::network::HeartbeatMode;
use crate::fabric::{
    CLEAR_ALTERNATE, CLEAR_STANDARD, Company, Fabric, FabricSettings, Handler, Handlers, Membership,
    RecordMover, SERVICES, SERVICES_ALTERNATE, Surroundings, TLS_ALTERNATE, TLS_NAME, TLS_STANDARD,
    are_of_node_alone,
};
use crate::heartbeat::{Heartbeat, HeartbeatSockets, multicast_addresses, packet_size_max};
use crate::migrate::Migrations;
use crate::namespace::Namespace;
use crate::node::Node;
use crate::peer_frames::{PeerPlace, endpoint_of};
use crate::preflight::{StartError, multicast_obstacle};
use crate::service::reachable;
use crate::smd::Module;
use crate::tls::PeerDoor;
use crate::transaction::{ProxyTraffic, ReplicaTraffic};

/// Limit of the wait for the node's own cluster, in case it is not formed.
const OWN_CLUSTER_MAX: Duration = Duration::from_secs(1);
const OWN_CLUSTER_POLL: Duration = Duration::from_micros(200);

/// The endpoints, without and with TLS, at which other nodes reach the bound addresses.
fn endpoints(clear: &[SocketAddr], tls: &[SocketAddr]) -> Vec<Endpoint> {
    let of = |bound: &[SocketAddr], is_tls| {
        let port = bound.first().map_or(0, SocketAddr::port);
        let place = move |ip| PeerPlace { address: SocketAddr::new(ip, port), is_tls };
        let places = if bound.is_empty() { Vec::new() } else { reachable(bound) };
        places.into_iter().map(place).map(endpoint_of).collect::<Vec<_>>()
    };
    [of(clear, false), of(tls, true)].concat()
}

/// Whether the node needs no wait for others before it serves: the configuration names none, it has never had
/// company, and it may be a cluster alone.
pub(crate) fn starts_alone(node: &Node) -> bool {
    let network = &node.config.network;
    let is_alone = |namespace: &Arc<Namespace>| are_of_node_alone(&namespace.storage.partition_entries());
    network.is_clustered()
        && !network.looks_for_others()
        && !needs_others(node)
        && !Company::new(&node.config).is_noted()
        && node.namespaces.iter().all(is_alone)
}

/// Whether `min-cluster-size` forbids a cluster of this node alone.
fn needs_others(node: &Node) -> bool {
    node.config.service.min_cluster_size.get() > 1
}

/// Waits until the node has formed a cluster alone, which takes a few milliseconds.
pub(crate) fn await_own_cluster(node: &Node) {
    let began = Instant::now();
    while !node.cluster.is_balanced() && began.elapsed() < OWN_CLUSTER_MAX {
        std::thread::sleep(OWN_CLUSTER_POLL);
    }
}

/// The addresses of this machine that receive heartbeats.
fn heartbeat_addresses(node: &Node) -> Vec<IpAddr> {
    let heartbeat = &node.config.network.heartbeat;
    if heartbeat.mode.get() == HeartbeatMode::Mesh {
        let bound = node.addresses.heartbeat.iter().chain(&node.addresses.heartbeat_tls);
        return bound.map(SocketAddr::ip).collect();
    }
    let named = heartbeat.address.get();
    let addresses: Vec<IpAddr> =
        named.iter().filter_map(|name| multicast_addresses(name).ok()).flatten().map(IpAddr::V4).collect();
    if addresses.is_empty() { vec![Ipv4Addr::UNSPECIFIED.into()] } else { addresses }
}

/// Starts looking for other nodes, or waiting for them. Returns the part that resends unanswered messages.
///
/// # Errors
/// When a group cannot be joined, or the system refuses a thread or file descriptor.
pub(crate) fn join_others(
    node: &Arc<Node>,
    fabric_doors: Vec<PeerDoor>,
    heartbeat_doors: Vec<PeerDoor>,
    starts_alone: bool,
) -> Result<Arc<ReplicaTraffic>, StartError> {
    let network = &node.config.network;
    if !network.looks_for_others() {
        let text = if starts_alone {
            "it serves alone"
        } else if needs_others(node) {
            "it waits until there are as many as min-cluster-size"
        } else {
            "it waits for those that it knew"
        };
        cf::info!(Hb, "no seed names another node: {text}, and others may connect");
    }
    let self_node = NodeId(node.cluster.node_id);
    let is_mesh = network.heartbeat.mode.get() == HeartbeatMode::Mesh;
    let sockets = if is_mesh {
        HeartbeatSockets::Mesh(heartbeat_doors)
    } else {
        HeartbeatSockets::multicast(&network.heartbeat).map_err(|error| {
            StartError::Listen(multicast_obstacle(&node.config, &error).located(&node.config))
        })?
    };
    network.heartbeat_interface_mtu.set(packet_size_max(&heartbeat_addresses(node)));
    let heartbeat_endpoints = endpoints(&node.addresses.heartbeat, &node.addresses.heartbeat_tls);
    let heartbeat_tls = node.tls.heartbeat.clone();
    let fabric = Fabric::new(self_node, FabricSettings::new(network, node.tls.fabric.clone()))?;
    let migrations = Migrations::start(&node.service.transactions, &fabric)?;
    let around = Surroundings {
        config: Arc::clone(&node.config),
        cluster: Arc::clone(&node.cluster),
        namespaces: Arc::clone(&node.namespaces),
        fabric,
        heartbeat: Heartbeat::new(self_node, &node.config, heartbeat_endpoints.clone(), heartbeat_tls)?,
        mover: Arc::clone(&migrations) as Arc<dyn RecordMover>,
        fabric_endpoints: endpoints(&node.addresses.fabric, &node.addresses.fabric_tls),
        heartbeat_endpoints: is_mesh.then_some(heartbeat_endpoints),
        services: services(node),
        smd: Arc::clone(&node.smd),
        modules: Module::all().filter(|module| is_kept(node, *module)).collect(),
        starts_alone,
        company: Company::new(&node.config),
    };
    let traffic = ReplicaTraffic::new(&node.service.transactions, &around.fabric, &node.cluster);
    let mut handlers = Handlers::default();
    handlers.add(MessageType::Replication, Arc::clone(&traffic) as Arc<dyn Handler>);
    handlers.add(MessageType::Migrate, migrations as Arc<dyn Handler>);
    let requests = ProxyTraffic::new(&node.service.transactions, &around.fabric, &node.cluster);
    handlers.add(MessageType::Proxy, requests);
    let membership = Membership::start(around, fabric_doors, sockets, handlers)?;
    // A node joins others once, so the cell is empty.
    let _ = node.membership.set(membership);
    Ok(traffic)
}

/// Whether this node keeps items in a module; in security only with access control.
fn is_kept(node: &Node, module: Module) -> bool {
    module.is_used() && (module != Module::Security || node.security.is_some())
}

/// The client addresses of this node that are published to other nodes. The fields for old clients have no IPv6
/// addresses.
fn services(node: &Node) -> Vec<(u16, Vec<u8>)> {
    let (advertised, advertised_tls) = (&node.advertised, &node.advertised_tls);
    let of_ipv4 = |addresses: &[String]| {
        let addresses = addresses.iter().filter(|address| !address.starts_with('['));
        addresses.cloned().collect::<Vec<_>>().join(";")
    };
    let texts = [
        (SERVICES, of_ipv4(&advertised.standard)),
        (SERVICES_ALTERNATE, of_ipv4(&advertised.alternate)),
        (CLEAR_STANDARD, advertised.standard.join(",")),
        (TLS_STANDARD, advertised_tls.standard.join(",")),
        (CLEAR_ALTERNATE, advertised.alternate.join(",")),
        (TLS_ALTERNATE, advertised_tls.alternate.join(",")),
        (TLS_NAME, node.tls.service.as_ref().map(|port| port.name()).unwrap_or_default()),
    ];
    let present = texts.into_iter().filter(|(_, text)| !text.is_empty());
    present.map(|(field, text)| (field, text.into_bytes())).collect()
}
