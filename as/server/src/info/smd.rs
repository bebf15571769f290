//! System metadata: nothing is kept in it yet.

use std::fmt::Write;

use super::commands::InfoResult;
use super::{Arguments, InfoError};
use crate::node::Node;

/// The modules that keep metadata.
const MODULES: [&str; 4] = ["evict", "sindex", "truncate", "UDF"];
/// Those that only the Enterprise Edition has.
const ENTERPRISE_MODULES: [&str; 3] = ["roster", "security", "XDR"];
/// Bound of a module's name.
const MODULE_SIZE_MAX: usize = 9;

/// State of each module: a node alone is the principal of all.
pub(super) fn info(node: &Node, out: &mut String) -> InfoResult {
    let (node, key, size) = (node.cluster.node_id, node.cluster.key, node.cluster.size());
    let _ =
        write!(out, "smd:n_pending_sets=0,n_events=0,n_nodes={size},principal={node:X},cluster_key={key:X};");
    for module in MODULES {
        let _ = write!(out, "{module}:committed_key=0,committed_tid=0,n_keys=0,state=pr;");
    }
    Ok(())
}

/// What a module keeps.
pub(super) fn show(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let module = arguments.required("module", MODULE_SIZE_MAX)?;
    let is_one_of = |modules: &[&str]| modules.iter().any(|name| name.eq_ignore_ascii_case(module));
    if is_one_of(&MODULES) {
        out.push_str("<empty>");
        Ok(())
    } else if is_one_of(&ENTERPRISE_MODULES) {
        Err(InfoError::enterprise_only())
    } else {
        Err(InfoError::parameter("unknown 'module'"))
    }
}
