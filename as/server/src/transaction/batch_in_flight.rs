//! A batch on the batch threads: its rows that are left, its turns, and what it waits for.
//!
//! # Locks
//! One mutex for each batch, held while a turn begins or ends. A row is never carried out under it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use datamodel::Budget;
use datamodel::exp::Filter;
use parking_lot::Mutex;
use proto::ResultCode;
use proto::batch::{RowPosition, Rows};
use proto::message::{Request, info2};

use super::access::Access;
use super::batch::{batch_of, compile_filter};
use super::batch_frames::{BatchOutcome, FrameSink, PartialFrame};
use super::context::TransactionContext;
use super::duplicates::Asker;
use super::filter::CompiledFilter;
use super::pool::PORTION_STEPS;
use super::resent::SentFor;
use super::sink::ReplySink;
use super::wait::{ROOM_WAIT_MAX, RecordKey, Wait};
use crate::metrics::Origin;
use crate::storage::RoomWait;
use crate::workers::Workers;

/// Maximum number of rows of a turn.
pub(super) const TURN_ROWS: u32 = 256;
/// How often clients that are behind with reading are checked.
const CLIENTS_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// A batch on the batch threads.
pub(super) struct BatchInFlight {
    /// Body of the message.
    pub(super) body: Box<[u8]>,
    /// For rows without a filter of their own; compiled when the first turn begins.
    pub(super) filter: OnceLock<Option<CompiledFilter<'static>>>,
    pub(super) outcome: BatchOutcome,
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) access: Access,
    /// The queue of turns.
    pub(super) workers: Weak<Workers<BatchTurn>>,
    pub(super) received: Instant,
    /// The time limit given by its client.
    pub(super) own_time_max: Option<Duration>,
    pub(super) progress: Mutex<Progress>,
    /// Whether several threads may work on its rows at once.
    pub(super) is_parallel: bool,
    /// Whether a thread watches the client.
    pub(super) is_watched: AtomicBool,
    pub(super) _under_way: UnderWay,
}

/// Progress of a batch.
pub(super) struct Progress {
    /// Rows that no thread works on: their position, and their number.
    pub(super) open: VecDeque<(RowPosition, u32)>,
    /// Number of threads that work on rows.
    pub(super) working: u32,
    /// Whether a turn is queued, or comes when the client has read.
    pub(super) has_turn: bool,
    /// Since when the batch waits for its client.
    pub(super) behind_since: Option<Instant>,
    /// Earlier time of waiting for its client, or for a device if its client has set no time limit.
    pub(super) waited: Duration,
    /// Whether a row waits for its device or for duplicate resolution: there is no turn until that is over.
    pub(super) is_put_off: bool,
    /// Rows may wait for their devices.
    pub(super) may_wait: bool,
    /// Whether there were fewer rows than announced.
    pub(super) is_incomplete: bool,
    /// Number of rows whose replies come later.
    pub(super) elsewhere: u32,
    /// Replies of such rows that have come.
    pub(super) from_elsewhere: PartialFrame,
    /// Replies to be sent with the next ones.
    pub(super) partial: PartialFrame,
    /// Replies that the first turn sends.
    pub(super) frames: Vec<u8>,
}

impl Progress {
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty() && self.working == 0 && self.elsewhere == 0
    }
}

/// Counts a batch as being under way for as long as it lives.
pub(super) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
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
pub(crate) struct BatchTurn(pub(super) Arc<BatchInFlight>);

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

/// The rows of a turn.
pub(super) struct InHand {
    pub(super) first: RowPosition,
    pub(super) count: u32,
    /// When the batch was received, plus the time in which it waited for its client.
    pub(super) since: Instant,
    /// Whether rows may wait for their devices.
    pub(super) may_wait: bool,
    /// Replies to continue.
    pub(super) partial: PartialFrame,
}

impl BatchInFlight {
    /// Compiles the filter for rows without their own, if necessary; there is no other turn at that time.
    ///
    /// # Errors
    /// The reason why it is invalid; `Timeout` if compiling takes longer than the batch may take, or nobody
    /// waits for the batch any more.
    pub(super) fn prepare_filter(&self, context: &TransactionContext) -> Result<(), ResultCode> {
        if self.filter.get().is_some() {
            return Ok(());
        }
        let request = Request::parse(&self.body).map_err(|_| ResultCode::Parameter)?;
        let deadline = self.received + context.time_max(&request);
        let is_vain = || context.is_unheard(&*self.sink) && self.only_reads(&request);
        let may_go_on = || Instant::now() < deadline && !is_vain();
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        let filter = budget.check(compile_filter(&request, &budget))?;
        // The filter is set once, so the cell is empty.
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

    /// Suspends the batch, because a row has to wait for its device. The next turn comes after the wait.
    pub(super) fn wait_for_device(self: &Arc<Self>, context: &TransactionContext, wait: Wait) {
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

    /// Suspends the batch, because other nodes may have newer copies of records; `count` rows are left from `first`
    /// on. The next turn comes when the next records are resolved.
    pub(super) fn resolve_duplicates(
        self: &Arc<Self>,
        context: &TransactionContext,
        first: RowPosition,
        count: u32,
    ) {
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
                if context.duplicates.must_resolve(namespace, &row.request, (&key, local)) {
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

    /// Begins a turn and takes its rows. `None` while the client is behind: the next turn then comes when the client
    /// has read.
    pub(super) fn begin_turn(self: &Arc<Self>, watch: &mut Watch) -> Option<InHand> {
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
    pub(super) fn end_turn(self: &Arc<Self>, left: Option<(RowPosition, u32)>) -> bool {
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
        // The result is set before the client is given up, so that a reply without an error never lacks a frame.
        self.outcome.end(ResultCode::Timeout);
        self.sink.give_up();
        true
    }
}

/// Batches whose clients a thread watches.
pub(super) struct Watch {
    batches: Vec<Weak<BatchInFlight>>,
    checked: Instant,
}

impl Watch {
    pub(super) fn new() -> Self {
        Watch { batches: Vec::new(), checked: Instant::now() }
    }

    fn add(&mut self, batch: &Arc<BatchInFlight>) {
        if !batch.is_watched.swap(true, Ordering::Relaxed) {
            self.batches.push(Arc::downgrade(batch));
        }
    }

    /// Checks the clients, if it is time. Returns whether there are any.
    pub(super) fn check_clients(&mut self) -> bool {
        if !self.batches.is_empty() && self.checked.elapsed() >= CLIENTS_CHECK_PERIOD {
            self.checked = Instant::now();
            self.batches.retain(|batch| batch.upgrade().is_some_and(|batch| !batch.is_given_up()));
        }
        !self.batches.is_empty()
    }
}
