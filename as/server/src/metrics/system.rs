//! The last measurement of processor usage by the ticker.

use cf::sys::facts::CpuUsage;
use parking_lot::Mutex;

/// The last measurement.
#[derive(Default)]
pub(crate) struct SystemUsage(Mutex<CpuUsage>);

impl SystemUsage {
    /// Replaces the measurement.
    pub(crate) fn set(&self, usage: CpuUsage) {
        *self.0.lock() = usage;
    }

    /// The last measurement; zeros before the first.
    pub(crate) fn get(&self) -> CpuUsage {
        *self.0.lock()
    }
}
