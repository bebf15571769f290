//! Conflict resolution: decides which of two copies of a record wins, in duplicate resolution, in migrations,
//! and on replicas.

use std::cmp::Ordering;

/// The compared properties of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyAge {
    pub generation: u16,
    /// Milliseconds since 2010.
    pub last_update_time: u64,
}

/// `conflict-resolution-policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConflictPolicy {
    /// The larger generation wins, then the later last-update-time: the copy with more writes.
    #[default]
    Generation,
    /// The later last-update-time wins, then the newer generation.
    LastUpdateTime,
}

impl ConflictPolicy {
    /// Compares two copies; the greater one wins.
    #[must_use]
    pub fn compare(self, left: CopyAge, right: CopyAge) -> Ordering {
        let by_time = left.last_update_time.cmp(&right.last_update_time);
        match self {
            ConflictPolicy::Generation => left.generation.cmp(&right.generation).then(by_time),
            ConflictPolicy::LastUpdateTime => {
                by_time.then(compare_generations(left.generation, right.generation))
            }
        }
    }

    /// Whether `incoming` replaces `existing`.
    #[must_use]
    pub fn replaces(self, incoming: CopyAge, existing: Option<CopyAge>) -> bool {
        existing.is_none_or(|existing| self.compare(incoming, existing) == Ordering::Greater)
    }
}

/// Compares generations, which wrap: the one that is a shorter distance ahead is greater.
fn compare_generations(left: u16, right: u16) -> Ordering {
    match left.wrapping_sub(right) {
        0 => Ordering::Equal,
        1..=0x7FFF => Ordering::Greater,
        _ => Ordering::Less,
    }
}

/// A node's answer to another that asks for a newer copy, as a result code of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DuplicateAnswer {
    /// 0: the record follows.
    Newer,
    /// 2: there is no copy.
    NotFound,
    /// 3: the asking node's copy is newer.
    Older,
    /// 5: both copies are the same.
    Same,
}

impl DuplicateAnswer {
    /// The result code of the answer.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            DuplicateAnswer::Newer => 0,
            DuplicateAnswer::NotFound => 2,
            DuplicateAnswer::Older => 3,
            DuplicateAnswer::Same => 5,
        }
    }
}

/// The answer of a node with copy `own` to a node with copy `asking`.
#[must_use]
pub fn answer_duplicate_request(
    policy: ConflictPolicy,
    own: Option<CopyAge>,
    asking: Option<CopyAge>,
) -> DuplicateAnswer {
    match (own, asking) {
        (None, _) => DuplicateAnswer::NotFound,
        (Some(_), None) => DuplicateAnswer::Newer,
        (Some(own), Some(asking)) => match policy.compare(own, asking) {
            Ordering::Greater => DuplicateAnswer::Newer,
            Ordering::Equal => DuplicateAnswer::Same,
            Ordering::Less => DuplicateAnswer::Older,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(generation: u16, last_update_time: u64) -> CopyAge {
        CopyAge { generation, last_update_time }
    }

    #[test]
    fn policies_differ_in_the_first_criterion() {
        let (often, late) = (age(5, 100), age(4, 200));
        assert_eq!(ConflictPolicy::Generation.compare(often, late), Ordering::Greater);
        assert_eq!(ConflictPolicy::LastUpdateTime.compare(often, late), Ordering::Less);
        // One policy compares generations as plain numbers, the other with wrapping.
        let (wrapped, before) = (age(1, 100), age(65_535, 100));
        assert_eq!(ConflictPolicy::Generation.compare(wrapped, before), Ordering::Less);
        assert_eq!(ConflictPolicy::LastUpdateTime.compare(wrapped, before), Ordering::Greater);
    }

    #[test]
    fn answers_to_duplicate_requests() {
        let answer = |own, asking| answer_duplicate_request(ConflictPolicy::Generation, own, asking).code();
        assert_eq!(answer(None, Some(age(1, 1))), 2);
        assert_eq!(answer(Some(age(1, 1)), None), 0);
        assert_eq!(answer(Some(age(2, 1)), Some(age(1, 1))), 0);
        assert_eq!(answer(Some(age(1, 1)), Some(age(2, 1))), 3);
        assert_eq!(answer(Some(age(1, 1)), Some(age(1, 1))), 5);
        assert!(!ConflictPolicy::Generation.replaces(age(1, 1), Some(age(1, 1))));
    }
}
