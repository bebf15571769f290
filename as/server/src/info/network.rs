//! Sockets of this node, and the seeds of its heartbeat.

use std::net::SocketAddr;

use proto::ResultCode;

use super::request::InfoResult;
use super::request::Joined;
use super::{Arguments, InfoError};
use crate::config::params::network::HeartbeatMode;
use crate::node::Node;

/// Length limit (exclusive) of a host name.
const HOST_SIZE_MAX: usize = 255;
/// Length limit (exclusive) of a port.
const PORT_TEXT_MAX: usize = 50;
/// Length limit (exclusive) of a list of hosts and ports.
const HOSTS_SIZE_MAX: usize = 3000;

/// Every port with its addresses; 0 and null for a port that does not exist.
pub(super) fn endpoints(node: &Node, out: &mut String) -> InfoResult {
    let params = &node.config.network.service;
    let mut pairs = Joined::new(out, ';');
    let port_or = |port: u16, default: u16| if port == 0 { default } else { port };
    for (prefix, bound, advertised, access_port, alternate_port) in [
        (
            "service.",
            &node.addresses.clients,
            &node.advertised,
            &params.access_port,
            &params.alternate_access_port,
        ),
        (
            "service.tls-",
            &node.addresses.clients_tls,
            &node.advertised_tls,
            &params.tls_access_port,
            &params.tls_alternate_access_port,
        ),
    ] {
        let port = bound.first().map_or(0, SocketAddr::port);
        let access_port = port_or(access_port.get(), port);
        pairs.pair(format_args!("{prefix}port"), port);
        pairs.pair(format_args!("{prefix}addresses"), addresses(bound));
        pairs.pair(format_args!("{prefix}access-port"), access_port);
        pairs.pair(format_args!("{prefix}access-addresses"), list(&without_ports(&advertised.standard)));
        let alternate_port = port_or(alternate_port.get(), access_port);
        pairs.pair(format_args!("{prefix}alternate-access-port"), alternate_port);
        let alternate = list(&without_ports(&advertised.alternate));
        pairs.pair(format_args!("{prefix}alternate-access-addresses"), alternate);
    }
    // A single node does not listen on these two.
    let bound = &node.addresses;
    for (prefix, clear, tls) in [
        ("heartbeat.", &bound.heartbeat, &bound.heartbeat_tls),
        ("fabric.", &bound.fabric, &bound.fabric_tls),
    ] {
        for (kind, bound) in [("", clear), ("tls-", tls)] {
            pairs.pair(format_args!("{prefix}{kind}port"), bound.first().map_or(0, SocketAddr::port));
            pairs.pair(format_args!("{prefix}{kind}addresses"), addresses(bound));
        }
    }
    pairs.pair("info.port", node.addresses.info.first().map_or(0, SocketAddr::port));
    pairs.pair("info.addresses", addresses(&node.addresses.info));
    Ok(())
}

fn addresses(bound: &[SocketAddr]) -> String {
    list(&bound.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>())
}

/// The hosts of `advertised` without their ports; IPv6 addresses without their brackets.
fn without_ports(advertised: &[String]) -> Vec<String> {
    let host = |address: &String| {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    };
    advertised.iter().map(host).collect()
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "null".to_owned() } else { items.join(",") }
}

/// Addresses and port of the heartbeat; an error unless it has this mode.
fn heartbeat(node: &Node, mode: HeartbeatMode, refusal: &str, out: &mut String) -> InfoResult {
    let params = &node.config.network.heartbeat;
    if params.mode.get() != mode {
        return Err(InfoError::parameter(refusal));
    }
    let address = match mode {
        HeartbeatMode::Mesh => params.address.get(),
        HeartbeatMode::Multicast => params.multicast_group.get(),
    };
    let mut list = Joined::new(out, ',');
    for address in &address {
        list.item(format_args!("{address}:{}", params.port.get()));
    }
    Ok(())
}

pub(super) fn mesh(node: &Node, out: &mut String) -> InfoResult {
    heartbeat(node, HeartbeatMode::Mesh, "heartbeat is in multicast mode", out)
}

pub(super) fn multicast(node: &Node, out: &mut String) -> InfoResult {
    heartbeat(node, HeartbeatMode::Multicast, "heartbeat is in mesh mode", out)
}

/// Adds a heartbeat seed.
pub(super) fn tip(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let host = arguments.required("host", HOST_SIZE_MAX)?;
    let port = arguments.required("port", PORT_TEXT_MAX)?;
    let tls = arguments.optional("tls", PORT_TEXT_MAX)?;
    let Ok(port) = port.parse::<i32>() else {
        return Err(InfoError::parameter("'port' must be an integer"));
    };
    match (tls, node.membership.get(), u16::try_from(port)) {
        (Some(tls), ..) if tls != "true" && tls != "false" => {
            Err(InfoError::parameter("'tls' must be either 'true' or 'false'"))
        }
        (_, None, _) => Err(InfoError::unsupported(
            "this node was started without ports for others: name one in network.heartbeat and one in network.fabric",
        )),
        (Some("true"), ..) if node.tls.heartbeat.is_none() => Err(InfoError::unsupported(
            "this node was started without TLS for heartbeats: name a tls-name and a tls-port in network.heartbeat",
        )),
        (_, Some(_), _) if node.config.network.heartbeat.mode.get() != HeartbeatMode::Mesh => {
            Err(InfoError::new(ResultCode::Unknown, "failed"))
        }
        (_, Some(membership), Ok(port))
            if membership.heartbeat.seeds().add(host, port, tls == Some("true")) =>
        {
            out.push_str("ok");
            Ok(())
        }
        _ => Err(InfoError::new(ResultCode::Unknown, "failed")),
    }
}

/// Removes heartbeat seeds.
pub(super) fn tip_clear(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let hosts = arguments.required("host-port-list", HOSTS_SIZE_MAX)?;
    let host_and_port = |host: &str| {
        let (name, port) = host.rsplit_once(':')?;
        Some((name.to_owned(), port.parse::<i32>().ok()?))
    };
    let named = hosts.split(',').filter(|host| !host.is_empty()).map_while(host_and_port);
    let (mut cleared, mut missing) = (0, 0);
    for (host, port) in named {
        let seeds = node.membership.get().map(|membership| membership.heartbeat.seeds());
        let is_cleared = match (seeds, u16::try_from(port)) {
            (Some(seeds), Ok(port)) => seeds.remove(&host, port),
            _ => false,
        };
        if is_cleared { cleared += 1 } else { missing += 1 }
    }
    if missing == 0 && cleared > 0 {
        out.push_str("ok");
        return Ok(());
    }
    Err(InfoError::new(ResultCode::Unknown, format!("{cleared} cleared, {missing} not found")))
}
