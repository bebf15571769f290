//! The server's counters: one table for each scope, read by statistics and the exporter.
//!
//! Counters are sharded by thread (see [`cf::counters`]): counting costs a service thread one store to memory
//! of its own.

mod compression;
pub(crate) mod groups;
mod heap;
mod latency;
mod system;

use std::sync::Arc;

use cf::counters::Counters;
use proto::ResultCode;

pub(crate) use benchmarks::{Benchmark, BenchmarkStep, Benchmarks};
pub(crate) use compression::CompressionFigures;
pub(crate) use heap::Heap;
pub(crate) use latency::{Histogram, Unit};
pub(crate) use system::SystemUsage;

/// Declares an enum whose variants have names in statistics.
macro_rules! named {
    ($($(#[$meta:meta])* $visibility:vis enum $name:ident {
        $($(#[$vmeta:meta])* $variant:ident => $text:literal),+ $(,)?
    })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $visibility enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// All of them.
            pub(crate) const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Name, or part of a name, in statistics.
            pub(crate) const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    )+};
}

// This module uses the macro above.
mod benchmarks;

named! {
    /// Origin of an operation.
    pub(crate) enum Origin {
        /// A client, by a request of its own.
        Client => "client",
        /// A client that ships changes of another cluster; counted in addition to `Client`.
        XdrClient => "xdr_client",
        /// A client, through another node.
        FromProxy => "from_proxy",
        /// As `XdrClient`, through another node; counted in addition to `FromProxy`.
        XdrFromProxy => "xdr_from_proxy",
        /// A client, as one row of a batch.
        BatchSub => "batch_sub",
        /// A client, as one row of a batch, through another node.
        FromProxyBatchSub => "from_proxy_batch_sub",
        /// A background query that applies a UDF to each record.
        UdfSub => "udf_sub",
        /// A background query that applies operations to each record.
        OpsSub => "ops_sub",
    }

    /// Kind of an operation.
    pub(crate) enum Operation {
        /// Ended before its kind was known, or by a check common to all kinds.
        Tsvc => "tsvc",
        /// Proxied to another node.
        Proxy => "proxy",
        Read => "read",
        Write => "write",
        Delete => "delete",
        Udf => "udf",
        /// The effect of a UDF on its record.
        LangRead => "lang_read",
        LangWrite => "lang_write",
        LangDelete => "lang_delete",
        /// A UDF that failed.
        Lang => "lang",
    }

    /// Outcome of an operation.
    pub(crate) enum Outcome {
        Success => "success",
        Error => "error",
        Timeout => "timeout",
        NotFound => "not_found",
        FilteredOut => "filtered_out",
    }

    /// Counters of a namespace beside those of its transactions.
    pub(crate) enum NamespaceCounter {
        FailXdrForbidden => "fail_xdr_forbidden",
        FailKeyBusy => "fail_key_busy",
        FailGeneration => "fail_generation",
        FailRecordTooBig => "fail_record_too_big",
        DeletedLastBin => "deleted_last_bin",
        ExpiredObjects => "expired_objects",
        EvictedObjects => "evicted_objects",
        ReadTouchSuccess => "read_touch_success",
        ReadTouchError => "read_touch_error",
        ReadTouchSkip => "read_touch_skip",
        PiQueryShortBasicComplete => "pi_query_short_basic_complete",
        PiQueryShortBasicError => "pi_query_short_basic_error",
        PiQueryShortBasicTimeout => "pi_query_short_basic_timeout",
        PiQueryLongBasicComplete => "pi_query_long_basic_complete",
        PiQueryLongBasicError => "pi_query_long_basic_error",
        PiQueryLongBasicAbort => "pi_query_long_basic_abort",
        PiQueryAggrComplete => "pi_query_aggr_complete",
        PiQueryAggrError => "pi_query_aggr_error",
        PiQueryAggrAbort => "pi_query_aggr_abort",
        PiQueryUdfBgComplete => "pi_query_udf_bg_complete",
        PiQueryUdfBgError => "pi_query_udf_bg_error",
        PiQueryUdfBgAbort => "pi_query_udf_bg_abort",
        PiQueryOpsBgComplete => "pi_query_ops_bg_complete",
        PiQueryOpsBgError => "pi_query_ops_bg_error",
        PiQueryOpsBgAbort => "pi_query_ops_bg_abort",
        SiQueryShortBasicComplete => "si_query_short_basic_complete",
        SiQueryShortBasicError => "si_query_short_basic_error",
        SiQueryShortBasicTimeout => "si_query_short_basic_timeout",
        SiQueryLongBasicComplete => "si_query_long_basic_complete",
        SiQueryLongBasicError => "si_query_long_basic_error",
        SiQueryLongBasicAbort => "si_query_long_basic_abort",
        SiQueryAggrComplete => "si_query_aggr_complete",
        SiQueryAggrError => "si_query_aggr_error",
        SiQueryAggrAbort => "si_query_aggr_abort",
        SiQueryUdfBgComplete => "si_query_udf_bg_complete",
        SiQueryUdfBgError => "si_query_udf_bg_error",
        SiQueryUdfBgAbort => "si_query_udf_bg_abort",
        SiQueryOpsBgComplete => "si_query_ops_bg_complete",
        SiQueryOpsBgError => "si_query_ops_bg_error",
        SiQueryOpsBgAbort => "si_query_ops_bg_abort",
        /// Migrations that the receiver did not expect.
        MigratePartitionsImbalance => "migrate_tx_partitions_imbalance",
        MigrateRecordsTransmitted => "migrate_records_transmitted",
        MigrateRecordRetransmits => "migrate_record_retransmits",
        MigrateRecordReceives => "migrate_record_receives",
        /// Records that could not be read, and were therefore not sent.
        MigrateRecordsUnreadable => "migrate_records_unreadable",
        /// Nodes that were asked for newer copies of records.
        DupResAsk => "dup_res_ask",
        /// Answers to other nodes' questions for newer copies: those for which a record was read, and others.
        DupResRespondRead => "dup_res_respond_read",
        DupResRespondNoRead => "dup_res_respond_no_read",
        /// Messages that were resent to other nodes, by their purpose: questions for newer copies, and
        /// replica writes.
        RetransmitAllReadDupRes => "retransmit_all_read_dup_res",
        RetransmitAllWriteDupRes => "retransmit_all_write_dup_res",
        RetransmitAllDeleteDupRes => "retransmit_all_delete_dup_res",
        RetransmitAllUdfDupRes => "retransmit_all_udf_dup_res",
        RetransmitAllBatchSubReadDupRes => "retransmit_all_batch_sub_read_dup_res",
        RetransmitAllBatchSubWriteDupRes => "retransmit_all_batch_sub_write_dup_res",
        RetransmitAllBatchSubDeleteDupRes => "retransmit_all_batch_sub_delete_dup_res",
        RetransmitAllBatchSubUdfDupRes => "retransmit_all_batch_sub_udf_dup_res",
        RetransmitUdfSubDupRes => "retransmit_udf_sub_dup_res",
        RetransmitOpsSubDupRes => "retransmit_ops_sub_dup_res",
        RetransmitAllWriteReplWrite => "retransmit_all_write_repl_write",
        RetransmitAllDeleteReplWrite => "retransmit_all_delete_repl_write",
        RetransmitAllUdfReplWrite => "retransmit_all_udf_repl_write",
        RetransmitAllBatchSubWriteReplWrite => "retransmit_all_batch_sub_write_repl_write",
        RetransmitAllBatchSubDeleteReplWrite => "retransmit_all_batch_sub_delete_repl_write",
        RetransmitAllBatchSubUdfReplWrite => "retransmit_all_batch_sub_udf_repl_write",
        RetransmitUdfSubReplWrite => "retransmit_udf_sub_repl_write",
        RetransmitOpsSubReplWrite => "retransmit_ops_sub_repl_write",
        GeoRegionQueryReqs => "geo_region_query_reqs",
        GeoRegionQueryCells => "geo_region_query_cells",
        GeoRegionQueryPoints => "geo_region_query_points",
        GeoRegionQueryFalsepos => "geo_region_query_falsepos",
        /// Entries of secondary indexes that damaged records had left behind.
        SindexGcCleaned => "sindex_gc_cleaned",
    }

    /// The measured latencies of a namespace.
    pub(crate) enum Latency {
        Read => "read",
        Write => "write",
        Udf => "udf",
        BatchSubRead => "batch-sub-read",
        BatchSubWrite => "batch-sub-write",
        BatchSubUdf => "batch-sub-udf",
        PiQuery => "pi-query",
        SiQuery => "si-query",
        ReadTouch => "read-touch",
        /// Requests that another node carried out.
        Proxy => "proxy",
    }

    /// The measured latencies of the server.
    pub(crate) enum ServerLatency {
        BatchIndex => "batch-index",
        Info => "info",
    }

    pub(crate) enum ServerCounter {
        ClientConnectionsOpened => "client_connections_opened",
        ClientConnectionsClosed => "client_connections_closed",
        ReapedFds => "reaped_fds",
        InfoComplete => "info_complete",
        InfoTimeout => "info_timeout",
        DemarshalError => "demarshal_error",
        EarlyTsvcClientError => "early_tsvc_client_error",
        EarlyTsvcFromProxyError => "early_tsvc_from_proxy_error",
        EarlyTsvcFromProxyBatchSubError => "early_tsvc_from_proxy_batch_sub_error",
        BatchIndexInitiate => "batch_index_initiate",
        BatchIndexComplete => "batch_index_complete",
        BatchIndexError => "batch_index_error",
        BatchIndexTimeout => "batch_index_timeout",
        BatchIndexDelay => "batch_index_delay",
        /// Requests that waited because too many bytes of other replies were unread.
        RepliesPutOff => "unread_replies_put_off",
        /// Connections that were closed because they read nothing while others waited.
        UnreadConnectionsClosed => "unread_connections_closed",
        /// TLS handshakes that succeeded.
        TlsHandshakes => "tls_handshakes",
        /// TLS handshakes that failed for a reason other than time.
        TlsHandshakesFailed => "tls_handshakes_failed",
        TlsHandshakesTimedOut => "tls_handshakes_timed_out",
    }
}

impl Outcome {
    /// The outcome for a result of `operation`. Only reads and deletes distinguish "not found" from other
    /// errors.
    #[inline]
    pub(crate) fn of(operation: Operation, result: ResultCode) -> Self {
        match result {
            ResultCode::Ok => Outcome::Success,
            ResultCode::Timeout => Outcome::Timeout,
            ResultCode::FilteredOut => Outcome::FilteredOut,
            ResultCode::NotFound if matches!(operation, Operation::Read | Operation::Delete) => {
                Outcome::NotFound
            }
            _ => Outcome::Error,
        }
    }

    /// Name in statistics for `operation`. An operation that ends on another node or in a user's code is
    /// called complete.
    pub(crate) const fn name_for(self, operation: Operation) -> &'static str {
        match (self, operation) {
            (Outcome::Success, Operation::Udf | Operation::Proxy) => "complete",
            _ => self.name(),
        }
    }
}

const OPERATION_COUNT: usize = Operation::ALL.len();
const OUTCOME_COUNT: usize = Outcome::ALL.len();
const TRANSACTION_COUNTERS: usize = Origin::ALL.len() * OPERATION_COUNT * OUTCOME_COUNT;
const NAMESPACE_COUNTERS: usize = NamespaceCounter::ALL.len();
const SERVER_COUNTERS: usize = ServerCounter::ALL.len();

/// All counters and latencies of a namespace, including those of the steps of its transactions.
pub(crate) struct NamespaceMetrics {
    counters: Counters<{ TRANSACTION_COUNTERS + NAMESPACE_COUNTERS }>,
    latencies: [Histogram; Latency::ALL.len()],
    /// Number of records sent by each complete short query: by primary and by secondary index.
    pub(crate) query_rows: [Histogram; 2],
    pub(crate) benchmarks: Benchmarks,
    /// Compression of stored records.
    pub(crate) data_compression: Arc<CompressionFigures>,
    /// Compression of replies to requests for one record.
    pub(crate) record_compression: Arc<CompressionFigures>,
    /// Compression of replies to queries.
    pub(crate) query_compression: Arc<CompressionFigures>,
}

impl NamespaceMetrics {
    /// Zeros, with a shard for each of `thread_count` service threads.
    pub(crate) fn new(thread_count: usize) -> Self {
        NamespaceMetrics {
            counters: Counters::new(thread_count),
            latencies: std::array::from_fn(|_| Histogram::new(thread_count)),
            query_rows: std::array::from_fn(|_| Histogram::new(thread_count)),
            benchmarks: Benchmarks::new(thread_count),
            data_compression: Arc::default(),
            record_compression: Arc::default(),
            query_compression: Arc::default(),
        }
    }

    /// Counts a finished transaction.
    #[inline]
    pub(crate) fn count(&self, origin: Origin, operation: Operation, result: ResultCode) {
        self.counters.add(transaction_index(origin, operation, Outcome::of(operation, result)), 1);
    }

    /// Number of transactions with this outcome.
    pub(crate) fn transactions(&self, origin: Origin, operation: Operation, outcome: Outcome) -> u64 {
        self.counters.get(transaction_index(origin, operation, outcome))
    }

    #[inline]
    pub(crate) fn add(&self, counter: NamespaceCounter, amount: u64) {
        self.counters.add(TRANSACTION_COUNTERS + counter as usize, amount);
    }

    pub(crate) fn get(&self, counter: NamespaceCounter) -> u64 {
        self.counters.get(TRANSACTION_COUNTERS + counter as usize)
    }

    #[inline]
    pub(crate) fn latency(&self, latency: Latency) -> &Histogram {
        &self.latencies[latency as usize]
    }
}

#[inline]
const fn transaction_index(origin: Origin, operation: Operation, outcome: Outcome) -> usize {
    (origin as usize * OPERATION_COUNT + operation as usize) * OUTCOME_COUNT + outcome as usize
}

/// All counters of the server, and its latencies.
pub(crate) struct ServerMetrics {
    counters: Counters<SERVER_COUNTERS>,
    latencies: [Histogram; ServerLatency::ALL.len()],
    pub(crate) batch_rows: Histogram,
    /// Compression of replies to batches.
    pub(crate) batch_compression: Arc<CompressionFigures>,
}

impl ServerMetrics {
    /// Zeros, with a shard for each of `thread_count` service threads.
    pub(crate) fn new(thread_count: usize) -> Self {
        ServerMetrics {
            counters: Counters::new(thread_count),
            latencies: std::array::from_fn(|_| Histogram::new(thread_count)),
            batch_rows: Histogram::new(thread_count),
            batch_compression: Arc::default(),
        }
    }

    #[inline]
    pub(crate) fn add(&self, counter: ServerCounter, amount: u64) {
        self.counters.add(counter as usize, amount);
    }

    pub(crate) fn get(&self, counter: ServerCounter) -> u64 {
        self.counters.get(counter as usize)
    }

    pub(crate) fn latency(&self, latency: ServerLatency) -> &Histogram {
        &self.latencies[latency as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_place_of_its_own() {
        let metrics = NamespaceMetrics::new(1);
        metrics.count(Origin::Client, Operation::Write, ResultCode::NotFound);
        metrics.count(Origin::XdrClient, Operation::Delete, ResultCode::FilteredOut);
        metrics.add(NamespaceCounter::FailXdrForbidden, 3);
        assert_eq!(metrics.transactions(Origin::Client, Operation::Write, Outcome::Error), 1);
        assert_eq!(metrics.transactions(Origin::Client, Operation::Write, Outcome::NotFound), 0);
        assert_eq!(metrics.transactions(Origin::XdrClient, Operation::Delete, Outcome::FilteredOut), 1);
        assert_eq!(metrics.get(NamespaceCounter::FailXdrForbidden), 3);
        assert_eq!(metrics.get(NamespaceCounter::FailKeyBusy), 0);
    }
}
