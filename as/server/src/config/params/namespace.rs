//! Parameters of the `namespace` context and those inside it, except its storage engine.

use crate::config::setting::{Choice, Flag, List, Number, choices};
use crate::config::spec::variant::{FLASH, PMEM};
use crate::config::spec::{
    any_seconds, any_u32, any_u64, boolean, choice, number, params, paths, pct_or_off, power_of_2, seconds,
    seconds_or_never, size, size_power_of_2,
};

/// Longest time to live that may be asked for: ten years, in seconds.
pub const TTL_SECONDS_MAX: u32 = 10 * 365 * 24 * 60 * 60;

choices! {
    /// Which of two versions of a record wins.
    pub enum ConflictResolutionPolicy {
        /// The one written more often.
        Generation = "generation",
        /// The one written last.
        LastUpdateTime = "last-update-time",
    }

    /// How many replicas a read asks, whatever the client says.
    pub enum ReadConsistencyLevel {
        /// As many as there are.
        All = "all",
        /// As the client says.
        Off = "off",
        /// One.
        One = "one",
    }

    /// How many replicas have a write before it is acknowledged, whatever the client says.
    pub enum WriteCommitLevel {
        /// All.
        All = "all",
        /// The master only.
        Master = "master",
        /// As the client says.
        Off = "off",
    }
}

params! {
    /// The `namespace` context.
    pub struct NamespaceParams {
        /// Rack that holds all masters; 0 means none does.
        active_rack: Number<u32> = 0, number("active-rack", 0, 1_000_000).dynamic().enterprise();
        /// Allows records that expire although nsup-period is 0, so that nothing removes them.
        allow_ttl_without_nsup: Flag = false, boolean("allow-ttl-without-nsup").dynamic();
        /// Lets a write make a record expire earlier than it would have; without it such a write leaves the time as it is.
        apply_ttl_reductions: Flag = true, boolean("apply-ttl-reductions").dynamic().hidden();
        /// Revives dead partitions at start.
        auto_revive: Flag = false, boolean("auto-revive").enterprise().later();
        /// Records per second that one background query may change.
        background_query_max_rps: Number<u32> = 10_000,
            number("background-query-max-rps", 1, 1_000_000).dynamic();
        /// Which of two versions of a record wins.
        conflict_resolution_policy: Choice<ConflictResolutionPolicy> = ConflictResolutionPolicy::Generation,
            choice::<ConflictResolutionPolicy>("conflict-resolution-policy").dynamic();
        /// Resolves conflicts bin by bin between clusters.
        conflict_resolve_writes: Flag = false, boolean("conflict-resolve-writes").dynamic().enterprise().later();
        /// Share of a record's time to live, in percent, within which a read renews it; 0 means never.
        default_read_touch_ttl_pct: Number<u32> = 0, number("default-read-touch-ttl-pct", 0, 100).dynamic();
        /// Time to live of records whose writer gives none; 0 means that they never expire.
        default_ttl: Number<u32> = 0, seconds("default-ttl", 0, TTL_SECONDS_MAX).dynamic();
        /// Does not evict records while starting.
        disable_cold_start_eviction: Flag = false, boolean("disable-cold-start-eviction");
        /// Refuses writes of multi-record transactions.
        disable_mrt_writes: Flag = false, boolean("disable-mrt-writes").dynamic().enterprise().later();
        /// Writes without first asking other nodes for newer versions of the record.
        disable_write_dup_res: Flag = false, boolean("disable-write-dup-res").dynamic();
        /// Refuses deletes that leave no tombstone.
        disallow_expunge: Flag = false, boolean("disallow-expunge").dynamic().enterprise().later();
        /// Refuses writes to records outside any set.
        disallow_null_setname: Flag = false, boolean("disallow-null-setname").dynamic();
        /// Measures the steps of batch sub-requests.
        enable_benchmarks_batch_sub: Flag = false, boolean("enable-benchmarks-batch-sub").dynamic();
        /// Measures the steps of operations of background queries.
        enable_benchmarks_ops_sub: Flag = false, boolean("enable-benchmarks-ops-sub").dynamic();
        /// Measures the steps of reads.
        enable_benchmarks_read: Flag = false, boolean("enable-benchmarks-read").dynamic();
        /// Measures the steps of UDF calls.
        enable_benchmarks_udf: Flag = false, boolean("enable-benchmarks-udf").dynamic();
        /// Measures the steps of UDF calls of background queries.
        enable_benchmarks_udf_sub: Flag = false, boolean("enable-benchmarks-udf-sub").dynamic();
        /// Measures the steps of writes.
        enable_benchmarks_write: Flag = false, boolean("enable-benchmarks-write").dynamic();
        /// Leaves a tombstone for every delete, as if each asked for a durable one, so that no older copy of a deleted
        /// record comes back at the next start. Not known to the C server.
        durable_deletes: Flag = false, boolean("durable-deletes").dynamic().hidden();
        /// Measures requests passed on to other nodes.
        enable_hist_proxy: Flag = false, boolean("enable-hist-proxy").dynamic();
        /// Steps into which eviction divides the range of times to live.
        evict_hist_buckets: Number<u32> = 10_000, number("evict-hist-buckets", 100, 10_000_000).dynamic();
        /// Evicts when the indexes fill more than this share of indexes-memory-budget, in percent; 0 means never.
        evict_indexes_memory_pct: Number<u32> = 0, number("evict-indexes-memory-pct", 0, 100).dynamic();
        /// Records to evict in one round, in tenths of a percent.
        evict_tenths_pct: Number<u32> = 5, any_u32("evict-tenths-pct").dynamic();
        /// Treats every query as a long one.
        force_long_queries: Flag = false, boolean("force-long-queries").dynamic().not_in_file();
        /// Fills this namespace's partitions without waiting for migrate-fill-delay.
        ignore_migrate_fill_delay: Flag = false, boolean("ignore-migrate-fill-delay").dynamic().enterprise();
        /// Memory by which the primary index grows at a time.
        index_stage_size: Number<u64> = 1 << 30, size_power_of_2("index-stage-size", 1 << 27, 1 << 30);
        /// Memory that primary, secondary and set indexes together should use; 0 means no limit.
        indexes_memory_budget: Number<u64> = 0, size("indexes-memory-budget", 0, u64::MAX).dynamic();
        /// Runs short queries on the service threads.
        inline_short_queries: Flag = false, boolean("inline-short-queries").dynamic();
        /// Greatest size of a record.
        max_record_size: Number<u32> = 1 << 20, size("max-record-size", 64, 8 << 20).dynamic();
        /// Rank among namespaces when partitions are sent, 1 first, 10 last.
        migrate_order: Number<u32> = 5, number("migrate-order", 1, 10).dynamic();
        /// Milliseconds before a record that was sent is sent again.
        migrate_retransmit_ms: Number<u32> = 5_000, any_u32("migrate-retransmit-ms").dynamic();
        /// Leaves out records that cannot be read when partitions are sent.
        migrate_skip_unreadable: Flag = false, boolean("migrate-skip-unreadable").dynamic();
        /// Microseconds to sleep after each record that is sent.
        migrate_sleep: Number<u32> = 1, any_u32("migrate-sleep").dynamic();
        /// Seconds a multi-record transaction may take.
        mrt_duration: Number<u32> = 0, seconds("mrt-duration", 1, 120).dynamic().enterprise().later()
            .note("10 with strong-consistency");
        /// Seconds between histograms of sizes and times to live; 0 means none.
        nsup_hist_period: Number<u32> = 3_600, any_seconds("nsup-hist-period").dynamic();
        /// Seconds between searches for expired records; 0 means none, so that nothing expires or is evicted.
        nsup_period: Number<u32> = 0, any_seconds("nsup-period").dynamic();
        /// Threads that search for expired records.
        nsup_threads: Number<u32> = 1, number("nsup-threads", 1, 128).dynamic();
        /// Trees into which the primary index of each partition is divided.
        partition_tree_sprigs: Number<u32> = 256, power_of_2("partition-tree-sprigs", 256, 1 << 28);
        /// Spreads partitions evenly instead of moving as few as possible.
        prefer_uniform_balance: Flag = false, boolean("prefer-uniform-balance").dynamic().enterprise();
        /// Rack in which this node stands; 0 means none.
        rack_id: Number<u32> = 0, number("rack-id", 0, 1_000_000).dynamic().enterprise();
        /// Replicas that a read asks: all, one, or off for what the client says.
        read_consistency_level_override: Choice<ReadConsistencyLevel> = ReadConsistencyLevel::Off,
            choice::<ReadConsistencyLevel>("read-consistency-level-override").dynamic();
        /// Refuses writes of clients other than XDR.
        reject_non_xdr_writes: Flag = false, boolean("reject-non-xdr-writes").dynamic();
        /// Refuses writes of XDR.
        reject_xdr_writes: Flag = false, boolean("reject-xdr-writes").dynamic();
        /// Copies of each record in the cluster, the master included.
        replication_factor: Number<u32> = 2, number("replication-factor", 1, 8).dynamic();
        /// Memory by which secondary indexes of the C server grow at a time; here each grows by a few entries.
        sindex_stage_size: Number<u64> = 1 << 30, size_power_of_2("sindex-stage-size", 1 << 27, 1 << 32).unsupported();
        /// Threads that one query may use.
        single_query_threads: Number<u32> = 4, number("single-query-threads", 1, 128).dynamic();
        /// Refuses writes when this share of the system's memory is in use, in percent; 0 means never.
        stop_writes_sys_memory_pct: Number<u32> = 90, number("stop-writes-sys-memory-pct", 0, 100).dynamic();
        /// Linearizable reads and writes. Not supported yet: true is refused.
        strong_consistency: Flag = false, boolean("strong-consistency").enterprise().later();
        /// Allows deletes that leave no tombstone although strong-consistency is on.
        strong_consistency_allow_expunge: Flag = false,
            boolean("strong-consistency-allow-expunge").dynamic().enterprise().later();
        /// Seconds after which a tombstone may be removed.
        tomb_raider_eligible_age: Number<u32> = 86_400,
            any_seconds("tomb-raider-eligible-age").dynamic().enterprise();
        /// Seconds between searches for tombstones that may be removed; 0 means none.
        tomb_raider_period: Number<u32> = 86_400, any_seconds("tomb-raider-period").dynamic().enterprise();
        /// Transactions that may wait for the same record; 0 means no limit.
        transaction_pending_limit: Number<u32> = 20, any_u32("transaction-pending-limit").dynamic();
        /// Threads that remove truncated records.
        truncate_threads: Number<u32> = 4, number("truncate-threads", 1, 128).dynamic();
        /// Replicas that have a write before it is acknowledged: all, master, or off for what the client says.
        write_commit_level_override: Choice<WriteCommitLevel> = WriteCommitLevel::Off,
            choice::<WriteCommitLevel>("write-commit-level-override").dynamic();
        /// Seconds that tombstones of bins are kept for other clusters.
        xdr_bin_tombstone_ttl: Number<u32> = 86_400,
            seconds("xdr-bin-tombstone-ttl", 0, TTL_SECONDS_MAX).dynamic().enterprise().later();
        /// Seconds between searches for tombstones that other clusters have seen; 0 means none.
        xdr_tomb_raider_period: Number<u32> = 120, any_seconds("xdr-tomb-raider-period").dynamic().enterprise().later();
        /// Threads that search for tombstones that other clusters have seen.
        xdr_tomb_raider_threads: Number<u32> = 1,
            number("xdr-tomb-raider-threads", 1, 128).dynamic().enterprise().later();
    }
}

params! {
    /// A `set` context. Shared between the configuration and the live set.
    pub struct SetParams {
        /// As the namespace's parameter; 0 means what the namespace says, −1 off.
        default_read_touch_ttl_pct: Number<u32> = 0, pct_or_off("default-read-touch-ttl-pct").dynamic();
        /// As the namespace's parameter; 0 means what the namespace says, −1 that records never expire.
        default_ttl: Number<u32> = 0, seconds_or_never("default-ttl", TTL_SECONDS_MAX).dynamic();
        /// Never evicts records of the set.
        disable_eviction: Flag = false, boolean("disable-eviction").dynamic();
        /// Keeps an index of the set's records, so that queries of small sets are fast.
        enable_index: Flag = false, boolean("enable-index").dynamic();
        /// Refuses new records when the set has this many; 0 means never.
        stop_writes_count: Number<u64> = 0, any_u64("stop-writes-count").dynamic();
        /// Refuses new records when those of the set take this many bytes; 0 means never.
        stop_writes_size: Number<u64> = 0, size("stop-writes-size", 0, u64::MAX).dynamic();
    }
}

params! {
    /// The `geo2dsphere-within` context: how regions are covered by cells.
    pub struct GeoParams {
        /// Checks points found in cells against the region itself.
        strict: Flag = true, boolean("strict");
        /// Level of the largest cells.
        min_level: Number<u16> = 1, number("min-level", 0, 30).dynamic();
        /// Level of the smallest cells.
        max_level: Number<u16> = 20, number("max-level", 0, 30).dynamic();
        /// Cells that may cover one region.
        max_cells: Number<u16> = 12, number("max-cells", 1, 256).dynamic();
        /// Step between the levels that are used.
        level_mod: Number<u16> = 1, number("level-mod", 1, 3);
        /// Radius of the earth in metres.
        earth_radius_meters: Number<u32> = 6_371_000, any_u32("earth-radius-meters");
    }
}

params! {
    /// An `index-type` or `sindex-type` context: where an index lives.
    pub struct IndexTypeParams {
        /// Directory the index lives in; may be repeated.
        mount: List<String> = [], paths("mount", 32).enterprise().only(PMEM | FLASH);
        /// Evicts when the index fills more than this share of mounts-budget, in percent; 0 means never.
        evict_mounts_pct: Number<u32> = 0, number("evict-mounts-pct", 0, 100).dynamic().enterprise().only(PMEM | FLASH);
        /// Room for the index in all its mounts; a primary index on flash needs at least 4G.
        mounts_budget: Number<u64> = 0,
            size("mounts-budget", 1 << 30, u64::MAX).dynamic().enterprise().only(PMEM | FLASH)
            .note("must be given");
    }
}
