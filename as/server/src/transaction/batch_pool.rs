//! Large batches: cut into slices that the batch threads share; their replies mix in the order in which slices fill a frame.
//!
//! No thread waits for a client. A slice whose client is behind with reading is put aside at the end of a frame, and goes
//! back to the threads when the client has read, is gone, or is given up because it has read nothing for as long as its
//! request may take. In the last two cases the rows are carried out all the same and nobody hears of them.
//!
//! # Threads
//! `batch-index-threads` threads take slices from one channel. What the slices of a batch share are atomics. The thread
//! that is the first to put a slice of a batch aside looks after the batch's client, until the batch has ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{RowPosition, Rows};
use proto::message::Request;

use super::batch::{Extent, FrameSink, Frames, Outcome, batch_of, checked, finish};
use super::filter::CompiledFilter;
use super::{Executor, ReplySink};
use crate::metrics::ServerCounter;
use crate::workers::{Work, Workers};

/// Rows of a slice.
const SLICE_ROWS: u32 = 1024;
/// How often clients are looked after that are behind with reading.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A large batch; its slices share it.
struct LargeBatch {
    /// Body of the message.
    body: Box<[u8]>,
    /// For rows without their own.
    filter: Option<CompiledFilter<'static>>,
    outcome: Outcome,
    sink: Arc<dyn ReplySink>,
    /// Where slices go that were put aside.
    workers: Weak<Workers<Slice>>,
    now: StoredMillis,
    started: Instant,
    slices_left: AtomicUsize,
    /// A thread looks after the client.
    is_watched: AtomicBool,
    /// Fewer rows were there than announced.
    is_incomplete: bool,
    _under_way: UnderWay,
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

/// Rows of a large batch.
pub(crate) struct Slice {
    batch: Arc<LargeBatch>,
    first: RowPosition,
    count: u32,
    /// How long it was put aside.
    waited: Duration,
    put_aside: Option<Instant>,
}

impl Slice {
    /// Puts it aside until the client has read.
    fn put_aside(mut self) {
        self.put_aside = Some(Instant::now());
        let batch = Arc::clone(&self.batch);
        batch.sink.when_read(Box::new(move || {
            // When the threads have ended, so has the server.
            if let Some(workers) = self.batch.workers.upgrade() {
                workers.submit(self);
            }
        }));
    }
}

/// The frames of a slice.
struct ToClient<'a>(&'a dyn ReplySink);

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
    pub(crate) workers: Arc<Workers<Slice>>,
    under_way: Arc<AtomicUsize>,
}

impl BatchPool {
    /// A pool without threads yet.
    pub(crate) fn new() -> Self {
        BatchPool { workers: Arc::new(Workers::new("batch")), under_way: Arc::default() }
    }

    /// Has the batch message `body` carried out; its replies go to `sink`. The message was found to be a batch by
    /// [`Executor::execute`].
    pub(crate) fn start(&self, body: &[u8], now: StoredMillis, sink: Arc<dyn ReplySink>) {
        let Some(cut) = cut(body) else { return };
        let batch = Arc::new(LargeBatch {
            body: body.into(),
            filter: cut.filter.map(|filter| filter.map(Filter::into_owned)),
            outcome: Outcome::new(cut.flags),
            sink,
            workers: Arc::downgrade(&self.workers),
            now,
            started: Instant::now(),
            slices_left: AtomicUsize::new(cut.slices.len()),
            is_watched: AtomicBool::new(false),
            is_incomplete: cut.is_incomplete,
            _under_way: UnderWay::new(&self.under_way),
        });
        for (first, count) in cut.slices {
            let batch = Arc::clone(&batch);
            // The threads end only after the service threads, who are the callers.
            self.workers.submit(Slice { batch, first, count, waited: Duration::ZERO, put_aside: None });
        }
    }

    /// Batches that are not done.
    pub(crate) fn under_way_count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// How a batch is cut into slices.
struct Cut<'a> {
    flags: u8,
    filter: Option<CompiledFilter<'a>>,
    /// Start and number of rows of each; at least one.
    slices: Vec<(RowPosition, u32)>,
    /// Fewer rows are there than announced.
    is_incomplete: bool,
}

fn cut(body: &[u8]) -> Option<Cut<'_>> {
    let request = Request::parse(body).ok()?;
    let (batch, filter) = checked(&request, 0).ok()?;
    let mut rows = Rows::new(batch.rows, &request);
    let (mut slices, mut there) = (Vec::new(), 0);
    loop {
        let first = rows.position();
        let wanted = SLICE_ROWS.min(batch.row_count - there);
        let count = (0..wanted).take_while(|_| rows.read().is_ok()).count() as u32;
        slices.push((first, count));
        there += count;
        if count < SLICE_ROWS || there == batch.row_count {
            break;
        }
    }
    Some(Cut { flags: batch.flags, filter, slices, is_incomplete: there < batch.row_count })
}

/// Batches whose clients a thread looks after.
struct Watch {
    batches: Vec<Weak<LargeBatch>>,
    looked: Instant,
}

impl Watch {
    fn new() -> Self {
        Watch { batches: Vec::new(), looked: Instant::now() }
    }

    fn add(&mut self, batch: &Arc<LargeBatch>) {
        if !batch.is_watched.swap(true, Ordering::Relaxed) {
            self.batches.push(Arc::downgrade(batch));
        }
    }

    /// Looks after the clients, if it is time for that. Gives whether there are any.
    fn look(&mut self) -> bool {
        if !self.batches.is_empty() && self.looked.elapsed() >= LOOK_PERIOD {
            self.looked = Instant::now();
            self.batches.retain(|batch| batch.upgrade().is_some_and(|batch| !batch.is_given_up()));
        }
        !self.batches.is_empty()
    }
}

impl LargeBatch {
    /// Gives the client up if it does not read. Gives whether it did.
    fn is_given_up(&self) -> bool {
        if !self.sink.is_stalled() {
            return false;
        }
        cf::warning_limited!(Batch, "a batch is given up: its client has not read answers for too long");
        // In this order: no frame is left out of a reply that ends well.
        self.outcome.end(ResultCode::Timeout);
        self.sink.give_up();
        true
    }
}

/// What a batch thread does.
pub(crate) struct BatchWorker {
    executor: Executor,
    watch: Watch,
}

impl BatchWorker {
    /// One that carries rows out by `executor`.
    pub(crate) fn new(executor: Executor) -> Self {
        BatchWorker { executor, watch: Watch::new() }
    }
}

impl Work<Slice> for BatchWorker {
    fn run(&mut self, slice: Slice) {
        self.executor.execute_slice(slice, &mut self.watch);
    }

    fn maintain(&mut self) -> bool {
        self.watch.look()
    }
}

impl Executor {
    fn execute_slice(&mut self, mut slice: Slice, watch: &mut Watch) {
        cf::fault_point!("batch");
        let batch = Arc::clone(&slice.batch);
        slice.waited += slice.put_aside.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.wake(batch.started);
        let extent = if !batch.outcome.has_ended() && batch.sink.is_behind() {
            Extent::Held(slice.first, slice.count)
        } else {
            match catch_unwind(AssertUnwindSafe(|| self.execute_rows_of(&slice))) {
                Ok(extent) => extent.unwrap_or(Extent::UntilBad),
                Err(_) => {
                    // A bug of ours; it must not end the thread and leave the client waiting.
                    cf::critical!(Batch, "rows of a batch failed on an internal error");
                    self.forget_unsettled(0);
                    batch.outcome.end(ResultCode::Unknown);
                    Extent::All
                }
            }
        };
        match extent {
            Extent::Held(first, count) => {
                self.metrics.add(ServerCounter::BatchIndexDelay, 1);
                watch.add(&batch);
                Slice { first, count, ..slice }.put_aside();
            }
            Extent::UntilBad => {
                // A namespace that nobody knows; what is malformed was not counted in.
                batch.outcome.end(ResultCode::Parameter);
                self.end_slice(&batch);
            }
            Extent::All => self.end_slice(&batch),
        }
        self.measure(Instant::now());
    }

    fn end_slice(&mut self, batch: &LargeBatch) {
        if batch.slices_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut last = Vec::new();
            finish(&batch.outcome, !batch.is_incomplete, &self.metrics, &mut last);
            batch.sink.finish(last);
            self.tally.add_batch();
        } else {
            batch.sink.call_next();
        }
    }

    fn execute_rows_of(&mut self, slice: &Slice) -> Option<Extent> {
        let batch = &*slice.batch;
        let request = Request::parse(&batch.body).ok()?;
        let mut rows = Rows::new(batch_of(&request).ok()?.rows, &request);
        rows.go_to(slice.first).ok()?;
        let mut frames = Frames::new(&batch.outcome, ToClient(&*batch.sink));
        let (filter, since) = (batch.filter.as_ref(), batch.started + slice.waited);
        let extent = self.execute_rows(filter, &mut rows, slice.count, batch.now, since, &mut frames);
        frames.flush();
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
    use crate::config;
    use crate::metrics::ServerMetrics;
    use crate::namespace::Namespace;
    use crate::transaction::SinkClosed;

    const CONFIG: &str = "
service {
    cluster-name tests
}
network {
    service {
        port 3000
    }
}
namespace test {
    storage-engine memory {
        data-size 512M
    }
}
";
    const SLICES: u32 = 3;

    /// The way to a client, with a bug.
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
        let row_count = SLICES * SLICE_ROWS;
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
        let (config, _) = config::parse(CONFIG, "test").expect("it parses");
        let config = Arc::new(config);
        let namespace = Namespace::new(&config, 0, 1, 1).unwrap_or_else(|error| panic!("{error}"));
        let namespaces: Arc<[Arc<Namespace>]> = Arc::new([Arc::new(namespace)]);
        let metrics = Arc::new(ServerMetrics::new(1));
        let pool = BatchPool::new();
        let sink = Arc::new(Broken::default());
        pool.start(&body(), StoredMillis::now(), Arc::<Broken>::clone(&sink));
        let new_body = move || {
            let executor = Executor::new(Arc::clone(&config), Arc::clone(&namespaces), Arc::clone(&metrics));
            let work: Box<dyn Work<Slice>> = Box::new(BatchWorker::new(executor));
            Some(work)
        };
        pool.workers.start(1, new_body).expect("a thread");
        pool.workers.stop();
        assert_eq!(pool.workers.queued_count(), 0);
        assert_eq!(pool.under_way_count(), 0);
        assert_eq!(sink.0.lock().get(HEADER_SIZE + 5), Some(&ResultCode::Unknown.code()));
    }
}
