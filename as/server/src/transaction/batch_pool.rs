//! Batches on the batch threads: large ones, and the rest of small ones that were too long for a service thread.
//!
//! The threads work on a batch in turns: a turn takes the next rows and lasts until they are done, a time slice is
//! over, or the client is behind with reading. A batch has at most one turn in the queue of all batches, and its next
//! turn is queued behind the others. So a large batch waits behind small ones, while several threads may work on it if
//! nothing else is to be done. A batch of at most [`ORDERED_ROWS_MAX`] rows that asks for in-order processing has one
//! turn at a time: its replies come in the order of its rows, as on the C server.
//!
//! Rows of partitions that other nodes serve are passed on to them (`batch_elsewhere.rs`); the batch continues with its
//! other rows meanwhile, and ends when all are answered.
//!
//! No thread waits for a client. A batch whose client is behind with reading has no turn until the client has read, is
//! gone, or is given up because it has read nothing for as long as its request may take. If the client no longer
//! listens, or the server stops, rows that only read are skipped.
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
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use parking_lot::Mutex;
use proto::ResultCode;
use proto::batch::{RowPosition, Rows, batch_flag};
use proto::message::{Request, field, info2};

use super::Access;
use super::batch::{batch_of, compile_filter, warn_of_bad};
use super::batch_elsewhere::Elsewhere;
use super::batch_frames::{BatchOutcome, FrameSink, Frames, PartialFrame};
use super::batch_rows::{Extent, RowsContext, RowsPlace};
use super::duplicates::{self, Asker};
use super::filter::CompiledFilter;
use super::pool::PORTION_STEPS;
use super::resent::SentFor;
use super::step::BatchRest;
use super::wait::{ROOM_WAIT_MAX, RecordKey};
use super::{Executor, ReplySink, TransactionContext, Wait};
use crate::metrics::{Origin, ServerCounter};
use crate::security::Standing;
use crate::storage::{DiskCaller, RoomWait};
use crate::workers::{Work, Workers};

/// Most rows of a turn.
const TURN_ROWS: u32 = 256;
/// Most rows of a batch answered in order: for so few rows one turn at a time is as quick.
const ORDERED_ROWS_MAX: u32 = 4 * TURN_ROWS;
/// Length of a turn; the current row is finished after it.
const TURN_TIME: Duration = Duration::from_millis(2);
/// How much lower the batch threads' priority is than that of service threads: about a third of the share.
const BATCH_NICENESS: i32 = 5;
/// How often clients that are behind with reading are checked.
const CLIENTS_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// A batch on the batch threads.
pub(super) struct BatchInFlight {
    /// Body of the message.
    pub(super) body: Box<[u8]>,
    /// For rows without a filter of their own; compiled when the first turn begins.
    filter: OnceLock<Option<CompiledFilter<'static>>>,
    pub(super) outcome: BatchOutcome,
    pub(super) sink: Arc<dyn ReplySink>,
    access: Access,
    /// The queue of turns.
    workers: Weak<Workers<BatchTurn>>,
    pub(super) received: Instant,
    /// The time limit given by its client.
    own_time_max: Option<Duration>,
    pub(super) progress: Mutex<Progress>,
    /// Whether several threads may work on its rows at once.
    is_parallel: bool,
    /// Whether a thread watches the client.
    is_watched: AtomicBool,
    _under_way: UnderWay,
}

/// Progress of a batch.
pub(super) struct Progress {
    /// Rows that no thread works on: their position, and their number.
    open: VecDeque<(RowPosition, u32)>,
    /// Number of threads that work on rows.
    working: u32,
    /// Whether a turn is queued, or comes when the client has read.
    has_turn: bool,
    /// Since when the batch waits for its client.
    behind_since: Option<Instant>,
    /// Earlier time of waiting for its client, or for a device if its client has set no time limit.
    waited: Duration,
    /// Whether a row waits for its device or for duplicate resolution: there is no turn until that is over.
    is_put_off: bool,
    /// Rows may wait for their devices.
    may_wait: bool,
    /// Whether there were fewer rows than announced.
    pub(super) is_incomplete: bool,
    /// Number of rows whose replies come later.
    pub(super) elsewhere: u32,
    /// Replies of such rows that have come.
    pub(super) from_elsewhere: PartialFrame,
    /// Replies to be sent with the next ones.
    partial: PartialFrame,
    /// Replies that the first turn sends.
    frames: Vec<u8>,
}

impl Progress {
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty() && self.working == 0 && self.elsewhere == 0
    }
}

/// Counts a batch as being under way for as long as it lives.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Resumes a batch when the last of its questions to other nodes is answered.
struct GoesOn(Arc<BatchInFlight>);

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.go_on(Duration::ZERO, true);
    }
}

/// A batch's turn on a batch thread.
pub(crate) struct BatchTurn(Arc<BatchInFlight>);

/// The frames of a turn.
pub(super) struct ToClient<'a>(pub(super) &'a dyn ReplySink);

impl FrameSink for ToClient<'_> {
    fn send(&mut self, frame: Vec<u8>) {
        self.0.post(frame);
    }

    fn is_behind(&self) -> bool {
        self.0.is_behind()
    }
}

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

/// The rows of a turn.
struct InHand {
    first: RowPosition,
    count: u32,
    /// When the batch was received, plus the time in which it waited for its client.
    since: Instant,
    /// Whether rows may wait for their devices.
    may_wait: bool,
    /// Replies to continue.
    partial: PartialFrame,
}

impl BatchInFlight {
    /// Compiles the filter for rows without their own, if necessary; there is no other turn at that time.
    ///
    /// # Errors
    /// Why it is invalid; `Timeout` if compiling takes longer than the batch may, or nobody waits for the batch any
    /// more.
    fn prepare_filter(&self, context: &TransactionContext) -> Result<(), ResultCode> {
        if self.filter.get().is_some() {
            return Ok(());
        }
        let request = Request::parse(&self.body).map_err(|_| ResultCode::Parameter)?;
        let deadline = self.received + context.time_max(&request);
        let is_vain = || context.is_unheard(&*self.sink) && self.only_reads(&request);
        let may_go_on = || Instant::now() < deadline && !is_vain();
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        let filter = budget.check(compile_filter(&request, &budget))?;
        // It is set once.
        let _ = self.filter.set(filter.map(|filter| filter.map(Filter::into_owned)));
        Ok(())
    }

    /// Whether no row changes its record.
    fn only_reads(&self, request: &Request<'_>) -> bool {
        let Ok(batch) = batch_of(request) else { return true };
        let mut rows = Rows::new(batch.rows, request);
        (0..batch.row_count).map_while(|_| rows.read().ok()).all(|row| row.request.info2 & info2::WRITE == 0)
    }

    /// Queues a turn behind all others.
    fn submit_turn(self: &Arc<Self>) {
        // After the threads have ended, there is nothing to submit.
        if let Some(workers) = self.workers.upgrade() {
            workers.submit(BatchTurn(Arc::clone(self)));
        }
    }

    /// Suspends the batch, as a row has to wait for its device: the next turn comes after the wait.
    fn wait_for_device(self: &Arc<Self>, context: &TransactionContext, wait: Wait) {
        if std::mem::replace(&mut self.progress.lock().is_put_off, true) {
            return;
        }
        let since = Instant::now();
        let deadline = self.own_time_max.map_or(since + ROOM_WAIT_MAX, |time| self.received + time);
        let batch = Arc::clone(self);
        let resume = move |may_wait| batch.go_on(since.elapsed(), may_wait);
        // The batch stays in memory anyway, so the wait counts no bytes.
        let waiting = RoomWait { size: 0, deadline, has_waited: false, resume: Box::new(resume) };
        context.wait_for_device(wait, waiting);
    }

    /// Suspends the batch, as other nodes may have newer copies of records; `count` rows are left from `first` on. The
    /// next turn comes when the next records are resolved.
    fn resolve_duplicates(self: &Arc<Self>, context: &TransactionContext, first: RowPosition, count: u32) {
        if std::mem::replace(&mut self.progress.lock().is_put_off, true) {
            return;
        }
        let resume: Arc<GoesOn> = Arc::new(GoesOn(Arc::clone(self)));
        let Ok(request) = Request::parse(&self.body) else { return };
        let Ok(batch) = batch_of(&request) else { return };
        let mut rows = Rows::new(batch.rows, &request);
        if rows.go_to(first).is_err() {
            return;
        }
        for row in (0..count.min(TURN_ROWS)).map_while(|_| rows.read().ok()) {
            if let Some(namespace) = context.known_namespace(&row.request) {
                let key = RecordKey { namespace: namespace.position(), digest: row.digest };
                let local = namespace.index.get(&key.digest).map(|guard| guard.last_update_time());
                if duplicates::must_resolve(context, namespace, &row.request, (&key, local)) {
                    let sent_for = SentFor::of(&row.request, Origin::BatchSub);
                    let asker = Asker::Other(Arc::<GoesOn>::clone(&resume));
                    context.duplicates.ask(context, key, sent_for, asker);
                }
            }
        }
    }

    fn go_on(self: &Arc<Self>, waited: Duration, may_wait: bool) {
        let mut progress = self.progress.lock();
        if self.own_time_max.is_none() {
            progress.waited += waited;
        }
        progress.is_put_off = false;
        progress.may_wait &= may_wait;
        let needs_turn = !progress.open.is_empty() && !progress.has_turn;
        progress.has_turn |= needs_turn;
        drop(progress);
        if needs_turn {
            self.submit_turn();
        }
    }

    /// Begins a turn. There is none while the client is behind; then the next one comes when it has read.
    fn begin_turn(self: &Arc<Self>, watch: &mut Watch) -> Option<InHand> {
        if !self.outcome.has_ended() && self.sink.is_behind() {
            self.progress.lock().behind_since = Some(Instant::now());
            watch.add(self);
            let batch = Arc::clone(self);
            self.sink.when_read(Box::new(move || {
                let mut progress = batch.progress.lock();
                let waited = progress.behind_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                progress.waited += waited;
                drop(progress);
                batch.submit_turn();
            }));
            return None;
        }
        let mut progress = self.progress.lock();
        progress.has_turn = false;
        if progress.is_put_off {
            return None;
        }
        let may_wait = progress.may_wait;
        let (first, count) = progress.open.pop_front()?;
        let partial = std::mem::take(&mut progress.partial);
        let since = self.received + progress.waited;
        if !self.is_parallel {
            // No other turn needs the position of the next one.
            progress.working += 1;
            return Some(InHand { first, count, since, may_wait, partial });
        }
        let wanted = count.min(TURN_ROWS);
        let (in_hand, next) = self.skip(first, wanted);
        if in_hand < wanted {
            // The next row is malformed or missing, so the rows after it cannot be found.
            progress.is_incomplete = true;
            // The rows before it that are not answered yet get no replies.
            self.outcome.end(ResultCode::Parameter);
        } else if count > wanted {
            progress.open.push_front((next, count - wanted));
        }
        progress.working += 1;
        let has_next = !progress.open.is_empty();
        progress.has_turn = has_next;
        drop(progress);
        if has_next {
            self.submit_turn();
        }
        Some(InHand { first, count: in_hand, since, may_wait, partial })
    }

    /// The number of complete rows among `count` rows from `first` on, and the position after them.
    fn skip(&self, first: RowPosition, count: u32) -> (u32, RowPosition) {
        let Ok(request) = Request::parse(&self.body) else { return (0, first) };
        let Ok(batch) = batch_of(&request) else { return (0, first) };
        let mut rows = Rows::new(batch.rows, &request);
        if rows.go_to(first).is_err() {
            return (0, first);
        }
        let whole = (0..count).take_while(|_| rows.pass().is_ok()).count() as u32;
        (whole, rows.position())
    }

    /// Ends a turn; `left` are its rows that were not done. Returns whether the batch is done.
    fn end_turn(self: &Arc<Self>, left: Option<(RowPosition, u32)>) -> bool {
        let mut progress = self.progress.lock();
        progress.working -= 1;
        if let Some(rows) = left {
            progress.open.push_front(rows);
        }
        let is_done = progress.is_done();
        let needs_turn = !progress.open.is_empty() && !progress.has_turn && !progress.is_put_off;
        progress.has_turn |= needs_turn;
        drop(progress);
        if needs_turn {
            self.submit_turn();
        }
        is_done
    }

    /// Gives the client up if it does not read. Returns whether it did.
    fn is_given_up(&self) -> bool {
        if !self.sink.is_stalled() {
            return false;
        }
        cf::warning_limited!(Batch, "a batch is given up: its client has not read answers for too long");
        // The order matters: a reply that ends well must not lack a frame.
        self.outcome.end(ResultCode::Timeout);
        self.sink.give_up();
        true
    }
}

/// Batches whose clients a thread watches.
struct Watch {
    batches: Vec<Weak<BatchInFlight>>,
    checked: Instant,
}

impl Watch {
    fn new() -> Self {
        Watch { batches: Vec::new(), checked: Instant::now() }
    }

    fn add(&mut self, batch: &Arc<BatchInFlight>) {
        if !batch.is_watched.swap(true, Ordering::Relaxed) {
            self.batches.push(Arc::downgrade(batch));
        }
    }

    /// Checks the clients, if it is time. Returns whether there are any.
    fn check_clients(&mut self) -> bool {
        if !self.batches.is_empty() && self.checked.elapsed() >= CLIENTS_CHECK_PERIOD {
            self.checked = Instant::now();
            self.batches.retain(|batch| batch.upgrade().is_some_and(|batch| !batch.is_given_up()));
        }
        !self.batches.is_empty()
    }
}

/// A batch thread's work.
pub(crate) struct BatchWorker {
    executor: Executor,
    watch: Watch,
}

impl BatchWorker {
    /// One that carries rows out by `executor`.
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
            // Replies of one turn go together with those of the next, as the error of a row ends them all.
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
    use crate::transaction::{SinkClosed, Step};

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
