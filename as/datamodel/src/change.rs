//! The effect of an operation on a bin: the result of list, map, bit and HyperLogLog operations.

use crate::Particle;

/// The bin after an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The bin does not change; a missing bin stays missing.
    Unchanged,
    /// The bin gets this value. A missing bin is created.
    Set(Particle<'static>),
    /// The bin is deleted. Only expressions do that.
    Removed,
}

/// The outcome of an operation that may change a bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Modified {
    pub bin: Change,
    /// The answer for the client, if the operation has one.
    pub result: Option<Particle<'static>>,
}

impl Modified {
    /// No change and no answer.
    pub const NOTHING: Self = Self { bin: Change::Unchanged, result: None };

    /// A new value and no answer.
    #[must_use]
    pub const fn set(particle: Particle<'static>) -> Self {
        Self { bin: Change::Set(particle), result: None }
    }
}
