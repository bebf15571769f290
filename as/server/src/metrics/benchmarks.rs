//! Benchmarks: how long each step of a transaction takes. They are measured only while a namespace's
//! `enable-benchmarks-…` is on; a histogram is made when it is first filled or read during that time.

use std::sync::OnceLock;

use super::Histogram;
use crate::config::params::namespace::NamespaceParams;

named! {
    /// The kinds of transactions that are measured step by step.
    pub(crate) enum Benchmark {
        Read => "benchmarks-read",
        Write => "benchmarks-write",
        Udf => "benchmarks-udf",
        /// Rows of batches.
        BatchSub => "benchmarks-batch-sub",
        /// Records of a background query that applies a UDF to each.
        UdfSub => "benchmarks-udf-sub",
        /// Records of a background query that applies operations to each.
        OpsSub => "benchmarks-ops-sub",
    }
}

/// Steps of a transaction, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BenchmarkStep {
    /// Time from the batch's arrival until its row is started.
    Prestart,
    /// Time until the record is looked up.
    Start,
    /// Until the transaction resumes after a wait for another one on its record.
    Restart,
    /// Until other nodes have answered with their versions of the record.
    DuplicateResolution,
    /// Until other nodes have confirmed that they have the record.
    ReplicaPing,
    /// Until the record is read and the reply is made.
    Read,
    /// Until the record is changed on this node and the reply is made.
    Write,
    /// Until the UDF has changed the record on this node.
    Udf,
    /// Until other nodes have the changed record.
    ReplicaWrite,
    /// Until the reply is sent.
    Response,
}

static READ: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Start, "read-start"),
    (BenchmarkStep::Restart, "read-restart"),
    (BenchmarkStep::DuplicateResolution, "read-dup-res"),
    (BenchmarkStep::ReplicaPing, "read-repl-ping"),
    (BenchmarkStep::Read, "read-local"),
    (BenchmarkStep::Response, "read-response"),
];
static WRITE: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Start, "write-start"),
    (BenchmarkStep::Restart, "write-restart"),
    (BenchmarkStep::DuplicateResolution, "write-dup-res"),
    (BenchmarkStep::Write, "write-master"),
    (BenchmarkStep::ReplicaWrite, "write-repl-write"),
    (BenchmarkStep::Response, "write-response"),
];
static UDF: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Start, "udf-start"),
    (BenchmarkStep::Restart, "udf-restart"),
    (BenchmarkStep::DuplicateResolution, "udf-dup-res"),
    (BenchmarkStep::Udf, "udf-master"),
    (BenchmarkStep::ReplicaWrite, "udf-repl-write"),
    (BenchmarkStep::Response, "udf-response"),
];
static BATCH_SUB: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Prestart, "batch-sub-prestart"),
    (BenchmarkStep::Start, "batch-sub-start"),
    (BenchmarkStep::Restart, "batch-sub-restart"),
    (BenchmarkStep::DuplicateResolution, "batch-sub-dup-res"),
    (BenchmarkStep::ReplicaPing, "batch-sub-repl-ping"),
    (BenchmarkStep::Read, "batch-sub-read-local"),
    (BenchmarkStep::Write, "batch-sub-write-master"),
    (BenchmarkStep::Udf, "batch-sub-udf-master"),
    (BenchmarkStep::ReplicaWrite, "batch-sub-repl-write"),
    (BenchmarkStep::Response, "batch-sub-response"),
];
static UDF_SUB: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Start, "udf-sub-start"),
    (BenchmarkStep::Restart, "udf-sub-restart"),
    (BenchmarkStep::DuplicateResolution, "udf-sub-dup-res"),
    (BenchmarkStep::Udf, "udf-sub-master"),
    (BenchmarkStep::ReplicaWrite, "udf-sub-repl-write"),
    (BenchmarkStep::Response, "udf-sub-response"),
];
static OPS_SUB: &[(BenchmarkStep, &str)] = &[
    (BenchmarkStep::Start, "ops-sub-start"),
    (BenchmarkStep::Restart, "ops-sub-restart"),
    (BenchmarkStep::DuplicateResolution, "ops-sub-dup-res"),
    (BenchmarkStep::Write, "ops-sub-master"),
    (BenchmarkStep::ReplicaWrite, "ops-sub-repl-write"),
    (BenchmarkStep::Response, "ops-sub-response"),
];

impl Benchmark {
    /// Its steps, with the names of their histograms.
    pub(crate) const fn steps(self) -> &'static [(BenchmarkStep, &'static str)] {
        match self {
            Benchmark::Read => READ,
            Benchmark::Write => WRITE,
            Benchmark::Udf => UDF,
            Benchmark::BatchSub => BATCH_SUB,
            Benchmark::UdfSub => UDF_SUB,
            Benchmark::OpsSub => OPS_SUB,
        }
    }

    /// Whether it is enabled; one relaxed load.
    #[inline]
    pub(crate) fn is_enabled(self, params: &NamespaceParams) -> bool {
        match self {
            Benchmark::Read => params.enable_benchmarks_read.get(),
            Benchmark::Write => params.enable_benchmarks_write.get(),
            Benchmark::Udf => params.enable_benchmarks_udf.get(),
            Benchmark::BatchSub => params.enable_benchmarks_batch_sub.get(),
            Benchmark::UdfSub => params.enable_benchmarks_udf_sub.get(),
            Benchmark::OpsSub => params.enable_benchmarks_ops_sub.get(),
        }
    }

    /// The benchmark that the parameter `name` switches.
    pub(crate) fn switched_by(name: &str) -> Option<Benchmark> {
        let name = name.strip_prefix("enable-")?;
        Self::ALL.iter().copied().find(|benchmark| benchmark.name() == name)
    }
}

/// The benchmarks of a namespace.
pub(crate) struct Benchmarks {
    /// Shards of each histogram.
    thread_count: usize,
    /// The histograms by benchmark, then by step. They are made when first needed.
    histograms: [OnceLock<Box<[Histogram]>>; Benchmark::ALL.len()],
}

impl Benchmarks {
    /// Benchmarks without histograms. `thread_count` service threads will fill these.
    pub(super) fn new(thread_count: usize) -> Self {
        Benchmarks { thread_count, histograms: [const { OnceLock::new() }; Benchmark::ALL.len()] }
    }

    /// The histograms of `benchmark` in the order of its steps.
    pub(crate) fn of(&self, benchmark: Benchmark) -> &[Histogram] {
        self.histograms[benchmark as usize]
            .get_or_init(|| benchmark.steps().iter().map(|_| Histogram::new(self.thread_count)).collect())
    }

    /// The histogram of `step`; `None` if the benchmark has no such step.
    pub(crate) fn step(&self, benchmark: Benchmark, step: BenchmarkStep) -> Option<&Histogram> {
        let at = benchmark.steps().iter().position(|(known, _)| *known == step)?;
        self.of(benchmark).get(at)
    }

    /// Name and [`Histogram::text`] of each step of `benchmark`: the latencies between the ticker's last two
    /// turns.
    pub(crate) fn texts(&self, benchmark: Benchmark) -> impl Iterator<Item = (&'static str, String)> {
        let made = self.histograms[benchmark as usize].get();
        benchmark.steps().iter().enumerate().map(move |(at, (_, name))| {
            let histogram = made.and_then(|histograms| histograms.get(at));
            (*name, histogram.map_or_else(String::new, Histogram::text))
        })
    }

    /// Forgets the measurements of `benchmark`.
    pub(crate) fn clear(&self, benchmark: Benchmark) {
        self.histograms[benchmark as usize].get().into_iter().flatten().for_each(Histogram::clear);
    }
}
