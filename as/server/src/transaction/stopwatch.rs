//! The times of a thread's transactions, and where they are counted.

use std::time::{Duration, Instant};

use super::base::TransactionBase;
use crate::metrics::{Benchmark, BenchmarkStep, Unit};
use crate::namespace::Namespace;

/// Transactions whose replies are made but not sent: position of the namespace, benchmark, and start.
#[derive(Default)]
pub(super) struct Answered(pub(super) Vec<(usize, Benchmark, Instant)>);

impl Answered {
    /// Notes that their replies are sent.
    pub(super) fn end(&mut self, base: &TransactionBase) {
        for (namespace, benchmark, since) in self.0.drain(..) {
            end_step(base, &base.namespaces[namespace], benchmark, BenchmarkStep::Response, since);
        }
    }
}

/// Times of a thread's transactions.
pub(super) struct Stopwatch {
    /// When the thread woke up for its current requests.
    pub(super) woken: Instant,
    /// When the current row of a batch was started.
    pub(super) row_taken_up: Option<Instant>,
    pub(super) answered: Answered,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        Stopwatch { woken: Instant::now(), row_taken_up: None, answered: Answered::default() }
    }
}

/// Notes that a step lasted from `since` until now; returns now.
pub(super) fn end_step(
    base: &TransactionBase,
    namespace: &Namespace,
    benchmark: Benchmark,
    step: BenchmarkStep,
    since: Instant,
) -> Instant {
    let now = Instant::now();
    add_step(base, namespace, benchmark, step, now.saturating_duration_since(since));
    now
}

/// Notes how long a step lasted.
pub(super) fn add_step(
    base: &TransactionBase,
    namespace: &Namespace,
    benchmark: Benchmark,
    step: BenchmarkStep,
    lasted: Duration,
) {
    if let Some(histogram) = namespace.metrics.benchmarks.step(benchmark, step) {
        histogram.add(Unit::configured(&base.config), lasted, 1);
    }
}
