//! Buffers and state that a thread reuses for its transactions.

use std::sync::Arc;

use super::flat_buffer::FlatBuffer;
use super::measure::{HeldTransactions, Tally};
use super::stopwatch::Stopwatch;
use super::unsettled::Unsettled;
use crate::namespace::{Namespace, Section};
use crate::storage::{DiskCaller, ReadBuffer};

/// Buffers that a thread reuses for its transactions.
pub(super) struct Buffers {
    /// A flat record being made.
    pub(super) flat: FlatBuffer,
    /// A record that was read from a disk.
    pub(super) read: ReadBuffer,
    /// Records that must be on disk before the replies made so far are sent, in the order of the replies.
    pub(super) unsettled: Vec<Unsettled>,
    /// By namespace, the section for commits of this thread.
    pub(super) commits: Box<[Section]>,
}

/// State that a thread reuses for its transactions.
pub(super) struct Workspace {
    pub(super) buffers: Buffers,
    /// By namespace, the section for transactions of this thread.
    pub(super) sections: Box<[Section]>,
    pub(super) tally: Tally,
    /// Transactions whose replies are made and wait to be sent.
    pub(super) held: HeldTransactions,
    pub(super) stopwatch: Stopwatch,
}

impl Workspace {
    /// For a thread of the kind `caller`.
    pub(super) fn new(namespaces: &[Arc<Namespace>], caller: DiskCaller) -> Self {
        let namespace_count = namespaces.len();
        Workspace {
            sections: namespaces.iter().map(|namespace| namespace.partitions.join_sections()).collect(),
            buffers: Buffers {
                flat: FlatBuffer::default(),
                read: ReadBuffer::of(caller),
                unsettled: Vec::new(),
                commits: namespaces.iter().map(|namespace| namespace.partitions.join_commits()).collect(),
            },
            tally: Tally::new(namespace_count),
            held: HeldTransactions::new(namespace_count),
            stopwatch: Stopwatch::new(),
        }
    }
}
