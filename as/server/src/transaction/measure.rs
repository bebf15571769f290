//! How long transactions take, from when their thread woke up for them until their replies were sent.
//!
//! The clock is read once for all that a thread did since it woke up, not for each transaction; until then they are tallied.

use std::time::Instant;

use proto::message::{Request, field, info2};

use super::Executor;
use crate::metrics::{Latency, ServerLatency, Unit};

/// Transactions that ended since the clock was read last.
pub(super) struct Tally {
    /// By namespace and latency.
    counts: Box<[[u32; Latency::ALL.len()]]>,
    batches: u32,
    is_empty: bool,
}

impl Tally {
    pub(super) fn new(namespace_count: usize) -> Self {
        Tally { counts: vec![[0; Latency::ALL.len()]; namespace_count].into(), batches: 0, is_empty: true }
    }

    /// A transaction that carried out `request` in namespace number `namespace` has ended. Deletes are not measured, as
    /// little as in the C server.
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

impl Executor {
    /// Notes for all transactions since the last call that they took from when the thread [woke up](Self::wake) until `now`.
    #[inline]
    pub(crate) fn measure(&mut self, now: Instant) {
        if !self.workspace.tally.is_empty {
            self.measure_tally(now);
            self.measure_responses();
        }
    }

    fn measure_tally(&mut self, now: Instant) {
        let Executor { context, workspace } = self;
        let elapsed = now.saturating_duration_since(workspace.stopwatch.woken);
        let unit = Unit::configured(&context.config);
        for (namespace, counts) in context.namespaces.iter().zip(&mut workspace.tally.counts) {
            for (latency, count) in Latency::ALL.iter().zip(counts) {
                if *count != 0 {
                    namespace.metrics.latency(*latency).add(unit, elapsed, u64::from(*count));
                    *count = 0;
                }
            }
        }
        if workspace.tally.batches != 0 {
            let batches = u64::from(std::mem::take(&mut workspace.tally.batches));
            context.metrics.latency(ServerLatency::BatchIndex).add(unit, elapsed, batches);
        }
        workspace.tally.is_empty = true;
    }
}
