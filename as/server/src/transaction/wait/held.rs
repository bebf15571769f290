//! Replies that are made and must wait until their records are safe.
//!
//! The code that makes a record safe keeps a [`Hold`] on its replies. When the last hold is dropped, the replies are
//! released to the thread that sends them. A hold waits for a disk, or for the acknowledgements of replicas.
//!
//! # Locks
//! One mutex for each group of replies, taken alone and only to put a failure into a reply.

use std::sync::Arc;

use parking_lot::Mutex;
use proto::ResultCode;

type Release = Box<dyn FnOnce(Vec<u8>) + Send>;

/// Replies, released when the last hold on them is dropped.
struct HeldReplies {
    replies: Mutex<Vec<u8>>,
    release: Mutex<Option<Release>>,
}

impl Drop for HeldReplies {
    fn drop(&mut self) {
        let replies = std::mem::take(self.replies.get_mut());
        if let Some(release) = self.release.get_mut().take() {
            release(replies);
        }
    }
}

/// Keeps replies from being sent until it is dropped.
pub(crate) struct Hold {
    held: Arc<HeldReplies>,
    /// Positions of this hold's results in the replies.
    results_at: Vec<usize>,
    has_ended: bool,
}

impl Hold {
    /// The first hold on `replies`, with no results of its own. `release` gets the replies when the last hold is
    /// dropped; it may be called on any thread, and must not wait.
    pub(crate) fn on(replies: Vec<u8>, release: impl FnOnce(Vec<u8>) + Send + 'static) -> Self {
        let held = Arc::new(HeldReplies {
            replies: Mutex::new(replies),
            release: Mutex::new(Some(Box::new(release))),
        });
        Hold { held, results_at: Vec::new(), has_ended: true }
    }

    /// Another hold, for the replies whose results are at `results_at`.
    pub(crate) fn about(&self, results_at: Vec<usize>) -> Self {
        Hold { held: Arc::clone(&self.held), results_at, has_ended: false }
    }

    /// Ends the hold: its records are safe, except those at the positions `lost` in its list of results. Their
    /// replies get an error.
    pub(crate) fn end(mut self, lost: &[usize]) {
        self.has_ended = true;
        self.fail(lost.iter().copied());
    }

    /// Ends the hold at its deadline, when it is unknown whether its records are safe: all its replies get a timeout.
    pub(crate) fn time_out(mut self) {
        self.has_ended = true;
        self.set_results(0..self.results_at.len(), ResultCode::Timeout);
    }

    fn fail(&self, lost: impl Iterator<Item = usize>) {
        self.set_results(lost, ResultCode::Unknown);
    }

    fn set_results(&self, at: impl Iterator<Item = usize>, code: ResultCode) {
        let mut replies = self.held.replies.lock();
        for at in at {
            let result = self.results_at.get(at).and_then(|result_at| replies.get_mut(*result_at));
            if let Some(result) = result {
                *result = code.code();
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The hold ended without a report that its records are safe.
        if !self.has_ended {
            self.fail(0..self.results_at.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: u8 = ResultCode::Unknown as u8;

    fn held(size: usize) -> (Hold, Arc<Mutex<Option<Vec<u8>>>>) {
        let released = Arc::<Mutex<Option<Vec<u8>>>>::default();
        let to = Arc::clone(&released);
        (Hold::on(vec![0; size], move |replies| *to.lock() = Some(replies)), released)
    }

    #[test]
    fn replies_are_released_with_the_last_hold() {
        let (first, released) = held(3);
        let (second, third) = (first.about(vec![0, 1]), first.about(vec![2]));
        drop(first);
        third.end(&[]);
        assert!(released.lock().is_none());
        second.end(&[1]);
        assert_eq!(released.lock().take(), Some(vec![0, FAILED, 0]));
    }

    #[test]
    fn writes_that_were_not_made_safe_are_not_acknowledged() {
        let (first, released) = held(3);
        drop(first.about(vec![2, 7]));
        drop(first);
        assert_eq!(released.lock().take(), Some(vec![0, 0, FAILED]));
    }
}
