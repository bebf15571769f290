//! Commands about namespaces and sets.

use std::fmt::Write;
use std::path::Path;

use cf::sys::disks::physical_disks;
use proto::ResultCode;

use super::request::InfoResult;
use super::request::Joined;
use super::statistics::{self, AGE_UNKNOWN};
use super::{Arguments, InfoError};
use crate::config::render;
use crate::node::Node;

/// Length limit (exclusive) of a path.
const PATH_SIZE_MAX: usize = 1024;

pub(super) fn namespaces(node: &Node, out: &mut String) -> InfoResult {
    let mut names = Joined::new(out, ';');
    node.namespaces.iter().for_each(|namespace| names.item(namespace.name()));
    Ok(())
}

/// Statistics of a namespace, then its configuration. The answer for an unknown namespace is not an error.
pub(super) fn namespace(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let Some(namespace) = node.namespace(arguments.0) else {
        out.push_str("type=unknown");
        return Ok(());
    };
    let mut pairs = Joined::new(out, ';');
    statistics::write_namespace(node, namespace, &mut pairs);
    pairs.item(render::namespace(namespace.config()));
    Ok(())
}

/// Sets of all namespaces, sets of one namespace, or one set. The answer for an unknown name is not an error.
pub(super) fn sets(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (name, set) = arguments.parts();
    if name.is_empty() && set.is_none() {
        node.namespaces.iter().for_each(|namespace| statistics::write_sets(namespace, out));
        return Ok(());
    }
    match (node.namespace(name), set) {
        (None, _) => out.push_str("ns_type=unknown"),
        (Some(namespace), None) => statistics::write_sets(namespace, out),
        (Some(namespace), Some(set)) => {
            if let Some(set) = namespace.sets.find(set.as_bytes()) {
                statistics::write_set(set, out);
            }
        }
    }
    Ok(())
}

/// Records of all namespaces.
pub(super) fn objects(node: &Node, out: &mut String) -> InfoResult {
    let _ = write!(out, "{}", node.object_count());
    Ok(())
}

/// `namespace:resident:dirty` bytes of the index on flash. They are 0, because this server has no such index.
pub(super) fn index_pressure(node: &Node, out: &mut String) -> InfoResult {
    let mut rows = Joined::new(out, ';');
    node.namespaces.iter().for_each(|namespace| rows.item(format_args!("{}:0:0", namespace.name())));
    Ok(())
}

/// The devices behind a path, with their age as unknown.
pub(super) fn physical_devices(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let disks = physical_disks(Path::new(arguments.required("path", PATH_SIZE_MAX)?));
    if disks.is_empty() {
        return Err(InfoError::new(ResultCode::NotFound, "no device info"));
    }
    let mut items = Joined::new(out, ';');
    disks.iter().for_each(|disk| items.item(format_args!("physical-device={disk}:age={AGE_UNKNOWN}")));
    Ok(())
}
