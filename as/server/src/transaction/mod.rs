//! Single-record transactions: from a parsed request to a reply, on the calling thread.
//!
//! The order of checks is the protocol's; clients tell errors apart by it.

mod batch;
mod batch_pool;
mod benchmarks;
mod checks;
mod delete;
mod estimate;
pub(crate) mod filter;
mod measure;
mod read;
mod settle;
mod sink;
mod touch;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2, info4};
use proto::reply::{self, ReplyHeader, ReplyWriter};
use smallvec::SmallVec;

use crate::config::Config;
use crate::metrics::{Operation, Origin, ServerCounter, ServerMetrics};
use crate::namespace::Namespace;
use crate::storage::ReadBuffer;

use filter::CompiledFilter;

pub(crate) use batch_pool::{BatchPool, BatchWorker};
pub(crate) use settle::Unsettled;
pub(crate) use sink::{GoOn, ReplySink, SinkClosed};

/// Most requests that are prepared for at once.
pub(crate) const PREPARED_REQUESTS: usize = 16;

/// Buffers that the transactions of a thread use again and again.
struct Buffers {
    /// A flat record being made.
    flat: Vec<u8>,
    /// A record that was read from a disk.
    read: ReadBuffer,
    /// Records that must be on disk before the replies made so far are sent.
    unsettled: Vec<Unsettled>,
}

/// What transactions of one thread share: where to, and buffers that are used again and again.
pub(crate) struct Executor {
    config: Arc<Config>,
    namespaces: Arc<[Arc<Namespace>]>,
    metrics: Arc<ServerMetrics>,
    buffers: Buffers,
    tally: measure::Tally,
    stopwatch: benchmarks::Stopwatch,
}

/// What became of a record message.
pub(crate) enum Execution {
    /// It was carried out and its reply appended.
    Replied,
    /// It concerns many records of this namespace and has yet to be started.
    Query(Arc<Namespace>),
    /// It is a batch too large for the thread that read it and has yet to be started.
    Batch,
}

/// Why a transaction failed, with what a failure tells of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    result: ResultCode,
    generation: u16,
    void_time: u32,
}

impl From<ResultCode> for Failure {
    fn from(result: ResultCode) -> Self {
        Failure { result, generation: 0, void_time: 0 }
    }
}

/// What a transaction works on.
struct Call<'a> {
    namespace: &'a Namespace,
    request: &'a Request<'a>,
    digest: Digest,
    now: StoredMillis,
    origin: Origin,
    /// The filter that applies: the request's own or that of its batch.
    filter: Option<&'a CompiledFilter<'a>>,
    /// The row that the request is in a batch; its reply says so and has no frame of its own.
    row: Option<u32>,
    /// What the work of the transaction draws on.
    budget: &'a Budget<'a>,
}

impl Call<'_> {
    /// Whether the transaction ended because its budget ran out. Its result is `Timeout` then; nothing has changed,
    /// and with another budget it may be carried out again from its start.
    #[expect(dead_code, reason = "no budget has an end yet")]
    fn ran_out(&self) -> bool {
        self.budget.is_exhausted()
    }

    /// Starts the reply at the end of `out`.
    #[inline]
    fn start_reply<'o>(&self, out: &'o mut Vec<u8>) -> ReplyWriter<'o> {
        if self.row.is_some() { ReplyWriter::unframed(out) } else { ReplyWriter::framed(out) }
    }

    /// The header of the reply.
    #[inline]
    fn header(&self, result: ResultCode, generation: u16, void_time: u32) -> ReplyHeader {
        ReplyHeader {
            generation: u32::from(generation),
            void_time,
            transaction_ttl: self.row.unwrap_or(0),
            ..ReplyHeader::result(result)
        }
    }

    /// Appends a reply without bins.
    #[inline]
    fn reply_header_only(&self, out: &mut Vec<u8>, result: ResultCode, generation: u16, void_time: u32) {
        self.start_reply(out).finish(&self.header(result, generation, void_time));
    }

    /// Counts the end of the transaction for its client.
    fn count(&self, operation: Operation, result: ResultCode) {
        let metrics = &self.namespace.metrics;
        metrics.count(self.origin, operation, result);
        if self.request.info1 & info1::XDR != 0 && operation != Operation::Read {
            metrics.count(Origin::XdrClient, operation, result);
        }
    }
}

/// Whether a client verifies, commits or takes back what it did in a transaction of several records. There are none.
fn is_step_of_transaction(request: &Request<'_>) -> bool {
    if request.info2 & info2::WRITE == 0 {
        return request.info4 & info4::VERIFY_READ != 0;
    }
    let is_roll = request.info4 & (info4::ROLL_FORWARD | info4::ROLL_BACK) != 0;
    is_roll && request.info2 & info2::DELETE == 0 && !request.has_field(field::UDF_FILE)
}

impl Executor {
    pub(crate) fn new(
        config: Arc<Config>,
        namespaces: Arc<[Arc<Namespace>]>,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        Executor {
            tally: measure::Tally::new(namespaces.len()),
            stopwatch: benchmarks::Stopwatch::new(),
            config,
            namespaces,
            metrics,
            buffers: Buffers { flat: Vec::new(), read: ReadBuffer::new(), unsettled: Vec::new() },
        }
    }

    /// Carries out `request` and appends its reply to `out`, if it concerns one record.
    pub(crate) fn execute(
        &mut self,
        request: &Request<'_>,
        now: StoredMillis,
        out: &mut Vec<u8>,
    ) -> Execution {
        if request.info1 & info1::BATCH != 0 {
            return self.execute_batch(request, now, out);
        }
        let Some(namespace) = self.namespace_of(request) else {
            self.metrics.add(ServerCounter::EarlyTsvcClientError, 1);
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Namespace));
            return Execution::Replied;
        };
        if !request.has_field(field::DIGEST) {
            return Execution::Query(namespace);
        }
        self.execute_single(request, &namespace, now, out);
        Execution::Replied
    }

    /// Prepares for requests that come next: the namespaces and digests of their records. Changes nothing.
    pub(crate) fn prepare<'a>(&self, requests: impl Iterator<Item = (&'a [u8], Digest)>) {
        let mut wanted = SmallVec::<[(usize, Digest); PREPARED_REQUESTS]>::new();
        wanted.extend(requests.filter_map(|(name, digest)| {
            let position = self.namespaces.iter().position(|known| known.name().as_bytes() == name)?;
            Some((position, digest))
        }));
        for (position, namespace) in self.namespaces.iter().enumerate() {
            let of_namespace = wanted.iter().filter(|(other, _)| *other == position);
            namespace.prefetch(of_namespace.map(|(_, digest)| digest));
        }
    }

    fn execute_single(
        &mut self,
        request: &Request<'_>,
        namespace: &Namespace,
        now: StoredMillis,
        out: &mut Vec<u8>,
    ) {
        // A single request has not waited for others: only one that may take no time at all is late.
        if self.time_max(request).is_zero() {
            namespace.metrics.count(Origin::Client, Operation::Tsvc, ResultCode::Timeout);
            return reply::write_header_only(out, &ReplyHeader::result(ResultCode::Timeout));
        }
        let is_write = request.info2 & info2::WRITE != 0;
        let is_read = request.info1 & info1::READ != 0;
        let Some(digest) = request.record_digest().filter(|_| is_write || is_read) else {
            cf::warning_limited!(
                Tsvc,
                "{{{}}} request with a bad digest, or neither read nor write",
                namespace.name()
            );
            namespace.metrics.count(Origin::Client, Operation::Tsvc, ResultCode::Parameter);
            return reply::write_header_only(out, &ReplyHeader::result(ResultCode::Parameter));
        };
        let budget = Budget::unlimited();
        let filter = filter::compile(request, &budget);
        let call = Call {
            namespace,
            request,
            digest,
            now,
            origin: Origin::Client,
            filter: filter.as_ref(),
            row: None,
            budget: &budget,
        };
        self.run(&call, out);
    }

    /// Carries out a request that is known to read or to write.
    fn run(&mut self, call: &Call<'_>, out: &mut Vec<u8>) {
        let (settled, start) = (self.buffers.unsettled.len(), out.len());
        let measured = self.start_measuring(call);
        self.run_unsettled(call, out);
        if let Some(measured) = measured {
            self.note_answered(call, measured);
        }
        self.note_replies(settled, start, call.row.is_some());
        self.tally.add(call.namespace.position(), call.request, call.row.is_some());
    }

    fn run_unsettled(&mut self, call: &Call<'_>, out: &mut Vec<u8>) {
        let request = call.request;
        if is_step_of_transaction(request) {
            call.reply_header_only(out, ResultCode::EnterpriseOnly, 0, 0);
        } else if request.info2 & info2::WRITE == 0 {
            read::run(call, &mut self.buffers, out);
        } else if request.info2 & info2::DELETE != 0 {
            delete::run(call, &mut self.buffers, out);
        } else if request.has_field(field::UDF_FILE) {
            call.reply_header_only(out, ResultCode::UnsupportedFeature, 0, 0);
        } else {
            write::run(call, &mut self.buffers, out);
        }
    }

    /// How long `request` may wait before it is carried out.
    fn time_max(&self, request: &Request<'_>) -> Duration {
        Duration::from_millis(match request.transaction_ttl_ms {
            0 => self.config.service.transaction_max_ms.get(),
            own => u64::from(own),
        })
    }

    /// Whether `request`, which has waited since `since`, is no longer to be carried out.
    fn is_late(&self, request: &Request<'_>, since: Instant) -> bool {
        since.elapsed() >= self.time_max(request)
    }

    fn namespace_of(&self, request: &Request<'_>) -> Option<Arc<Namespace>> {
        let Some(name) = request.namespace else {
            cf::warning_limited!(Tsvc, "request without a namespace");
            return None;
        };
        let namespace = self.namespaces.iter().find(|namespace| namespace.name().as_bytes() == name);
        if namespace.is_none() {
            cf::warning_limited!(Tsvc, "request for unknown namespace '{}'", String::from_utf8_lossy(name));
        }
        namespace.cloned()
    }
}
