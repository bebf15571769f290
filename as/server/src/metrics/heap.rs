//! The allocator's figures of the heap. They include index and records of memory namespaces, also pages that were never
//! touched, so the allocated size may exceed the resident size.

use tikv_jemalloc_ctl::{background_thread, epoch, stats};

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heap {
    /// Handed out to the program.
    pub(crate) allocated: usize,
    /// In pages that hold something handed out.
    pub(crate) active: usize,
    /// Taken from the system.
    pub(crate) mapped: usize,
}

impl Heap {
    /// The current figures; zeros if the allocator keeps no statistics.
    pub(crate) fn now() -> Self {
        // The figures are those of the last epoch; this begins a new one.
        if epoch::advance().is_err() {
            return Heap::default();
        }
        Heap {
            allocated: stats::allocated::read().unwrap_or(0),
            active: stats::active::read().unwrap_or(0),
            mapped: stats::mapped::read().unwrap_or(0),
        }
    }

    /// Makes the allocator return memory that was not used for some seconds, also in parts of the heap whose threads
    /// are idle.
    pub(crate) fn give_back_idle() {
        if let Err(error) = background_thread::write(true) {
            cf::debug!(As, "the allocator has no thread of its own: {error}");
        }
    }

    /// Allocated share of the mapped memory, in percent.
    pub(crate) fn efficiency_pct(&self) -> f64 {
        if self.mapped == 0 { 0.0 } else { self.allocated as f64 * 100.0 / self.mapped as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efficiency_is_a_share() {
        assert_eq!(Heap { allocated: 50, active: 60, mapped: 200 }.efficiency_pct(), 25.0);
        assert_eq!(Heap::default().efficiency_pct(), 0.0);
        let heap = Heap::now();
        assert!(heap.allocated <= heap.active && heap.active <= heap.mapped, "{heap:?}");
    }
}
