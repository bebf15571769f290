//! Requests for bit operations: msgpack lists of a code and its arguments.
//!
//! One table holds the operations that modify, and one holds those that read:
//! `code → operator, arguments, number of required arguments, flags allowed`.

use cf::msgpack::{Head, Reader};
use proto::ResultCode;

use super::{flags, integer_subflags, resize_subflags};

/// Operations that modify. The order is that of their codes, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ModifyOperator {
    Resize,
    Insert,
    Remove,
    Set,
    Or,
    Xor,
    And,
    Not,
    LeftShift,
    RightShift,
    Add,
    Subtract,
    SetInteger,
}

/// Operations that read. The order is that of their codes, from [`READ_CODE_FIRST`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadOperator {
    Get,
    Count,
    LeftScan,
    RightScan,
    GetInteger,
}

const READ_CODE_FIRST: u32 = 50;

#[derive(Clone, Copy)]
enum Argument {
    ByteOffset,
    BitOffset,
    /// Size in bytes, not zero.
    ByteSize,
    NewByteSize,
    BitSize,
    /// Size of an integer in bits, 1 to 64.
    IntegerSize,
    Integer,
    Shift,
    Wanted,
    Bytes,
    Flags,
    ResizeSubflags,
    IntegerSubflags,
    GetSubflags,
}

struct Row<T> {
    operator: T,
    arguments: &'static [Argument],
    required: usize,
    flags: u64,
}

use Argument as A;

/// Largest size or offset in bytes; blobs are smaller.
pub(super) const BLOB_SIZE_MAX: u64 = proto::frame::BODY_SIZE_MAX;
/// Largest size, offset or shift in bits.
pub(super) const BIT_COUNT_MAX: u64 = BLOB_SIZE_MAX * 8;

const GROWING: u64 = flags::CREATE_ONLY | flags::UPDATE_ONLY | flags::NO_FAIL;
const REGION: u64 = flags::UPDATE_ONLY | flags::NO_FAIL | flags::PARTIAL;
const INTEGER: u64 = flags::UPDATE_ONLY | flags::NO_FAIL;

const WITH_BYTES: &[Argument] = &[A::BitOffset, A::BitSize, A::Bytes, A::Flags];
const WITH_SHIFT: &[Argument] = &[A::BitOffset, A::BitSize, A::Shift, A::Flags];
const WITH_INTEGER: &[Argument] = &[A::BitOffset, A::IntegerSize, A::Integer, A::Flags, A::IntegerSubflags];

static MODIFY: [Row<ModifyOperator>; 13] = {
    use ModifyOperator as O;
    [
        row(O::Resize, &[A::NewByteSize, A::Flags, A::ResizeSubflags], 1, GROWING),
        row(O::Insert, &[A::ByteOffset, A::Bytes, A::Flags], 2, GROWING),
        row(O::Remove, &[A::ByteOffset, A::ByteSize, A::Flags], 2, REGION),
        row(O::Set, WITH_BYTES, 3, REGION),
        row(O::Or, WITH_BYTES, 3, REGION),
        row(O::Xor, WITH_BYTES, 3, REGION),
        row(O::And, WITH_BYTES, 3, REGION),
        row(O::Not, &[A::BitOffset, A::BitSize, A::Flags], 2, REGION),
        row(O::LeftShift, WITH_SHIFT, 3, REGION),
        row(O::RightShift, WITH_SHIFT, 3, REGION),
        row(O::Add, WITH_INTEGER, 3, INTEGER),
        row(O::Subtract, WITH_INTEGER, 3, INTEGER),
        row(O::SetInteger, &[A::BitOffset, A::IntegerSize, A::Integer, A::Flags], 3, INTEGER),
    ]
};

static READ: [Row<ReadOperator>; 5] = {
    use ReadOperator as O;
    [
        row(O::Get, &[A::BitOffset, A::BitSize], 2, 0),
        row(O::Count, &[A::BitOffset, A::BitSize], 2, 0),
        row(O::LeftScan, &[A::BitOffset, A::BitSize, A::Wanted], 3, 0),
        row(O::RightScan, &[A::BitOffset, A::BitSize, A::Wanted], 3, 0),
        row(O::GetInteger, &[A::BitOffset, A::IntegerSize, A::GetSubflags], 2, 0),
    ]
};

const fn row<T: Copy>(operator: T, arguments: &'static [Argument], required: usize, flags: u64) -> Row<T> {
    Row { operator, arguments, required, flags }
}

/// The arguments of an operation. Arguments that the operation does not take are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Arguments<'a> {
    /// In bits; a negative one counts from the end. At most [`BIT_COUNT_MAX`] in either direction.
    pub(super) offset: i64,
    /// In bits, at most [`BIT_COUNT_MAX`].
    pub(super) size: u64,
    /// An integer, a shift, or 1 for a scan for ones.
    pub(super) value: u64,
    /// At least `size` bits.
    pub(super) bytes: &'a [u8],
    pub(super) flags: u64,
    pub(super) subflags: u64,
}

/// Reads a request for an operation that modifies.
pub(super) fn parse_modify(payload: &[u8]) -> Result<(ModifyOperator, Arguments<'_>), ResultCode> {
    parse(payload, &MODIFY, 0)
}

/// Reads a request for an operation that reads.
pub(super) fn parse_read(payload: &[u8]) -> Result<(ReadOperator, Arguments<'_>), ResultCode> {
    parse(payload, &READ, READ_CODE_FIRST)
}

fn parse<'a, T: Copy>(
    payload: &'a [u8],
    table: &'static [Row<T>],
    code_first: u32,
) -> Result<(T, Arguments<'a>), ResultCode> {
    let mut reader = Reader::new(payload);
    let parsed = (|| {
        let count = reader.list_header()?.checked_sub(1)? as usize;
        // Codes are compared as 32 bits.
        let code = reader.integer()? as u32;
        let row = table.get(code.checked_sub(code_first)? as usize)?;
        if !(row.required..=row.arguments.len()).contains(&count) {
            return None;
        }
        let mut arguments = Arguments::default();
        for &argument in row.arguments.iter().take(count) {
            arguments.read(argument, &mut reader, row.flags)?;
        }
        Some((row.operator, arguments))
    })();
    parsed.ok_or(ResultCode::Parameter)
}

impl<'a> Arguments<'a> {
    fn read(&mut self, argument: Argument, reader: &mut Reader<'a>, flags_allowed: u64) -> Option<()> {
        match argument {
            A::ByteOffset => self.offset = offset(reader, BLOB_SIZE_MAX)? * 8,
            A::BitOffset => self.offset = offset(reader, BIT_COUNT_MAX)?,
            A::NewByteSize => self.size = up_to(reader, BLOB_SIZE_MAX)? * 8,
            A::ByteSize => self.size = not_zero(up_to(reader, BLOB_SIZE_MAX)?)? * 8,
            A::BitSize => self.size = not_zero(up_to(reader, BIT_COUNT_MAX)?)?,
            A::IntegerSize => self.size = not_zero(up_to(reader, 64)?)?,
            A::Integer => self.value = reader.integer()?,
            A::Shift => self.value = up_to(reader, BIT_COUNT_MAX)?,
            A::Wanted => match reader.head()? {
                Head::Bool(wanted) => self.value = u64::from(wanted),
                _ => return None,
            },
            A::Bytes => self.read_bytes(reader)?,
            A::Flags => {
                self.flags = known(reader, flags_allowed)?;
                exclusive(self.flags, flags::CREATE_ONLY, flags::UPDATE_ONLY)?;
            }
            A::ResizeSubflags => {
                self.subflags = known(reader, resize_subflags::ALL)?;
                exclusive(self.subflags, resize_subflags::GROW_ONLY, resize_subflags::SHRINK_ONLY)?;
            }
            A::IntegerSubflags => {
                self.subflags = known(reader, integer_subflags::ALL)?;
                exclusive(self.subflags, integer_subflags::SATURATE, integer_subflags::WRAP)?;
            }
            A::GetSubflags => self.subflags = known(reader, integer_subflags::SIGNED)?,
        }
        Some(())
    }

    /// Reads at least one byte after the type byte. If the request gives no size, the number of bytes is the
    /// size.
    fn read_bytes(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        let Head::Raw([_, bytes @ ..]) = reader.head()? else { return None };
        let size = not_zero(bytes.len() as u64 * 8)?;
        if self.size == 0 {
            self.size = size;
        }
        self.bytes = bytes;
        (self.size <= size).then_some(())
    }
}

/// Reads an offset. The minimum integer, which has no absolute value, counts as zero.
fn offset(reader: &mut Reader<'_>, max: u64) -> Option<i64> {
    match reader.integer()?.cast_signed() {
        i64::MIN => Some(0),
        offset => (offset.unsigned_abs() <= max).then_some(offset),
    }
}

fn up_to(reader: &mut Reader<'_>, max: u64) -> Option<u64> {
    reader.integer().filter(|&value| value <= max)
}

fn not_zero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

fn known(reader: &mut Reader<'_>, allowed: u64) -> Option<u64> {
    reader.integer().filter(|flags| flags & !allowed == 0)
}

fn exclusive(flags: u64, one: u64, other: u64) -> Option<()> {
    (flags & one == 0 || flags & other == 0).then_some(())
}
