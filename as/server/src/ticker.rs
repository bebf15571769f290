//! The ticker: every `ticker-interval` seconds it logs lines about the state of the server, in the form that people and
//! tools know. It omits lines whose counters are all zero.
//!
//! # Threads
//! One thread, which also measures processor usage for statistics, and runs the health check of devices.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::{Duration, Instant};

use cf::sys::facts::{self, CpuMeter, Memory};
use proto::peer::hello::Channel;

use crate::config::Engine;
use crate::health::HealthMonitor;
use crate::metrics::groups::{Group, ORIGINS};
use crate::metrics::{Benchmark, Heap, Latency, NamespaceCounter, Origin, ServerCounter, ServerLatency};
use crate::namespace::{IndexMemory, Namespace};
use crate::node::Node;
use crate::peer_traffic::ConnectionFigures;
use crate::storage::DeviceStats;

/// Period of the check whether a turn is due.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Time between the lines about devices.
const DEVICE_PERIOD: Duration = Duration::from_secs(20);
/// Counters of resent messages to other nodes, in the order of their line: questions for newer copies.
const QUESTIONS_RESENT: [NamespaceCounter; 10] = [
    NamespaceCounter::RetransmitAllReadDupRes,
    NamespaceCounter::RetransmitAllWriteDupRes,
    NamespaceCounter::RetransmitAllDeleteDupRes,
    NamespaceCounter::RetransmitAllUdfDupRes,
    NamespaceCounter::RetransmitAllBatchSubReadDupRes,
    NamespaceCounter::RetransmitAllBatchSubWriteDupRes,
    NamespaceCounter::RetransmitAllBatchSubDeleteDupRes,
    NamespaceCounter::RetransmitAllBatchSubUdfDupRes,
    NamespaceCounter::RetransmitUdfSubDupRes,
    NamespaceCounter::RetransmitOpsSubDupRes,
];
/// The same for replica writes.
const REPLICA_WRITES_RESENT: [NamespaceCounter; 8] = [
    NamespaceCounter::RetransmitAllWriteReplWrite,
    NamespaceCounter::RetransmitAllDeleteReplWrite,
    NamespaceCounter::RetransmitAllUdfReplWrite,
    NamespaceCounter::RetransmitAllBatchSubWriteReplWrite,
    NamespaceCounter::RetransmitAllBatchSubDeleteReplWrite,
    NamespaceCounter::RetransmitAllBatchSubUdfReplWrite,
    NamespaceCounter::RetransmitUdfSubReplWrite,
    NamespaceCounter::RetransmitOpsSubReplWrite,
];

/// Body of the ticker's thread. It ends once `stopping` is set and the thread is unparked.
pub(crate) fn run(node: &Node, stopping: &AtomicBool) {
    let mut meter = CpuMeter::start();
    let mut last = Instant::now();
    let mut devices = DeviceLines::new(node);
    let mut health = HealthMonitor::default();
    loop {
        std::thread::park_timeout(LOOK_PERIOD);
        if stopping.load(Acquire) {
            return;
        }
        cf::fault_point!("ticker");
        let interval = Duration::from_secs(u64::from(node.config.service.ticker_interval.get()));
        let span = last.elapsed();
        if span >= interval {
            last = Instant::now();
            node.usage.set(meter.sample());
            if let Some(membership) = node.membership.get() {
                membership.fabric.traffic().measure(span);
            }
            write_all(node);
            cf::log::logger().report_suppressed();
        }
        devices.write_if_due(node);
        health.check(&node.config, &node.namespaces, &node.health);
    }
}

/// State of the lines about files and devices, which show the changes since the last ones.
struct DeviceLines {
    written: Instant,
    /// Figures at that time, by namespace and device.
    before: Vec<Vec<DeviceStats>>,
}

impl DeviceLines {
    fn new(node: &Node) -> Self {
        DeviceLines { written: Instant::now(), before: Self::sample(node) }
    }

    fn sample(node: &Node) -> Vec<Vec<DeviceStats>> {
        node.namespaces.iter().map(|namespace| namespace.storage.device_stats().collect()).collect()
    }

    fn write_if_due(&mut self, node: &Node) {
        let seconds = self.written.elapsed().as_secs_f64();
        if seconds < DEVICE_PERIOD.as_secs_f64() {
            return;
        }
        let now = Self::sample(node);
        for ((namespace, now), before) in node.namespaces.iter().zip(&now).zip(&self.before) {
            let paths = namespace.config().storage.backings();
            for (at, (now, before)) in now.iter().zip(before).enumerate() {
                match paths.get(at) {
                    Some(path) => write_device(namespace.name(), &path.path, now, before, seconds),
                    None => write_stripe(namespace.name(), at, now, before, seconds),
                }
            }
        }
        (self.written, self.before) = (Instant::now(), now);
    }
}

/// `(total,rate a second)`.
fn counted(now: u64, before: u64, seconds: f64) -> String {
    format!("({now},{:.1})", now.saturating_sub(before) as f64 / seconds)
}

fn write_stripe(namespace: &str, number: usize, now: &DeviceStats, before: &DeviceStats, seconds: f64) {
    cf::info!(
        DrvMem,
        "{{{namespace}}} stripe-{number}: used-bytes {} free-wblocks {} write {} defrag-q {} defrag-read {} \
         defrag-write {}",
        now.used_bytes,
        now.free_wblocks,
        counted(now.writes, before.writes, seconds),
        now.defrag_queue,
        counted(now.defrag_reads, before.defrag_reads, seconds),
        counted(now.defrag_writes, before.defrag_writes, seconds)
    );
}

fn write_device(namespace: &str, path: &str, now: &DeviceStats, before: &DeviceStats, seconds: f64) {
    let counted = |now: u64, before: u64| counted(now, before, seconds);
    cf::info!(
        DrvSsd,
        "{{{namespace}}} {path}: used-bytes {} free-wblocks {} write-q {} write {} defrag-q {} defrag-read {} \
         defrag-write {}",
        now.used_bytes,
        now.free_wblocks,
        now.disk.map_or(0, |disk| disk.write_queue),
        counted(now.writes, before.writes),
        now.defrag_queue,
        counted(now.defrag_reads, before.defrag_reads),
        counted(now.defrag_writes, before.defrag_writes)
    );
}

/// All lines of one turn.
pub(crate) fn write_all(node: &Node) {
    write_server(node);
    for namespace in node.namespaces.iter() {
        write_namespace(namespace);
    }
    write_latencies(node);
}

fn write_latencies(node: &Node) {
    let unit = node.latency_unit().name();
    for latency in ServerLatency::ALL {
        node.metrics.latency(*latency).report_if_any(latency.name(), unit);
    }
    node.metrics.batch_rows.report_if_any("batch-rec-count", "count");
    for namespace in node.namespaces.iter() {
        for latency in Latency::ALL {
            let name = format!("{{{}}}-{}", namespace.name(), latency.name());
            namespace.metrics.latency(*latency).report_if_any(&name, unit);
            let rows = match latency {
                Latency::PiQuery => Some(&namespace.metrics.query_rows[0]),
                Latency::SiQuery => Some(&namespace.metrics.query_rows[1]),
                _ => None,
            };
            if let Some(rows) = rows {
                rows.report_if_any(&format!("{name}-rec-count"), "count");
            }
            benchmarks_behind(*latency)
                .iter()
                .for_each(|benchmark| write_benchmark(namespace, *benchmark, unit));
        }
        namespace.storage.report_benchmarks(namespace.name());
    }
}

/// Benchmarks that are logged after `latency`.
fn benchmarks_behind(latency: Latency) -> &'static [Benchmark] {
    match latency {
        Latency::Read => &[Benchmark::Read],
        Latency::Write => &[Benchmark::Write],
        Latency::Udf => &[Benchmark::Udf],
        Latency::BatchSubUdf => &[Benchmark::BatchSub],
        Latency::SiQuery => &[Benchmark::UdfSub, Benchmark::OpsSub],
        Latency::BatchSubRead | Latency::BatchSubWrite | Latency::PiQuery => &[],
        Latency::ReadTouch | Latency::Proxy => &[],
    }
}

/// Logs a benchmark. One that is measured on demand is logged even if nothing was counted.
fn write_benchmark(namespace: &Namespace, benchmark: Benchmark, unit: &'static str) {
    if !benchmark.is_enabled(&namespace.config().params) {
        return;
    }
    for ((_, step), histogram) in benchmark.steps().iter().zip(namespace.metrics.benchmarks.of(benchmark)) {
        histogram.report(&format!("{{{}}}-{step}", namespace.name()), unit);
    }
}

fn write_server(node: &Node) {
    let cluster = &node.cluster;
    let name = node.config.service.cluster_name.get();
    let name = name.as_deref().unwrap_or("null");
    cf::info!(Info, "NODE-ID {:x} CLUSTER-SIZE {} CLUSTER-NAME {name}", cluster.node_id, cluster.size());
    cf::info!(Info, "   cluster-clock: skew-ms {}", cluster.state().clock_skew_ms);
    let (cpu, memory, heap) = (node.usage.get(), Memory::now(), Heap::now());
    cf::info!(
        Info,
        "   system: total-cpu-pct {} user-cpu-pct {} kernel-cpu-pct {} free-mem-kbytes {} free-mem-pct {} \
         thp-mem-kbytes {}",
        cpu.system_user_pct + cpu.system_kernel_pct,
        cpu.system_user_pct,
        cpu.system_kernel_pct,
        memory.available / 1024,
        memory.available_pct(),
        memory.huge_pages / 1024
    );
    cf::info!(
        Info,
        "   process: cpu-pct {} threads ({},0,0,0) heap-kbytes ({},{},{}) heap-efficiency-pct {:.1}",
        cpu.process_pct,
        facts::thread_count(),
        heap.allocated / 1024,
        heap.active / 1024,
        heap.mapped / 1024,
        heap.efficiency_pct()
    );
    cf::info!(
        Info,
        "   in-progress: info-q {} rw-hash {} proxy-hash {} tree-gc-q 0 long-queries {}",
        node.service.info.queued_count(),
        node.awaiting_count(),
        node.service.transactions.passed_on.count(),
        node.service.queries.long_count()
    );
    write_server_work(node);
}

/// Connections, and requests about no namespace or several.
fn write_server_work(node: &Node) {
    // Closed connections are read before opened ones, so that no connection counts as closed but not as
    // opened.
    let closed = node.metrics.get(ServerCounter::ClientConnectionsClosed);
    let opened = node.metrics.get(ServerCounter::ClientConnectionsOpened);
    let (heartbeat, fabric) = node.peer_figures();
    let list = |connections: ConnectionFigures| {
        format!("({},{},{})", connections.open(), connections.opened, connections.closed)
    };
    cf::info!(
        Info,
        "   fds: proto {} heartbeat {} fabric {}",
        list(ConnectionFigures { opened, closed }),
        list(heartbeat.connections),
        list(fabric.connections)
    );
    cf::info!(
        Info,
        "   heartbeat-received: self {} foreign {}",
        heartbeat.received_self,
        heartbeat.received_foreign
    );
    let rate = |channel| {
        let rate = fabric.rate(channel);
        format!("({},{})", rate.sent, rate.received)
    };
    cf::info!(
        Info,
        "   fabric-bytes-per-second: bulk {} ctrl {} meta {} rw {}",
        rate(Channel::Bulk),
        rate(Channel::Control),
        rate(Channel::Metadata),
        rate(Channel::ReadWrite)
    );
    let demarshal = node.metrics.get(ServerCounter::DemarshalError);
    let early = node.metrics.get(ServerCounter::EarlyTsvcClientError);
    let proxied = node.metrics.get(ServerCounter::EarlyTsvcFromProxyError);
    let rows = node.metrics.get(ServerCounter::EarlyTsvcFromProxyBatchSubError);
    if demarshal + early + proxied + rows > 0 {
        cf::info!(
            Info,
            "   early-fail: demarshal {demarshal} tsvc-client {early} tsvc-from-proxy {proxied} \
             tsvc-from-proxy-batch-sub {rows}"
        );
    }
    let complete = node.metrics.get(ServerCounter::BatchIndexComplete);
    let failed = node.metrics.get(ServerCounter::BatchIndexError);
    let late = node.metrics.get(ServerCounter::BatchIndexTimeout);
    if complete + failed + late > 0 {
        let delays = node.metrics.get(ServerCounter::BatchIndexDelay);
        cf::info!(Info, "   batch-index: batches ({complete},{failed},{late}) delays {delays}");
    }
}

/// The counters of one kind of queries: complete, failed, and aborted or timed out.
type QueryGroup = (&'static str, [NamespaceCounter; 3]);

/// Queries by primary and by secondary index.
const QUERIES: [(&str, [QueryGroup; 5]); 2] = {
    use NamespaceCounter as C;
    [
        (
            "pi",
            [
                (
                    "short-basic",
                    [C::PiQueryShortBasicComplete, C::PiQueryShortBasicError, C::PiQueryShortBasicTimeout],
                ),
                (
                    "long-basic",
                    [C::PiQueryLongBasicComplete, C::PiQueryLongBasicError, C::PiQueryLongBasicAbort],
                ),
                ("aggr", [C::PiQueryAggrComplete, C::PiQueryAggrError, C::PiQueryAggrAbort]),
                ("udf-bg", [C::PiQueryUdfBgComplete, C::PiQueryUdfBgError, C::PiQueryUdfBgAbort]),
                ("ops-bg", [C::PiQueryOpsBgComplete, C::PiQueryOpsBgError, C::PiQueryOpsBgAbort]),
            ],
        ),
        (
            "si",
            [
                (
                    "short-basic",
                    [C::SiQueryShortBasicComplete, C::SiQueryShortBasicError, C::SiQueryShortBasicTimeout],
                ),
                (
                    "long-basic",
                    [C::SiQueryLongBasicComplete, C::SiQueryLongBasicError, C::SiQueryLongBasicAbort],
                ),
                ("aggr", [C::SiQueryAggrComplete, C::SiQueryAggrError, C::SiQueryAggrAbort]),
                ("udf-bg", [C::SiQueryUdfBgComplete, C::SiQueryUdfBgError, C::SiQueryUdfBgAbort]),
                ("ops-bg", [C::SiQueryOpsBgComplete, C::SiQueryOpsBgError, C::SiQueryOpsBgAbort]),
            ],
        ),
    ]
};

fn write_namespace(namespace: &Namespace) {
    let (name, objects, roles) = (namespace.name(), namespace.object_count(), namespace.records_by_role());
    cf::info!(
        Info,
        "{{{name}}} objects: all {objects} master {} prole {} non-replica {}",
        roles.master,
        roles.replica,
        roles.other
    );
    write_tombstones(namespace);
    write_migrations(namespace);
    let indexes = IndexMemory::of(namespace);
    cf::info!(Info, "{{{name}}} index-usage: used-bytes {}", indexes.primary);
    for (index, used) in [("set-index", indexes.sets), ("sindex", indexes.secondary)] {
        if used > 0 {
            cf::info!(Info, "{{{name}}} {index}-usage: used-bytes {used}");
        }
    }
    let (used, available) = (namespace.storage.used_bytes(), namespace.storage.available_pct());
    if namespace.config().storage.engine == Engine::Device {
        let cached = namespace.storage.sample_reads();
        cf::info!(
            Info,
            "{{{name}}} data-usage: used-bytes {used} avail-pct {available} cache-read-pct {cached:.2}"
        );
    } else {
        cf::info!(Info, "{{{name}}} data-usage: used-bytes {used} avail-pct {available}");
    }
    for (origin, groups) in ORIGINS {
        if let Some(line) = transactions(namespace, *origin, groups) {
            cf::info!(Info, "{{{name}}} {line}");
        }
    }
    let count = |counter| namespace.metrics.get(counter);
    for (index, groups) in QUERIES {
        let counts = groups.each_ref().map(|(name, counters)| (name, counters.map(count)));
        if counts.iter().any(|(_, counts)| *counts != [0; 3]) {
            let groups = counts.map(|(name, [complete, failed, aborted])| {
                format!(" {name} ({complete},{failed},{aborted})")
            });
            cf::info!(Info, "{{{name}}} {index}-query:{}", groups.concat());
        }
    }
    write_questions(namespace);
    let (touched, failed, skipped) = (
        count(NamespaceCounter::ReadTouchSuccess),
        count(NamespaceCounter::ReadTouchError),
        count(NamespaceCounter::ReadTouchSkip),
    );
    if touched + failed + skipped > 0 {
        cf::info!(Info, "{{{name}}} read-touch: tsvc (0,0) all-triggers ({touched},{failed},0,{skipped})");
    }
    let retransmits = count(NamespaceCounter::MigrateRecordRetransmits);
    let list = |counters: &[NamespaceCounter]| -> String {
        counters.iter().map(|counter| count(*counter).to_string()).collect::<Vec<_>>().join(",")
    };
    let sum = |counters: &[NamespaceCounter]| counters.iter().map(|counter| count(*counter)).sum::<u64>();
    if retransmits + sum(&QUESTIONS_RESENT) + sum(&REPLICA_WRITES_RESENT) > 0 {
        cf::info!(
            Info,
            "{{{name}}} retransmits: migration {retransmits} dup-res ({}) repl-ping (0,0) repl-write ({})",
            list(&QUESTIONS_RESENT),
            list(&REPLICA_WRITES_RESENT)
        );
    }
    let (busy, too_big) = (count(NamespaceCounter::FailKeyBusy), count(NamespaceCounter::FailRecordTooBig));
    if busy + too_big > 0 {
        cf::info!(
            Info,
            "{{{name}}} special-errors: key-busy ({busy},0) record-too-big {too_big} lost-conflict (0,0)"
        );
    }
}

/// Logs the number of tombstones, if there are any. All count as those of a master, as in the statistics.
fn write_tombstones(namespace: &Namespace) {
    let count = namespace.tombstone_count();
    if count > 0 {
        let name = namespace.name();
        cf::info!(Info, "{{{name}}} tombstones: all {count} xdr (0,0) master {count} prole 0 non-replica 0");
    }
}

/// Logs how often this node asked others for newer copies of records, and how often it answered such
/// questions.
fn write_questions(namespace: &Namespace) {
    let count = |counter| namespace.metrics.get(counter);
    let (asked, read, unread) = (
        count(NamespaceCounter::DupResAsk),
        count(NamespaceCounter::DupResRespondRead),
        count(NamespaceCounter::DupResRespondNoRead),
    );
    if asked + read + unread > 0 {
        cf::info!(Info, "{{{}}} dup-res: ask {asked} respond ({read},{unread})", namespace.name());
    }
}

/// Logs the progress of migrations, and the number in progress: to other nodes, to this node, signals.
fn write_migrations(namespace: &Namespace) {
    let (name, figures, load) =
        (namespace.name(), namespace.partitions.figures(), *namespace.migration_load.lock());
    let initial = figures.initial_emigrations + figures.initial_immigrations;
    let remaining = figures.pending_migrations();
    if initial == 0 || remaining == 0 {
        return cf::info!(Info, "{{{name}}} migrations: complete");
    }
    cf::info!(
        Info,
        "{{{name}}} migrations: remaining ({},{},{}) active ({},{},{}) complete-pct {:.2}",
        figures.pending_emigrations,
        figures.pending_immigrations,
        load.signals_remaining,
        load.emigrations,
        load.immigrations,
        load.signals,
        100.0 - remaining as f64 * 100.0 / initial as f64
    );
}

/// `origin: group (count,…) …`, unless all counts are zero.
fn transactions(namespace: &Namespace, origin: Origin, groups: &[&Group]) -> Option<String> {
    let mut line = format!("{}:", origin.name().replace('_', "-"));
    let mut total = 0;
    for group in groups {
        let values: Vec<u64> = group.values(&namespace.metrics, origin).collect();
        total += values.iter().sum::<u64>();
        let values: Vec<String> = values.iter().map(u64::to_string).collect();
        let _ = write!(line, " {} ({})", group.name, values.join(","));
    }
    (total > 0).then_some(line)
}
