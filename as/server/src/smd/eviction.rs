//! Module `evict`: the void-time up to which each namespace is evicted; the same on all nodes.

use std::sync::Arc;

use super::merge::number;
use super::{Module, Occasion, SetError, Smd, SmdItem};
use crate::namespace::Namespace;

/// Makes all nodes evict the records of `namespace` that expire before `void_time`, or forget how far they evicted. A
/// void-time before the known one has no effect.
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
        if occasion == Occasion::Start {
            return;
        }
        for item in items {
            if let Some(namespace) = namespaces.iter().find(|namespace| namespace.name() == item.key) {
                accept(namespace, item.value.as_deref().map(void_time));
            }
        }
    });
}

/// The void-time of an item's value.
pub(super) fn void_time(value: &str) -> u32 {
    u32::try_from(number(value)).unwrap_or(u32::MAX)
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
