//! What is known of a query while it runs, and of a long one for a while after it has ended: `query-show`, `query-abort`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proto::ResultCode;

use super::request::Query;
use crate::metrics::NamespaceCounter;

/// How a query ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Complete,
    /// A short query took too long.
    TimedOut,
    /// Somebody asked for it, or the server stops.
    Aborted,
    /// The client is gone or does not read.
    Unread,
    /// What should say which records it is for does not.
    BadFilter,
    /// Its records cannot be brought to disk before they are told of, or there is a bug of ours.
    Failed,
}

impl End {
    /// What the last reply says.
    pub(super) fn result(self) -> ResultCode {
        match self {
            End::Complete => ResultCode::Ok,
            End::TimedOut => ResultCode::Timeout,
            End::Aborted | End::Unread => ResultCode::QueryAborted,
            End::BadFilter => ResultCode::Parameter,
            End::Failed => ResultCode::Unknown,
        }
    }

    /// The counter of basic queries by primary index that end so.
    pub(super) fn counter(self, is_short: bool) -> NamespaceCounter {
        use NamespaceCounter as C;
        match (self, is_short) {
            (End::Complete, true) => C::PiQueryShortBasicComplete,
            (End::TimedOut, _) => C::PiQueryShortBasicTimeout,
            (_, true) => C::PiQueryShortBasicError,
            (End::Complete, false) => C::PiQueryLongBasicComplete,
            (End::Aborted, false) => C::PiQueryLongBasicAbort,
            (End::Unread | End::BadFilter | End::Failed, false) => C::PiQueryLongBasicError,
        }
    }

    fn word(self) -> &'static str {
        match self {
            End::Complete => "ok",
            End::TimedOut | End::BadFilter | End::Failed => "abandoned-unknown",
            End::Aborted => "user-aborted",
            End::Unread => "abandoned-response-error",
        }
    }
}

/// A query as others see it.
pub(crate) struct Job {
    /// The client's number of it, or one of ours.
    pub(super) id: u64,
    namespace: String,
    set: String,
    partition_count: usize,
    digest_count: usize,
    records_per_second: u32,
    client: SocketAddr,
    socket_timeout: Option<Duration>,
    started: Instant,
    ended: OnceLock<(Instant, End)>,
    /// Somebody asked to end it.
    pub(super) is_aborted: AtomicBool,
    pub(super) partitions_done: AtomicU64,
    pub(super) records_sent: AtomicU64,
    /// Records that count for the rate limit, if there is one.
    pub(super) records_throttled: AtomicU64,
    pub(super) records_failed: AtomicU64,
    /// Records that the filter kept back, without and after reading them.
    pub(super) records_filtered_by_metadata: AtomicU64,
    pub(super) records_filtered_by_bins: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    /// Nanoseconds in which the query waited for its replies to be taken.
    pub(super) send_nanos: AtomicU64,
}

impl Job {
    /// Of `query`, which `client` sent, under the number `id`.
    pub(super) fn new(query: &Query, id: u64, client: SocketAddr) -> Self {
        Job {
            id,
            namespace: query.namespace.name().to_owned(),
            set: String::from_utf8_lossy(&query.set_name).into_owned(),
            partition_count: query.parts.len(),
            digest_count: query.parts.iter().filter(|part| part.after.is_some()).count(),
            records_per_second: query.records_per_second,
            client,
            socket_timeout: query.socket_timeout,
            started: Instant::now(),
            ended: OnceLock::new(),
            is_aborted: AtomicBool::new(false),
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

    /// The query has ended.
    pub(super) fn end(&self, end: End) {
        // It ends once.
        let _ = self.ended.set((Instant::now(), end));
    }
}

impl fmt::Display for Job {
    /// The row of `query-show`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = Instant::now();
        let (until, status, word) = match self.ended.get() {
            Some((at, end)) => (*at, "done", end.word()),
            None => (now, "active", "ok"),
        };
        let progress = self.partitions_done.load(Relaxed) as f64 * 100.0 / self.partition_count.max(1) as f64;
        write!(out, "trid={}:ns={}", self.id, self.namespace)?;
        if !self.set.is_empty() {
            write!(out, ":set={}", self.set)?;
        }
        write!(
            out,
            ":n-pids-requested={}:n-keyds-requested={}:rps={}:active-threads={}:status={status}({word})\
             :job-progress={progress:.2}:run-time={}:time-since-done={}",
            self.partition_count,
            self.digest_count,
            self.records_per_second,
            u8::from(self.ended.get().is_none()),
            (until - self.started).as_millis(),
            (now - until).as_millis()
        )?;
        let sent = self.records_sent.load(Relaxed);
        let throttled = self.records_throttled.load(Relaxed);
        write!(
            out,
            ":recs-throttled={throttled}:recs-filtered-meta={}:recs-filtered-bins={}:recs-succeeded={sent}\
             :recs-failed={}:from={}:job-type=basic:net-io-bytes={}:net-io-time={}:socket-timeout={}",
            self.records_filtered_by_metadata.load(Relaxed),
            self.records_filtered_by_bins.load(Relaxed),
            self.records_failed.load(Relaxed),
            self.client.to_string().replace(':', "+"),
            self.bytes_sent.load(Relaxed),
            Duration::from_nanos(self.send_nanos.load(Relaxed)).as_millis(),
            self.socket_timeout.map_or(0, |timeout| timeout.as_millis())
        )
    }
}
