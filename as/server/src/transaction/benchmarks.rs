//! How long the steps of a transaction take, for namespaces whose `enable-benchmarks-…` asks for it. For all others it costs
//! one load.
//!
//! A step ends where the next begins, and the clock is read there. The first begins when the thread woke up for the
//! request; the last ends when the replies of all that it found ready are sent.

use std::time::{Duration, Instant};

use proto::message::{field, info2};

use super::{Call, Executor, TransactionContext, Workspace};
use crate::metrics::{Benchmark, BenchmarkStep, Origin, Unit};
use crate::namespace::Namespace;

/// Transactions whose replies are made but not sent: number of the namespace, what they are, and since when.
#[derive(Default)]
pub(super) struct Answered(Vec<(usize, Benchmark, Instant)>);

impl Answered {
    /// Their replies are sent.
    pub(super) fn end(&mut self, context: &TransactionContext) {
        for (namespace, benchmark, since) in self.0.drain(..) {
            end_step(context, &context.namespaces[namespace], benchmark, BenchmarkStep::Response, since);
        }
    }
}

/// Where the transactions of a thread are.
pub(super) struct Stopwatch {
    /// When the thread woke up for what it carries out now.
    pub(super) woken: Instant,
    /// When the row of a batch was taken up that is carried out now.
    row_taken_up: Option<Instant>,
    answered: Answered,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        Stopwatch { woken: Instant::now(), row_taken_up: None, answered: Answered::default() }
    }
}

/// A transaction that is measured. Nothing is noted before it has an answer: it may have to run again, on another thread.
pub(super) struct Measured {
    benchmark: Benchmark,
    /// Where its record is read or changed, since this moment.
    step: BenchmarkStep,
    since: Instant,
}

/// As what `call` is measured, and in which step it works on its record. Deletes are not measured, as little as in the C
/// server.
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

impl Executor {
    /// The thread woke up at `woken` for what it carries out from now on.
    #[inline]
    pub(crate) fn wake(&mut self, woken: Instant) {
        self.workspace.stopwatch.woken = woken;
    }

    /// All replies are sent.
    #[inline]
    pub(super) fn measure_responses(&mut self) {
        self.workspace.stopwatch.answered.end(&self.context);
    }
}

impl Workspace {
    /// A row of a batch in `namespace` is taken up.
    #[inline]
    pub(super) fn take_up_row(&mut self, namespace: &Namespace) {
        if Benchmark::BatchSub.is_enabled(&namespace.config().params) {
            self.stopwatch.row_taken_up = Some(Instant::now());
        }
    }

    /// `call` is about to look for its record. `None` if it is not measured.
    #[inline]
    pub(super) fn start_measuring(&mut self, call: &Call<'_>) -> Option<Measured> {
        let (benchmark, step) = kind_of(call)?;
        if !benchmark.is_enabled(&call.namespace.config().params) {
            return None;
        }
        Some(Measured { benchmark, step, since: Instant::now() })
    }

    /// The reply of `call` is made, and sent later than others if it is held.
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

/// Notes that a step lasted from `since` until now; returns now.
fn end_step(
    context: &TransactionContext,
    namespace: &Namespace,
    benchmark: Benchmark,
    step: BenchmarkStep,
    since: Instant,
) -> Instant {
    let now = Instant::now();
    add_step(context, namespace, benchmark, step, now.saturating_duration_since(since));
    now
}

/// Notes how long a step lasted.
fn add_step(
    context: &TransactionContext,
    namespace: &Namespace,
    benchmark: Benchmark,
    step: BenchmarkStep,
    lasted: Duration,
) {
    if let Some(histogram) = namespace.metrics.benchmarks.step(benchmark, step) {
        histogram.add(Unit::configured(&context.config), lasted, 1);
    }
}
