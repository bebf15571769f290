//! What storage tells of its disks: how long they took, for the log and for the health check.

use super::benchmarks::Transfer;
use super::disk::Disk;
use super::engine::Storage;
use crate::metrics::Unit;

impl Storage {
    /// Forgets what was measured. What is measured from now on, if `enable-benchmarks-storage` asks for it, is in `unit`.
    pub(crate) fn restart_benchmarks(&self, unit: Unit) {
        self.benchmarks.restart(unit);
        self.disks().for_each(|disk| disk.benchmarks.clear());
    }

    /// The ticker's turn: writes to the log what was measured for namespace `name`, if it is measured.
    pub(crate) fn report_benchmarks(&self, name: &str) {
        if !self.benchmarks.is_on() {
            return;
        }
        self.benchmarks.report_sizes(name);
        for disk in self.disks() {
            let of_disk = format!("{{{name}}}-{}", disk.media.main.path().display());
            disk.benchmarks.report(&of_disk, |transfer| has(disk, transfer));
        }
    }

    /// The disks that records are read from; those of a namespace in memory are only written.
    fn read_disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks().filter(|disk| disk.stripe().is_none())
    }

    /// Begins to measure how long reads of disks take, or ends it; what was measured is forgotten.
    pub(crate) fn switch_health(&self, is_on: bool) {
        self.read_disks().for_each(|disk| disk.health.switch(is_on));
    }

    /// Lets the window that averages are over move on by an interval.
    pub(crate) fn move_health_window(&self) {
        self.read_disks().for_each(|disk| disk.health.move_on());
    }

    /// Path of each disk that is read, and the microseconds that a read of it takes on average.
    pub(crate) fn read_health(&self) -> Vec<(String, f64)> {
        self.read_disks()
            .map(|disk| (disk.media.main.path().display().to_string(), disk.health.average_micros()))
            .collect()
    }
}

/// Whether `transfer` can happen on `disk`: one of a namespace in memory is not read.
fn has(disk: &Disk, transfer: Transfer) -> bool {
    match transfer {
        Transfer::Read | Transfer::LargeBlockRead => disk.stripe().is_none(),
        Transfer::Write => true,
        Transfer::ShadowWrite => disk.media.shadow.is_some(),
    }
}
