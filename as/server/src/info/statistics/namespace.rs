//! Statistics of a namespace.

use std::sync::atomic::Ordering::Relaxed;

use cf::clock::StoredMillis;
use cluster::migration::MigrationLoad;
use cluster::node::Placement;

use super::Value::{self, Fixed, Flag, Number, Signed};
use crate::config::Engine;
use crate::info::request::Joined;
use crate::metrics::groups::{DELETE, Group, LANG, PROXY, READ, TSVC, UDF, WRITE, XDR_DELETE, XDR_WRITE};
use crate::metrics::{NamespaceCounter, Origin};
use crate::namespace::{IndexMemory, Namespace, PartitionFigures, RecordsByRole};
use crate::node::Node;
use crate::storage::{DeviceStats, DiskStats};

/// Values for the rows, read once so that related figures agree.
struct View<'a> {
    node: &'a Node,
    namespace: &'a Namespace,
    partitions: PartitionFigures,
    migrations: MigrationLoad,
    objects: u64,
    roles: RecordsByRole,
    placement: Placement,
    index_memory: IndexMemory,
    data_used: u64,
    data_total: u64,
}

/// One or several lines of the table.
enum Row {
    One(&'static str, fn(&View<'_>) -> Value),
    /// A figure that only some namespaces have.
    Some(&'static str, fn(&View<'_>) -> Option<Value>),
    Counter(NamespaceCounter),
    /// A group of transaction counters.
    Transactions(Origin, &'static [&'static Group]),
    /// Figures of each device.
    Devices,
    /// Figures of parts that this server does not have, or that do nothing on a single node.
    Idle(&'static [&'static str]),
}

use Origin::{BatchSub, Client, FromProxy, FromProxyBatchSub, OpsSub, UdfSub, XdrClient, XdrFromProxy};
use Row::{Counter, Devices, Idle, One, Transactions};

static ROWS: &[Row] = &[
    One("ns_cluster_size", |view| Number(view.node.cluster.size() as u64)),
    One("effective_replication_factor", |view| Number(view.partitions.replication_factor.into())),
    One("objects", |view| Number(view.objects)),
    One("tombstones", |view| Number(view.namespace.tombstone_count())),
    Idle(&["xdr_tombstones", "xdr_bin_cemeteries", "mrt_provisionals"]),
    One("master_objects", |view| Number(view.roles.master)),
    One("master_tombstones", |view| Number(view.namespace.tombstone_count())),
    One("prole_objects", |view| Number(view.roles.replica)),
    Idle(&["prole_tombstones"]),
    One("non_replica_objects", |view| Number(view.roles.other)),
    Idle(&["non_replica_tombstones", "unreplicated_records", "dead_partitions"]),
    One("unavailable_partitions", |view| Number(view.partitions.unavailable as u64)),
    Idle(&["auto_revived_partitions"]),
    One("clock_skew_stop_writes", |_| Flag(false)),
    One("stop_writes", |view| Flag(view.namespace.stop_writes.load(Relaxed))),
    One("hwm_breached", |view| Flag(view.namespace.eviction.is_limit_breached.load(Relaxed))),
    One("current_time", |_| Number(StoredMillis::now().seconds().into())),
    One("non_expirable_objects", |view| Number(view.namespace.non_expirable_count())),
    Counter(NamespaceCounter::ExpiredObjects),
    Counter(NamespaceCounter::EvictedObjects),
    One("evict_ttl", |view| Signed(view.namespace.eviction.ttl().into())),
    One("evict_void_time", |view| Number(view.namespace.eviction.void_time().into())),
    One("smd_evict_void_time", |view| Number(view.namespace.eviction.ordered_void_time().into())),
    One("nsup_cycle_duration", |view| Number(view.namespace.nsup_cycle_duration_ms.load(Relaxed) / 1000)),
    One("nsup_cycle_deleted_pct", |view| Fixed(view.namespace.nsup_cycle_deleted_pct(), 2)),
    Idle(&["nsup_xdr_key_busy"]),
    One("truncate_lut", |view| Number(view.namespace.truncation.of_namespace.last_update_time())),
    One("truncating", |view| Flag(view.namespace.truncation.of_namespace.is_removing())),
    Counter(NamespaceCounter::SindexGcCleaned),
    Idle(&["mrt_monitors_active", "xmem_id"]),
    One("index_used_bytes", |view| Number(view.index_memory.primary)),
    One("set_index_used_bytes", |view| Number(view.index_memory.sets)),
    One("sindex_used_bytes", |view| Number(view.index_memory.secondary)),
    Row::Some("indexes_memory_used_pct", |view| {
        view.index_memory.pct_of(view.namespace.config().params.indexes_memory_budget.get()).map(Number)
    }),
    One("data_total_bytes", |view| Number(view.data_total)),
    One("data_used_bytes", |view| Number(view.data_used)),
    One("data_used_pct", |view| Number(view.data_used * 100 / view.data_total.max(1))),
    One("data_avail_pct", |view| Number(view.namespace.storage.available_pct().into())),
    One("data_compression_ratio", |view| Fixed(view.namespace.metrics.data_compression.ratio(), 3)),
    Row::Some("failed_devices", |view| {
        view.namespace.storage.is_on_disk().then(|| Number(view.namespace.storage.failed_count() as u64))
    }),
    One("defrag_above_lwm", |view| Number(sum_of_devices(view, |device| device.defrag_above_lwm))),
    One("room_waits", |view| Number(sum_of_devices(view, |device| device.room_waits))),
    One("index_given_back_bytes", |view| Number(view.namespace.index.given_back_bytes())),
    One("data_given_back_bytes", |view| Number(sum_of_devices(view, |device| device.given_back_bytes))),
    Devices,
    One("record_proto_uncompressed_pct", |view| {
        Fixed(view.namespace.metrics.record_compression.uncompressed_pct(), 3)
    }),
    One("record_proto_compression_ratio", |view| Fixed(view.namespace.metrics.record_compression.ratio(), 3)),
    One("query_proto_uncompressed_pct", |view| {
        Fixed(view.namespace.metrics.query_compression.uncompressed_pct(), 3)
    }),
    One("query_proto_compression_ratio", |view| Fixed(view.namespace.metrics.query_compression.ratio(), 3)),
    One("pending_quiesce", |view| {
        let cluster = &view.node.cluster;
        Flag(view.node.config.service.stay_quiesced.get() || cluster.is_quiesce_pending.load(Relaxed))
    }),
    One("effective_is_quiesced", |view| {
        let own = view.node.cluster.node_id;
        Flag(view.placement.quiesced.iter().any(|node| node.0 == own))
    }),
    One("nodes_quiesced", |view| Number(view.placement.quiesced.len() as u64)),
    One("effective_prefer_uniform_balance", |view| Flag(view.placement.is_uniform)),
    One("effective_active_rack", |view| Number(view.placement.active_rack.into())),
    Counter(NamespaceCounter::MigratePartitionsImbalance),
    One("migrate_tx_instances", |view| Number(view.migrations.emigrations_known as u64)),
    One("migrate_rx_instances", |view| Number(view.migrations.immigrations_known as u64)),
    One("migrate_tx_partitions_active", |view| Number(view.migrations.emigrations as u64)),
    One("migrate_rx_partitions_active", |view| Number(view.migrations.immigrations as u64)),
    One("migrate_tx_partitions_initial", |view| Number(view.partitions.initial_emigrations)),
    One("migrate_tx_partitions_remaining", |view| Number(view.partitions.pending_emigrations)),
    One("migrate_tx_partitions_lead_remaining", |view| Number(view.partitions.pending_lead_emigrations)),
    One("migrate_rx_partitions_initial", |view| Number(view.partitions.initial_immigrations)),
    One("migrate_rx_partitions_remaining", |view| Number(view.partitions.pending_immigrations)),
    Idle(&["migrate_records_skipped"]),
    Counter(NamespaceCounter::MigrateRecordsTransmitted),
    Counter(NamespaceCounter::MigrateRecordRetransmits),
    Counter(NamespaceCounter::MigrateRecordReceives),
    Counter(NamespaceCounter::MigrateRecordsUnreadable),
    One("migrate_signals_active", |view| Number(view.migrations.signals as u64)),
    One("migrate_signals_remaining", |view| Number(view.migrations.signals_remaining as u64)),
    One("migrate_fresh_partitions", |view| Number(view.partitions.fresh as u64)),
    Idle(&["appeals_tx_active", "appeals_rx_active", "appeals_tx_remaining", "appeals_records_exonerated"]),
    Transactions(Client, &[&TSVC, &PROXY, &READ, &WRITE]),
    Transactions(XdrClient, &[&XDR_WRITE]),
    Transactions(Client, &[&DELETE]),
    Transactions(XdrClient, &[&XDR_DELETE]),
    Transactions(Client, &[&UDF, &LANG]),
    Transactions(FromProxy, &[&TSVC, &READ, &WRITE]),
    Transactions(XdrFromProxy, &[&XDR_WRITE]),
    Transactions(FromProxy, &[&DELETE]),
    Transactions(XdrFromProxy, &[&XDR_DELETE]),
    Transactions(FromProxy, &[&UDF, &LANG]),
    Transactions(BatchSub, &[&TSVC, &PROXY, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    Transactions(FromProxyBatchSub, &[&TSVC, &READ, &WRITE, &DELETE, &UDF, &LANG]),
    Transactions(UdfSub, &[&TSVC, &UDF, &LANG]),
    Transactions(OpsSub, &[&TSVC, &WRITE]),
    Counter(NamespaceCounter::DupResAsk),
    Counter(NamespaceCounter::DupResRespondRead),
    Counter(NamespaceCounter::DupResRespondNoRead),
    Counter(NamespaceCounter::RetransmitAllReadDupRes),
    Counter(NamespaceCounter::RetransmitAllWriteDupRes),
    Counter(NamespaceCounter::RetransmitAllDeleteDupRes),
    Counter(NamespaceCounter::RetransmitAllUdfDupRes),
    Counter(NamespaceCounter::RetransmitAllBatchSubReadDupRes),
    Counter(NamespaceCounter::RetransmitAllBatchSubWriteDupRes),
    Counter(NamespaceCounter::RetransmitAllBatchSubDeleteDupRes),
    Counter(NamespaceCounter::RetransmitAllBatchSubUdfDupRes),
    Counter(NamespaceCounter::RetransmitUdfSubDupRes),
    Counter(NamespaceCounter::RetransmitOpsSubDupRes),
    Idle(&["retransmit_all_read_repl_ping", "retransmit_all_batch_sub_read_repl_ping"]),
    Counter(NamespaceCounter::RetransmitAllWriteReplWrite),
    Counter(NamespaceCounter::RetransmitAllDeleteReplWrite),
    Counter(NamespaceCounter::RetransmitAllUdfReplWrite),
    Counter(NamespaceCounter::RetransmitAllBatchSubWriteReplWrite),
    Counter(NamespaceCounter::RetransmitAllBatchSubDeleteReplWrite),
    Counter(NamespaceCounter::RetransmitAllBatchSubUdfReplWrite),
    Counter(NamespaceCounter::RetransmitUdfSubReplWrite),
    Counter(NamespaceCounter::RetransmitOpsSubReplWrite),
    Counter(NamespaceCounter::PiQueryShortBasicComplete),
    Counter(NamespaceCounter::PiQueryShortBasicError),
    Counter(NamespaceCounter::PiQueryShortBasicTimeout),
    Counter(NamespaceCounter::PiQueryLongBasicComplete),
    Counter(NamespaceCounter::PiQueryLongBasicError),
    Counter(NamespaceCounter::PiQueryLongBasicAbort),
    Counter(NamespaceCounter::PiQueryAggrComplete),
    Counter(NamespaceCounter::PiQueryAggrError),
    Counter(NamespaceCounter::PiQueryAggrAbort),
    Counter(NamespaceCounter::PiQueryUdfBgComplete),
    Counter(NamespaceCounter::PiQueryUdfBgError),
    Counter(NamespaceCounter::PiQueryUdfBgAbort),
    Counter(NamespaceCounter::PiQueryOpsBgComplete),
    Counter(NamespaceCounter::PiQueryOpsBgError),
    Counter(NamespaceCounter::PiQueryOpsBgAbort),
    Counter(NamespaceCounter::SiQueryShortBasicComplete),
    Counter(NamespaceCounter::SiQueryShortBasicError),
    Counter(NamespaceCounter::SiQueryShortBasicTimeout),
    Counter(NamespaceCounter::SiQueryLongBasicComplete),
    Counter(NamespaceCounter::SiQueryLongBasicError),
    Counter(NamespaceCounter::SiQueryLongBasicAbort),
    Counter(NamespaceCounter::SiQueryAggrComplete),
    Counter(NamespaceCounter::SiQueryAggrError),
    Counter(NamespaceCounter::SiQueryAggrAbort),
    Counter(NamespaceCounter::SiQueryUdfBgComplete),
    Counter(NamespaceCounter::SiQueryUdfBgError),
    Counter(NamespaceCounter::SiQueryUdfBgAbort),
    Counter(NamespaceCounter::SiQueryOpsBgComplete),
    Counter(NamespaceCounter::SiQueryOpsBgError),
    Counter(NamespaceCounter::SiQueryOpsBgAbort),
    Counter(NamespaceCounter::GeoRegionQueryReqs),
    Counter(NamespaceCounter::GeoRegionQueryCells),
    Counter(NamespaceCounter::GeoRegionQueryPoints),
    Counter(NamespaceCounter::GeoRegionQueryFalsepos),
    Idle(&["read_touch_tsvc_error", "read_touch_tsvc_timeout"]),
    Counter(NamespaceCounter::ReadTouchSuccess),
    Counter(NamespaceCounter::ReadTouchError),
    Idle(&["read_touch_timeout"]),
    Counter(NamespaceCounter::ReadTouchSkip),
    Idle(&[
        "re_repl_tsvc_error",
        "re_repl_tsvc_timeout",
        "re_repl_success",
        "re_repl_error",
        "re_repl_timeout",
        "mrt_verify_read_success",
        "mrt_verify_read_error",
        "mrt_verify_read_timeout",
        "mrt_roll_forward_success",
        "mrt_roll_forward_error",
        "mrt_roll_forward_timeout",
        "mrt_monitor_roll_forward_success",
        "mrt_monitor_roll_forward_error",
        "mrt_monitor_roll_forward_timeout",
        "mrt_roll_back_success",
        "mrt_roll_back_error",
        "mrt_roll_back_timeout",
        "mrt_monitor_roll_back_success",
        "mrt_monitor_roll_back_error",
        "mrt_monitor_roll_back_timeout",
    ]),
    Counter(NamespaceCounter::FailXdrForbidden),
    Counter(NamespaceCounter::FailKeyBusy),
    Idle(&["fail_xdr_key_busy"]),
    Counter(NamespaceCounter::FailGeneration),
    Counter(NamespaceCounter::FailRecordTooBig),
    Idle(&[
        "fail_client_lost_conflict",
        "fail_xdr_lost_conflict",
        "fail_mrt_blocked",
        "fail_mrt_version_mismatch",
    ]),
    Counter(NamespaceCounter::DeletedLastBin),
    Idle(&["mrt_monitor_roll_tombstone_creates"]),
];

fn sum_of_devices(view: &View<'_>, figure: fn(&DeviceStats) -> u64) -> u64 {
    view.namespace.storage.device_stats().map(|device| figure(&device)).sum()
}

/// A figure of each device and its medium.
type Column = (&'static str, fn(&DeviceStats, &DiskStats) -> u64);

/// Columns of a memory stripe.
static STRIPE_COLUMNS: &[Column] = &[
    ("used_bytes", |stripe, _| stripe.used_bytes),
    ("free_wblocks", |stripe, _| stripe.free_wblocks as u64),
    ("writes", |stripe, _| stripe.writes),
    ("defrag_q", |stripe, _| stripe.defrag_queue as u64),
    ("defrag_reads", |stripe, _| stripe.defrag_reads),
    ("defrag_writes", |stripe, _| stripe.defrag_writes),
];
/// Further columns of a stripe with a file or device behind it.
static BACKING_COLUMNS: &[Column] = &[
    ("backing_write_q", |_, disk| disk.write_queue as u64),
    ("partial_writes", |_, disk| disk.partial_writes),
    ("defrag_partial_writes", |_, disk| disk.defrag_partial_writes),
];
/// Columns of a file or device.
static DISK_COLUMNS: &[Column] = &[
    ("used_bytes", |device, _| device.used_bytes),
    ("free_wblocks", |device, _| device.free_wblocks as u64),
    ("read_errors", |_, disk| disk.read_errors),
    ("write_q", |_, disk| disk.write_queue as u64),
    ("writes", |device, _| device.writes),
    ("partial_writes", |_, disk| disk.partial_writes),
    ("defrag_q", |device, _| device.defrag_queue as u64),
    ("defrag_reads", |device, _| device.defrag_reads),
    ("defrag_writes", |device, _| device.defrag_writes),
    ("defrag_partial_writes", |_, disk| disk.defrag_partial_writes),
];
/// Further columns of a file or device with a shadow, which is written together with it.
static SHADOW_COLUMNS: &[Column] = &[("shadow_write_q", |_, disk| disk.write_queue as u64)];
/// Shown as the used percentage of a device's life, which is unknown.
pub(in crate::info) const AGE_UNKNOWN: i64 = -1;

/// Writes all rows.
pub(in crate::info) fn write_namespace(node: &Node, namespace: &Namespace, out: &mut Joined<'_>) {
    let view = View {
        node,
        namespace,
        partitions: namespace.partitions.figures(),
        migrations: *namespace.migration_load.lock(),
        objects: namespace.object_count(),
        roles: namespace.records_by_role(),
        placement: node.cluster.placement(namespace.position()),
        index_memory: IndexMemory::of(namespace),
        data_used: namespace.storage.used_bytes(),
        data_total: namespace.storage.total_bytes(),
    };
    for row in ROWS {
        match row {
            One(key, value) => out.pair(key, value(&view)),
            Row::Some(key, value) => {
                if let Some(value) = value(&view) {
                    out.pair(key, value);
                }
            }
            Counter(counter) => out.pair(counter.name(), namespace.metrics.get(*counter)),
            Transactions(origin, groups) => write_transactions(namespace, *origin, groups, out),
            Devices => write_devices(namespace, out),
            Idle(keys) => keys.iter().for_each(|key| out.pair(key, 0)),
        }
    }
}

fn write_transactions(namespace: &Namespace, origin: Origin, groups: &[&Group], out: &mut Joined<'_>) {
    for group in groups {
        for ((operation, outcome), value) in
            group.members.iter().zip(group.values(&namespace.metrics, origin))
        {
            let (origin, outcome) = (origin.name(), outcome.name_for(*operation));
            out.pair(format_args!("{origin}_{}_{outcome}", operation.name()), value);
        }
    }
}

/// Writes the figures of each device, under the name that get-config shows for the device.
fn write_devices(namespace: &Namespace, out: &mut Joined<'_>) {
    let config = &namespace.config().storage;
    if config.engine == Engine::Device {
        out.pair("cache_read_pct", namespace.storage.cache_read_pct().round());
    }
    let kind = match config.engine {
        Engine::Memory => "stripe",
        _ if config.is_raw_device() => "device",
        _ => "file",
    };
    let has_shadows = config.backings().iter().any(|backing| backing.shadow.is_some());
    let tables: &[&[Column]] = match config.engine {
        Engine::Memory if config.is_backed() => &[STRIPE_COLUMNS, BACKING_COLUMNS],
        Engine::Memory => &[STRIPE_COLUMNS],
        _ if has_shadows => &[DISK_COLUMNS, SHADOW_COLUMNS],
        _ => &[DISK_COLUMNS],
    };
    for (at, device) in namespace.storage.device_stats().enumerate() {
        let disk = device.disk.unwrap_or_default();
        for (column, value) in tables.iter().copied().flatten() {
            out.pair(format_args!("storage-engine.{kind}[{at}].{column}"), value(&device, &disk));
        }
        if config.is_backed() {
            out.pair(format_args!("storage-engine.{kind}[{at}].age"), AGE_UNKNOWN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::groups::ORIGINS;

    #[test]
    fn every_counter_has_its_row() {
        let shown =
            |counter: &NamespaceCounter| ROWS.iter().any(|row| matches!(row, Counter(c) if c == counter));
        let hidden: Vec<_> = NamespaceCounter::ALL.iter().filter(|counter| !shown(counter)).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }

    #[test]
    fn statistics_and_ticker_show_the_same_groups() {
        for (origin, groups) in ORIGINS {
            let rows = ROWS.iter().filter_map(|row| match row {
                Transactions(of, groups) if of == origin => Some(*groups),
                _ => None,
            });
            let shown: Vec<_> = rows.flatten().map(|group| group.members).collect();
            assert_eq!(shown, groups.iter().map(|group| group.members).collect::<Vec<_>>(), "{origin:?}");
        }
    }
}
