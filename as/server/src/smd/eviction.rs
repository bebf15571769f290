//! Module `evict`: the void-time up to which each namespace is evicted; the same on all nodes.

use std::sync::Arc;

use cf::clock::StoredMillis;

use super::meaning::Moment;
use super::report::report_unusable;
use super::{Module, Occasion, SetError, Smd, SmdItem};
use crate::namespace::Namespace;

/// Makes all nodes evict the records of `namespace` that expire before `void_time`; without one they forget
/// how far they evicted. A void-time before the known one has no effect.
///
/// # Errors
/// When the change cannot be made on all nodes.
pub(crate) fn agree_eviction(smd: &Smd, namespace: &str, void_time: Option<u32>) -> Result<(), SetError> {
    match void_time {
        Some(void_time) => smd.set(Module::Evict, namespace, &void_time.to_string()),
        None => smd.delete(Module::Evict, namespace),
    }
}

/// Makes the supervisors of `namespaces` follow further agreed evictions. Earlier ones were known when records were
/// loaded.
pub(crate) fn follow_eviction(smd: &Smd, namespaces: &Arc<[Arc<Namespace>]>) {
    let namespaces = Arc::clone(namespaces);
    smd.listen(Module::Evict, move |items: &[&SmdItem], occasion| {
        let now = StoredMillis::now().0;
        for item in items {
            let Some(namespace) = namespaces.iter().find(|namespace| namespace.name() == item.key) else {
                continue;
            };
            match Moment::VoidTime.of(item, now) {
                Err(error) => {
                    let value = item.value.as_deref().unwrap_or_default().escape_debug();
                    let why = format!("{error} ('{value}')");
                    let remedy = format!("send {}", reset_command(namespace.name()));
                    report_unusable(Module::Evict, &item.key, why, Some(&remedy));
                }
                Ok(_) if occasion == Occasion::Start => {}
                // A void-time has 32 bits.
                Ok(void_time) => {
                    accept(namespace, void_time.and_then(|void_time| u32::try_from(void_time).ok()));
                }
            }
        }
    });
}

/// The command that forgets how far a namespace is evicted.
fn reset_command(namespace: &str) -> String {
    format!("eviction-reset:namespace={namespace}")
}

/// Logs that a start evicts records that have not expired, if `void_time` (seconds since 2010-01-01) is after `now`
/// (milliseconds).
pub(super) fn report_eviction_ahead(namespace: &str, void_time: u32, now: u64) {
    let void_time_ms = u64::from(void_time) * 1_000;
    let ahead_s = void_time_ms.saturating_sub(now) / 1_000;
    if ahead_s > 0 {
        cf::warning!(
            Nsup,
            "{{{namespace}}} records that expire before {} ({void_time}), which is {ahead_s} s ahead, are evicted by an item \
             of evict.smd: a start does not load them from its devices, also those written since the eviction; if they are \
             not to go, send {}, after which the next start loads those that are still on the devices",
            StoredMillis(void_time_ms),
            reset_command(namespace)
        );
    }
}

fn accept(namespace: &Namespace, void_time: Option<u32>) {
    let (name, eviction) = (namespace.name(), &namespace.eviction);
    match void_time {
        Some(void_time) => {
            cf::info!(Nsup, "{{{name}}} got smd evict-void-time {void_time}");
            eviction.order(void_time);
        }
        None => {
            let (done, ordered) = (eviction.void_time(), eviction.ordered_void_time());
            cf::info!(Nsup, "{{{name}}} deleted evict-void-time ({done},{ordered})");
            eviction.reset();
        }
    }
}
