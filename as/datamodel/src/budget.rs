//! Budgets of work steps. They limit the time of one request.
//!
//! Work whose amount a client chooses draws on a budget: in advance if the amount is known, otherwise while
//! it is done. One step is about a nanosecond. A budget that runs out may ask its owner for more steps.
//! Without an owner, or if the owner refuses, the budget is exhausted, and every further draw fails at once.
//! The result of an operation is then meaningless: the caller that began the work asks
//! [`Budget::is_exhausted`], or [`Budget::check`]s the result.
//!
//! This crate has no clock. The owner watches deadlines, the stop of the server and closed connections.

use std::cell::Cell;

use proto::ResultCode;

/// The steps left for some work, and the owner that may grant more. It is for one thread.
pub struct Budget<'a> {
    /// The steps left plus one; 0 if exhausted, so that even an empty draw fails.
    left: Cell<u64>,
    /// All steps granted so far.
    granted: Cell<u64>,
    /// Steps granted at once.
    portion: u64,
    /// Decides after each portion whether to continue.
    may_go_on: Option<&'a dyn Fn() -> bool>,
}

impl<'a> Budget<'a> {
    /// A budget that is never exhausted.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::of(u64::MAX - 1, None)
    }

    /// A budget of `steps` steps.
    #[must_use]
    pub const fn new(steps: u64) -> Self {
        Self::of(steps, None)
    }

    /// A budget that grants `steps` at a time. The first portion is granted at once; `may_go_on` decides
    /// after each portion, and is not asked again after a refusal.
    #[must_use]
    pub const fn with_refill(steps: u64, may_go_on: &'a dyn Fn() -> bool) -> Self {
        Self::of(steps, Some(may_go_on))
    }

    const fn of(portion: u64, may_go_on: Option<&'a dyn Fn() -> bool>) -> Self {
        let left = portion.saturating_add(1);
        Budget { left: Cell::new(left), granted: Cell::new(portion), portion, may_go_on }
    }

    /// Takes `steps`.
    ///
    /// # Errors
    /// `Timeout` if the budget is exhausted or this draw exhausts it. The caller must then not do the work.
    #[inline]
    pub fn draw(&self, steps: u64) -> Result<(), ResultCode> {
        let left = self.left.get();
        if steps < left {
            self.left.set(left - steps);
            return Ok(());
        }
        self.refill(steps)
    }

    /// Takes steps for `len` bytes that are walked over or compared, or for `len` other small pieces of work.
    ///
    /// # Errors
    /// Those of [`draw`](Self::draw).
    #[inline]
    pub fn draw_for(&self, len: usize) -> Result<(), ResultCode> {
        self.draw(len as u64)
    }

    /// Takes steps for `len` bytes that are copied or compared in bulk. A processor does several bytes in a
    /// step.
    ///
    /// # Errors
    /// Those of [`draw`](Self::draw).
    #[inline]
    pub fn draw_for_copy(&self, len: usize) -> Result<(), ResultCode> {
        self.draw(copy_steps(len))
    }

    /// Grants further portions until `steps` can be taken.
    #[cold]
    fn refill(&self, steps: u64) -> Result<(), ResultCode> {
        let mut left = self.left.get();
        while left <= steps {
            let goes_on = left != 0 && self.portion != 0 && self.may_go_on.is_some_and(|ask| ask());
            if !goes_on {
                self.exhaust();
                return Err(ResultCode::Timeout);
            }
            left = left.saturating_add(self.portion);
            self.granted.set(self.granted.get().saturating_add(self.portion));
        }
        self.left.set(left - steps);
        Ok(())
    }

    /// Exhausts the budget at once, for work that turns out to exceed it.
    #[cold]
    pub fn exhaust(&self) {
        self.left.set(0);
    }

    /// Whether the steps ran out. The computed result is then meaningless.
    #[inline]
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.left.get() == 0
    }

    /// `result`, unless the steps ran out during the work.
    ///
    /// # Errors
    /// `Timeout` if the steps ran out; otherwise the result's own error.
    #[inline]
    pub fn check<T>(&self, result: Result<T, ResultCode>) -> Result<T, ResultCode> {
        if self.is_exhausted() { Err(ResultCode::Timeout) } else { result }
    }

    /// The steps taken so far; all granted steps if the budget is exhausted.
    #[must_use]
    pub fn drawn(&self) -> u64 {
        self.granted.get().saturating_sub(self.left.get().saturating_sub(1))
    }
}

/// Walks over values and comparisons draw while they run.
impl cf::msgpack::Meter for Budget<'_> {
    #[inline]
    fn draw(&self, steps: usize) -> Option<()> {
        self.draw_for(steps).ok()
    }
}

impl std::fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Budget");
        out.field("drawn", &self.drawn()).field("is_exhausted", &self.is_exhausted());
        out.finish_non_exhaustive()
    }
}

/// Binary logarithm of the bytes copied in a step.
const COPIED_BYTES_LOG2: u32 = 3;

/// Price of `len` bytes that are copied or compared in bulk.
pub(crate) const fn copy_steps(len: usize) -> u64 {
    1 + (len as u64 >> COPIED_BYTES_LOG2)
}

/// The result of `work` with an unlimited budget. Checks that the steps it takes are enough for the same
/// result, and that fewer steps give no result.
#[cfg(test)]
pub(crate) fn unlimited<T: std::fmt::Debug>(
    work: impl Fn(&Budget<'_>) -> Result<T, ResultCode>,
) -> Result<T, ResultCode> {
    let budget = Budget::unlimited();
    let result = work(&budget);
    let steps = budget.drawn();
    let exact = Budget::new(steps);
    assert_eq!(format!("{:?}", work(&exact)), format!("{result:?}"), "within {steps} steps");
    assert!(!exact.is_exhausted());
    for fewer in [steps.wrapping_sub(1), steps / 2, steps / 7] {
        let budget = Budget::new(fewer);
        if fewer < steps {
            assert_eq!(work(&budget).err(), Some(ResultCode::Timeout), "{fewer} of {steps} steps");
            assert!(budget.is_exhausted());
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_until_none_is_left() {
        let budget = Budget::new(10);
        assert_eq!(budget.draw(4), Ok(()));
        assert_eq!(budget.draw(6), Ok(()));
        assert_eq!(budget.draw(0), Ok(()), "nothing is what is left");
        assert_eq!((budget.drawn(), budget.is_exhausted()), (10, false));
        assert_eq!(budget.draw(1), Err(ResultCode::Timeout));
        assert!(budget.is_exhausted());
        assert_eq!(budget.draw(0), Err(ResultCode::Timeout), "for good");
        assert_eq!(budget.drawn(), 10);
    }

    #[test]
    fn a_draw_that_is_too_large_exhausts_the_budget() {
        let budget = Budget::new(10);
        assert_eq!(budget.draw(11), Err(ResultCode::Timeout));
        assert_eq!(budget.draw(1), Err(ResultCode::Timeout));
        let budget = Budget::new(0);
        assert_eq!(budget.draw(0), Ok(()));
        assert_eq!(budget.draw(1), Err(ResultCode::Timeout));
    }

    #[test]
    fn portions_are_granted_until_the_owner_refuses() {
        let asked = Cell::new(0);
        let may_go_on = || {
            asked.set(asked.get() + 1);
            asked.get() < 5
        };
        let budget = Budget::with_refill(10, &may_go_on);
        assert_eq!(budget.draw(10), Ok(()));
        assert_eq!(asked.get(), 0);
        assert_eq!(budget.draw(25), Ok(()), "three portions at once");
        assert_eq!((asked.get(), budget.drawn()), (3, 35));
        assert_eq!(budget.draw(5), Ok(()));
        assert_eq!(asked.get(), 3);
        assert_eq!(budget.draw(u64::MAX), Err(ResultCode::Timeout));
        assert_eq!(asked.get(), 5);
        assert_eq!(budget.draw(1), Err(ResultCode::Timeout));
        assert_eq!(asked.get(), 5, "not asked again");
    }

    #[test]
    fn without_limit_there_is_no_end() {
        let budget = Budget::unlimited();
        assert_eq!(budget.draw(u64::MAX >> 1), Ok(()));
        assert_eq!(budget.check(Ok(7)), Ok(7));
        assert_eq!(budget.check::<()>(Err(ResultCode::NotFound)), Err(ResultCode::NotFound));
    }

    #[test]
    fn results_of_an_exhausted_budget_are_errors() {
        let budget = Budget::new(100);
        budget.exhaust();
        assert_eq!(budget.check(Ok(7)), Err(ResultCode::Timeout));
        assert_eq!(budget.check::<()>(Err(ResultCode::Parameter)), Err(ResultCode::Timeout));
    }
}
