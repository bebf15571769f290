//! What the allocator says of the heap. Index and records of memory namespaces are part of it, with the pages that were
//! never touched: what is handed out may be more than what is resident.

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
    /// As it is now; zeros where the allocator keeps no statistics.
    pub(crate) fn now() -> Self {
        // Figures are those of the last epoch; a new one begins here.
        if epoch::advance().is_err() {
            return Heap::default();
        }
        Heap {
            allocated: stats::allocated::read().unwrap_or(0),
            active: stats::active::read().unwrap_or(0),
            mapped: stats::mapped::read().unwrap_or(0),
        }
    }

    /// Has the allocator give back by itself what nobody has used for some seconds, also in parts of the heap whose threads
    /// are idle.
    pub(crate) fn give_back_idle() {
        if let Err(error) = background_thread::write(true) {
            cf::debug!(As, "the allocator has no thread of its own: {error}");
        }
    }

    /// Share of what was taken from the system that is handed out, in percent.
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
