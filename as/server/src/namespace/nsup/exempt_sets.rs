//! The sets that are exempt from eviction.

use crate::index::SetId;
use crate::namespace::Sets;

/// The sets with `disable-eviction`, as they are when a run begins.
pub(super) struct ExemptSets(Vec<bool>);

impl ExemptSets {
    pub(super) fn of(sets: &Sets) -> Self {
        // The first place is for records in no set.
        let of_sets = sets.iter().map(|set| set.params.disable_eviction.get());
        ExemptSets(std::iter::once(false).chain(of_sets).collect())
    }

    pub(super) fn contains(&self, set: SetId) -> bool {
        self.0.get(usize::from(set.0)).copied().unwrap_or(false)
    }
}
