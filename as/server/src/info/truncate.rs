//! Evicting by order; removing all records of a set or namespace, which is not possible yet.

use cf::clock::StoredMillis;

use super::request::InfoResult;
use super::request::parse_c_number;
use super::{Arguments, InfoError};
use crate::config::params::namespace::TTL_SECONDS_MAX;
use crate::node::Node;
use crate::smd;

/// Bound of set names.
const SET_NAME_SIZE: usize = 64;
/// Bound of a time, in nanoseconds since 1970: decimal, octal or hexadecimal.
const TIME_SIZE_MAX: usize = 24;
/// Bound of a time to live in seconds.
const TTL_SIZE_MAX: usize = 12;

fn unsupported() -> InfoError {
    InfoError::unsupported("truncate is not supported yet")
}

pub(super) fn set(_: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    arguments.namespace_name()?;
    arguments.required("set", SET_NAME_SIZE)?;
    arguments.optional("lut", TIME_SIZE_MAX)?;
    Err(unsupported())
}

pub(super) fn namespace(_: &Node, arguments: Arguments<'_>, _: &mut String) -> InfoResult {
    namespace_without_set(arguments)?;
    arguments.optional("lut", TIME_SIZE_MAX)?;
    Err(unsupported())
}

/// Whoever names a set means another command.
fn namespace_without_set(arguments: Arguments<'_>) -> InfoResult {
    arguments.namespace_name()?;
    match arguments.optional("set", SET_NAME_SIZE) {
        Ok(None) => Ok(()),
        _ => Err(InfoError::parameter("unexpected set name")),
    }
}

/// Takes back a truncate: there was none, which is no error.
pub(super) fn undo_set(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    arguments.namespace_name()?;
    arguments.required("set", SET_NAME_SIZE)?;
    out.push_str("ok");
    Ok(())
}

/// As [`undo_set`], for a whole namespace.
pub(super) fn undo_namespace(_: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    namespace_without_set(arguments)?;
    out.push_str("ok");
    Ok(())
}

/// Forgets how far was evicted; with `ttl` has nsup evict what would expire within so many seconds. A namespace that is
/// not here is no error.
pub(super) fn eviction_reset(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.namespace_name()?;
    // What is no number counts as 0, as C reads it.
    let ttl = arguments.optional("ttl", TTL_SIZE_MAX)?.map(|ttl| parse_c_number(ttl).unwrap_or(0));
    let ttl = match ttl.map(u32::try_from) {
        None => None,
        Some(Ok(ttl)) if ttl <= TTL_SECONDS_MAX => Some(ttl),
        Some(_) => return Err(InfoError::parameter("ttl too big")),
    };
    let void_time = ttl.map(|ttl| StoredMillis::now().seconds() + ttl);
    match (ttl, void_time) {
        (Some(ttl), Some(void_time)) => {
            cf::info!(Nsup, "{{{name}}} got command to set evict-ttl {ttl} evict-void-time {void_time}");
        }
        _ => cf::info!(Nsup, "{{{name}}} got command to delete evict-void-time"),
    }
    smd::agree_eviction(&node.smd, name, void_time)?;
    out.push_str("ok");
    Ok(())
}
