//! The limit on the size of replies that are kept because clients have not read them.
//!
//! A connection with unsent replies is not served, so it keeps at most the replies of one `send`, one of
//! which may be large. A stream of replies stops at [`UNSENT_SIZE_MAX`](super::stream_progress). The bytes
//! kept by all connections are counted here. Above the limit, a request with a large reply is put off until
//! there is room, and its connection is not read meanwhile; streams stop as soon as they have unsent bytes.
//! Requests with small replies continue, because these fit into socket buffers. A client that has long read
//! nothing while others are put off is disconnected.
//!
//! # Threads and locks
//! A service thread retries the requests that it has put off itself. Requests that wait in a pool are in a
//! queue behind a mutex, taken alone. Each service thread checks the queue when it wakes up, and wakes up
//! often while there are such requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use crate::metrics::{ServerCounter, ServerMetrics};
use crate::transaction::GoOnWithRoom;

/// Largest number of bytes of unread replies of all connections together, except small replies.
const UNSENT_SIZE_MAX: usize = 512 << 20;
/// How long a client may read nothing while others wait for the room of its replies.
pub(super) const STALLED_TIME_MAX: Duration = Duration::from_secs(30);

/// Counts unsent replies.
pub(crate) struct ReplyBudget {
    unsent_size: AtomicUsize,
    /// Number of requests that are put off. Every thread reads it at each wake-up, so it shares no cache line with
    /// values that change often.
    waiting: CachePadded<AtomicUsize>,
    /// The requests that wait in a pool instead of a service thread.
    queue: Mutex<VecDeque<QueuedReply>>,
    metrics: Arc<ServerMetrics>,
    /// Text for the log when a request is put off.
    complaint: &'static str,
}

/// A request in a pool that waits until its reply has room.
struct QueuedReply {
    size: usize,
    deadline: Instant,
    go_on: GoOnWithRoom,
    _waiting: Waiting,
}

impl ReplyBudget {
    /// Makes an unused budget.
    pub(crate) fn new(metrics: Arc<ServerMetrics>) -> Arc<Self> {
        let complaint = "of replies are not read: a request with a large reply is put off";
        ReplyBudget::with_complaint(metrics, complaint)
    }

    /// Makes the budget of compressed requests until they are carried out. It has the same size.
    pub(crate) fn of_inflated(metrics: Arc<ServerMetrics>) -> Arc<Self> {
        let complaint = "of inflated requests are not carried out: a compressed request is put off";
        ReplyBudget::with_complaint(metrics, complaint)
    }

    fn with_complaint(metrics: Arc<ServerMetrics>, complaint: &'static str) -> Arc<Self> {
        let (unsent_size, waiting) = (AtomicUsize::new(0), CachePadded::default());
        Arc::new(ReplyBudget { unsent_size, waiting, queue: Mutex::default(), metrics, complaint })
    }

    /// Bytes of replies that are kept for clients, or are about to be.
    pub(crate) fn unsent_size(&self) -> usize {
        self.unsent_size.load(Relaxed)
    }

    /// Whether no more replies may be made for clients with unread replies.
    pub(super) fn is_used_up(&self) -> bool {
        self.unsent_size() >= UNSENT_SIZE_MAX
    }

    /// Whether a reply of `size` bytes has room. Any size has room while no other bytes are kept.
    pub(super) fn has_room(&self, size: usize) -> bool {
        let used = self.unsent_size();
        used == 0 || used.saturating_add(size) <= UNSENT_SIZE_MAX
    }

    /// Whether requests are put off.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Relaxed) != 0
    }

    /// Notes that a request is put off, until the result is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Relaxed);
        self.metrics.add(ServerCounter::RepliesPutOff, 1);
        cf::warning_limited!(Service, "{} bytes {}", self.unsent_size(), self.complaint);
        Waiting(Arc::clone(self))
    }

    /// Calls `go_on` when a reply of `size` bytes may have room, or at `deadline`.
    pub(super) fn when_room(self: &Arc<Self>, size: usize, deadline: Instant, go_on: GoOnWithRoom) {
        let queued = QueuedReply { size, deadline, go_on, _waiting: self.wait() };
        self.queue.lock().push_back(queued);
    }

    /// Resumes requests in the queue that may have room, and those whose deadline has passed. Each is checked
    /// once.
    pub(super) fn release_queued(&self, now: Instant) {
        let is_over = |queued: &QueuedReply| queued.deadline <= now || self.has_room(queued.size);
        let mut left = self.queue.lock().len();
        while left > 0 {
            let mut queue = self.queue.lock();
            let Some(at) = queue.iter().take(left).position(is_over) else { return };
            let Some(queued) = queue.remove(at) else { return };
            drop(queue);
            left -= 1;
            (queued.go_on)(self.has_room(queued.size));
        }
    }
}

/// A request that is put off.
pub(super) struct Waiting(Arc<ReplyBudget>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// A part of the budget in use, released when it is dropped.
pub(super) struct Charge {
    budget: Arc<ReplyBudget>,
    size: usize,
}

impl Charge {
    /// A charge of zero bytes.
    pub(super) fn new(budget: &Arc<ReplyBudget>) -> Self {
        Charge { budget: Arc::clone(budget), size: 0 }
    }

    /// Reserves `size` bytes if they have room.
    pub(super) fn reserve(budget: &Arc<ReplyBudget>, size: usize) -> Option<Self> {
        let before = budget.unsent_size.fetch_add(size, Relaxed);
        let charge = Charge { budget: Arc::clone(budget), size };
        (before == 0 || before.saturating_add(size) <= UNSENT_SIZE_MAX).then_some(charge)
    }

    /// Whether optional data must not be made any more.
    pub(super) fn is_budget_used_up(&self) -> bool {
        self.budget.is_used_up()
    }

    /// Changes the size of this part to `size` bytes.
    #[inline]
    pub(super) fn set(&mut self, size: usize) {
        if size != self.size {
            self.budget.unsent_size.fetch_add(size.wrapping_sub(self.size), Relaxed);
            self.size = size;
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn budget(&self) -> &Arc<ReplyBudget> {
        &self.budget
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_replies_have_room_until_the_budget_is_used_up() {
        let budget = ReplyBudget::new(Arc::new(ServerMetrics::new(0)));
        let whole = Charge::reserve(&budget, 2 * UNSENT_SIZE_MAX).expect("nothing else is kept");
        assert!(budget.is_used_up() && !budget.has_room(1));
        assert!(Charge::reserve(&budget, 1).is_none());
        assert_eq!(budget.unsent_size(), 2 * UNSENT_SIZE_MAX);
        drop(whole);
        let mut part = Charge::new(&budget);
        part.set(UNSENT_SIZE_MAX - 10);
        assert!(budget.has_room(10) && !budget.has_room(11) && !budget.is_used_up());
        part.set(5);
        assert_eq!(budget.unsent_size(), 5);
        drop(part);
        assert_eq!(budget.unsent_size(), 0);
    }

    #[test]
    fn queued_requests_resume_with_room_or_at_their_deadline() {
        let budget = ReplyBudget::new(Arc::new(ServerMetrics::new(0)));
        let kept = Charge::reserve(&budget, UNSENT_SIZE_MAX - 10).expect("nothing else is kept");
        let (now, went_on) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        for (number, size, seconds) in [(0, 11, 60), (1, 10, 60), (2, 11, 0), (3, 20, 60)] {
            let went_on = Arc::clone(&went_on);
            let go_on = Box::new(move |has_room| went_on.lock().push((number, has_room)));
            budget.when_room(size, now + Duration::from_secs(seconds), go_on);
        }
        assert!(budget.is_waited_for());
        budget.release_queued(now);
        assert_eq!(*went_on.lock(), [(1, true), (2, false)]);
        drop(kept);
        budget.release_queued(now);
        assert_eq!(went_on.lock()[2..], [(0, true), (3, true)]);
        assert!(!budget.is_waited_for());
    }

    #[test]
    fn requests_that_are_put_off_are_counted() {
        let metrics = Arc::new(ServerMetrics::new(0));
        let budget = ReplyBudget::new(Arc::clone(&metrics));
        let waiting = budget.wait();
        assert!(budget.is_waited_for());
        drop(waiting);
        assert!(!budget.is_waited_for());
        assert_eq!(metrics.get(ServerCounter::RepliesPutOff), 1);
    }
}
