//! Commands for eviction and truncation. Truncation is the removal of all records of a set or namespace.

use std::time::Duration;

use cf::clock::StoredMillis;
use proto::ResultCode;

use super::request::{InfoResult, c_number};
use super::{Arguments, InfoError};
use crate::config::params::namespace::TTL_SECONDS_MAX;
use crate::node::Node;
use crate::smd::{self, truncated_before};

/// Length limit (exclusive) of a set name.
const SET_NAME_SIZE: usize = 64;
/// Length limit (exclusive) of a time, in nanoseconds since 1970: decimal, octal or hexadecimal.
const TIME_SIZE_MAX: usize = 24;
/// Length limit (exclusive) of a time to live in seconds.
const TTL_SIZE_MAX: usize = 12;
/// Maximum by which this node's clock may be behind the last truncation when the next one comes.
const CLOCK_SKEW_MAX_MS: u64 = 5_000;

pub(super) fn set(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let namespace = arguments.namespace_name()?;
    let set_name = arguments.required("set", SET_NAME_SIZE)?;
    truncate(node, namespace, Some(set_name), arguments, out)
}

pub(super) fn namespace(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    truncate(node, namespace_without_set(arguments)?, None, arguments, out)
}

/// Maximum number of reads of the clock until a millisecond is over.
const LOOKS_AT_CLOCK_MAX: u32 = 100;
const LOOK_PERIOD: Duration = Duration::from_micros(100);

/// Removes all records that were last updated before `lut`, or, without it, before now. Unknown namespaces
/// and sets are accepted, because other nodes may have them.
fn truncate(
    node: &Node,
    namespace: &str,
    set_name: Option<&str>,
    arguments: Arguments<'_>,
    out: &mut String,
) -> InfoResult {
    if !set_name.is_none_or(smd::is_truncatable) {
        return Err(InfoError::parameter("bad 'set' name"));
    }
    let now = StoredMillis::now();
    let last_update_time = match arguments.optional("lut", TIME_SIZE_MAX)? {
        None => {
            check_own_clock(truncated_before(&node.smd, namespace, set_name), now)?;
            // Records written earlier in this millisecond must be removed too.
            next_millisecond(now).0
        }
        Some(text) => match StoredMillis::of_unix_nanos(c_number(text)).0 {
            0 => return Err(InfoError::parameter("would truncate to 0")),
            lut if lut > now.0 => return Err(InfoError::parameter("would truncate in the future")),
            lut => lut,
        },
    };
    let label = label(namespace, set_name);
    cf::info!(Truncate, "{label} got command to truncate to {last_update_time}");
    check_clock_of_principal(node, (namespace, set_name), last_update_time)?;
    smd::agree_truncation(&node.smd, namespace, set_name, Some(last_update_time))?;
    out.push_str("ok");
    Ok(())
}

/// Checks that a truncation to the present time is later than the last one, which was to `truncated_before`. Otherwise
/// it would have no effect, although the nodes may have records from after the last one.
fn check_own_clock(truncated_before: u64, now: StoredMillis) -> InfoResult {
    let behind_ms = truncated_before.saturating_sub(now.0);
    if behind_ms <= CLOCK_SKEW_MAX_MS {
        return Ok(());
    }
    Err(InfoError::new(
        ResultCode::Forbidden,
        format!(
            "the last truncation was to {}, and the clock of this node is {behind_ms} ms behind that: correct the clock, or \
             send the command to another node",
            StoredMillis(truncated_before)
        ),
    ))
}

/// Checks that the principal, which makes the change, will not refuse it because of its clock. It has the last word; its
/// refusal is a timeout for this node.
fn check_clock_of_principal(node: &Node, what: (&str, Option<&str>), last_update_time: u64) -> InfoResult {
    let skew_ms = node.cluster.state().principal_skew_ms;
    let its_now = StoredMillis(StoredMillis::now().0.saturating_add_signed(skew_ms));
    if skew_ms >= 0 || !smd::is_truncation_refused_at(&node.smd, what, last_update_time, its_now) {
        return Ok(());
    }
    Err(InfoError::new(
        ResultCode::Forbidden,
        format!(
            "the clock of node {:X}, the principal of the cluster, is {} ms behind that of this node: correct the clocks",
            node.cluster.principal(),
            skew_ms.unsigned_abs()
        ),
    ))
}

/// Waits for the end of the millisecond `now`; returns the next one, in which no record was written before.
fn next_millisecond(now: StoredMillis) -> StoredMillis {
    // The loop does not wait for a clock that was set back in the meantime.
    for _ in 0..LOOKS_AT_CLOCK_MAX {
        let next = StoredMillis::now();
        if next > now {
            return next;
        }
        std::thread::sleep(LOOK_PERIOD);
    }
    now
}

fn label(namespace: &str, set_name: Option<&str>) -> String {
    match set_name {
        Some(set_name) => format!("{{{namespace}|{set_name}}}"),
        None => format!("{{{namespace}}}"),
    }
}

/// The name of the namespace. A request that also names a set is refused, because another command removes
/// sets.
fn namespace_without_set(arguments: Arguments<'_>) -> Result<&str, InfoError> {
    let namespace = arguments.namespace_name()?;
    match arguments.optional("set", SET_NAME_SIZE) {
        Ok(None) => Ok(namespace),
        _ => Err(InfoError::parameter("unexpected set name")),
    }
}

/// Undoes a truncation: records that have not been removed yet are visible again. A missing truncation is not
/// an error.
pub(super) fn undo_set(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let namespace = arguments.namespace_name()?;
    undo(node, namespace, Some(arguments.required("set", SET_NAME_SIZE)?), out)
}

/// As [`undo_set`], for a whole namespace.
pub(super) fn undo_namespace(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    undo(node, namespace_without_set(arguments)?, None, out)
}

fn undo(node: &Node, namespace: &str, set_name: Option<&str>, out: &mut String) -> InfoResult {
    cf::info!(Truncate, "{} got command to undo truncate", label(namespace, set_name));
    smd::agree_truncation(&node.smd, namespace, set_name, None)?;
    out.push_str("ok");
    Ok(())
}

/// Clears the eviction threshold; with `ttl`, makes nsup evict the records that would expire within that many
/// seconds. A missing namespace is not an error.
pub(super) fn eviction_reset(node: &Node, arguments: Arguments<'_>, out: &mut String) -> InfoResult {
    let name = arguments.namespace_name()?;
    let ttl = arguments.optional("ttl", TTL_SIZE_MAX)?;
    let ttl = match ttl.map(|ttl| u32::try_from(c_number(ttl))) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncation_before_the_last_one_is_refused() {
        let now = StoredMillis(533_609_292_607);
        let check = |truncated_before: u64| check_own_clock(truncated_before, now).is_ok();
        assert!(check(0) && check(now.0) && check(now.0 + CLOCK_SKEW_MAX_MS));
        let refused = check_own_clock(now.0 + CLOCK_SKEW_MAX_MS + 1, now).map_err(|error| error.to_string());
        assert_eq!(
            refused.expect_err("it would have no effect"),
            "ERROR:22:the last truncation was to 2026-11-29T00:48:17Z, and the clock of this node is 5001 ms behind that: \
             correct the clock, or send the command to another node"
        );
    }
}
