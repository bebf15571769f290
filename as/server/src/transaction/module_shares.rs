//! Limits how many function threads the calls of one module may have at a time: all except some. If the calls of a
//! module never end, which is unknown during its first calls, the remaining threads serve other modules.
//!
//! A call beyond its module's share waits until another call of the module ends or is put off. Calls of modules that
//! are known as quick or as overdue need no share. Neither does a call with the turn to write a record, because other
//! requests wait for it.
//!
//! # Locking
//! `modules` is taken alone and briefly. It holds only modules that have calls.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::wait::{ModuleShare, OwnedRequest};

/// One of this many threads is kept free of each module.
const THREADS_PER_KEPT: usize = 4;

#[derive(Default)]
struct Calls {
    /// Calls that have a thread, or are queued for one.
    admitted: usize,
    waiting: VecDeque<OwnedRequest>,
}

#[derive(Default)]
struct Modules {
    calls: HashMap<Box<[u8]>, Calls>,
    /// Whether the threads end, so that no call waits any more.
    is_closed: bool,
}

pub(super) struct ModuleShares {
    /// The share of one module.
    admitted_max: usize,
    modules: Mutex<Modules>,
}

impl ModuleShares {
    /// Shares in `thread_count` threads.
    pub(super) fn new(thread_count: usize) -> Self {
        let kept = thread_count.div_ceil(THREADS_PER_KEPT);
        ModuleShares { admitted_max: thread_count.saturating_sub(kept).max(1), modules: Mutex::default() }
    }

    /// Admits a call of `module` and gives it a place in the share. Returns `None` if the call waits instead.
    pub(super) fn admit(&self, module: Box<[u8]>, mut request: OwnedRequest) -> Option<OwnedRequest> {
        let mut modules = self.modules.lock();
        if modules.is_closed {
            return Some(request);
        }
        let calls = modules.calls.entry(module.clone()).or_default();
        if calls.admitted == self.admitted_max {
            calls.waiting.push_back(request);
            return None;
        }
        calls.admitted += 1;
        request.share = Some(ModuleShare(module));
        Some(request)
    }

    /// Gives back a call's place in the share. The next waiting call takes the place and is returned. If the module
    /// `is_known` by now, as quick or as overdue, its calls need no share: all waiting calls are returned, without a
    /// place. So a call waits only while all places of the share are taken.
    pub(super) fn give_back(
        &self,
        share: &ModuleShare,
        is_known: impl FnOnce(&[u8]) -> bool,
    ) -> VecDeque<OwnedRequest> {
        let is_known = is_known(&share.0);
        let mut modules = self.modules.lock();
        let Some(calls) = modules.calls.get_mut(&share.0) else { return VecDeque::new() };
        if !is_known && let Some(mut next) = calls.waiting.pop_front() {
            next.share = Some(ModuleShare(share.0.clone()));
            return VecDeque::from([next]);
        }
        calls.admitted -= 1;
        let released = std::mem::take(&mut calls.waiting);
        if calls.admitted == 0 {
            modules.calls.remove(&share.0);
        }
        released
    }

    /// Returns all waiting calls. From now on no call waits.
    pub(super) fn close(&self) -> Vec<OwnedRequest> {
        let mut modules = self.modules.lock();
        modules.is_closed = true;
        modules.calls.values_mut().flat_map(|calls| std::mem::take(&mut calls.waiting)).collect()
    }
}
