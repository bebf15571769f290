//! The watch over disks that do not answer: requests that wait for such a disk resume when it answers, and pool threads
//! that hang get substitutes.
//!
//! # Threads
//! One thread checks several times a second. The results are in atomics.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::base::TransactionBase;
use crate::storage::DiskCaller;

/// Number of pool threads that hang, as of the last check.
#[derive(Default)]
pub(crate) struct DiskWatch {
    /// By caller.
    hanging: [AtomicUsize; DiskCaller::POOLS.len() + 1],
}

impl DiskWatch {
    /// Threads of `caller` that hang.
    pub(crate) fn hanging(&self, caller: DiskCaller) -> usize {
        self.hanging[caller as usize].load(Relaxed)
    }

    /// Checks the disks of all namespaces.
    pub(crate) fn check(&self, base: &TransactionBase) {
        for namespace in base.namespaces.iter() {
            namespace.storage.watch_disks();
        }
        for caller in DiskCaller::POOLS {
            let hanging = base.namespaces.iter().map(|namespace| namespace.storage.hanging(caller)).sum();
            self.hanging[caller as usize].store(hanging, Relaxed);
        }
        base.pool.substitute(self.hanging(DiskCaller::Transactions));
    }
}
