//! Figures of the disks for the log and the health check.

use super::benchmarks::Transfer;
use super::disk::Disk;
use super::engine::Storage;
use crate::metrics::Unit;

impl Storage {
    /// Clears the benchmarks. Further measurements, if `enable-benchmarks-storage` is on, are in `unit`.
    pub(crate) fn restart_benchmarks(&self, unit: Unit) {
        self.benchmarks.restart(unit);
        self.disks().for_each(|disk| disk.benchmarks.clear());
    }

    /// The ticker's turn: logs the benchmarks of namespace `name`, if they are on.
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

    /// The disks that records are read from; disks of a namespace in memory are only written.
    fn read_disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks().filter(|disk| disk.stripe().is_none())
    }

    /// Starts or stops measuring the reads of disks; clears earlier measurements.
    pub(crate) fn switch_health(&self, is_on: bool) {
        self.read_disks().for_each(|disk| disk.health.switch(is_on));
    }

    /// Moves the window of the averages by one interval.
    pub(crate) fn move_health_window(&self) {
        self.read_disks().for_each(|disk| disk.health.move_on());
    }

    /// Path of each disk that is read, and its average time of a read in microseconds.
    pub(crate) fn read_health(&self) -> Vec<(String, f64)> {
        self.read_disks()
            .map(|disk| (disk.media.main.path().display().to_string(), disk.health.average_micros()))
            .collect()
    }
}

/// Whether `transfer` can happen on `disk`: a disk of a namespace in memory is not read.
fn has(disk: &Disk, transfer: Transfer) -> bool {
    match transfer {
        Transfer::Read | Transfer::LargeBlockRead => disk.stripe().is_none(),
        Transfer::Write => true,
        Transfer::ShadowWrite => disk.media.shadow.is_some(),
    }
}
