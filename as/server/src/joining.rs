//! Starts clustering on a node: the endpoints and services it publishes, and the handlers of peers' messages.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use proto::peer::nested::Endpoint;
use proto::peer::{MessageType, NodeId};

use crate::config::params::network::HeartbeatMode;
use crate::fabric::{
    CLEAR_ALTERNATE, CLEAR_STANDARD, Fabric, FabricSettings, Handler, Handlers, Membership, RecordMover,
    SERVICES, SERVICES_ALTERNATE, Surroundings, TLS_ALTERNATE, TLS_NAME, TLS_STANDARD,
};
use crate::heartbeat::{Heartbeat, HeartbeatSockets};
use crate::migrate::Migrations;
use crate::node::Node;
use crate::peer_frames::{PeerPlace, endpoint_of};
use crate::service::reachable;
use crate::smd::Module;
use crate::tls::PeerDoor;
use crate::transaction::{ProxyTraffic, ReplicaTraffic};

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

/// Starts looking for other nodes. Returns the part that resends unanswered messages.
///
/// # Errors
/// When a group cannot be joined, or the system refuses a thread or file descriptor.
pub(crate) fn join_others(
    node: &Arc<Node>,
    fabric_doors: Vec<PeerDoor>,
    heartbeat_doors: Vec<PeerDoor>,
) -> io::Result<Arc<ReplicaTraffic>> {
    let network = &node.config.network;
    let self_node = NodeId(node.cluster.node_id);
    let is_mesh = network.heartbeat.mode.get() == HeartbeatMode::Mesh;
    let sockets = if is_mesh {
        HeartbeatSockets::Mesh(heartbeat_doors)
    } else {
        HeartbeatSockets::multicast(&network.heartbeat)?
    };
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
