//! Measures the steps of transactions in namespaces with an `enable-benchmarks-…` parameter. Other namespaces pay one
//! load per transaction.
//!
//! A step ends where the next begins, and the clock is read there. The first step begins when the thread wakes up for
//! the request; the last step ends when the replies of that wake-up are sent.

use std::time::Instant;

use proto::message::{field, info2};

use super::base::TransactionBase;
use super::call::Call;
use super::stopwatch::{add_step, end_step};
use super::workspace::Workspace;
use crate::metrics::{Benchmark, BenchmarkStep, Origin};
use crate::namespace::Namespace;

/// A transaction that is measured. Its steps are counted only when it has an answer, because until then it may have
/// to run again on another thread.
pub(super) struct Measured {
    benchmark: Benchmark,
    /// The step in which its record is read or changed, and its start.
    step: BenchmarkStep,
    since: Instant,
}

/// The benchmark of `call`, and the step in which it works on its record. Deletes are not measured, as on the C server.
fn kind_of(call: &Call<'_>) -> Option<(Benchmark, BenchmarkStep)> {
    let request = call.request;
    let (benchmark, step) = if request.info2 & info2::WRITE == 0 {
        (Benchmark::Read, BenchmarkStep::Read)
    } else if request.info2 & info2::DELETE != 0 {
        return None;
    } else if request.has_field(field::UDF_FILE) {
        (Benchmark::Udf, BenchmarkStep::Udf)
    } else {
        (Benchmark::Write, BenchmarkStep::Write)
    };
    match call.origin {
        Origin::BatchSub => Some((Benchmark::BatchSub, step)),
        Origin::UdfSub => Some((Benchmark::UdfSub, step)),
        Origin::OpsSub => Some((Benchmark::OpsSub, step)),
        _ => Some((benchmark, step)),
    }
}

impl Workspace {
    /// Notes the start of a row of a batch in `namespace`.
    #[inline]
    pub(super) fn take_up_row(&mut self, namespace: &Namespace) {
        if Benchmark::BatchSub.is_enabled(&namespace.config().params) {
            self.stopwatch.row_taken_up = Some(Instant::now());
        }
    }

    /// Notes that `call` is about to look up its record. `None` if it is not measured.
    #[inline]
    pub(super) fn start_measuring(&mut self, call: &Call<'_>) -> Option<Measured> {
        let (benchmark, step) = kind_of(call)?;
        if !benchmark.is_enabled(&call.namespace.config().params) {
            return None;
        }
        Some(Measured { benchmark, step, since: Instant::now() })
    }

    /// Ends the last step of commands of the server itself, which send no replies.
    #[inline]
    pub(super) fn measure_unsent(&mut self, base: &TransactionBase) {
        self.stopwatch.answered.end(base);
        self.held.answered.end(base);
    }

    /// Notes that the reply of `call` is made; if held, it is sent later than others.
    pub(super) fn note_answered(&mut self, call: &Call<'_>, measured: Measured, is_held: bool) {
        let Measured { benchmark, step, since } = measured;
        let woken = self.stopwatch.woken;
        let row_taken_up = self.stopwatch.row_taken_up.take().filter(|_| call.row.is_some());
        if let Some(taken_up) = row_taken_up {
            add_step(call.context, call.namespace, benchmark, BenchmarkStep::Prestart, taken_up - woken);
        }
        let start = since - row_taken_up.unwrap_or(woken);
        add_step(call.context, call.namespace, benchmark, BenchmarkStep::Start, start);
        let since = end_step(call.context, call.namespace, benchmark, step, since);
        let answered = if is_held { &mut self.held.answered } else { &mut self.stopwatch.answered };
        answered.0.push((call.namespace.position(), benchmark, since));
    }
}
