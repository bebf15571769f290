//! State that all transaction code uses: namespaces, settings, counters, registered functions and the pool.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::{Duration, Instant};

use proto::ResultCode;
use proto::message::{Request, field, info2};
use proto::reply::{self, ReplyHeader};

use super::pool::Pool;
use super::sink::ReplySink;
use super::wait::OwnedRequest;
use crate::config::Config;
use crate::metrics::{Operation, ServerMetrics};
use crate::namespace::Namespace;
use crate::udf::{Functions, TimeLimit};

/// Longest run of a function, whatever its client's time limit.
const FUNCTION_TIME_MAX: Duration = Duration::from_secs(10);

/// Whether a request for one record calls a function. Reads and deletes do not, whatever fields they have.
fn calls_function(request: &Request<'_>) -> bool {
    let is_change = request.info2 & info2::WRITE != 0 && request.info2 & info2::DELETE == 0;
    is_change && request.has_field(field::UDF_FILE)
}

/// How long a request may run that takes `time` at most, until `deadline`. A function that has begun by then may use that much
/// time of a processor: it does not matter for it what else the machine does, nor how long the request has waited.
pub(super) fn limit_of(request: &Request<'_>, time: Duration, deadline: Instant) -> TimeLimit {
    if calls_function(request) && Instant::now() < deadline {
        TimeLimit::of_processor(time.min(FUNCTION_TIME_MAX))
    } else {
        TimeLimit::until(deadline)
    }
}

/// State that all transaction code uses.
pub(crate) struct TransactionBase {
    pub(crate) config: Arc<Config>,
    pub(crate) namespaces: Arc<[Arc<Namespace>]>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// The functions that clients have registered.
    pub(crate) functions: Arc<Functions>,
    /// The threads for requests that are too long for a service thread.
    pub(crate) pool: Arc<Pool>,
    /// Whether the server stops: transactions that only read end soon.
    is_stopping: AtomicBool,
}

impl TransactionBase {
    pub(super) fn new(
        config: Arc<Config>,
        namespaces: Arc<[Arc<Namespace>]>,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        let mod_lua = &config.mod_lua;
        let folder = mod_lua.user_path.get().unwrap_or_default();
        let functions = Arc::new(Functions::new(Path::new(&*folder), mod_lua.cache_enabled.get()));
        let pool = Arc::new(Pool::new(&functions));
        TransactionBase { config, namespaces, metrics, functions, pool, is_stopping: AtomicBool::new(false) }
    }

    /// From now on, transactions that only read end soon, without an answer.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Release);
    }

    /// Whether the server stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Acquire)
    }

    /// How long `request` may take.
    pub(crate) fn time_max(&self, request: &Request<'_>) -> Duration {
        Duration::from_millis(match request.transaction_ttl_ms {
            0 => self.config.service.transaction_max_ms.get(),
            own => u64::from(own),
        })
    }

    /// The namespace that `request` names, if there is one.
    #[inline]
    pub(crate) fn known_namespace(&self, request: &Request<'_>) -> Option<&Arc<Namespace>> {
        self.namespace_called(request.namespace?)
    }

    /// The namespace called `name`, if there is one.
    #[inline]
    pub(super) fn namespace_called(&self, name: &[u8]) -> Option<&Arc<Namespace>> {
        self.namespaces.iter().find(|namespace| namespace.name().as_bytes() == name)
    }

    /// The namespace that `request` names. An unknown one is logged.
    #[inline]
    pub(super) fn namespace_of(&self, request: &Request<'_>) -> Option<&Arc<Namespace>> {
        let namespace = self.known_namespace(request);
        if namespace.is_none() {
            warn_of_namespace(request.namespace);
        }
        namespace
    }

    /// Queues `request` for a pool thread of its group.
    pub(crate) fn submit_to_pool(&self, request: OwnedRequest) {
        self.pool.submit(request);
    }

    /// Answers a request that was not carried out within its time.
    pub(super) fn answer_late(&self, owned: &OwnedRequest, result: ResultCode, out: &mut Vec<u8>) {
        let parsed = Request::parse(&owned.body).ok();
        if let Some(namespace) = parsed.as_ref().and_then(|request| self.known_namespace(request)) {
            namespace.metrics.count(owned.origin, Operation::Tsvc, result);
        }
        reply::write_header_only(out, &ReplyHeader::result(result));
    }

    /// The deadline of a request for one record. It does not include the time in which the request waited for room,
    /// unless the client has set the limit.
    pub(super) fn deadline_of(&self, request: &Request<'_>, owned: &OwnedRequest) -> Instant {
        let put_off = if request.transaction_ttl_ms == 0 { owned.waited } else { Duration::ZERO };
        owned.received + self.time_max(request) + put_off
    }

    /// Whether a request with this `limit` may continue; its reply goes to `sink`.
    pub(super) fn may_go_on(&self, request: &Request<'_>, limit: &TimeLimit, sink: &dyn ReplySink) -> bool {
        let only_reads = request.info2 & info2::WRITE == 0;
        let is_useless = only_reads && self.is_unheard(sink);
        !limit.is_over() && !is_useless
    }

    /// Whether there is no client for the results of reads for `sink`.
    pub(super) fn is_unheard(&self, sink: &dyn ReplySink) -> bool {
        self.is_stopping() || sink.is_closed()
    }
}

/// Finds the namespaces of successive requests. It remembers the last one found, because most requests name the same
/// namespace as the request before.
pub(super) struct NamespaceFinder<'a, 'n> {
    base: &'n TransactionBase,
    last: Option<(&'a [u8], &'n Namespace)>,
}

impl<'a, 'n> NamespaceFinder<'a, 'n> {
    pub(super) fn new(base: &'n TransactionBase) -> Self {
        NamespaceFinder { base, last: None }
    }

    /// The namespace called `name`, if there is one.
    #[inline]
    pub(super) fn find(&mut self, name: &'a [u8]) -> Option<&'n Namespace> {
        match self.last {
            // Rows of a batch that repeat parameters refer to the very same bytes.
            Some((last, namespace)) if std::ptr::eq(last, name) || last == name => Some(namespace),
            _ => {
                let found: &Namespace = self.base.namespace_called(name)?;
                self.last = Some((name, found));
                Some(found)
            }
        }
    }
}

/// Logs that a request names no namespace, or an unknown one.
#[cold]
pub(super) fn warn_of_namespace(name: Option<&[u8]>) {
    match name {
        None => cf::warning_limited!(Tsvc, "request without a namespace"),
        Some(name) => {
            cf::warning_limited!(Tsvc, "request for unknown namespace '{}'", String::from_utf8_lossy(name));
        }
    }
}
