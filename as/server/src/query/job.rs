//! Figures of each query while it runs, and of a long one for a while after it has ended: `query-show`, `query-abort`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use proto::ResultCode;

use super::request::{Query, QueryKind, SOCKET_TIMEOUT_DEFAULT_MS};
use crate::metrics::NamespaceCounter;
use crate::sindex::SecondaryIndex;

/// Size of a message without fields and operations, with its frame.
const LAST_MESSAGE_SIZE: usize = 30;

/// The end of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Complete,
    /// A short query took too long.
    TimedOut,
    /// It was aborted on request, or the server stops.
    Aborted,
    /// The client is gone.
    ClientGone,
    /// The client does not read.
    Unread,
    /// Its index was dropped.
    IndexDropped,
    /// A partition went to another node while a function processed its records.
    PartitionLost,
    /// The user has lost the right; the result is the one that a new query would get.
    Refused(ResultCode),
    /// Its function failed, its records cannot be written to disk before their replies, or the server has a
    /// bug.
    Failed,
}

impl End {
    /// The result code of the last reply.
    pub(super) fn result(self) -> ResultCode {
        match self {
            End::Complete => ResultCode::Ok,
            End::TimedOut => ResultCode::Timeout,
            End::Aborted | End::ClientGone | End::Unread => ResultCode::QueryAborted,
            End::IndexDropped => ResultCode::IndexNotFound,
            End::PartitionLost => ResultCode::Unavailable,
            End::Refused(result) => result,
            End::Failed => ResultCode::Unknown,
        }
    }

    /// The counter of queries of a sort with this end.
    pub(super) fn counter(self, sort: Sort) -> NamespaceCounter {
        use NamespaceCounter as C;
        let counters = match (sort.is_secondary, sort.kind) {
            (false, JobKind::ShortBasic) => {
                [C::PiQueryShortBasicComplete, C::PiQueryShortBasicError, C::PiQueryShortBasicTimeout]
            }
            (false, JobKind::Basic) => {
                [C::PiQueryLongBasicComplete, C::PiQueryLongBasicError, C::PiQueryLongBasicAbort]
            }
            (false, JobKind::Operations) => {
                [C::PiQueryOpsBgComplete, C::PiQueryOpsBgError, C::PiQueryOpsBgAbort]
            }
            (false, JobKind::Function) => {
                [C::PiQueryUdfBgComplete, C::PiQueryUdfBgError, C::PiQueryUdfBgAbort]
            }
            (false, JobKind::Aggregation) => {
                [C::PiQueryAggrComplete, C::PiQueryAggrError, C::PiQueryAggrAbort]
            }
            (true, JobKind::Aggregation) => {
                [C::SiQueryAggrComplete, C::SiQueryAggrError, C::SiQueryAggrAbort]
            }
            (true, JobKind::Function) => {
                [C::SiQueryUdfBgComplete, C::SiQueryUdfBgError, C::SiQueryUdfBgAbort]
            }
            (true, JobKind::ShortBasic) => {
                [C::SiQueryShortBasicComplete, C::SiQueryShortBasicError, C::SiQueryShortBasicTimeout]
            }
            (true, JobKind::Basic) => {
                [C::SiQueryLongBasicComplete, C::SiQueryLongBasicError, C::SiQueryLongBasicAbort]
            }
            (true, JobKind::Operations) => {
                [C::SiQueryOpsBgComplete, C::SiQueryOpsBgError, C::SiQueryOpsBgAbort]
            }
        };
        match self {
            End::Complete => counters[0],
            End::ClientGone | End::Unread | End::IndexDropped | End::PartitionLost | End::Failed => {
                counters[1]
            }
            // A short query is aborted only by the end of the server or of its user's right. A long query is never
            // late.
            End::TimedOut | End::Aborted | End::Refused(_) => counters[2],
        }
    }

    fn word(self) -> &'static str {
        match self {
            End::Complete => "ok",
            End::TimedOut | End::IndexDropped | End::PartitionLost | End::Refused(_) | End::Failed => {
                "abandoned-unknown"
            }
            End::Aborted => "user-aborted",
            End::ClientGone => "abandoned-response-error",
            End::Unread => "abandoned-response-timeout",
        }
    }
}

/// The work of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JobKind {
    ShortBasic,
    Basic,
    Aggregation,
    Operations,
    Function,
}

/// The sorts of queries, which are counted separately.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sort {
    pub(super) is_secondary: bool,
    pub(super) kind: JobKind,
}

impl Sort {
    pub(super) fn of(query: &Query) -> Self {
        let kind = match &query.kind {
            QueryKind::Operations(operations) if operations.function.is_some() => JobKind::Function,
            QueryKind::Operations(_) => JobKind::Operations,
            QueryKind::Aggregation(_) => JobKind::Aggregation,
            QueryKind::Basic(_) if query.is_short() => JobKind::ShortBasic,
            QueryKind::Basic(_) => JobKind::Basic,
        };
        Sort { is_secondary: query.condition.is_some(), kind }
    }
}

/// A query as info commands show it.
pub(crate) struct Job {
    /// The client's number of the query, or one of ours.
    pub(super) id: u64,
    namespace: String,
    set: String,
    /// Name of the index, if one is used.
    index_name: Option<Arc<str>>,
    pub(super) sort: Sort,
    /// Module and name of the function that is applied; empty without one.
    function: (String, String),
    /// Whether the client named partitions.
    has_parts: bool,
    partition_count: usize,
    digest_count: usize,
    records_per_second: u32,
    client: SocketAddr,
    socket_timeout: Option<Duration>,
    started: Instant,
    ended: OnceLock<(Instant, End)>,
    /// Whether it was asked to end.
    pub(super) is_aborted: AtomicBool,
    pub(super) active_threads: AtomicUsize,
    pub(super) partitions_done: AtomicU64,
    pub(super) records_sent: AtomicU64,
    /// Number of records that count for the rate limit, if there is one.
    pub(super) records_throttled: AtomicU64,
    pub(super) records_failed: AtomicU64,
    /// Number of records that the filter rejected, before and after reading them.
    pub(super) records_filtered_by_metadata: AtomicU64,
    pub(super) records_filtered_by_bins: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    /// Nanoseconds spent waiting for the client to take replies.
    pub(super) send_nanos: AtomicU64,
}

impl Job {
    /// The job of `query`, which `client` sent.
    pub(super) fn new(query: &Query, client: SocketAddr) -> Self {
        let index = query.condition.as_ref().and_then(|condition| condition.index());
        Job {
            id: query.id,
            namespace: query.namespace.name().to_owned(),
            set: String::from_utf8_lossy(&query.set_name).into_owned(),
            index_name: index.map(SecondaryIndex::name),
            sort: Sort::of(query),
            function: match &query.kind {
                QueryKind::Operations(operations) => operations.function.clone().unwrap_or_default(),
                QueryKind::Basic(_) | QueryKind::Aggregation(_) => Default::default(),
            },
            has_parts: query.has_parts,
            partition_count: query.parts.len(),
            digest_count: query.parts.iter().filter(|part| part.after.is_some()).count(),
            records_per_second: query.records_per_second,
            client,
            socket_timeout: query.socket_timeout,
            started: Instant::now(),
            ended: OnceLock::new(),
            is_aborted: AtomicBool::new(false),
            active_threads: AtomicUsize::new(1),
            partitions_done: AtomicU64::new(0),
            records_sent: AtomicU64::new(0),
            records_throttled: AtomicU64::new(0),
            records_failed: AtomicU64::new(0),
            records_filtered_by_metadata: AtomicU64::new(0),
            records_filtered_by_bins: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            send_nanos: AtomicU64::new(0),
        }
    }

    /// Counts records that an aggregation will read.
    pub(super) fn count_collected(&self, count: u64) {
        self.records_sent.fetch_add(count, Relaxed);
        if self.records_per_second != 0 {
            self.records_throttled.fetch_add(count, Relaxed);
        }
    }

    /// Counts a record that cannot be read.
    pub(super) fn count_failed(&self) {
        self.records_failed.fetch_add(1, Relaxed);
    }

    /// Counts the last message to the client.
    pub(super) fn count_last_message(&self, end: End) {
        if !matches!(end, End::ClientGone | End::Unread) {
            self.bytes_sent.fetch_add(LAST_MESSAGE_SIZE as u64, Relaxed);
        }
    }

    /// Notes how the query ended.
    pub(super) fn end(&self, end: End) {
        // It ends once, so the cell is empty.
        let _ = self.ended.set((Instant::now(), end));
    }
}

impl fmt::Display for Job {
    /// The row of `query-show`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = Instant::now();
        let (until, status, word) = match self.ended.get() {
            Some((at, end)) => (*at, "done", end.word()),
            None if self.is_aborted.load(Relaxed) => (now, "active", End::Aborted.word()),
            None => (now, "active", "ok"),
        };
        let progress = self.partitions_done.load(Relaxed) as f64 * 100.0 / self.partition_count.max(1) as f64;
        write!(out, "trid={}:ns={}", self.id, self.namespace)?;
        if !self.set.is_empty() {
            write!(out, ":set={}", self.set)?;
        }
        if let Some(name) = &self.index_name {
            write!(out, ":sindex-name={name}")?;
        }
        if self.has_parts {
            write!(
                out,
                ":n-pids-requested={}:n-keyds-requested={}",
                self.partition_count, self.digest_count
            )?;
        }
        write!(
            out,
            ":rps={}:active-threads={}:status={status}({word}):job-progress={progress:.2}:run-time={}\
             :time-since-done={}",
            self.records_per_second,
            self.active_threads.load(Relaxed),
            (until - self.started).as_millis(),
            (now - until).as_millis()
        )?;
        write!(
            out,
            ":recs-throttled={}:recs-filtered-meta={}:recs-filtered-bins={}:recs-succeeded={}:recs-failed={}:from={}",
            self.records_throttled.load(Relaxed),
            self.records_filtered_by_metadata.load(Relaxed),
            self.records_filtered_by_bins.load(Relaxed),
            self.records_sent.load(Relaxed),
            self.records_failed.load(Relaxed),
            self.client.to_string().replace(':', "+"),
        )?;
        match self.sort.kind {
            JobKind::ShortBasic | JobKind::Basic | JobKind::Aggregation => write!(
                out,
                ":job-type={}:net-io-bytes={}:net-io-time={}:socket-timeout={}",
                if self.sort.kind == JobKind::Aggregation { "aggregation" } else { "basic" },
                self.bytes_sent.load(Relaxed),
                Duration::from_nanos(self.send_nanos.load(Relaxed)).as_millis(),
                self.socket_timeout.map_or(0, |timeout| timeout.as_millis())
            ),
            // The figures are those of the one message that the client got at the start.
            JobKind::Operations => write!(
                out,
                ":job-type=background-ops:net-io-bytes={LAST_MESSAGE_SIZE}\
                 :socket-timeout={SOCKET_TIMEOUT_DEFAULT_MS}:ops-active=0"
            ),
            JobKind::Function => write!(
                out,
                ":job-type=background-udf:net-io-bytes={LAST_MESSAGE_SIZE}\
                 :socket-timeout={SOCKET_TIMEOUT_DEFAULT_MS}:udf-filename={}:udf-function={}:udf-active=0",
                self.function.0, self.function.1
            ),
        }
    }
}
