//! The place of an operation's container, and the effect of the operation on it.

use proto::ResultCode;

use super::container::{Shape, flags};
use super::layout::Layout;

/// The container after an operation.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum ContainerChange {
    /// It is unchanged.
    Kept,
    /// It is unchanged, but exists afterwards.
    Touched,
    /// It has new bytes.
    Replaced(Vec<u8>),
}

impl ContainerChange {
    /// The outcome if there was no container before. At the top of a bin, any operation that may create a
    /// container does so, with `flags`. A container that a context creates gets `touched_flags`.
    pub(super) fn created(self, shape: Shape, flags: u8, touched_flags: u8, scope: Scope) -> Self {
        match (self, scope.presence) {
            (Self::Kept | Self::Touched, Presence::Absent) => {
                Self::Replaced(Layout::empty(shape, flags, true))
            }
            (Self::Touched, Presence::Created) => Self::Replaced(Layout::empty(shape, touched_flags, false)),
            (outcome, _) => outcome,
        }
    }
}

/// Whether the container of an operation exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    Present,
    /// There is no bin.
    Absent,
    /// The context creates it.
    Created,
}

/// The place of an operation's container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    pub(super) presence: Presence,
    /// Whether it is at the top of its bin.
    pub(super) is_top: bool,
    /// Whether the container may be flagged to have an index. This is also true if the context creates the
    /// whole bin; the flag then has no effect on a container below the top.
    pub(super) allows_index: bool,
}

impl Scope {
    pub(super) const fn is_bin_missing(self) -> bool {
        match self.presence {
            Presence::Present => false,
            Presence::Absent => true,
            Presence::Created => self.allows_index,
        }
    }

    /// The flags to set, from an argument.
    ///
    /// # Errors
    /// `OpNotApplicable` for unknown flags.
    pub(super) fn set_flags(self, shape: Shape, argument: u64) -> Result<u8, ResultCode> {
        let flags = argument.to_le_bytes()[0];
        if flags & !shape.storable_flags() != 0 {
            return Err(ResultCode::OpNotApplicable);
        }
        Ok(if self.allows_index { flags } else { flags & !flags::PERSIST_INDEX })
    }

    /// The flags of a container that an operation creates, from any argument.
    pub(super) fn creation_flags(self, shape: Shape, argument: u64) -> u8 {
        let mut flags = argument.to_le_bytes()[0];
        if !self.allows_index {
            flags &= !flags::PERSIST_INDEX;
        }
        if flags & !shape.storable_flags() == 0 { flags } else { 0 }
    }
}
