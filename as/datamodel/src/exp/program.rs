//! The compiled form of an expression: a flat program for a stack machine.
//!
//! Operands are pushed; operators take them from the stack and push their result. An unknown value is thrown
//! instead of pushed. Every instruction that can produce one names a handler, which says to which height the
//! stack is cut back, and where the program continues with the unknown value on top. Operators pass unknown
//! values on, so the handler of an operand is the nearest enclosing place that treats them differently: a
//! connective, a variable, or the end.
//!
//! Strings and other literals are ranges of the request's bytes.

use super::arithmetic::{Binary, Unary};
use super::compare::Comparison;
use super::operators::{Connective, Metadata};
use super::regex::Regex;
use super::value::Type;
use crate::geojson::Geometry;
use crate::particle::BytesType;

/// A range of the expression's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// The bytes of the span. They may be empty if `bytes` belong to another expression.
    #[inline]
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// Index of a [`Handler`].
pub(super) type HandlerId = u32;

/// Index of an instruction.
pub(super) type Address = u32;

/// What happens to an unknown value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handler {
    /// The instruction at which the program continues.
    pub(super) target: Address,
    /// Number of values that stay on the stack; the unknown value is pushed on top.
    pub(super) height: u32,
}

/// The handler that ends the program.
pub(super) const OUTERMOST: HandlerId = 0;

/// A value that is always known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Constant {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Bytes(BytesType, Span),
    /// One of the expression's geometries, and its text.
    Geometry(GeometryId, Span),
    Extension(Span),
    Metadata(Metadata),
    DigestModulo(i32),
}

/// A step of a program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instruction {
    /// Push a value.
    Push(Constant),
    /// Push a value or throw.
    Unknown(HandlerId),
    Key(Type, HandlerId),
    Bin(Name, HandlerId),
    BinType(Name, HandlerId),
    Load(Slot, HandlerId),
    /// Take operands and push the result, or throw.
    Compare(Comparison, HandlerId),
    CompareGeo(HandlerId),
    Match(RegexId, HandlerId),
    Not(HandlerId),
    Binary(Binary, HandlerId),
    Unary(Unary, HandlerId),
    Call(CallId, HandlerId),
    /// Take an operand of a connective, which may be unknown, and combine it with the value below. If the
    /// result is then certain, jump to the address.
    Connect(Connective, Address),
    /// Throw the top value if it is unknown.
    ThrowIfUnknown(HandlerId),
    /// Take a truth value and jump to the address if it is false.
    JumpUnless(Address, HandlerId),
    Jump(Address),
    /// Take a value, which may be unknown, and store it.
    Store(Slot),
}

/// Number of a variable.
pub(super) type Slot = u32;
/// Index of a regular expression.
pub(super) type RegexId = u32;
/// Index of a point or region.
pub(super) type GeometryId = u32;
/// Index of a [`Call`].
pub(super) type CallId = u32;

/// The name of a bin in the expression's bytes, and the expected type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) start: u32,
    /// At most 15.
    pub(super) len: u8,
    pub(super) wanted: Type,
}

impl Name {
    #[inline]
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        Span { start: self.start, len: u32::from(self.len) }.of(bytes)
    }
}

/// The kind of value that a call's operation works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum System {
    ListsAndMaps,
    Bits,
    Hll,
}

/// An operation on a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) system: System,
    /// Whether the value of the call is the changed value, and not the answer of the operation.
    pub(super) modifies: bool,
    pub(super) result: Type,
    /// The constant bytes of the operation. If there are operands, those before the first operand.
    pub(super) head: Span,
    /// Number of evaluated arguments. They are below the value on the stack.
    pub(super) operand_count: u32,
    /// Index of the first argument's entry in [`Program::tails`].
    pub(super) first_tail: u32,
}

/// A compiled expression without its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub(super) instructions: Vec<Instruction>,
    pub(super) handlers: Vec<Handler>,
    pub(super) regexes: Vec<Regex>,
    pub(super) geometries: Vec<Geometry>,
    pub(super) calls: Vec<Call>,
    /// For each operand of each call, the bytes that follow it in the operation.
    pub(super) tails: Vec<Span>,
    /// Largest number of variables at once.
    pub(super) slot_count: u32,
}

const _: () = assert!(size_of::<Instruction>() == 16, "instructions are small");
