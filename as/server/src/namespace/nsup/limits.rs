//! Limits of a namespace: when it evicts, and when it takes no writes.
//!
//! # Threads
//! One thread for the server checks every second whether a namespace must stop writes: a fast client fills a small
//! device in less than the ten seconds between the log's lines. When little memory is left it checks more often: in a
//! small container a fast client fills the rest within a second, and the system kills the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use cf::sys::facts::Memory;

use crate::config::model::NamespaceConfig;
use crate::index::ELEMENT_SIZE;
use crate::namespace::Namespace;

/// How often the stop-writes limits are checked.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// The shortest time between two checks.
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(20);
/// Bytes of memory that clients fill in a millisecond at most: a gigabyte a second.
const FILLED_A_MILLISECOND: u64 = 1 << 20;
/// The limits for memory, by their names in the log.
const SYSTEM_MEMORY: &str = "sys-memory";
const INDEXES_MEMORY: &str = "indexes-memory";
/// How often a lasting breach is logged.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Memory that the indexes of a namespace take, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexMemory {
    pub(crate) primary: u64,
    pub(crate) sets: u64,
    pub(crate) secondary: u64,
}

impl IndexMemory {
    pub(crate) fn of(namespace: &Namespace) -> Self {
        IndexMemory {
            primary: namespace.index.element_count() * ELEMENT_SIZE,
            sets: namespace.set_index_used_bytes(),
            secondary: namespace.sindex_used_bytes.load(Relaxed),
        }
    }

    pub(crate) fn all(self) -> u64 {
        self.primary + self.sets + self.secondary
    }

    /// Share of `indexes-memory-budget`, if there is one.
    pub(crate) fn pct_of(self, budget: u64) -> Option<u64> {
        self.all().saturating_mul(100).checked_div(budget)
    }
}

impl fmt::Display for IndexMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({} + {} + {})", self.all(), self.primary, self.sets, self.secondary)
    }
}

/// The quantities that have limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    pub(super) index: IndexMemory,
    pub(super) data_used_bytes: u64,
    pub(super) data_total_bytes: u64,
    pub(super) data_available_pct: u32,
}

impl Usage {
    pub(super) fn of(namespace: &Namespace) -> Self {
        Usage {
            index: IndexMemory::of(namespace),
            data_used_bytes: namespace.storage.used_bytes(),
            data_total_bytes: namespace.storage.total_bytes(),
            data_available_pct: namespace.storage.available_pct(),
        }
    }

    fn data_used_pct(&self) -> u64 {
        self.data_used_bytes.saturating_mul(100).checked_div(self.data_total_bytes).unwrap_or(0)
    }

    /// The usage without this many records that take this many bytes.
    pub(super) fn without(mut self, records: u64, bytes: u64) -> Self {
        self.index.primary = self.index.primary.saturating_sub(records * ELEMENT_SIZE);
        self.data_used_bytes = self.data_used_bytes.saturating_sub(bytes);
        self
    }

    /// The limits that ask for eviction, by their names in the log.
    pub(super) fn eviction_breaches(&self, config: &NamespaceConfig) -> Vec<&'static str> {
        let indexes_pct = self.index.pct_of(config.params.indexes_memory_budget.get()).unwrap_or(0);
        let is_at = |pct: u64, limit: u32| limit != 0 && pct >= u64::from(limit);
        let mut breaches = Vec::new();
        if is_at(indexes_pct, config.params.evict_indexes_memory_pct.get()) {
            breaches.push("indexes-memory");
        }
        if is_at(self.data_used_pct(), config.storage.params.evict_used_pct.get()) {
            breaches.push("data-used-pct");
        }
        breaches
    }

    /// The limits that forbid writes, by their names in the log.
    fn stop_writes_breaches(&self, config: &NamespaceConfig, memory_used_pct: u64) -> Vec<&'static str> {
        let (params, storage) = (&config.params, &config.storage.params);
        let budget = params.indexes_memory_budget.get();
        let used_limit = storage.stop_writes_used_pct.get();
        let mut breaches = Vec::new();
        if exceeds(memory_used_pct, params.stop_writes_sys_memory_pct.get()) {
            breaches.push(SYSTEM_MEMORY);
        }
        if budget != 0 && self.index.all() > budget {
            breaches.push(INDEXES_MEMORY);
        }
        if self.data_available_pct < storage.stop_writes_avail_pct.get() {
            breaches.push("data-avail-pct");
        }
        if used_limit != 0 && self.data_used_pct() >= u64::from(used_limit) {
            breaches.push("data-used-pct");
        }
        breaches
    }
}

/// Percentage of the memory in use, rounded up; 0 if the system does not report it.
fn used_pct(memory: &Memory) -> u64 {
    if memory.total == 0 { 0 } else { 100u64.saturating_sub(memory.available_pct()) }
}

/// Whether a limit asks for eviction; notes it in the log and in `hwm_breached`.
pub(super) fn is_eviction_due(namespace: &Namespace) -> bool {
    let (usage, config) = (Usage::of(namespace), namespace.config());
    let breaches = usage.eviction_breaches(config);
    namespace.eviction.is_limit_breached.store(!breaches.is_empty(), Relaxed);
    let (name, index, used_pct) = (namespace.name(), usage.index, usage.data_used_pct());
    let budget_pct = index.pct_of(config.params.indexes_memory_budget.get());
    let of_budget = budget_pct.map_or(String::new(), |pct| format!(" used-pct:{pct}"));
    if breaches.is_empty() {
        cf::debug!(
            Nsup,
            "{{{name}}} no eviction limit breached, indexes-memory sz:{index}{of_budget}, data used-pct:{used_pct}"
        );
        return false;
    }
    cf::warning!(
        Nsup,
        "{{{name}}} breached eviction limit ({}), indexes-memory sz:{index}{of_budget}, data used-pct:{used_pct}",
        breaches.join(" & ")
    );
    true
}

/// The last logged line about a namespace.
#[derive(Default)]
struct Said {
    breaches: Vec<&'static str>,
    at: Option<Instant>,
}

/// Decides whether the namespace may take writes. A breach is logged when it begins or changes, and every ten seconds.
fn judge_stop_writes(namespace: &Namespace, memory: &Memory, said: &mut Said) {
    let usage = Usage::of(namespace);
    let memory_pct = used_pct(memory);
    let breaches = usage.stop_writes_breaches(namespace.config(), memory_pct);
    namespace.stop_writes.store(!breaches.is_empty(), Relaxed);
    namespace.memory_breached.store(breaches.iter().any(is_of_memory), Relaxed);
    let is_news = breaches != said.breaches;
    if is_news || said.at.is_none_or(|at| at.elapsed() >= LOG_PERIOD) {
        let (name, index) = (namespace.name(), usage.index);
        let figures = format!(
            "sys-memory pct:{memory_pct}, indexes-memory sz:{index}, data avail-pct:{} used-pct:{}",
            usage.data_available_pct,
            usage.data_used_pct()
        );
        if !breaches.is_empty() {
            cf::warning!(Nsup, "{{{name}}} breached stop-writes limit ({}), {figures}", breaches.join(" & "));
        } else if is_news {
            cf::info!(Nsup, "{{{name}}} takes writes again, {figures}");
        } else {
            cf::debug!(Nsup, "{{{name}}} stop-writes limit not breached, {figures}");
        }
        *said = Said { breaches, at: Some(Instant::now()) };
    }
}

fn is_of_memory(breach: &&str) -> bool {
    [SYSTEM_MEMORY, INDEXES_MEMORY].contains(breach)
}

/// Whether a limit of memory that stops writes is breached now. The namespace's mark is of the last check.
pub(crate) fn is_memory_breached(namespace: &Namespace) -> bool {
    let usage = Usage::of(namespace);
    usage.stop_writes_breaches(namespace.config(), used_pct(&Memory::now())).iter().any(is_of_memory)
}

/// Whether more than `limit_pct` of the system's memory is in use; 0 = no limit.
pub(crate) fn is_system_memory_short(limit_pct: u32) -> bool {
    exceeds(used_pct(&Memory::now()), limit_pct)
}

fn exceeds(used_pct: u64, limit_pct: u32) -> bool {
    limit_pct != 0 && used_pct > u64::from(limit_pct)
}

/// Body of the thread that stops writes and lets them go on; ends once `stopping` is set and the thread is unparked.
pub(crate) fn watch_stop_writes(namespaces: &[Arc<Namespace>], stopping: &AtomicBool) {
    let mut said: Vec<Said> = namespaces.iter().map(|_| Said::default()).collect();
    while !stopping.load(Acquire) {
        cf::fault_point!("stop-writes");
        let memory = Memory::now();
        for (namespace, said) in namespaces.iter().zip(&mut said) {
            judge_stop_writes(namespace, &memory, said);
        }
        let limits =
            namespaces.iter().map(|namespace| namespace.config().params.stop_writes_sys_memory_pct.get());
        let period = limits.map(|limit_pct| look_period(&memory, limit_pct)).min().unwrap_or(LOOK_PERIOD);
        std::thread::park_timeout(period);
    }
}

/// The time until the next check, in which clients cannot fill the memory that is left below the limit.
fn look_period(memory: &Memory, limit_pct: u32) -> Duration {
    let limit = memory.total / 100 * u64::from(limit_pct);
    let used = memory.total.saturating_sub(memory.available);
    match limit.checked_sub(used) {
        Some(left) if limit != 0 => {
            Duration::from_millis(left / FILLED_A_MILLISECOND).clamp(LOOK_PERIOD_MIN, LOOK_PERIOD)
        }
        _ => LOOK_PERIOD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Arc<crate::config::Config> {
        crate::config::for_tests("namespace test {\n storage-engine memory {\n data-size 256M\n }\n}\n")
    }

    const USAGE: Usage = Usage {
        index: IndexMemory { primary: 640, sets: 0, secondary: 0 },
        data_used_bytes: 1_990,
        data_total_bytes: 10_000,
        data_available_pct: 50,
    };

    #[test]
    fn eviction_begins_at_its_limits() {
        let config = config();
        let namespace = &config.namespaces[0];
        let (params, storage) = (&namespace.params, &namespace.storage.params);
        let breaches = || USAGE.eviction_breaches(namespace).join(" & ");
        assert_eq!(breaches(), "", "no limit unless configured");
        storage.evict_used_pct.set(20);
        assert_eq!(breaches(), "");
        storage.evict_used_pct.set(19);
        assert_eq!(breaches(), "data-used-pct");
        params.evict_indexes_memory_pct.set(64);
        assert_eq!(breaches(), "data-used-pct", "without a budget there is no share of it");
        params.indexes_memory_budget.set(1_000);
        assert_eq!(breaches(), "indexes-memory & data-used-pct");
        params.indexes_memory_budget.set(1_001);
        assert_eq!(breaches(), "data-used-pct");
        assert!(USAGE.without(0, 91).eviction_breaches(namespace).is_empty());
        params.indexes_memory_budget.set(1_000);
        assert_eq!(USAGE.without(0, 91).eviction_breaches(namespace), ["indexes-memory"]);
        assert!(USAGE.without(1, 91).eviction_breaches(namespace).is_empty());
    }

    #[test]
    fn writes_stop_at_their_limits() {
        let config = config();
        let namespace = &config.namespaces[0];
        let (params, storage) = (&namespace.params, &namespace.storage.params);
        let breaches = |memory_pct| USAGE.stop_writes_breaches(namespace, memory_pct).join(" & ");
        assert_eq!(breaches(90), "");
        assert_eq!(breaches(91), "sys-memory");
        params.stop_writes_sys_memory_pct.set(0);
        assert_eq!(breaches(100), "");
        params.indexes_memory_budget.set(640);
        assert_eq!(breaches(0), "");
        params.indexes_memory_budget.set(639);
        assert_eq!(breaches(0), "indexes-memory");
        storage.stop_writes_used_pct.set(20);
        assert_eq!(breaches(0), "indexes-memory");
        storage.stop_writes_used_pct.set(19);
        storage.stop_writes_avail_pct.set(50);
        assert_eq!(breaches(0), "indexes-memory & data-used-pct");
        storage.stop_writes_avail_pct.set(51);
        params.stop_writes_sys_memory_pct.set(1);
        assert_eq!(breaches(2), "sys-memory & indexes-memory & data-avail-pct & data-used-pct");
        storage.stop_writes_avail_pct.set(0);
        storage.stop_writes_used_pct.set(0);
        assert_eq!(USAGE.stop_writes_breaches(namespace, 0), ["indexes-memory"]);
    }

    #[test]
    fn the_less_memory_is_left_below_the_limit_the_sooner_it_is_looked_at_again() {
        let period = |total: u64, available: u64, limit_pct| {
            let memory = Memory { total: total << 20, available: available << 20, huge_pages: 0 };
            look_period(&memory, limit_pct).as_millis()
        };
        assert_eq!(period(64_000, 30_000, 90), 1_000);
        // 270 MiB of 300 may be in use.
        assert_eq!(period(300, 300, 90), 270);
        assert_eq!(period(300, 130, 90), 100);
        assert_eq!(period(300, 35, 90), 20);
        assert_eq!(period(300, 20, 90), 1_000, "writes are stopped");
        assert_eq!(period(300, 35, 0), 1_000, "there is no limit");
        assert_eq!(period(0, 0, 90), 1_000, "the system does not tell");
    }

    #[test]
    fn memory_in_use_is_rounded_up_and_may_be_unknown() {
        let memory = |total, available| Memory { total, available, huge_pages: 0 };
        assert_eq!(used_pct(&memory(1000, 999)), 1);
        assert_eq!(used_pct(&memory(1000, 1000)), 0);
        assert_eq!(used_pct(&memory(1000, 0)), 100);
        assert_eq!(used_pct(&memory(0, 0)), 0);
    }
}
