//! Batches on the batch threads: large ones, and the rest of small ones that were too long for a service thread.
//!
//! The threads work on a batch in turns: a turn takes the next rows and lasts until they are done, a time slice is
//! over, or the client is behind with reading. A batch has at most one turn in the queue of all batches, and its next
//! turn is queued behind the others. So a large batch waits behind small ones, but several threads may work on it if
//! they have no other work. A batch of at most [`ORDERED_ROWS_MAX`] rows that asks for in-order processing has one
//! turn at a time: its replies come in the order of its rows, as on the C server.
//!
//! Rows of partitions that other nodes serve are passed on to them (`batch_elsewhere.rs`); the batch continues with its
//! other rows meanwhile, and ends when all are answered.
//!
//! No thread waits for a client. A batch whose client is behind with reading has no turn until the client has read,
//! is gone, or is given up because it has read nothing for as long as its request may take. If the client is gone or
//! the server stops, rows that only read are skipped.
//!
//! # Locks
//! One mutex for each batch, held while a turn begins or ends. A row is never carried out under it.
//!
//! # Threads
//! `batch-index-threads` threads take turns from one channel. The first thread that finds a batch's client behind
//! watches that client until the batch has ended.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use parking_lot::Mutex;
use proto::ResultCode;
use proto::batch::{Rows, batch_flag};
use proto::message::{Request, field};

use super::access::Access;
use super::batch::{batch_of, warn_of_bad};
use super::batch_elsewhere::Elsewhere;
use super::batch_frames::{BatchOutcome, Frames, PartialFrame};
use super::batch_in_flight::{
    BatchInFlight, BatchTurn, InHand, Progress, TURN_ROWS, ToClient, UnderWay, Watch,
};
use super::batch_rows::{Extent, RowsContext, RowsPlace};
use super::executor::Executor;
use super::sink::ReplySink;
use super::step::BatchRest;
use crate::metrics::ServerCounter;
use crate::security::Standing;
use crate::storage::DiskCaller;
use crate::workers::{Work, Workers};

/// Maximum number of rows of a batch that is answered in order. One turn at a time takes no longer for so few
/// rows.
const ORDERED_ROWS_MAX: u32 = 4 * TURN_ROWS;
/// Length of a turn; the current row is finished after it.
const TURN_TIME: Duration = Duration::from_millis(2);
/// How much lower the batch threads' priority is than that of service threads: about a third of the share.
const BATCH_NICENESS: i32 = 5;

/// The batch threads.
pub(crate) struct BatchPool {
    pub(crate) workers: Arc<Workers<BatchTurn>>,
    under_way: Arc<AtomicUsize>,
}

impl BatchPool {
    /// A pool without threads yet.
    pub(crate) fn new() -> Self {
        BatchPool {
            workers: Arc::new(Workers::with_niceness("batch", BATCH_NICENESS)),
            under_way: Arc::default(),
        }
    }

    /// Carries out the rest of the batch message `body`, received at `received`. Its replies go to `sink`.
    /// [`Executor::execute`] has checked that the message is a batch.
    pub(crate) fn start(
        &self,
        body: &[u8],
        rest: BatchRest,
        received: Instant,
        access: Access,
        sink: Arc<dyn ReplySink>,
    ) {
        let parsed = Request::parse(body).ok();
        let Some(batch) = parsed.as_ref().and_then(|request| batch_of(request).ok()) else { return };
        let progress = Progress {
            open: VecDeque::from([(rest.first, rest.count)]),
            working: 0,
            has_turn: true,
            behind_since: None,
            waited: Duration::ZERO,
            is_put_off: false,
            may_wait: true,
            is_incomplete: false,
            elsewhere: 0,
            from_elsewhere: PartialFrame::default(),
            partial: rest.partial,
            frames: rest.frames,
        };
        let own_ms = parsed.as_ref().map_or(0, |request| request.transaction_ttl_ms);
        let batch = BatchInFlight {
            filter: OnceLock::new(),
            outcome: BatchOutcome::new(batch.flags, rest.result),
            body: body.into(),
            sink,
            access,
            workers: Arc::downgrade(&self.workers),
            received,
            own_time_max: (own_ms != 0).then(|| Duration::from_millis(own_ms.into())),
            progress: Mutex::new(progress),
            is_parallel: batch.flags & batch_flag::ALLOW_INLINE == 0 || batch.row_count > ORDERED_ROWS_MAX,
            is_watched: AtomicBool::new(false),
            _under_way: UnderWay::new(&self.under_way),
        };
        // The threads outlive the service threads, which are the callers.
        self.workers.submit(BatchTurn(Arc::new(batch)));
    }

    /// Number of batches that are not done.
    pub(crate) fn under_way_count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A batch thread's work.
pub(crate) struct BatchWorker {
    executor: Executor,
    watch: Watch,
}

impl BatchWorker {
    /// A worker that carries rows out with `executor`.
    pub(crate) fn new(executor: Executor) -> Self {
        BatchWorker { executor: executor.for_pool(DiskCaller::Batches), watch: Watch::new() }
    }
}

impl Work<BatchTurn> for BatchWorker {
    fn run(&mut self, BatchTurn(batch): BatchTurn) {
        self.executor.take_turn(&batch, &mut self.watch);
    }

    fn maintain(&mut self) -> bool {
        self.watch.check_clients()
    }
}

impl Executor {
    fn take_turn(&mut self, batch: &Arc<BatchInFlight>, watch: &mut Watch) {
        cf::fault_point!("batch");
        self.wake(batch.received);
        let frames = std::mem::take(&mut batch.progress.lock().frames);
        if !frames.is_empty() {
            batch.sink.post(frames);
        }
        if let Err(result) = batch.prepare_filter(&self.context) {
            warn_of_bad(result);
            return self.finish_early(batch, result);
        }
        let Some(in_hand) = batch.begin_turn(watch) else {
            self.context.metrics.add(ServerCounter::BatchIndexDelay, 1);
            return;
        };
        let carried_out = catch_unwind(AssertUnwindSafe(|| self.execute_rows_of(batch, in_hand)));
        let left = match carried_out {
            Ok(Some(Extent::All)) => None,
            Ok(Some(Extent::Paused(first, count))) => Some((first, count)),
            Ok(Some(Extent::Waits(first, count, wait))) => {
                batch.wait_for_device(&self.context, wait);
                Some((first, count))
            }
            Ok(Some(Extent::Unresolved(first, count))) => {
                batch.resolve_duplicates(&self.context, first, count);
                Some((first, count))
            }
            Ok(Some(Extent::UntilBad) | None) => {
                // A row of an unknown namespace, or a malformed one.
                batch.outcome.end(ResultCode::Parameter);
                batch.progress.lock().is_incomplete |= !batch.is_parallel;
                None
            }
            Err(_) => {
                // A bug of ours; it must not end the thread and leave the client waiting.
                cf::critical!(Batch, "rows of a batch failed on an internal error");
                self.forget_unsettled(0);
                batch.outcome.end(ResultCode::Unknown);
                None
            }
        };
        if batch.end_turn(left) {
            self.finish_batch(batch);
        }
        self.measure(Instant::now());
    }

    /// Ends a batch of which no row can be carried out.
    fn finish_early(&mut self, batch: &BatchInFlight, result: ResultCode) {
        batch.progress.lock().open.clear();
        batch.outcome.end(result);
        self.finish_batch(batch);
        self.measure(Instant::now());
    }

    fn finish_batch(&mut self, batch: &BatchInFlight) {
        batch.finish(&self.context);
        self.workspace.tally.add_batch();
    }

    fn execute_rows_of(&mut self, batch: &Arc<BatchInFlight>, in_hand: InHand) -> Option<Extent> {
        let Executor { context, workspace } = self;
        let request = Request::parse(&batch.body).ok()?;
        let elsewhere = Elsewhere {
            batch,
            context,
            since: in_hand.since,
            filter: request.last_field(field::FILTER_EXPRESSION),
        };
        let mut rows = Rows::new(batch_of(&request).ok()?.rows, &request);
        rows.go_to(in_hand.first).ok()?;
        let mut frames = Frames::new(&batch.outcome, ToClient(&*batch.sink), in_hand.partial);
        let until = Instant::now() + TURN_TIME;
        let place = RowsPlace::Pool { until, sink: &*batch.sink, elsewhere: &elsewhere };
        let standing = batch.access.clone().map(Standing::new);
        let shared = RowsContext {
            standing: standing.as_ref(),
            filter: batch.filter.get()?.as_ref(),
            now: StoredMillis::now(),
            since: in_hand.since,
            place,
            may_wait: in_hand.may_wait,
        };
        let extent = workspace.execute_rows(context, &shared, &mut rows, in_hand.count, &mut frames);
        match extent {
            // The next turn continues the partial frame, because the error of a row ends the whole frame with its
            // replies.
            Extent::Paused(..) if !batch.is_parallel => batch.progress.lock().partial = frames.take_partial(),
            Extent::UntilBad => {
                batch.outcome.end(ResultCode::Parameter);
                frames.flush();
            }
            _ => frames.flush(),
        }
        Some(extent)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proto::batch::batch_flag;
    use proto::frame::HEADER_SIZE;
    use proto::message::{field, info1};

    use super::*;
    use crate::metrics::ServerMetrics;
    use crate::namespace::Namespace;
    use crate::transaction::{SinkClosed, Step, TransactionContext};

    const TURNS: u32 = 3;

    /// A sink with a deliberate bug.
    #[derive(Default)]
    struct Broken(Mutex<Vec<u8>>);

    impl ReplySink for Broken {
        fn send(&self, _: Vec<u8>) -> Result<(), SinkClosed> {
            Err(SinkClosed)
        }

        fn post(&self, _: Vec<u8>) {
            panic!("a bug for a test");
        }

        fn finish(&self, frames: Vec<u8>) {
            *self.0.lock() = frames;
        }
    }

    /// A message that reads the same record again and again.
    fn body() -> Vec<u8> {
        let row_count = TURNS * TURN_ROWS;
        let mut value = row_count.to_be_bytes().to_vec();
        value.push(batch_flag::RESPOND_ALL_KEYS);
        for row in 0..row_count {
            value.extend(row.to_be_bytes());
            value.extend([7; 20]);
            value.extend([0, info1::READ | info1::GET_ALL, 0, 1, 0, 0]);
            value.extend([0, 0, 0, 5, field::NAMESPACE]);
            value.extend(b"test");
        }
        let mut body = vec![0; 22];
        (body[0], body[1], body[19]) = (22, info1::READ | info1::BATCH, 1);
        body.extend((value.len() as u32 + 1).to_be_bytes());
        body.push(field::BATCH);
        body.extend(value);
        body
    }

    #[test]
    fn a_panic_ends_the_batch_and_not_its_thread() {
        let namespace = "namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n";
        let (config, namespace) = Namespace::for_tests(namespace);
        let metrics = Arc::new(ServerMetrics::new(1));
        let context = Arc::new(TransactionContext::new(config, Arc::new([namespace]), metrics));
        let pool = BatchPool::new();
        let sink = Arc::new(Broken::default());
        let body = body();
        let request = Request::parse(&body).expect("it is whole");
        let Step::Batch(rest) = Executor::new(Arc::clone(&context)).execute(
            &request,
            None,
            StoredMillis::now(),
            &|_| true,
            &mut Vec::new(),
        ) else {
            panic!("it is not for the batch threads");
        };
        pool.start(&body, rest, Instant::now(), None, Arc::<Broken>::clone(&sink));
        let new_worker = move || {
            let work: Box<dyn Work<BatchTurn>> =
                Box::new(BatchWorker::new(Executor::new(Arc::clone(&context))));
            Some(work)
        };
        pool.workers.start(1, new_worker).expect("a thread");
        let started = Instant::now();
        while pool.under_way_count() > 0 {
            assert!(started.elapsed() < Duration::from_secs(30), "the batch does not end");
            std::thread::yield_now();
        }
        pool.workers.stop();
        assert_eq!(pool.workers.queued_count(), 0);
        assert_eq!(sink.0.lock().get(HEADER_SIZE + 5), Some(&ResultCode::Unknown.code()));
    }
}
