//! Durations of transactions, from the wake-up of their thread until their replies were sent.
//!
//! The clock is read once for all transactions of a wake-up. Until then the transactions are tallied.

use std::time::Instant;

use proto::message::{Request, field, info2};

use super::base::TransactionBase;
use super::stopwatch::Answered;
use crate::metrics::{Latency, ServerLatency, Unit};

/// Transactions that ended since the clock was last read.
pub(super) struct Tally {
    /// Number of transactions by namespace and latency.
    counts: Box<[[u32; Latency::ALL.len()]]>,
    batches: u32,
    pub(super) is_empty: bool,
}

impl Tally {
    pub(super) fn new(namespace_count: usize) -> Self {
        Tally { counts: vec![[0; Latency::ALL.len()]; namespace_count].into(), batches: 0, is_empty: true }
    }

    /// Tallies a transaction that carried out `request` in namespace number `namespace`. Deletes are not measured, as
    /// on the C server.
    #[inline]
    pub(super) fn add(&mut self, namespace: usize, request: &Request<'_>, is_row: bool) {
        let latency = if request.info2 & info2::WRITE == 0 {
            if is_row { Latency::BatchSubRead } else { Latency::Read }
        } else if request.info2 & info2::DELETE != 0 {
            return;
        } else if request.has_field(field::UDF_FILE) {
            if is_row { Latency::BatchSubUdf } else { Latency::Udf }
        } else if is_row {
            Latency::BatchSubWrite
        } else {
            Latency::Write
        };
        self.counts[namespace][latency as usize] += 1;
        self.is_empty = false;
    }

    pub(super) fn add_batch(&mut self) {
        self.batches += 1;
        self.is_empty = false;
    }
}

/// Transactions whose replies are held, and are sent long after their thread has continued.
pub(crate) struct HeldTransactions {
    pub(super) tally: Tally,
    pub(super) answered: Answered,
    /// When the thread woke up for them.
    woken: Instant,
}

impl HeldTransactions {
    pub(super) fn new(namespace_count: usize) -> Self {
        HeldTransactions {
            tally: Tally::new(namespace_count),
            answered: Answered::default(),
            woken: Instant::now(),
        }
    }
}

impl HeldTransactions {
    /// The transactions of a thread that woke up for them at `woken`.
    pub(super) fn woken_at(self, woken: Instant) -> Self {
        HeldTransactions { woken, ..self }
    }

    /// Measures the transactions: their replies were sent at `now`. Any thread may call this; only the first call
    /// counts.
    pub(crate) fn end(&mut self, base: &TransactionBase, now: Instant) {
        if !self.tally.is_empty {
            self.tally.measure(base, self.woken, now);
        }
        self.answered.end(base);
    }
}

impl Tally {
    /// Measures the tallied transactions as from `woken` until `now`, and clears the tally.
    pub(super) fn measure(&mut self, base: &TransactionBase, woken: Instant, now: Instant) {
        let elapsed = now.saturating_duration_since(woken);
        let unit = Unit::configured(&base.config);
        for (namespace, counts) in base.namespaces.iter().zip(&mut self.counts) {
            for (latency, count) in Latency::ALL.iter().zip(counts) {
                if *count != 0 {
                    namespace.metrics.latency(*latency).add(unit, elapsed, u64::from(*count));
                    *count = 0;
                }
            }
        }
        if self.batches != 0 {
            let batches = u64::from(std::mem::take(&mut self.batches));
            base.metrics.latency(ServerLatency::BatchIndex).add(unit, elapsed, batches);
        }
        self.is_empty = true;
    }
}
