//! Placement of replicas: racks and quiesced nodes.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use proto::ResultCode;

use super::request::{InfoResult, Joined};
use super::{Arguments, InfoError};
use crate::fabric::DriverEvent;
use crate::namespace::Namespace;
use crate::node::Node;

/// Quiesces this node: at the next rebalance it hands its partitions over to other nodes.
pub(super) fn quiesce(node: &Node, out: &mut String) -> InfoResult {
    if node.config.service.stay_quiesced.get() {
        return Err(InfoError::new(ResultCode::Forbidden, "permanently quiesced"));
    }
    set_quiesced(node, true, out)
}

/// Undoes [`quiesce`] at the next rebalance.
pub(super) fn quiesce_undo(node: &Node, out: &mut String) -> InfoResult {
    if node.config.service.stay_quiesced.get() {
        out.push_str("ignored-permanently-quiesced");
        return Ok(());
    }
    set_quiesced(node, false, out)
}

fn set_quiesced(node: &Node, is_quiesced: bool, out: &mut String) -> InfoResult {
    // A single node has no other node that could take its partitions.
    let is_told =
        node.membership.get().is_none_or(|membership| membership.tell(DriverEvent::Quiesce(is_quiesced)));
    if !is_told {
        return Err(InfoError::new(ResultCode::Timeout, "timeout"));
    }
    node.cluster.is_quiesce_pending.store(is_quiesced, Relaxed);
    cf::info!(Info, "{} this node", if is_quiesced { "quiesced" } else { "un-quiesced" });
    out.push_str("ok");
    Ok(())
}

/// The rack of each member that has the namespace. The rack of a single node is in effect at once.
fn racks_of(node: &Node, namespace: &Namespace) -> Vec<(u32, u64)> {
    let placement = node.cluster.placement(namespace.position());
    let mut racks: Vec<(u32, u64)> = placement.racks.iter().map(|(node, rack)| (*rack, node.0)).collect();
    if racks.is_empty() {
        racks.push((namespace.config().params.rack_id.get(), node.cluster.node_id));
    }
    // The nodes of a rack stay in the order of succession.
    racks.sort_by_key(|(rack, _)| *rack);
    racks
}

/// `namespace:rack;…` of this node.
pub(super) fn rack_ids(node: &Node, out: &mut String) -> InfoResult {
    let mut rows = Joined::new(out, ';');
    for namespace in node.namespaces.iter() {
        let racks = racks_of(node, namespace);
        let own = racks.iter().find(|(_, id)| *id == node.cluster.node_id).map_or(0, |(rack, _)| *rack);
        rows.item(format_args!("{}:{own}", namespace.name()));
    }
    Ok(())
}

/// `rack_<id>=NODE,…:rack_<id>=…` for a namespace, or for all of them with `ns=<name>:` before each.
pub(super) fn racks(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    if let Some(namespace) = arguments.optional_namespace(node)? {
        out.push_str(&racks_text(node, namespace));
        return Ok(());
    }
    let mut rows = Joined::new(out, ';');
    for namespace in node.namespaces.iter() {
        rows.item(format_args!("ns={}:{}", namespace.name(), racks_text(node, namespace)));
    }
    Ok(())
}

fn racks_text(node: &Node, namespace: &Namespace) -> String {
    let mut text = String::new();
    let mut last = None;
    for (rack, id) in racks_of(node, namespace) {
        let _ = match last.replace(rack) {
            Some(same) if same == rack => write!(text, ",{id:X}"),
            None => write!(text, "rack_{rack}={id:X}"),
            Some(_) => write!(text, ":rack_{rack}={id:X}"),
        };
    }
    text
}
