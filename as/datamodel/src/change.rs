//! The effect of an operation on a bin: the form in which list, map, bit and HyperLogLog operations answer.

use crate::Particle;

/// The bin afterwards.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It stays as it was, or stays missing.
    Unchanged,
    /// It gets this value, and is created if it was missing.
    Set(Particle<'static>),
    /// It goes. Only expressions do that.
    Removed,
}

/// The outcome of an operation that may change a bin.
#[derive(Clone, Debug, PartialEq)]
pub struct Modified {
    pub bin: Change,
    /// The answer for the client; not every operation has one.
    pub result: Option<Particle<'static>>,
}

impl Modified {
    /// Nothing changed, nothing to tell.
    pub const NOTHING: Self = Self { bin: Change::Unchanged, result: None };

    /// A new value and nothing to tell.
    #[must_use]
    pub const fn set(particle: Particle<'static>) -> Self {
        Self { bin: Change::Set(particle), result: None }
    }
}
