//! Module `truncate`: the last-update-times before which records of sets and namespaces are truncated; the same on all
//! nodes. Keys are `namespace` or `namespace|set`, values milliseconds since 2010-01-01.

use std::sync::Arc;

use super::eviction::void_time;
use super::merge::number;
use super::{Module, Occasion, SetError, Smd, SmdItem};
use crate::namespace::{Namespace, RemovalThresholds};

/// Between namespace and set in a key.
const DELIMITER: char = '|';

/// Makes all nodes truncate the records of `namespace`, or of its set `set_name`, that were last updated before
/// `last_update_time`, or, without that time, forget the threshold. A threshold before the known one has no effect.
///
/// # Errors
/// When the change cannot be made on all nodes.
pub(crate) fn agree_truncation(
    smd: &Smd,
    namespace: &str,
    set_name: Option<&str>,
    last_update_time: Option<u64>,
) -> Result<(), SetError> {
    let key = match set_name {
        Some(set_name) => format!("{namespace}{DELIMITER}{set_name}"),
        None => namespace.to_owned(),
    };
    match last_update_time {
        Some(last_update_time) => smd.set(Module::Truncate, &key, &last_update_time.to_string()),
        None => smd.delete(Module::Truncate, &key),
    }
}

/// Namespace and set of a key.
fn parts(key: &str) -> (&str, Option<&str>) {
    match key.split_once(DELIMITER) {
        Some((namespace, set_name)) => (namespace, Some(set_name)),
        None => (key, None),
    }
}

/// Makes `namespaces` follow further agreed truncations. Earlier ones were known when records were loaded.
pub(crate) fn follow_truncation(smd: &Smd, namespaces: &Arc<[Arc<Namespace>]>) {
    let namespaces = Arc::clone(namespaces);
    smd.listen(Module::Truncate, move |items: &[&SmdItem], occasion| {
        if occasion == Occasion::Start {
            return;
        }
        for item in items {
            let (name, set_name) = parts(&item.key);
            let Some(namespace) = namespaces.iter().find(|namespace| namespace.name() == name) else {
                continue;
            };
            match &item.value {
                Some(value) => namespace.truncate(set_name, number(value)),
                None => namespace.undo_truncate(set_name),
            }
        }
    });
}

/// The agreed thresholds of `namespace`.
pub(crate) fn removal_thresholds(smd: &Smd, namespace: &str) -> RemovalThresholds {
    let mut thresholds = RemovalThresholds::default();
    for SmdItem { key, value, .. } in smd.live_items(Module::Truncate) {
        let last_update_time = value.as_deref().map_or(0, number);
        match parts(&key) {
            (name, None) if name == namespace => thresholds.truncate_lut = last_update_time,
            (name, Some(set_name)) if name == namespace => {
                thresholds.set_truncate_luts.insert(set_name.to_owned(), last_update_time);
            }
            _ => {}
        }
    }
    let evicted = smd.live_items(Module::Evict).into_iter().find(|item| item.key == namespace);
    thresholds.evict_void_time = evicted.and_then(|item| item.value).map_or(0, |value| void_time(&value));
    thresholds
}
