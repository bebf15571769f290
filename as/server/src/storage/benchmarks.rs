//! Latencies of devices, and sizes of the records read and written, measured while
//! `enable-benchmarks-storage` is on. While it is off, the cost is one atomic load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use super::settings::Settings;
use crate::metrics::{Histogram, Unit};

/// A measured transfer of a disk. The log lists the transfers in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transfer {
    /// The read of a record.
    Read,
    /// The read of a whole write block, for defrag.
    LargeBlockRead,
    /// A write of at most `flush-size` bytes.
    Write,
    /// The same write to the shadow.
    ShadowWrite,
}

impl Transfer {
    const ALL: [Transfer; 4] =
        [Transfer::Read, Transfer::LargeBlockRead, Transfer::Write, Transfer::ShadowWrite];

    fn name(self) -> &'static str {
        match self {
            Transfer::Read => "read",
            Transfer::LargeBlockRead => "large-block-read",
            Transfer::Write => "write",
            Transfer::ShadowWrite => "shadow-write",
        }
    }
}

/// Benchmarks of a whole namespace, and their settings. Threads share the counters, because only threads that
/// wait for a device anyway, or namespaces with benchmarks on, update them.
pub(super) struct StorageBenchmarks {
    settings: Settings,
    /// Whether the unit is microseconds instead of milliseconds.
    in_microseconds: AtomicBool,
    read_sizes: Histogram,
    write_sizes: Histogram,
}

impl StorageBenchmarks {
    pub(super) fn new(settings: Settings) -> Self {
        StorageBenchmarks {
            settings,
            in_microseconds: AtomicBool::new(false),
            read_sizes: Histogram::new(0),
            write_sizes: Histogram::new(0),
        }
    }

    /// Whether anything is measured.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.settings.measures()
    }

    fn unit(&self) -> Unit {
        if self.in_microseconds.load(Relaxed) { Unit::Microseconds } else { Unit::Milliseconds }
    }

    /// Clears the measurements, and continues in `unit`.
    pub(super) fn restart(&self, unit: Unit) {
        self.in_microseconds.store(unit == Unit::Microseconds, Relaxed);
        self.read_sizes.clear();
        self.write_sizes.clear();
    }

    /// Logs the sizes of records, for namespace `name`.
    pub(super) fn report_sizes(&self, name: &str) {
        self.read_sizes.report(&format!("{{{name}}}-device-read-size"), "bytes");
        self.write_sizes.report(&format!("{{{name}}}-device-write-size"), "bytes");
    }

    /// Counts a stored record of `size` bytes.
    #[inline]
    pub(super) fn note_write(&self, size: usize) {
        if self.is_on() {
            self.write_sizes.add_size(size as u64);
        }
    }
}

/// Benchmarks of one disk.
pub(super) struct DiskBenchmarks {
    of_namespace: Arc<StorageBenchmarks>,
    /// The latencies of each transfer.
    histograms: [Histogram; Transfer::ALL.len()],
}

impl DiskBenchmarks {
    /// Makes the benchmarks of a disk of the namespace of `of_namespace`.
    pub(super) fn new(of_namespace: Arc<StorageBenchmarks>) -> Self {
        DiskBenchmarks { of_namespace, histograms: std::array::from_fn(|_| Histogram::new(0)) }
    }

    /// Begins a transfer; returns the time if it is measured.
    #[inline]
    pub(super) fn start(&self) -> Option<Instant> {
        self.of_namespace.is_on().then(Instant::now)
    }

    /// Ends the transfer that began at `started`.
    #[inline]
    pub(super) fn end(&self, transfer: Transfer, started: Option<Instant>) {
        if let Some(started) = started {
            self.histograms[transfer as usize].add(self.of_namespace.unit(), started.elapsed(), 1);
        }
    }

    /// Counts a record that was read with a transfer of `size` bytes.
    #[inline]
    pub(super) fn note_read(&self, size: usize) {
        if self.of_namespace.is_on() {
            self.of_namespace.read_sizes.add_size(size as u64);
        }
    }
    /// Clears the measurements.
    pub(super) fn clear(&self) {
        self.histograms.iter().for_each(Histogram::clear);
    }

    /// Logs the latencies of each transfer that can `happen`. `disk` names the namespace and the disk.
    pub(super) fn report(&self, disk: &str, happens: impl Fn(Transfer) -> bool) {
        let unit = self.of_namespace.unit().name();
        for transfer in Transfer::ALL.into_iter().filter(|transfer| happens(*transfer)) {
            self.histograms[transfer as usize].report(&format!("{disk}-{}", transfer.name()), unit);
        }
    }
}
