//! Expressions as operations of a request.
//!
//! ```text
//! operation   msgpack list of an expression and, optionally, flags
//! ```

use cf::msgpack::Reader;
use proto::ResultCode;

use super::Expression;
use super::evaluate::View;
use super::record::Record;
use super::value::Value;
use crate::budget::Budget;
use crate::change::Change;
use crate::particle::Particle;

/// Flags of operations.
pub mod flags {
    /// The bin must not exist.
    pub const CREATE_ONLY: u64 = 1;
    /// The bin must exist.
    pub const UPDATE_ONLY: u64 = 2;
    /// The expression may be nil, which deletes the bin.
    pub const ALLOW_DELETE: u64 = 4;
    /// An operation that the other flags forbid changes nothing, and is not an error.
    pub const POLICY_NO_FAIL: u64 = 8;
    /// An unknown expression is not an error.
    pub const EVAL_NO_FAIL: u64 = 16;

    pub(super) const FOR_READ: u64 = EVAL_NO_FAIL;
    pub(super) const FOR_MODIFY: u64 =
        CREATE_ONLY | UPDATE_ONLY | ALLOW_DELETE | POLICY_NO_FAIL | EVAL_NO_FAIL;
}

/// The value of the read operation `payload`; `None` for nil.
///
/// # Errors
/// Those of [`Operation::for_read`] and [`Operation::read`].
pub fn read(
    record: &Record<'_>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Option<Particle<'static>>, ResultCode> {
    Operation::for_read(payload, budget)?.read(record, budget)
}

/// The bin after the modify operation `payload`.
///
/// # Errors
/// Those of [`Operation::for_modify`] and [`Operation::modify`].
pub fn modify(
    record: &Record<'_>,
    bin_exists: bool,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Change, ResultCode> {
    Operation::for_modify(payload, budget)?.modify(record, bin_exists, budget)
}

/// A compiled operation.
#[derive(Clone, Debug)]
pub struct Operation<'e> {
    expression: Expression<'e>,
    flags: u64,
}

impl<'e> Operation<'e> {
    /// Compiles a read operation.
    ///
    /// # Errors
    /// `Parameter` for an invalid operation or for flags that it cannot have; `Timeout` if the budget is
    /// exhausted.
    pub fn for_read(payload: &'e [u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        Self::parse(payload, flags::FOR_READ, budget)
    }

    /// Compiles a modify operation.
    ///
    /// # Errors
    /// Those of [`for_read`](Self::for_read).
    pub fn for_modify(payload: &'e [u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        Self::parse(payload, flags::FOR_MODIFY, budget)
    }

    fn parse(payload: &'e [u8], allowed: u64, budget: &Budget<'_>) -> Result<Self, ResultCode> {
        let mut reader = Reader::new(payload);
        let Some(1..=2) = reader.list_header() else { return Err(ResultCode::Parameter) };
        let expression = reader.value().ok_or(ResultCode::Parameter)?;
        // Flags that are not an integer count as 0.
        let flags = reader.integer().unwrap_or(0);
        if flags & !allowed != 0 {
            return Err(ResultCode::Parameter);
        }
        Ok(Operation { expression: Expression::compile(expression, budget)?, flags })
    }

    /// The operation with a copy of its bytes.
    #[must_use]
    pub fn into_owned(self) -> Operation<'static> {
        Operation { expression: self.expression.into_owned(), flags: self.flags }
    }

    /// The value of the expression; `None` if it is nil.
    ///
    /// # Errors
    /// `OpNotApplicable` if it is unknown, unless the flags allow that; the result is then `None` too.
    pub fn read(
        &self,
        record: &Record<'_>,
        budget: &Budget<'_>,
    ) -> Result<Option<Particle<'static>>, ResultCode> {
        self.evaluate(record, budget).map(Option::flatten)
    }

    /// Sets a bin to the value of the expression.
    ///
    /// # Errors
    /// `BinExists`, `BinNotFound` and `OpNotApplicable` as the flags require; the last one also if the
    /// expression is unknown.
    pub fn modify(
        &self,
        record: &Record<'_>,
        bin_exists: bool,
        budget: &Budget<'_>,
    ) -> Result<Change, ResultCode> {
        let forbidden = match bin_exists {
            true if self.has(flags::CREATE_ONLY) => Some(ResultCode::BinExists),
            false if self.has(flags::UPDATE_ONLY) => Some(ResultCode::BinNotFound),
            _ => None,
        };
        if let Some(code) = forbidden {
            return if self.has(flags::POLICY_NO_FAIL) { Ok(Change::Unchanged) } else { Err(code) };
        }
        Ok(match self.evaluate(record, budget)? {
            Some(Some(particle)) => Change::Set(particle),
            Some(None) if bin_exists && self.has(flags::ALLOW_DELETE) => Change::Removed,
            // The C server accepts this with any flag.
            Some(None) if bin_exists && self.flags == 0 => return Err(ResultCode::OpNotApplicable),
            Some(None) | None => Change::Unchanged,
        })
    }

    const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// The value of the expression, with `None` inside for nil; `None` if it is unknown and the flags allow
    /// that.
    fn evaluate(
        &self,
        record: &Record<'_>,
        budget: &Budget<'_>,
    ) -> Result<Option<Option<Particle<'static>>>, ResultCode> {
        let value = match self.expression.evaluate(View::Record(record), budget) {
            Value::Nil => Ok(Some(None)),
            value => match value.into_particle(budget) {
                Some(particle) => Ok(Some(Some(particle))),
                None if self.has(flags::EVAL_NO_FAIL) => Ok(None),
                None => Err(ResultCode::OpNotApplicable),
            },
        };
        budget.check(value)
    }
}
