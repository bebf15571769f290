//! nsup, the supervisor of namespaces. Every `nsup-period` seconds it removes expired records, and evicts others if a
//! limit is breached; every `nsup-hist-period` seconds it makes histograms of sizes and times to live. It also gives
//! back memory of the index that holds no record.
//!
//! # Threads
//! One supervisor thread for each namespace wakes each second; a run is spread over `nsup-threads` threads. One thread
//! for the server watches the stop-writes limits.

mod collecting;
mod eviction;
mod eviction_state;
mod exempt_sets;
mod expiry;
mod expiry_state;
mod limits;
mod record_histograms;
mod spread;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;

use super::Namespace;
use crate::metrics::NamespaceCounter;

use eviction::{find_void_time, sweep_all};
pub(crate) use eviction_state::EvictionState;
use exempt_sets::ExemptSets;
use expiry::SweepCriteria;
pub(crate) use expiry_state::ExpiryState;
pub(crate) use limits::{IndexMemory, is_memory_breached, is_system_memory_short, watch_stop_writes};
pub(crate) use record_histograms::{RecordHistogram, RecordHistograms};
pub(crate) use spread::spread;

/// How often the supervisor checks whether something is due.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// A run that takes longer than this, and removes more than `TOO_MUCH_DELETED_PCT`, should have more threads.
const TOO_LONG: Duration = Duration::from_secs(2 * 60 * 60);
/// How often memory of the index is given back, and how much at once: 64 ms of the system's time.
const GIVE_BACK_PERIOD: Duration = Duration::from_secs(5);
const GIVE_BACK_BYTES: usize = 256 << 20;
const TOO_MUCH_DELETED_PCT: f64 = 1.0;

/// Makes all nodes evict records that expire before a void-time, or clear that time. Returns whether they agreed.
pub(crate) type AgreeEviction<'a> = &'a dyn Fn(Option<u32>) -> bool;

/// Body of the supervisor thread of a namespace; ends once `stopping` is set and the thread is unparked. `agree`
/// turns an eviction into an order to the eviction state of this namespace.
pub(crate) fn supervise(namespace: &Namespace, stopping: &AtomicBool, agree: AgreeEviction<'_>) {
    let params = &namespace.config().params;
    let is_time = |last: Instant, period: u32| last.elapsed() >= Duration::from_secs(period.into());
    let mut last_run = Instant::now();
    let mut last_histograms = None;
    let mut last_give_back = Instant::now();
    loop {
        std::thread::park_timeout(LOOK_PERIOD);
        if stopping.load(Acquire) {
            return;
        }
        cf::fault_point!("nsup");
        if last_give_back.elapsed() >= GIVE_BACK_PERIOD {
            last_give_back = Instant::now();
            namespace.index.give_back(GIVE_BACK_BYTES);
        }
        let histogram_period = params.nsup_hist_period.get();
        if histogram_period != 0 && last_histograms.is_none_or(|last| is_time(last, histogram_period)) {
            last_histograms = Some(Instant::now());
            collecting::collect_histograms(namespace, StoredMillis::now().seconds());
        }
        let period = params.nsup_period.get();
        if period == 0 || evict_if_ordered(namespace, StoredMillis::now().seconds()) {
            continue;
        }
        if is_time(last_run, period) {
            last_run = Instant::now();
            run(namespace, StoredMillis::now().seconds(), agree);
        }
    }
}

/// Runs every `nsup-period` seconds: evicts if a limit is breached, else removes expired records.
fn run(namespace: &Namespace, now_seconds: u32, agree: AgreeEviction<'_>) {
    if limits::is_eviction_due(namespace)
        && let Some(void_time) = find_void_time(namespace, now_seconds)
    {
        if void_time < namespace.eviction.void_time() {
            // Records with less time to live have been written since.
            let _ = agree(None);
            namespace.eviction.reset();
        }
        if !agree(Some(void_time)) {
            // This node needs room even if the others were not reached.
            namespace.eviction.order(void_time);
        }
        evict_if_ordered(namespace, now_seconds);
    } else {
        expire(namespace, now_seconds);
    }
}

/// Carries out an ordered eviction; returns whether there was one.
fn evict_if_ordered(namespace: &Namespace, now_seconds: u32) -> bool {
    let Some(void_time) = namespace.eviction.open_order() else { return false };
    if void_time < now_seconds {
        namespace.eviction.finish(void_time);
        cf::info!(
            Nsup,
            "{{{}}} evict-void-time {void_time} is over; 'eviction-reset' removes it",
            namespace.name()
        );
        return false;
    }
    evict(namespace, void_time, now_seconds);
    true
}

fn evict(namespace: &Namespace, void_time: u32, now_seconds: u32) {
    let before = namespace.eviction.void_time();
    namespace.eviction.begin(void_time, now_seconds);
    cf::info!(
        Nsup,
        "{{{}}} nsup-start: evict-threads {} evict-ttl {} evict-void-time ({before},{void_time})",
        namespace.name(),
        namespace.config().params.nsup_threads.get(),
        namespace.eviction.ttl()
    );
    sweep(namespace, now_seconds, void_time);
    namespace.eviction.finish(void_time);
}

fn expire(namespace: &Namespace, now_seconds: u32) {
    cf::info!(
        Nsup,
        "{{{}}} nsup-start: expire-threads {}",
        namespace.name(),
        namespace.config().params.nsup_threads.get()
    );
    sweep(namespace, now_seconds, 0);
}

/// Removes expired records and those to be evicted, keeps the figures of the run, and logs them.
fn sweep(namespace: &Namespace, now_seconds: u32, evict_before: u32) {
    let started = Instant::now();
    let exempt = ExemptSets::of(&namespace.sets);
    let threads = namespace.config().params.nsup_threads.get() as usize;
    let removed =
        sweep_all(namespace, &SweepCriteria { now_seconds, evict_before, exempt: &exempt }, threads);
    let (duration, objects) = (started.elapsed(), namespace.object_count());
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let deleted_pct100 =
        removed.all().saturating_mul(10_000).checked_div(objects + removed.all()).unwrap_or(0);
    namespace.nsup_cycle_duration_ms.store(millis, Relaxed);
    namespace.nsup_cycle_deleted_pct100.store(deleted_pct100, Relaxed);
    cf::info!(
        Nsup,
        "{{{}}} nsup-done: non-expirable {} expired ({},{}) evicted ({},{}) evict-ttl {} total-ms {millis}",
        namespace.name(),
        namespace.non_expirable_count(),
        namespace.metrics.get(NamespaceCounter::ExpiredObjects),
        removed.expired,
        namespace.metrics.get(NamespaceCounter::EvictedObjects),
        removed.evicted,
        namespace.eviction.ttl()
    );
    if duration > TOO_LONG && namespace.nsup_cycle_deleted_pct() > TOO_MUCH_DELETED_PCT {
        cf::warning!(
            Nsup,
            "{{{}}} nsup took {} minutes to remove {:.2}% of the records: raise nsup-threads",
            namespace.name(),
            duration.as_secs() / 60,
            namespace.nsup_cycle_deleted_pct()
        );
    }
}
