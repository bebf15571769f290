//! Secondary indexes: there are none, and none can be made yet.

use proto::ResultCode;

use super::request::InfoResult;
use super::request::VALUE_SIZE_MAX;
use super::{Arguments, InfoError};
use crate::node::Node;

/// Bound of index names.
const NAME_SIZE_MAX: usize = 64;
/// Bound of the definition of what is indexed.
const DATA_SIZE_MAX: usize = 256;

fn no_index() -> InfoError {
    InfoError::new(ResultCode::IndexNotFound, "no index")
}

/// Indexes of all namespaces, of one, or figures of one index.
pub(super) fn tree(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let (namespace, index) = arguments.parts();
    if (!namespace.is_empty() || index.is_some()) && node.namespace(namespace).is_none() {
        out.push_str("ns_type=unknown");
    } else if index.is_some() {
        return Err(no_index());
    }
    Ok(())
}

pub(super) fn list(node: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    arguments.optional_namespace_or_ns(node)?;
    match arguments.optional("b64", VALUE_SIZE_MAX)? {
        None | Some("true" | "false") => Ok(()),
        Some(_) => Err(InfoError::parameter("bad b64")),
    }
}

pub(super) fn stat(node: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.namespace_or_ns(node)?;
    Err(no_index())
}

pub(super) fn exists(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.namespace_or_ns(node)?;
    out.push_str("false");
    Ok(())
}

pub(super) fn create(_: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.required_either("namespace", "ns", VALUE_SIZE_MAX)?;
    arguments.required("indexdata", DATA_SIZE_MAX)?;
    Err(InfoError::unsupported("secondary indexes are not supported yet"))
}

/// Removing what is not there is no error.
pub(super) fn delete(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.required("indexname", NAME_SIZE_MAX)?;
    arguments.required_either("namespace", "ns", VALUE_SIZE_MAX)?;
    out.push_str("ok");
    Ok(())
}
