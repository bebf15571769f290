//! The compiled form of an expression: a flat program for a stack machine.
//!
//! Operands are pushed, operators take them from the stack and push their result. An unknown value is not pushed but
//! thrown: every instruction that can come to one names a handler, which says how far to cut the stack back and where
//! to go on with the unknown value on top. As operators pass unknown values on, the handler of an operand is the
//! nearest place above it that does something else with one: a connective, a variable, or the end.
//!
//! Strings and the like are ranges of the request's bytes.

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
    /// The bytes. A span of another expression's bytes may be empty.
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

/// The treatment of an unknown value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handler {
    /// Where the program goes on.
    pub(super) target: Address,
    /// Values that stay on the stack; the unknown one is put on top.
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
    /// Take an operand of a connective, which may be unknown, and combine it with the value below. If that decides the
    /// result, go to the address.
    Connect(Connective, Address),
    /// Throw what is on top if it is unknown.
    ThrowIfUnknown(HandlerId),
    /// Take a truth value and go to the address if it is false.
    JumpUnless(Address, HandlerId),
    Jump(Address),
    /// Take a value, which may be unknown, and keep it.
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

/// The name of a bin in the expression's bytes, and the type that is asked for.
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

/// The kind of value that an operation of a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum System {
    ListsAndMaps,
    Bits,
    Hll,
}

/// An operation to be carried out on a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) system: System,
    /// The call's value is the changed value, not what the operation answers.
    pub(super) modifies: bool,
    pub(super) result: Type,
    /// The operation as far as it is given. If there are operands, what is before the first.
    pub(super) head: Span,
    /// Arguments that are evaluated, below the value on the stack.
    pub(super) operand_count: u32,
    /// Index of the [`Program::tails`] of the first.
    pub(super) first_tail: u32,
}

/// A compiled expression, but for its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub(super) instructions: Vec<Instruction>,
    pub(super) handlers: Vec<Handler>,
    pub(super) regexes: Vec<Regex>,
    pub(super) geometries: Vec<Geometry>,
    pub(super) calls: Vec<Call>,
    /// For each operand of each call, what follows it in the operation.
    pub(super) tails: Vec<Span>,
    /// Number of variables that are there at once.
    pub(super) slot_count: u32,
}

const _: () = assert!(size_of::<Instruction>() == 16, "instructions are small");
