//! The postbox of a fabric thread: other threads post to it and wake the thread.
//!
//! A thread that is awake checks its postbox before it sleeps again, so no other thread needs to wake it.
//! Meanwhile the posts of many threads cost no system call.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Relaxed};

use cf::sys::eventfd::EventFd;
use crossbeam::queue::SegQueue;

/// Posts that wait for a thread.
pub(super) struct Postbox<P> {
    posts: SegQueue<P>,
    is_asleep: AtomicBool,
    last_token: AtomicU64,
    pub(super) wake: EventFd,
}

impl<P> Postbox<P> {
    /// Makes an empty postbox of a thread that is awake.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Postbox {
            posts: SegQueue::new(),
            is_asleep: AtomicBool::new(false),
            last_token: AtomicU64::new(0),
            wake: EventFd::new()?,
        })
    }

    /// Makes a token for a connection of the thread.
    pub(super) fn new_token(&self) -> u64 {
        self.last_token.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn post(&self, post: P) {
        self.posts.push(post);
        // Either the thread sees the post before it sleeps, or this code sees that it is asleep.
        if self.is_asleep.swap(false, AcqRel) {
            self.wake.signal();
        }
    }

    pub(super) fn take(&self) -> Option<P> {
        self.posts.pop()
    }

    /// Prepares the thread to sleep; returns whether it may.
    pub(super) fn fall_asleep(&self) -> bool {
        self.is_asleep.swap(true, AcqRel);
        self.posts.is_empty() || !self.is_asleep.swap(false, AcqRel)
    }

    /// Notes that the thread is awake again.
    pub(super) fn wake_up(&self) {
        self.is_asleep.swap(false, AcqRel);
    }
}
