//! Health of the node and of its machine.

use super::request::InfoResult;
use super::request::Joined;
use crate::health::{DEVICE_READ_LATENCY, Outlier};
use crate::node::Node;

/// Names of the best practices that are not followed.
pub(super) fn best_practices(state: &Node, out: &mut String) -> InfoResult {
    out.push_str("failed_best_practices=");
    if state.failed_best_practices.is_empty() {
        out.push_str("none");
    } else {
        out.push_str(&state.failed_best_practices.join(","));
    }
    Ok(())
}

/// Devices that are slower than others. They are measured only with `enable-health-check`.
pub(super) fn outliers(state: &Node, out: &mut String) -> InfoResult {
    let mut items = Joined::new(out, ';');
    for Outlier { namespace, path, confidence_pct } in state.health.outliers() {
        items.item(format_args!(
            "id={path}:namespace={namespace}:confidence_pct={confidence_pct}:reason={DEVICE_READ_LATENCY}"
        ));
    }
    Ok(())
}

/// The figures that identify outliers: average microseconds of the reads of each device.
pub(super) fn stats(state: &Node, out: &mut String) -> InfoResult {
    if !state.health.is_on() {
        return Ok(());
    }
    let mut items = Joined::new(out, ';');
    for namespace in state.namespaces.iter() {
        let name = namespace.name();
        for (path, micros) in namespace.storage.read_health() {
            let value = micros.round() as u64;
            items.item(format_args!(
                "stat={name}_{DEVICE_READ_LATENCY}:value={value}:device={path}:namespace={name}"
            ));
        }
    }
    Ok(())
}
