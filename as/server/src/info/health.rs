//! How well the node and the machine under it are.

use super::commands::Answer;
use crate::state::State;

/// Names of the practices that are not followed.
pub(super) fn best_practices(state: &State, out: &mut String) -> Answer {
    out.push_str("failed_best_practices=");
    if state.failed_best_practices.is_empty() {
        out.push_str("none");
    } else {
        out.push_str(&state.failed_best_practices.join(","));
    }
    Ok(())
}

/// Nodes and devices that are slower than others: a node alone has nothing to compare.
pub(super) fn outliers(_: &State, _: &mut String) -> Answer {
    Ok(())
}

/// What outliers are judged by; collected only with `enable-health-check`, which a node alone has no use for.
pub(super) fn stats(_: &State, _: &mut String) -> Answer {
    Ok(())
}
