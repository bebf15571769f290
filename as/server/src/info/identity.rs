//! Identity and features of this node, and the state of its cluster.

use std::fmt::Write;

use proto::ResultCode;

use super::request::{InfoResult, Joined};
use super::{Arguments, InfoError};
use crate::fabric::DriverEvent;
use crate::node::Node;
use crate::version::{self, BUILD, EDITION, edition_and_build};

/// Features of this server, under the names that clients look for.
const FEATURES: &str = "batch-any;batch-index;blob-bits;cdt-index;cdt-list;cdt-map;cluster-stable;float;geo;\
sindex-exists;peers;pipelining;pquery;pscans;query-show;relaxed-sc;replicas;replicas-all;replicas-master;\
replicas-max;truncate-namespace;udf";
/// Nodes with different ids cannot exchange partitions.
pub(super) const COMPATIBILITY_ID: u32 = 15;
/// Length limit (exclusive) of `size`: a cluster has at most 256 nodes.
const CLUSTER_SIZE_TEXT_MAX: usize = 4;
/// Length limit (exclusive) of `true` and `false`.
const SWITCH_SIZE_MAX: usize = 6;

fn respond(out: &mut String, text: &str) -> InfoResult {
    out.push_str(text);
    Ok(())
}

pub(super) fn features(_: &Node, out: &mut String) -> InfoResult {
    respond(out, FEATURES)
}

pub(super) fn node_id(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{:X}", node.cluster.node_id);
    Ok(())
}

pub(super) fn compatibility_id(_: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{COMPATIBILITY_ID}");
    Ok(())
}

pub(super) fn edition(_: &Node, out: &mut String) -> InfoResult {
    respond(out, EDITION)
}

/// Revision of the Enterprise Edition's sources; empty, because there is none.
pub(super) fn build_ee_sha(_: &Node, _: &mut String) -> InfoResult {
    Ok(())
}

pub(super) fn build_sha(_: &Node, out: &mut String) -> InfoResult {
    respond(out, version::BUILD_SHA)
}

pub(super) fn build_arch(_: &Node, out: &mut String) -> InfoResult {
    respond(out, std::env::consts::ARCH)
}

pub(super) fn build_time(_: &Node, out: &mut String) -> InfoResult {
    respond(out, version::BUILD_TIME)
}

pub(super) fn build_os(_: &Node, out: &mut String) -> InfoResult {
    respond(out, version::BUILD_OS)
}

pub(super) fn build(_: &Node, out: &mut String) -> InfoResult {
    respond(out, BUILD)
}

pub(super) fn version(_: &Node, out: &mut String) -> InfoResult {
    respond(out, &edition_and_build())
}

pub(super) fn digests(_: &Node, out: &mut String) -> InfoResult {
    respond(out, "RIPEMD160")
}

pub(super) fn status(_: &Node, out: &mut String) -> InfoResult {
    respond(out, "ok")
}

pub(super) fn cluster_name(node: &Node, out: &mut String) -> InfoResult {
    respond(out, node.config.service.cluster_name.get().as_deref().unwrap_or("null"))
}

/// The cluster key, if the cluster has the requested size, every partition has an owner, and no partition
/// migrates.
pub(super) fn cluster_stable(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let unstable = || InfoError::new(ResultCode::ClusterKeyMismatch, "unstable cluster");
    if !node.cluster.is_balanced() {
        return Err(unstable());
    }
    if let Some(size) = arguments.optional("size", CLUSTER_SIZE_TEXT_MAX)? {
        let size: usize = size.parse().map_err(|_| InfoError::parameter("bad size"))?;
        if size != node.cluster.size() {
            return Err(InfoError::new(ResultCode::ClusterKeyMismatch, "cluster not specified size"));
        }
    }
    match arguments.optional("ignore-migrations", SWITCH_SIZE_MAX)? {
        Some("true") => {}
        None | Some("false") => {
            let asked = arguments.optional_namespace(node)?;
            let namespaces = asked.map_or(&node.namespaces[..], std::slice::from_ref);
            if namespaces.iter().any(|namespace| !namespace.partitions.figures().is_stable()) {
                return Err(unstable());
            }
        }
        Some(_) => return Err(InfoError::parameter("bad ignore migrations")),
    }
    let _ = write!(out, "{:X}", node.cluster.key());
    Ok(())
}

/// The nodes of the cluster in the order of succession.
pub(super) fn succession_list(node: &Node, out: &mut String) -> InfoResult {
    let mut nodes = Joined::new(out, ',');
    node.cluster.view().succession.iter().for_each(|id| nodes.item(format_args!("{id:X}")));
    Ok(())
}

/// Forms the cluster again, if this node is its principal. On a single node this does nothing.
pub(super) fn recluster(node: &Node, out: &mut String) -> InfoResult {
    let Some(membership) = node.membership.get() else {
        cf::info!(Info, "recluster: a single node has all partitions, nothing changes");
        return respond(out, "ok");
    };
    if node.cluster.principal() != node.cluster.node_id {
        return respond(out, "ignored-by-non-principal");
    }
    let is_told = membership.tell(DriverEvent::Recluster);
    respond(out, if is_told { "ok" } else { "failed" })
}
