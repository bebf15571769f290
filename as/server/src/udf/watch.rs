//! The deadline of a running function.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// The deadline of the running function.
#[derive(Default)]
pub(super) struct Watch {
    deadline: Cell<Option<Instant>>,
    /// Returns whether the function is no longer wanted.
    is_unwanted: RefCell<Option<Box<dyn Fn() -> bool>>>,
    has_expired: Cell<bool>,
    /// Last call of [`is_slow`](Self::is_slow).
    looked: Cell<Option<Instant>>,
}

impl Watch {
    /// Starts the time of a function that may run until `deadline`.
    pub(super) fn begin(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.has_expired.set(false);
        self.looked.set(Some(Instant::now()));
    }

    /// Starts the time of a function that may run until `deadline`, or until `is_unwanted` returns true.
    pub(super) fn begin_while_wanted(&self, deadline: Instant, is_unwanted: Box<dyn Fn() -> bool>) {
        self.begin(deadline);
        *self.is_unwanted.borrow_mut() = Some(is_unwanted);
    }

    /// Moves the deadline of the running function, unless its time is over already.
    pub(super) fn extend(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
    }

    /// Ends the time of the function. Returns whether it was over: then the interpreter must not be used again.
    pub(super) fn end(&self) -> bool {
        self.deadline.set(None);
        *self.is_unwanted.borrow_mut() = None;
        self.has_expired.get()
    }

    /// Ends the time of the running function.
    pub(super) fn expire(&self) {
        self.has_expired.set(true);
    }

    /// Whether more time has passed since the last call than `usual`.
    pub(super) fn is_slow(&self, usual: Duration) -> bool {
        let now = Instant::now();
        self.looked.replace(Some(now)).is_some_and(|looked| now - looked > usual)
    }

    /// Whether the time of the function is over.
    pub(super) fn is_over(&self) -> bool {
        if self.has_expired.get() {
            return true;
        }
        let is_late = self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
        let is_over = is_late || self.is_unwanted.borrow().as_ref().is_some_and(|is_unwanted| is_unwanted());
        self.has_expired.set(is_over);
        is_over
    }
}
