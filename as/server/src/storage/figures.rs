//! Figures of the devices: for statistics, the log and the health check.

use std::sync::atomic::Ordering::Relaxed;

use super::benchmarks::Transfer;
use super::device::{Device, DeviceStats};
use super::disk::Disk;
use super::engine::Storage;
use crate::metrics::Unit;

impl Storage {
    /// Number of disks that cannot be written at present.
    pub(crate) fn failed_count(&self) -> usize {
        self.disks().filter(|disk| disk.has_failed()).count()
    }

    /// Figures of each device.
    pub(crate) fn device_stats(&self) -> impl Iterator<Item = DeviceStats> {
        self.devices.iter().map(Device::stats)
    }

    /// Takes a sample: returns the percentage of the records read since the last one that came from buffers.
    pub(crate) fn sample_reads(&self) -> f64 {
        let (mut cached, mut all) = (0, 0);
        for disk in self.disks() {
            let (from_buffers, from_disk) = disk.take_reads();
            cached += from_buffers;
            all += from_buffers + from_disk;
        }
        self.cache_read_pct100.store((cached * 10_000).checked_div(all).unwrap_or(0), Relaxed);
        self.cache_read_pct()
    }

    /// Percentage of records read from buffers, as of the last sample.
    pub(crate) fn cache_read_pct(&self) -> f64 {
        self.cache_read_pct100.load(Relaxed) as f64 / 100.0
    }

    /// Bytes of all devices, headers included.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.wblocks.size()).sum()
    }

    /// Bytes of live records.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.wblocks.live_bytes()).sum()
    }

    /// Percentage of free blocks on the device that has the least.
    pub(crate) fn available_pct(&self) -> u32 {
        self.devices.iter().map(Device::available_pct).min().unwrap_or(0)
    }

    /// Clears the benchmarks. Further measurements, if `enable-benchmarks-storage` is on, are in `unit`.
    pub(crate) fn restart_benchmarks(&self, unit: Unit) {
        self.benchmarks.restart(unit);
        self.disks().for_each(|disk| disk.benchmarks.clear());
    }

    /// Logs the benchmarks of namespace `name`, if they are on. Called by the ticker.
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
