//! Transactions on service threads and in the pool, on the same record at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cf::Digest;
use cf::clock::StoredMillis;
use parking_lot::{Condvar, Mutex};
use proto::ResultCode;
use proto::frame::HEADER_SIZE;
use proto::message::{Request, field, info1, info2, op_code};
use proto::peer::NodeId;

use super::base::limit_of;
use super::wait::RecordKey;
use super::*;
use crate::fabric::{Cluster, Fabric, FabricSettings};
use crate::index::{NoSleep, PartitionId};
use crate::metrics::ServerMetrics;
use crate::namespace::{Namespace, PartitionRow};
use crate::workers::Work;

/// It takes records that are read and written by the pool.
const NAMESPACE: &str = "namespace test {
    max-record-size 8M
    allow-ttl-without-nsup true
    storage-engine memory {
        data-size 1G
    }
}
";
/// Increments by each thread.
const INCREMENTS: u32 = 400;
/// Bytes of the record: large enough that other writers commit between its copy and its commit.
const LARGE: usize = 1 << 20;

fn context() -> Arc<TransactionContext> {
    let (config, namespace) = Namespace::for_tests(NAMESPACE);
    Arc::new(TransactionContext::new(config, Arc::new([namespace]), Arc::new(ServerMetrics::new(1))))
}

/// The body of a message about the one record, with these ops: code, particle type, name and value.
fn body(info1: u8, info2: u8, ops: &[(u8, u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut body = vec![0; 22];
    (body[0], body[1], body[2], body[19]) = (22, info1, info2, 2);
    body[20..].copy_from_slice(&(ops.len() as u16).to_be_bytes());
    for (number, value) in [(field::NAMESPACE, &b"test"[..]), (field::DIGEST, &[7; 20])] {
        body.extend((value.len() as u32 + 1).to_be_bytes());
        body.push(number);
        body.extend(value);
    }
    for (code, particle, name, value) in ops {
        body.extend((4 + name.len() as u32 + value.len() as u32).to_be_bytes());
        body.extend([*code, *particle, 0, name.len() as u8]);
        body.extend(*name);
        body.extend(*value);
    }
    // The timeout of a request: a minute.
    body[14..18].copy_from_slice(&60_000u32.to_be_bytes());
    body
}

fn increment() -> Vec<u8> {
    body(0, info2::WRITE, &[(op_code::INCR, 1, b"n", &1i64.to_be_bytes())])
}

/// Keeps the reply.
#[derive(Default)]
struct Answer {
    reply: Mutex<Option<Vec<u8>>>,
    came: Condvar,
    is_gone: bool,
    /// Whether there is no room for a large reply.
    lacks_room: AtomicBool,
    /// The request that waits for room.
    waiting: Mutex<Option<GoOnWithRoom>>,
    /// Happens when a large reply takes room: the record has been read, and what is written is not committed yet.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Answer {
    fn result(&self) -> u8 {
        let mut reply = self.reply.lock();
        while reply.is_none() {
            assert!(!self.came.wait_for(&mut reply, Duration::from_secs(60)).timed_out(), "no answer");
        }
        reply.as_ref().expect("it came")[HEADER_SIZE + 5]
    }
}

impl ReplySink for Answer {
    fn send(&self, _: Vec<u8>) -> Result<(), SinkClosed> {
        Err(SinkClosed)
    }

    fn post(&self, _: Vec<u8>) {}

    fn is_closed(&self) -> bool {
        self.is_gone
    }

    fn take_room(&self, _: usize) -> bool {
        if let Some(meanwhile) = self.meanwhile.lock().take() {
            meanwhile();
        }
        !self.lacks_room.load(Ordering::Relaxed)
    }

    fn when_room(&self, _: usize, _: Instant, go_on: GoOnWithRoom) {
        *self.waiting.lock() = Some(go_on);
    }

    fn finish(&self, frames: Vec<u8>) {
        *self.reply.lock() = Some(frames);
        self.came.notify_one();
    }
}

fn owned(body: &[u8], received: Instant, sink: &Arc<Answer>) -> OwnedRequest {
    OwnedRequest::new(body, received, Arc::<Answer>::clone(sink))
}

/// Carries a request out as a service thread does; returns the result and whether it had to wait.
fn on_service_thread(context: &Arc<TransactionContext>, executor: &mut Executor, body: &[u8]) -> (u8, bool) {
    let mut out = Vec::new();
    let request = Request::parse(body).expect("it is whole");
    match executor.execute(&request, None, StoredMillis::now(), &|_| true, &mut out) {
        Step::Done => (out[HEADER_SIZE + 5], false),
        Step::Restart(wait) => {
            assert!(out.is_empty(), "a request that waits has no reply yet");
            let answer = Arc::new(Answer::default());
            context.restart(wait, owned(body, Instant::now(), &answer));
            (answer.result(), true)
        }
        _ => panic!("it is for one record"),
    }
}

/// Carries a request out as the pool does, that came at `received`; the pool itself runs it again if it has to wait.
fn in_pool(executor: &mut Executor, body: &[u8], received: Instant, sink: &Arc<Answer>) -> u8 {
    let (mut out, request) = (Vec::new(), owned(body, received, sink));
    match executor.execute_in_pool(&request, &mut out) {
        None => out[HEADER_SIZE + 5],
        Some(wait) => {
            Arc::clone(&executor.context).restart(wait, request);
            let result = sink.result();
            *sink.reply.lock() = None;
            result
        }
    }
}

/// The integer in bin `n`.
fn count(context: &Arc<TransactionContext>) -> i64 {
    let mut out = Vec::new();
    let read = body(info1::READ, 0, &[(op_code::READ, 0, b"n", b"")]);
    let request = Request::parse(&read).expect("it is whole");
    let step =
        Executor::new(Arc::clone(context)).execute(&request, None, StoredMillis::now(), &|_| true, &mut out);
    assert!(matches!(step, Step::Done));
    i64::from_be_bytes(*out.last_chunk().expect("an integer"))
}

/// Starts the pool with `count` threads for operations.
fn start_pool(context: &Arc<TransactionContext>, count: usize) {
    let for_workers = Arc::clone(context);
    let new_worker = move || {
        let work: Box<dyn Work<OwnedRequest>> =
            Box::new(PoolWorker::new(Executor::new(Arc::clone(&for_workers))));
        Some(work)
    };
    context.pool.start(count, new_worker).expect("threads");
}

/// The same message about another record.
fn of_another(mut body: Vec<u8>) -> Vec<u8> {
    let at = body.windows(20).position(|bytes| bytes == [7; 20]).expect("it has a digest");
    body[at..at + 20].fill(8);
    body
}

#[test]
fn a_service_thread_continues_when_it_meets_a_lock() {
    let context = context();
    start_pool(&context, 2);
    let mut executor = Executor::new(Arc::clone(&context));
    let [of_first, of_second] = [increment(), of_another(increment())];
    for request in [&of_first, &of_second] {
        assert_eq!(on_service_thread(&context, &mut executor, request), (0, false));
    }
    let key = RecordKey { namespace: 0, digest: Digest([7; 20]) };
    let guard = context.namespaces[0].index.get_exclusive(&key.digest).expect("it is there");
    let no_sleep = NoSleep::for_this_thread();
    let read = body(info1::READ | info1::GET_ALL, 0, &[]);
    let delete = body(0, info2::WRITE | info2::DELETE, &[]);
    let waiting = [&of_first, &of_first, &read, &delete].map(|request| {
        let (parsed, mut out) = (Request::parse(request).expect("it is whole"), Vec::new());
        let step = executor.execute(&parsed, None, StoredMillis::now(), &|_| true, &mut out);
        assert!(matches!(step, Step::Restart(Wait::Lock(of)) if of == key) && out.is_empty());
        let answer = Arc::new(Answer::default());
        context.restart(Wait::Lock(key), owned(request, Instant::now(), &answer));
        answer
    });
    assert_eq!(on_service_thread(&context, &mut executor, &of_second), (0, false));
    // One thread sleeps for all of them, and none of those for long operations.
    let in_pool = Arc::new(Answer::default());
    context.restart(Wait::Pool, owned(&of_second, Instant::now(), &in_pool));
    assert_eq!(in_pool.result(), ResultCode::Ok.code());
    assert!(waiting.iter().all(|answer| answer.reply.lock().is_none()));
    drop((guard, no_sleep));
    for answer in waiting {
        assert_eq!(answer.result(), ResultCode::Ok.code());
    }
    assert_eq!(on_service_thread(&context, &mut executor, &delete).0, ResultCode::NotFound.code());
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
}

#[test]
fn records_with_many_bins_are_for_the_pool() {
    let context = context();
    start_pool(&context, 2);
    let mut executor = Executor::new(Arc::clone(&context));
    let requests = [
        body(info1::READ | info1::GET_ALL, 0, &[]),
        body(info1::READ, 0, &[(op_code::READ, 0, &b"b0"[..], &b""[..]); 1]),
        body(info1::READ, 0, &[(op_code::READ, 0, &b"b0"[..], &b""[..]); 4]),
        body(0, info2::WRITE, &[(op_code::WRITE, 1, b"b0", &1i64.to_be_bytes())]),
    ];
    for (bin_count, is_long) in [(100, false), (25_000, true)] {
        let names: Vec<String> = (0..bin_count).map(|number| format!("b{number}")).collect();
        let value = 1i64.to_be_bytes();
        let ops: Vec<_> = names.iter().map(|name| (op_code::WRITE, 1, name.as_bytes(), &value[..])).collect();
        let (created, _) = on_service_thread(&context, &mut executor, &body(0, info2::WRITE, &ops));
        assert_eq!(created, ResultCode::Ok.code());
        for request in &requests {
            let answered = on_service_thread(&context, &mut executor, request);
            assert_eq!(answered, (ResultCode::Ok.code(), is_long), "{bin_count} bins, {request:?}");
        }
    }
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
}

#[test]
fn a_request_that_met_a_lock_is_not_behind_long_ones() {
    const LONG: usize = 3;
    let context = context();
    start_pool(&context, 2);
    let mut executor = Executor::new(Arc::clone(&context));
    let large = body(0, info2::WRITE, &[(op_code::WRITE, 4, b"p", &vec![1; LARGE])]);
    for request in [&of_another(large), &increment()] {
        assert_eq!(on_service_thread(&context, &mut executor, request), (0, false));
    }
    // More long operations than threads: they end when this test allows it.
    let (begin, begun) = mpsc::channel();
    let end = Arc::new(Mutex::new(()));
    let no_end = end.lock();
    let long = [(); LONG].map(|()| {
        let (begin, end) = (begin.clone(), Arc::clone(&end));
        let wait = move || {
            begin.send(()).expect("the test goes on");
            drop(end.lock());
        };
        let answer = Answer { meanwhile: Mutex::new(Some(Box::new(wait))), ..Answer::default() };
        let (answer, read) = (Arc::new(answer), of_another(body(info1::READ | info1::GET_ALL, 0, &[])));
        context.restart(Wait::Pool, owned(&read, Instant::now(), &answer));
        answer
    });
    (0..2).for_each(|_| begun.recv().expect("it begins"));
    // Another thread has the lock for a while, as for the copy of a large record.
    let digest = Digest([7; 20]);
    let guard = context.namespaces[0].index.get_exclusive(&digest).expect("it is there");
    let waiting = [increment(), body(info1::READ | info1::GET_ALL, 0, &[])].map(|request| {
        let answer = Arc::new(Answer::default());
        let key = RecordKey { namespace: 0, digest };
        context.restart(Wait::Lock(key), owned(&request, Instant::now(), &answer));
        answer
    });
    assert!(waiting.iter().all(|answer| answer.reply.lock().is_none()));
    drop(guard);
    assert_eq!(waiting.map(|answer| answer.result()), [ResultCode::Ok.code(); 2]);
    assert!(long.iter().all(|answer| answer.reply.lock().is_none()));
    drop(no_end);
    for answer in long {
        assert_eq!(answer.result(), ResultCode::Ok.code());
    }
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
}

#[test]
fn a_touch_does_not_wait_for_a_lock() {
    let context = context();
    let mut executor = Executor::new(Arc::clone(&context));
    let (mut write, mut touch) = (increment(), body(info1::READ | info1::GET_ALL, 0, &[]));
    for (request, ttl) in [(&mut write, 1_000u32), (&mut touch, 100)] {
        request[10..14].copy_from_slice(&ttl.to_be_bytes());
    }
    assert_eq!(on_service_thread(&context, &mut executor, &write), (0, false));
    let later = StoredMillis(StoredMillis::now().0 + 5_000);
    let digest = Digest([7; 20]);
    let index = &context.namespaces[0].index;
    let void_time = || index.get(&digest).expect("it is there").void_time;
    let before = void_time();
    let request = Request::parse(&touch).expect("it is whole");
    let mut out = Vec::new();
    cf::sync::scope(|scope| {
        let (locked, await_locked) = mpsc::channel();
        let (release, await_release) = mpsc::channel::<()>();
        scope.spawn(move || {
            let _guard = index.get(&digest).expect("it is there");
            locked.send(()).expect("the test goes on");
            let _ = await_release.recv();
        });
        await_locked.recv().expect("the lock is taken");
        // Another reader has the lock: the record can be read, and not changed.
        let _no_sleep = NoSleep::for_this_thread();
        let step = executor.execute(&request, None, later, &|_| true, &mut out);
        assert!(matches!(step, Step::Restart(Wait::Lock(_))) && out.is_empty());
        drop(release);
    });
    assert_eq!(void_time(), before);
    let step = executor.execute(&request, None, later, &|_| true, &mut out);
    assert!(matches!(step, Step::Done) && out[HEADER_SIZE + 5] == 0);
    assert!(void_time() >= before + 4);
}

#[test]
fn no_thread_of_the_pool_waits_for_a_reserved_record() {
    let context = context();
    start_pool(&context, 1);
    let key = RecordKey { namespace: 0, digest: Digest([7; 20]) };
    let resume = |request| context.submit_to_pool(request);
    let reservation = context.waits.reserve(key, &resume).expect("it is free");
    let submit = |wait, body: &[u8]| {
        let answer = Arc::new(Answer::default());
        context.restart(wait, owned(body, Instant::now(), &answer));
        answer
    };
    let waiting = [(); 3].map(|()| submit(Wait::Pool, &increment()));
    assert_eq!(submit(Wait::Pool, &of_another(increment())).result(), 0, "the thread is free");
    assert!(waiting.iter().all(|answer| answer.reply.lock().is_none()));
    // One that has lost to others reserves the record itself, or waits as well.
    let mut lost = owned(&increment(), Instant::now(), &Arc::default());
    lost.has_lost = true;
    let mut executor = Executor::new(Arc::clone(&context));
    assert_eq!(executor.execute_in_pool(&lost, &mut Vec::new()), Some(Wait::Reservation(key)));
    let lost = submit(Wait::Reservation(key), &increment());
    drop(reservation);
    for answer in waiting.into_iter().chain([lost]) {
        assert_eq!(answer.result(), 0);
    }
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
    assert_eq!(count(&context), 4);
}

#[test]
fn writers_in_the_pool_and_on_service_threads_lose_nothing() {
    let context = context();
    start_pool(&context, 2);
    let padding = vec![1; LARGE];
    let create = body(0, info2::WRITE, &[(op_code::WRITE, 4, b"p", &padding)]);
    let mut executor = Executor::new(Arc::clone(&context));
    assert_eq!(on_service_thread(&context, &mut executor, &create).0, ResultCode::Ok.code());
    let increment = &increment();
    cf::sync::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _no_sleep = NoSleep::for_this_thread();
                let mut executor = Executor::new(Arc::clone(&context));
                for _ in 0..INCREMENTS {
                    let (result, _) = on_service_thread(&context, &mut executor, increment);
                    assert_eq!(result, ResultCode::Ok.code());
                }
            });
            scope.spawn(|| {
                let mut executor = Executor::new(Arc::clone(&context));
                let sink = Arc::new(Answer::default());
                for _ in 0..INCREMENTS {
                    let result = in_pool(&mut executor, increment, Instant::now(), &sink);
                    assert_eq!(result, ResultCode::Ok.code());
                }
            });
        }
    });
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
    assert_eq!(count(&context), 4 * i64::from(INCREMENTS));
}

/// A call of function `f` in `module`.
fn call_of(module: &[u8]) -> Vec<u8> {
    let mut call = body(0, info2::WRITE, &[]);
    for (number, value) in [(field::UDF_FILE, module), (field::UDF_FUNCTION, b"f")] {
        call.extend((value.len() as u32 + 1).to_be_bytes());
        call.push(number);
        call.extend(value);
        call[19] += 1;
    }
    call
}

/// Submits more calls of module `m` than its share of the threads.
fn submit_calls(context: &TransactionContext) -> Vec<Arc<Answer>> {
    let answers: Vec<Arc<Answer>> = (0..2 * thread_count()).map(|_| Arc::default()).collect();
    for answer in &answers {
        context.submit_to_pool(owned(&call_of(b"m"), Instant::now(), answer));
    }
    answers
}

#[test]
fn a_module_leaves_threads_to_others() {
    let context = context();
    let answers = submit_calls(&context);
    let other = call_of(b"other");
    let [_, admitted, ..] = context.pool.queued_counts();
    assert_eq!(admitted, thread_count() - thread_count().div_ceil(4));
    // The others have the rest.
    for n in 1..=thread_count() - admitted {
        context.submit_to_pool(owned(&other, Instant::now(), &Arc::default()));
        assert_eq!(context.pool.queued_counts(), [0, admitted + n, 0, 0, 0]);
    }
    // Those that wait come after those that end.
    start_pool(&context, 2);
    for answer in &answers {
        answer.result();
    }
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
}

#[test]
fn calls_that_wait_are_not_forgotten_when_their_module_is_overdue_or_the_pool_stops() {
    for is_overdue in [true, false] {
        let context = context();
        let answers = submit_calls(&context);
        let await_all = || answers.iter().map(|answer| answer.result()).collect::<Vec<_>>();
        if is_overdue {
            context.functions.note_overdue("m");
            start_pool(&context, 2);
            await_all();
        } else {
            start_pool(&context, 2);
        }
        assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
        assert_eq!(await_all().len(), 2 * thread_count());
    }
}

#[test]
fn functions_that_use_up_their_time_have_threads_of_their_own() {
    let context = context();
    let call = call_of(b"m");
    let submit = |body: &[u8]| context.submit_to_pool(owned(body, Instant::now(), &Arc::default()));
    submit(&increment());
    submit(&call);
    assert_eq!(context.pool.queued_counts(), [1, 1, 0, 0, 0]);
    context.functions.note_overdue("m");
    submit(&increment());
    submit(&call);
    assert_eq!(context.pool.queued_counts(), [2, 1, 1, 0, 0]);
}

/// A function gets a prompt thread as long as one is free, unless it is likely brief.
#[test]
fn functions_that_may_be_long_get_the_prompt_threads() {
    let context = context();
    let submit = || context.submit_to_pool(owned(&call_of(b"m"), Instant::now(), &Arc::default()));
    context.pool.free_prompt_thread();
    submit();
    assert_eq!(context.pool.queued_counts(), [0, 0, 0, 0, 1]);
    submit();
    assert_eq!(context.pool.queued_counts(), [0, 1, 0, 0, 1]);
    context.functions.note_brief("m");
    context.pool.free_prompt_thread();
    submit();
    assert_eq!(context.pool.queued_counts(), [0, 2, 0, 0, 1]);
}

#[test]
fn a_reserved_record_lets_readers_in_and_writers_wait() {
    let context = context();
    let mut executor = Executor::new(Arc::clone(&context));
    assert_eq!(on_service_thread(&context, &mut executor, &increment()), (0, false));
    let (key, resumed) = (RecordKey { namespace: 0, digest: Digest([7; 20]) }, Mutex::new(Vec::new()));
    let resume = |request: OwnedRequest| resumed.lock().push(request);
    let reservation = context.waits.reserve(key, &resume).expect("it is free");
    assert_eq!(count(&context), 1);
    for waiting in [increment(), body(0, info2::WRITE | info2::DELETE, &[])] {
        let request = Request::parse(&waiting).expect("it is whole");
        let step = executor.execute(&request, None, StoredMillis::now(), &|_| true, &mut Vec::new());
        assert!(matches!(step, Step::Restart(Wait::Record(waits_for)) if waits_for == key));
        context.restart(Wait::Record(key), owned(&waiting, Instant::now(), &Arc::default()));
    }
    assert_eq!(context.pool.queued_counts(), [0; 5]);
    drop(reservation);
    assert_eq!(resumed.lock().len(), 2);
    assert_eq!(on_service_thread(&context, &mut executor, &increment()), (0, false));
    assert_eq!(count(&context), 2);
}

#[test]
fn the_pool_ends_late_and_unwanted_requests() {
    let context = context();
    let mut executor = Executor::new(Arc::clone(&context));
    let listening = Arc::new(Answer::default());
    let late = Instant::now().checked_sub(Duration::from_secs(61)).expect("a machine that runs for a minute");
    assert_eq!(in_pool(&mut executor, &increment(), late, &listening), ResultCode::Timeout.code());
    let read = body(info1::READ | info1::GET_ALL, 0, &[]);
    let now = Instant::now();
    assert_eq!(in_pool(&mut executor, &read, now, &listening), ResultCode::NotFound.code());
    // A write is carried out for a client that is gone, a read is not.
    let gone = Arc::new(Answer { is_gone: true, ..Answer::default() });
    assert_eq!(in_pool(&mut executor, &increment(), now, &gone), ResultCode::Ok.code());
    assert_eq!(in_pool(&mut executor, &read, now, &gone), ResultCode::Timeout.code());
    assert_eq!(in_pool(&mut executor, &read, now, &listening), ResultCode::Ok.code());
    context.stop();
    assert_eq!(in_pool(&mut executor, &read, now, &listening), ResultCode::Timeout.code());
    assert_eq!(count(&context), 1);
}

#[test]
fn a_large_reply_is_made_when_it_has_room() {
    let context = context();
    let mut executor = Executor::new(Arc::clone(&context));
    let padding = vec![1; LARGE];
    let create =
        body(0, info2::WRITE, &[(op_code::WRITE, 4, b"p", &padding), (op_code::WRITE, 4, b"q", b"")]);
    assert_eq!(on_service_thread(&context, &mut executor, &create), (0, false));
    let twice = [(op_code::READ, 0, &b"p"[..], &b""[..]), (op_code::READ, 0, b"p", b"")];
    let reads = [
        (body(info1::READ | info1::GET_ALL, 0, &[]), 1),
        (body(info1::READ, 0, &twice), 2),
        (body(info1::READ, info2::WRITE, &[twice[0], (op_code::WRITE, 4, b"q", b"1")]), 2),
    ];
    for (read, count) in &reads {
        let (request, mut out) = (Request::parse(read).expect("it is whole"), Vec::new());
        let asked = std::cell::Cell::new(0);
        let refuse = |size| {
            asked.set(size);
            false
        };
        let step = executor.execute(&request, None, StoredMillis::now(), &refuse, &mut out);
        assert!(matches!(step, Step::Restart(Wait::ReplyRoom(size)) if size == asked.get()));
        assert!(out.is_empty() && (count * LARGE..count * LARGE + 1024).contains(&asked.get()));
        // The pool waits by itself, and runs the request again.
        let narrow = Arc::new(Answer { lacks_room: true.into(), ..Answer::default() });
        let owned = OwnedRequest::new(read, Instant::now(), Arc::<Answer>::clone(&narrow));
        assert_eq!(executor.execute_in_pool(&owned, &mut out), Some(Wait::ReplyRoom(asked.get())));
        assert!(out.is_empty());
        context.restart(Wait::ReplyRoom(asked.get()), owned);
        let go_on = narrow.waiting.lock().take().expect("it waits");
        go_on(false);
        assert_eq!(narrow.result(), ResultCode::Timeout.code());
        assert_eq!(in_pool(&mut executor, read, Instant::now(), &Arc::default()), 0);
    }
    // Replies that are small for every record need no room.
    let refuse = |_| false;
    let small = body(info1::READ | info1::GET_NO_BINS, 0, &[]);
    let request = Request::parse(&small).expect("it is whole");
    let step = executor.execute(&request, None, StoredMillis::now(), &refuse, &mut Vec::new());
    assert!(matches!(step, Step::Done));
}

#[test]
fn a_partition_that_is_not_served_is_unavailable() {
    let context = context();
    let mut executor = Executor::new(Arc::clone(&context));
    assert_eq!(on_service_thread(&context, &mut executor, &increment()), (0, false));
    let (namespace, partition) = (&context.namespaces[0], PartitionId::of(&Digest([7; 20])));
    assert!(!namespace.partitions.isolate(partition, Duration::ZERO), "the thread is still in its section");
    executor.measure(Instant::now());
    assert!(namespace.partitions.isolate(partition, Duration::ZERO), "no transaction is under way");
    let unavailable = ResultCode::Unavailable.code();
    for request in [increment(), body(info1::READ | info1::GET_ALL, 0, &[])] {
        assert_eq!(on_service_thread(&context, &mut executor, &request), (unavailable, false));
        let (now, answer) = (Instant::now(), Arc::default());
        assert_eq!(in_pool(&mut executor, &request, now, &answer), unavailable);
    }
    executor.measure(Instant::now());
    namespace.deal_alone(2).expect("no headers to write");
    assert_eq!(count(&context), 1);
    assert!(namespace.partitions.isolate(partition, Duration::ZERO), "all were released");
}

/// The node of the tests, and one that may have newer copies.
const OWN: u64 = 1;
const OTHER: u64 = 2;

/// A node that is in a cluster, whose partitions are as tests say.
fn context_in_cluster() -> Arc<TransactionContext> {
    let context = context();
    let settings = FabricSettings::new(&context.config.network, None);
    let fabric = Fabric::new(NodeId(OWN), settings).expect("file descriptors");
    context.duplicates.connect(&context, &fabric, &Arc::new(Cluster::looking_for_others(OWN)));
    context.namespaces[0].partitions.serve_until(u64::MAX - 1);
    context
}

/// A rebalance after which this node is master of the record, and another may have a newer copy.
fn rebalance(context: &TransactionContext) {
    let (namespace, partition) = (&context.namespaces[0], PartitionId::of(&Digest([7; 20])));
    let mut rows = Vec::new();
    namespace.partitions.visit(|id, row| {
        if id == partition {
            let (duplicates, cutoff) = (vec![OTHER], u64::MAX);
            let row = PartitionRow { duplicates, duplicate_resolution_cutoff_ms: cutoff, ..row.clone() };
            rows.push((id, row));
        }
    });
    namespace.partitions.take_over(&namespace.storage, rows, Some(1)).expect("no headers to write");
}

#[test]
fn records_resolved_before_a_rebalance_are_resolved_again_after_it() {
    let context = context_in_cluster();
    let mut executor = Executor::new(Arc::clone(&context));
    assert_eq!(on_service_thread(&context, &mut executor, &increment()), (0, false));
    let key = RecordKey { namespace: 0, digest: Digest([7; 20]) };
    for round in 1..=3 {
        // The cluster thread publishes the partitions first and the rest later; writes may come in between.
        rebalance(&context);
        let waiting = increment();
        let request = Request::parse(&waiting).expect("it is whole");
        let step = executor.execute(&request, None, StoredMillis::now(), &|_| true, &mut Vec::new());
        assert!(matches!(step, Step::Restart(Wait::Duplicates(of)) if of == key), "round {round}");
        context.restart(Wait::Duplicates(key), owned(&waiting, Instant::now(), &Arc::default()));
        assert_eq!(context.duplicates.count(), 1);
        // The other has nothing newer, whatever the number of the question is.
        for number in 0..=round {
            let answer = context.duplicates.answered(&context, (key, number), NodeId(OTHER), (None, None));
            answer.expect("there is no record in it");
        }
        let queued = context.pool.queued_counts().iter().sum::<usize>();
        assert_eq!((context.duplicates.count(), queued), (0, round as usize));
        assert_eq!(on_service_thread(&context, &mut executor, &increment()), (0, false));
    }
    assert_eq!(count(&context), 4);
}

#[test]
fn a_write_that_a_rebalance_overtakes_asks_for_copies_before_it_commits() {
    let context = context_in_cluster();
    let mut executor = Executor::new(Arc::clone(&context));
    let create = body(0, info2::WRITE, &[(op_code::WRITE, 4, b"p", &vec![1; LARGE])]);
    assert_eq!(on_service_thread(&context, &mut executor, &create), (0, false));
    let read = (op_code::READ, 0, &b"p"[..], &b""[..]);
    let change = (op_code::INCR, 1, &b"n"[..], &1i64.to_be_bytes()[..]);
    let write = body(info1::READ, info2::WRITE, &[read, read, change]);
    let answer = Arc::new(Answer::default());
    let in_between = Arc::clone(&context);
    *answer.meanwhile.lock() = Some(Box::new(move || rebalance(&in_between)));
    let mut out = Vec::new();
    let wait = executor.execute_in_pool(&owned(&write, Instant::now(), &answer), &mut out);
    assert!(answer.meanwhile.lock().is_none(), "the rebalance came in between");
    let key = RecordKey { namespace: 0, digest: Digest([7; 20]) };
    assert_eq!((wait, out.len()), (Some(Wait::Duplicates(key)), 0));
}

#[test]
fn calls_that_wait_are_not_forgotten_when_their_module_turns_out_quick() {
    let context = context();
    let answers = submit_calls(&context);
    context.functions.note_quick("m");
    start_pool(&context, 2);
    for answer in &answers {
        answer.result();
    }
    assert!(context.pool.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
}

#[test]
fn only_calls_of_functions_have_the_time_of_a_processor() {
    let (time, call) = (Duration::from_millis(60), call_of(b"m"));
    let limit_as = |info2: u8| {
        let mut body = call.clone();
        body[2] = info2;
        let request = Request::parse(&body).expect("it is whole");
        limit_of(&request, time, Instant::now() + time)
    };
    let limits = [info2::WRITE, 0, info2::WRITE | info2::DELETE].map(limit_as);
    std::thread::sleep(time * 2);
    assert_eq!(limits.map(|limit| limit.is_over()), [false, true, true]);
}
