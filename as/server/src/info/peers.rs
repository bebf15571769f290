//! The addresses at which clients reach this node, and its peers, of which it has none.

use std::fmt::Write;

use super::Arguments;
use super::request::InfoResult;
use super::request::Joined;
use crate::node::Node;

/// The port that peers lists leave out.
const DEFAULT_PORT: u16 = 3000;

/// Other nodes, present or former, for old clients: none.
pub(super) fn services(_: &Node, _: &mut String) -> InfoResult {
    Ok(())
}

/// Forgets former nodes.
pub(super) fn services_alumni_reset(_: &Node, out: &mut String) -> InfoResult {
    out.push_str("ok");
    Ok(())
}

/// `generation,default port,[other nodes]`.
pub(super) fn peers(node: &Node, _: Arguments<'_>, out: &mut String) -> InfoResult {
    let _ = write!(out, "{},{DEFAULT_PORT},[]", node.cluster.peers_generation());
    Ok(())
}

pub(super) fn generation(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{}", node.cluster.peers_generation());
    Ok(())
}

/// Own addresses for old clients, which know IPv4 only.
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
