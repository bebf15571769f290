//! The addresses at which clients reach this node and the other nodes of its cluster.

use std::fmt::Write;

use super::Arguments;
use super::request::InfoResult;
use super::request::Joined;
use crate::fabric::{
    CLEAR_ALTERNATE, CLEAR_STANDARD, SERVICES, SERVICES_ALTERNATE, TLS_ALTERNATE, TLS_STANDARD,
};
use crate::node::Node;

/// The default port, which lists of peers leave out.
const DEFAULT_PORT: u16 = 3000;
/// Length limit (exclusive) of a generation.
const GENERATION_TEXT_MAX: usize = 32;

/// Other nodes for old clients: `address;…`.
pub(super) fn services(node: &Node, out: &mut String) -> InfoResult {
    old_services(node, SERVICES, false, out)
}

/// Alternate addresses of the other nodes, for old clients.
pub(super) fn services_alternate(node: &Node, out: &mut String) -> InfoResult {
    old_services(node, SERVICES_ALTERNATE, false, out)
}

/// Other nodes, present or former, for old clients.
pub(super) fn services_alumni(node: &Node, out: &mut String) -> InfoResult {
    old_services(node, SERVICES, true, out)
}

fn old_services(node: &Node, field: u16, with_alumni: bool, out: &mut String) -> InfoResult {
    let mut services = Joined::new(out, ';');
    let (_, peers) = node.cluster.peers.list(field, with_alumni, 0);
    peers.iter().for_each(|peer| services.item(&peer.text));
    Ok(())
}

/// Forgets former nodes.
pub(super) fn services_alumni_reset(node: &Node, out: &mut String) -> InfoResult {
    node.cluster.peers.forget_alumni();
    out.push_str("ok");
    Ok(())
}

/// `generation,default port,[other nodes]`, each node as `[id,TLS name,[addresses]]`. If the request names a
/// generation, the answer has the changes since then, with `[id,,]` for nodes that left.
pub(super) fn peers_standard(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    peers(node, CLEAR_STANDARD, &arguments, out)
}

/// As [`peers_standard`], with alternate addresses.
pub(super) fn peers_alternate(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    peers(node, CLEAR_ALTERNATE, &arguments, out)
}

/// As [`peers_standard`], with addresses for TLS.
pub(super) fn peers_tls_standard(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    peers(node, TLS_STANDARD, &arguments, out)
}

/// As [`peers_alternate`], with addresses for TLS.
pub(super) fn peers_tls_alternate(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    peers(node, TLS_ALTERNATE, &arguments, out)
}

fn peers(node: &Node, field: u16, arguments: &Arguments<'_>, out: &mut String) -> InfoResult {
    // Text that is not a number counts as 0, as on the C server.
    let asked = arguments.optional("generation", GENERATION_TEXT_MAX).ok().flatten();
    let since = asked.map(|text| text.parse().unwrap_or(0));
    list_peers(node, field, since.is_some(), since.unwrap_or(0), out);
    Ok(())
}

fn list_peers(node: &Node, field: u16, with_alumni: bool, since: u64, out: &mut String) {
    let (generation, peers) = node.cluster.peers.list(field, with_alumni, since);
    let _ = write!(out, "{generation},{DEFAULT_PORT},[");
    let mut list = Joined::new(out, ',');
    for peer in peers {
        if since != 0 && !peer.is_present {
            list.item(format_args!("[{:X},,]", peer.node));
        } else {
            let is_tls = [TLS_STANDARD, TLS_ALTERNATE].contains(&field);
            let tls_name = if is_tls { peer.tls_name.as_str() } else { "" };
            let addresses = without_default_port(&peer.text);
            list.item(format_args!("[{:X},{tls_name},[{addresses}]]", peer.node));
        }
    }
    out.push(']');
}

/// Addresses without the port that every client assumes.
fn without_default_port(addresses: &str) -> String {
    let suffix = format!(":{DEFAULT_PORT}");
    let shortened = addresses.split(',').map(|address| address.strip_suffix(&suffix).unwrap_or(address));
    shortened.collect::<Vec<_>>().join(",")
}

/// All present and former nodes.
pub(super) fn alumni(node: &Node, _: Arguments<'_>, out: &mut String) -> InfoResult {
    list_peers(node, CLEAR_STANDARD, true, 0, out);
    Ok(())
}

/// All present and former nodes with a TLS port for clients.
pub(super) fn alumni_tls(node: &Node, _: Arguments<'_>, out: &mut String) -> InfoResult {
    list_peers(node, TLS_STANDARD, true, 0, out);
    Ok(())
}

pub(super) fn generation(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{}", node.cluster.peers.generation());
    Ok(())
}

/// This node's addresses for old clients, which know IPv4 only.
pub(super) fn service(node: &Node, out: &mut String) -> InfoResult {
    let mut addresses = Joined::new(out, ';');
    node.advertised.standard.iter().filter(|address| !address.starts_with('[')).for_each(|address| {
        addresses.item(address);
    });
    Ok(())
}

pub(super) fn service_clear_std(node: &Node, out: &mut String) -> InfoResult {
    out.push_str(&node.advertised.standard.join(","));
    Ok(())
}

pub(super) fn service_clear_alt(node: &Node, out: &mut String) -> InfoResult {
    out.push_str(&node.advertised.alternate.join(","));
    Ok(())
}

pub(super) fn service_tls_std(node: &Node, out: &mut String) -> InfoResult {
    out.push_str(&node.advertised_tls.standard.join(","));
    Ok(())
}

pub(super) fn service_tls_alt(node: &Node, out: &mut String) -> InfoResult {
    out.push_str(&node.advertised_tls.alternate.join(","));
    Ok(())
}
