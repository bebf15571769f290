//! The operators of expressions: their codes, elements and meaning, in one table.

use super::arithmetic::{Binary, Unary};
use super::compare::Comparison;
use super::value::Type;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operator {
    /// An unknown value.
    Unknown,
    /// Two operands of one type.
    Compare(Comparison),
    /// Flags and a pattern, then a text.
    CompareRegex,
    /// Two operands of type GeoJSON: whether one is within the other.
    CompareGeo,
    Connect(Connective),
    Not,
    /// Operands that are all integers or all floats, combined from left to right.
    Numbers(Binary),
    /// As `Numbers`, but for integers only.
    Integers(Binary),
    /// Two operands of these types, and the type of the result.
    Pair(Binary, [Type; 2], Type),
    /// An integer or a float, and a result of the same type.
    Number(Unary),
    /// An operand of the first type, and the type of the result.
    Single(Unary, Type, Type),
    /// The record's digest modulo a number.
    DigestModulo,
    Metadata(Metadata),
    /// The record's stored key, of a given type.
    Key,
    /// A type and the name of a bin.
    Bin,
    /// The name of a bin.
    BinType,
    /// Pairs of a condition and a value, and a default value.
    Cond,
    /// The name of a variable.
    Var,
    /// Pairs of a name and a value, and an expression that may use the names.
    Let,
    /// A list that is not an expression.
    Quote,
    /// A type, a system, an operation, and the value that it applies to.
    Call,
}

/// Operators on truth values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Connective {
    And,
    Or,
    /// Exactly one is true.
    Exclusive,
}

/// Facts about a record that are known without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Metadata {
    DeviceSize,
    LastUpdate,
    SinceUpdate,
    VoidTime,
    Ttl,
    SetName,
    KeyExists,
    IsTombstone,
    MemorySize,
    RecordSize,
}

impl Metadata {
    pub(super) const fn result(self) -> Type {
        match self {
            Self::SetName => Type::Text,
            Self::KeyExists | Self::IsTombstone => Type::Bool,
            _ => Type::Integer,
        }
    }
}

/// Number of elements after an operator's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Elements {
    Exactly(u32),
    AtLeast(u32),
    /// An odd number, at least three.
    Odd,
}

impl Elements {
    pub(super) const fn allow(self, count: u32) -> bool {
        match self {
            Self::Exactly(n) => count == n,
            Self::AtLeast(n) => count >= n,
            Self::Odd => count >= 3 && count % 2 == 1,
        }
    }
}

/// An operator, the number of its elements, and the size that it adds to an expression. The sizes are those
/// of the C server's compiled operators, so that both servers refuse the same expressions as too large.
pub(super) type Row = (u8, Operator, Elements, u32);

/// Size of an operator that has only operands.
const PLAIN: u32 = 8;

const TABLE: &[Row] = {
    use Elements::{AtLeast, Exactly, Odd};
    use Operator::*;
    use Type::{Bool, Float, Integer};
    &[
        (0, Unknown, Exactly(0), PLAIN),
        (1, Compare(Comparison::Equal), Exactly(2), PLAIN),
        (2, Compare(Comparison::Unequal), Exactly(2), PLAIN),
        (3, Compare(Comparison::Greater), Exactly(2), PLAIN),
        (4, Compare(Comparison::GreaterOrEqual), Exactly(2), PLAIN),
        (5, Compare(Comparison::Less), Exactly(2), PLAIN),
        (6, Compare(Comparison::LessOrEqual), Exactly(2), PLAIN),
        (7, CompareRegex, Exactly(3), 80),
        (8, CompareGeo, Exactly(2), PLAIN),
        (16, Connect(Connective::And), AtLeast(2), PLAIN),
        (17, Connect(Connective::Or), AtLeast(2), PLAIN),
        (18, Not, Exactly(1), PLAIN),
        (19, Connect(Connective::Exclusive), AtLeast(2), PLAIN),
        (20, Numbers(Binary::Add), AtLeast(1), PLAIN),
        (21, Numbers(Binary::Subtract), AtLeast(1), PLAIN),
        (22, Numbers(Binary::Multiply), AtLeast(1), PLAIN),
        (23, Numbers(Binary::Divide), AtLeast(1), PLAIN),
        (24, Pair(Binary::Power, [Float, Float], Float), Exactly(2), PLAIN),
        (25, Pair(Binary::Logarithm, [Float, Float], Float), Exactly(2), PLAIN),
        (26, Pair(Binary::Modulo, [Integer, Integer], Integer), Exactly(2), PLAIN),
        (27, Number(Unary::Absolute), Exactly(1), PLAIN),
        (28, Single(Unary::Floor, Float, Float), Exactly(1), PLAIN),
        (29, Single(Unary::Ceiling, Float, Float), Exactly(1), PLAIN),
        (30, Single(Unary::ToInteger, Float, Integer), Exactly(1), PLAIN),
        (31, Single(Unary::ToFloat, Integer, Float), Exactly(1), PLAIN),
        (32, Integers(Binary::And), AtLeast(1), PLAIN),
        (33, Integers(Binary::Or), AtLeast(1), PLAIN),
        (34, Integers(Binary::Xor), AtLeast(1), PLAIN),
        (35, Single(Unary::Not, Integer, Integer), Exactly(1), PLAIN),
        (36, Pair(Binary::ShiftLeft, [Integer, Integer], Integer), Exactly(2), PLAIN),
        (37, Pair(Binary::ShiftRight, [Integer, Integer], Integer), Exactly(2), PLAIN),
        (38, Pair(Binary::ShiftRightArithmetic, [Integer, Integer], Integer), Exactly(2), PLAIN),
        (39, Single(Unary::CountOnes, Integer, Integer), Exactly(1), PLAIN),
        (40, Pair(Binary::ScanLeft, [Integer, Bool], Integer), Exactly(2), PLAIN),
        (41, Pair(Binary::ScanRight, [Integer, Bool], Integer), Exactly(2), PLAIN),
        (50, Numbers(Binary::Minimum), AtLeast(1), PLAIN),
        (51, Numbers(Binary::Maximum), AtLeast(1), PLAIN),
        (64, DigestModulo, Exactly(1), 12),
        (65, Metadata(self::Metadata::DeviceSize), Exactly(0), PLAIN),
        (66, Metadata(self::Metadata::LastUpdate), Exactly(0), PLAIN),
        (67, Metadata(self::Metadata::SinceUpdate), Exactly(0), PLAIN),
        (68, Metadata(self::Metadata::VoidTime), Exactly(0), PLAIN),
        (69, Metadata(self::Metadata::Ttl), Exactly(0), PLAIN),
        (70, Metadata(self::Metadata::SetName), Exactly(0), PLAIN),
        (71, Metadata(self::Metadata::KeyExists), Exactly(0), PLAIN),
        (72, Metadata(self::Metadata::IsTombstone), Exactly(0), PLAIN),
        (73, Metadata(self::Metadata::MemorySize), Exactly(0), PLAIN),
        (74, Metadata(self::Metadata::RecordSize), Exactly(0), PLAIN),
        (80, Key, Exactly(1), 12),
        (81, Bin, Exactly(2), 24),
        (82, BinType, Exactly(1), 24),
        (123, Cond, Odd, 12),
        (124, Var, Exactly(1), 16),
        (125, Let, Odd, 20),
        (126, Quote, Exactly(1), 24),
        (127, Call, Exactly(4), 352),
    ]
};

/// Rows of [`TABLE`] by code.
static BY_CODE: [Option<Row>; 128] = {
    let mut rows = [None; 128];
    let mut table = TABLE;
    while let [row, rest @ ..] = table {
        rows[row.0 as usize] = Some(*row);
        table = rest;
    }
    rows
};

/// The row of the operator with code `code`.
#[inline]
pub(super) fn row(code: u64) -> Option<&'static Row> {
    BY_CODE.get(usize::try_from(code).ok()?)?.as_ref()
}

/// Sizes that literals and other elements add to an expression.
pub(super) mod size {
    pub(in super::super) const NIL: u32 = 8;
    pub(in super::super) const NUMBER: u32 = 16;
    pub(in super::super) const BYTES: u32 = 24;
    pub(in super::super) const GEOJSON: u32 = 40;
    /// A condition with its value.
    pub(in super::super) const CASE: u32 = 8;
    /// Expressions must be smaller than this.
    pub(in super::super) const MAX: u32 = 1 << 20;
}
