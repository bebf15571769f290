//! Expressions: conditions and values that a client computes from a record, in a small language of msgpack lists.
//!
//! As a [`Filter`], an expression decides for each record whether a request applies to it. As an [`Operation`], its
//! value is returned to the client, or becomes the value of a bin.
//!
//! An expression is compiled once ([`compile`]) into a flat [`program`], with its types checked, and
//! evaluated ([`evaluate`]) on any number of records. Values borrow from the record and the request; only
//! calls of list, map, bit and HyperLogLog operations make new ones. An undefined value (a missing bin, a bin
//! of another type, a division by zero) is unknown: it is neither true nor false. Most values that depend on
//! an unknown value are unknown too.
//!
//! Expressions may be hostile. Their size and depth are limited, no code recurses over them, and every error
//! leads to a result code.

mod arithmetic;
mod compare;
mod compile;
mod evaluate;
mod operation;
mod operators;
mod program;
mod record;
mod regex;
#[cfg(test)]
mod tests;
mod value;

use std::borrow::Cow;

use proto::ResultCode;

use self::compile::Compiled;
use self::evaluate::{View, evaluate};
use self::program::Program;
use self::value::{Type, Value};
use crate::budget::Budget;

pub use self::operation::{Operation, flags, modify, read};
pub use self::record::{BinSource, Medium, Metadata, Record};

/// Three truth values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    False,
    True,
    Unknown,
}

/// A compiled expression, with the bytes that it was compiled from.
#[derive(Clone, Debug)]
struct Expression<'e> {
    program: Program,
    source: Cow<'e, [u8]>,
    result: Type,
    /// Whether it is unknown for every record that has not been read.
    is_open: bool,
}

impl<'e> Expression<'e> {
    /// Compiles the expression in `bytes`.
    fn compile(bytes: &'e [u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        let compiled = compile::compile(bytes, budget).ok_or(ResultCode::Parameter);
        let Compiled { program, result, is_open } = budget.check(compiled)?;
        Ok(Expression { program, source: Cow::Borrowed(bytes), result, is_open })
    }

    fn into_owned(self) -> Expression<'static> {
        Expression {
            program: self.program,
            source: Cow::Owned(self.source.into_owned()),
            result: self.result,
            is_open: self.is_open,
        }
    }

    fn evaluate<'v>(&'v self, view: View<'v>, budget: &'v Budget<'v>) -> Value<'v> {
        evaluate(&self.program, &self.source, view, budget)
    }
}

/// An expression that decides which records a request applies to.
///
/// A filter is evaluated before a record is read, and again after that, unless the first result is known.
#[derive(Clone, Debug)]
pub struct Filter<'e>(Expression<'e>);

impl<'e> Filter<'e> {
    /// Compiles the filter in `bytes`, the contents of a request's field.
    ///
    /// # Errors
    /// `Parameter` for an invalid expression or one whose value is not a truth value; `Timeout` if the budget
    /// is exhausted.
    pub fn compile(bytes: &'e [u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        match Expression::compile(bytes, budget)? {
            expression @ Expression { result: Type::Bool, .. } => Ok(Filter(expression)),
            _ => Err(ResultCode::Parameter),
        }
    }

    /// The filter with a copy of its bytes.
    #[must_use]
    pub fn into_owned(self) -> Filter<'static> {
        Filter(self.0.into_owned())
    }

    /// The filter's result for a record that has not been read. If it is unknown, the filter needs bins or
    /// the key. A filter that always needs them is not evaluated. The result is meaningless if the budget is
    /// exhausted.
    #[must_use]
    pub fn matches_metadata(&self, metadata: &Metadata<'_>, budget: &Budget<'_>) -> Truth {
        if self.0.is_open {
            return Truth::Unknown;
        }
        match self.0.evaluate(View::Metadata(metadata), budget) {
            Value::Bool(true) => Truth::True,
            Value::Unknown => Truth::Unknown,
            _ => Truth::False,
        }
    }

    /// Whether the request applies to the record. If that is unknown, it does not. The result is meaningless
    /// if the budget is exhausted.
    #[must_use]
    pub fn matches(&self, record: &Record<'_>, budget: &Budget<'_>) -> bool {
        matches!(self.0.evaluate(View::Record(record), budget), Value::Bool(true))
    }
}
