//! Processor usage, as the ticker last measured it.

use cf::sys::facts::CpuUsage;
use parking_lot::Mutex;

/// The last measurement.
#[derive(Default)]
pub(crate) struct SystemUsage(Mutex<CpuUsage>);

impl SystemUsage {
    /// Replaces it.
    pub(crate) fn set(&self, usage: CpuUsage) {
        *self.0.lock() = usage;
    }

    /// The last one; zeros before the first.
    pub(crate) fn get(&self) -> CpuUsage {
        *self.0.lock()
    }
}
