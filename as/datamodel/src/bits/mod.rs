//! Operations on the bits of a blob.
//!
//! Bits are counted from the most significant bit of the first byte; a negative offset counts from the end. A
//! request is a msgpack list of a code and its arguments ([`arguments`] has the tables). Every operation is
//! fully checked before it computes anything, and returns a new blob instead of changing that of the bin.
//!
//! The work goes 64 bits at a time ([`words`]).

mod arguments;
mod explain;
pub mod flags;
mod integer;
pub mod integer_subflags;
pub mod resize_subflags;
#[cfg(test)]
mod tests;
mod words;

use std::ops::Range;

use arguments::{Arguments, BLOB_SIZE_MAX, ModifyOperator, ReadOperator};
pub(crate) use explain::{explain_modify, explain_read};
use proto::ResultCode;
use words::{Run, rewrite};

use crate::budget::Budget;
use crate::change::Modified;
use crate::particle::{BytesType, Particle};

/// Base price of any operation.
const OPERATION_STEPS: u64 = 20;

/// Answers the read operation `payload` on `bin`. There is no answer for a bin that does not exist. The
/// caller checks that the particle type of the op is blob.
///
/// # Errors
/// Same errors as [`Read::parse`] and [`Read::apply`].
pub fn read(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Option<Particle<'static>>, ResultCode> {
    match bin {
        Some(particle) => Read::parse(payload)?.apply(particle, budget).map(Some),
        None => Ok(None),
    }
}

/// Applies the modify operation `payload` to `bin`. The caller checks that the particle type of the op is
/// blob.
///
/// # Errors
/// Same errors as [`Modify::parse`] and [`Modify::apply`].
pub fn modify(
    bin: Option<&Particle<'_>>,
    payload: &[u8],
    budget: &Budget<'_>,
) -> Result<Modified, ResultCode> {
    Modify::parse(payload)?.apply(bin, budget)
}

/// A parsed read operation. It can be applied any number of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    operator: ReadOperator,
    arguments: Arguments<'static>,
}

impl Read {
    /// Reads a request.
    ///
    /// # Errors
    /// `Parameter` for an unknown code or arguments out of bounds.
    pub fn parse(payload: &[u8]) -> Result<Self, ResultCode> {
        let (operator, arguments) = arguments::parse_read(payload)?;
        // No read operation has bytes, so the result keeps nothing of the payload.
        Ok(Read { operator, arguments: Arguments { bytes: &[], ..arguments } })
    }

    /// The result of the operation on `particle`: an integer, or for a get a blob whose last byte is padded with
    /// zeros.
    ///
    /// # Errors
    /// `IncompatibleType` unless it is a blob; `Parameter` for an offset before the blob; `OpNotApplicable` for bits
    /// beyond its end; `Timeout` when the budget is exhausted.
    pub fn apply(
        &self,
        particle: &Particle<'_>,
        budget: &Budget<'_>,
    ) -> Result<Particle<'static>, ResultCode> {
        let blob = blob_of(particle)?;
        let Arguments { size, value, subflags, .. } = self.arguments;
        let region = BitRange::of(&self.arguments, blob.len())?.ok_or(ResultCode::OpNotApplicable)?;
        let bytes = blob.get(region.bytes()).unwrap_or_default();
        budget.draw(OPERATION_STEPS + words_steps(bytes.len()))?;
        let run = Run::new(bytes, region.start, region.len);
        let position = |at: Option<usize>| at.map_or(-1, |at| at as i64);
        Ok(Particle::Integer(match self.operator {
            ReadOperator::Get => return Ok(Particle::owned(BytesType::Blob, run.to_bytes())),
            ReadOperator::Count => run.count_ones().cast_signed(),
            ReadOperator::LeftScan => position(run.first(value != 0)),
            ReadOperator::RightScan => {
                // The scan goes back to the start of the byte in which the bits begin, so a hit before the
                // bits has a negative position.
                let from_byte = Run::new(bytes, 0, region.start + region.len);
                from_byte.last(value != 0).map_or(-1, |at| at as i64 - region.start as i64)
            }
            ReadOperator::GetInteger => {
                let value = integer::load(run.word(0), size);
                if subflags & integer_subflags::SIGNED == 0 {
                    value.cast_signed()
                } else {
                    integer::sign_extended(value, size)
                }
            }
        }))
    }
}

/// A parsed modify operation. It can be applied any number of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modify<'a> {
    operator: ModifyOperator,
    arguments: Arguments<'a>,
}

impl<'a> Modify<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// `Parameter` for an unknown code, arguments out of bounds or flags that the code does not allow.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ResultCode> {
        let (operator, arguments) = arguments::parse_modify(payload)?;
        Ok(Modify { operator, arguments })
    }

    /// The blob that results from the operation on `bin`.
    ///
    /// # Errors
    /// `BinExists` or `BinNotFound` by the flags; `IncompatibleType` unless it is a blob; `Parameter` for an offset
    /// before the blob, a removal beyond its end, a resize against its subflags or a blob that gets too large;
    /// `OpNotApplicable` for other bits beyond its end or an integer that overflows; `Timeout` when the budget is
    /// exhausted.
    pub fn apply(&self, bin: Option<&Particle<'_>>, budget: &Budget<'_>) -> Result<Modified, ResultCode> {
        let creates = matches!(self.operator, ModifyOperator::Insert | ModifyOperator::Resize);
        let old = match bin {
            Some(_) if self.has(flags::CREATE_ONLY) => return self.failed(ResultCode::BinExists),
            Some(particle) => blob_of(particle)?,
            None if !creates || self.has(flags::UPDATE_ONLY) => return self.failed(ResultCode::BinNotFound),
            None => &[],
        };
        budget.draw(self.steps(old.len()))?;
        let new = match self.operator {
            ModifyOperator::Resize => self.resized(old),
            ModifyOperator::Insert => self.inserted(old),
            ModifyOperator::Remove => match BitRange::of(&self.arguments, old.len())? {
                Some(region) => Ok(Some(spliced(old, region.bytes(), 0, &[]))),
                None => Err(Refusal::Fails(ResultCode::Parameter)),
            },
            _ => self.rewritten(old),
        };
        match new {
            Ok(Some(blob)) => Ok(Modified::set(Particle::owned(BytesType::Blob, blob))),
            Ok(None) => Ok(Modified::NOTHING),
            Err(Refusal::Fails(code)) => self.failed(code),
            Err(Refusal::Always(code)) => Err(code),
        }
    }

    /// Price of the operation on a blob of `old_size` bytes: copying it, and inserting or rewriting bits.
    fn steps(&self, old_size: usize) -> u64 {
        let Arguments { offset, size, bytes, .. } = self.arguments;
        let given = match self.operator {
            ModifyOperator::Insert => offset.max(0).cast_unsigned() / 8 + bytes.len() as u64,
            _ => size / 8,
        };
        let given = usize::try_from(given.min(BLOB_SIZE_MAX)).unwrap_or(usize::MAX);
        OPERATION_STEPS + words_steps(old_size) + words_steps(given)
    }

    const fn has(&self, flag: u64) -> bool {
        self.arguments.flags & flag != 0
    }

    /// An error, which [`flags::NO_FAIL`] suppresses.
    const fn failed(&self, code: ResultCode) -> Result<Modified, ResultCode> {
        if self.has(flags::NO_FAIL) { Ok(Modified::NOTHING) } else { Err(code) }
    }

    /// `old` resized to the requested size; `None` if it has that size already.
    fn resized(&self, old: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let Arguments { size, subflags, .. } = self.arguments;
        let len = (size / 8) as usize;
        let forbidden = match len.cmp(&old.len()) {
            std::cmp::Ordering::Less => resize_subflags::GROW_ONLY,
            std::cmp::Ordering::Equal => return Ok(None),
            std::cmp::Ordering::Greater => resize_subflags::SHRINK_ONLY,
        };
        if subflags & forbidden != 0 {
            return Err(Refusal::Fails(ResultCode::Parameter));
        }
        check_size(len)?;
        let removed = old.len().saturating_sub(len);
        let added = len.saturating_sub(old.len());
        let from_front = subflags & resize_subflags::FROM_FRONT != 0;
        let at = if from_front { 0..removed } else { old.len() - removed..old.len() };
        Ok(Some(spliced(old, at, added, &[])))
    }

    /// `old` with the bytes inserted at the offset, which may be beyond its end.
    fn inserted(&self, old: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let Arguments { offset, bytes, .. } = self.arguments;
        let at = (absolute(offset, old.len())? / 8) as usize;
        let gap = at.saturating_sub(old.len());
        check_size(old.len() + gap + bytes.len())?;
        let at = at.min(old.len());
        Ok(Some(spliced(old, at..at, gap, bytes)))
    }

    /// `old` with the bits of the region rewritten; their number does not change.
    fn rewritten(&self, old: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let Arguments { size, value, bytes, subflags, .. } = self.arguments;
        let region =
            BitRange::of(&self.arguments, old.len())?.ok_or(Refusal::Fails(ResultCode::OpNotApplicable))?;
        let old_bits = Run::new(old.get(region.bytes()).unwrap_or_default(), region.start, region.len);
        let integer = match self.operator {
            ModifyOperator::Add => integer::add(integer::load(old_bits.word(0), size), value, size, subflags),
            ModifyOperator::Subtract => {
                integer::subtract(integer::load(old_bits.word(0), size), value, size, subflags)
            }
            ModifyOperator::SetInteger => Some(value),
            _ => None,
        };
        let stored = integer.map(|integer| integer::store(integer, size).to_be_bytes());
        let operand = match (self.operator, &stored) {
            (_, Some(stored)) => Run::new(stored, 0, 64),
            (ModifyOperator::Add | ModifyOperator::Subtract, None) => {
                return Err(Refusal::Fails(ResultCode::OpNotApplicable));
            }
            _ => Run::new(bytes, 0, region.len),
        };

        let mut new = old.to_vec();
        let target = new.get_mut(region.bytes()).unwrap_or_default();
        let (start, len, shift) = (region.start, region.len, value as isize);
        match self.operator {
            ModifyOperator::Or => rewrite(target, start, len, |at, old| old | operand.word(at)),
            ModifyOperator::Xor => rewrite(target, start, len, |at, old| old ^ operand.word(at)),
            ModifyOperator::And => rewrite(target, start, len, |at, old| old & operand.word(at)),
            ModifyOperator::Not => rewrite(target, start, len, |_, old| !old),
            ModifyOperator::LeftShift => rewrite(target, start, len, |at, _| old_bits.word(at + shift)),
            ModifyOperator::RightShift => rewrite(target, start, len, |at, _| old_bits.word(at - shift)),
            _ => rewrite(target, start, len, |at, _| operand.word(at)),
        }
        Ok(Some(new))
    }
}

/// The reason why a modification is refused.
enum Refusal {
    /// An error unless [`flags::NO_FAIL`] is set.
    Fails(ResultCode),
    /// An error always.
    Always(ResultCode),
}

impl From<ResultCode> for Refusal {
    fn from(code: ResultCode) -> Self {
        Refusal::Always(code)
    }
}

/// Bits of a blob, all within it.
struct BitRange {
    byte_first: usize,
    byte_end: usize,
    /// The first bit, within the first byte.
    start: usize,
    /// Number of bits.
    len: usize,
}

impl BitRange {
    /// The bits that `arguments` name in a blob of `blob_size` bytes; with [`flags::PARTIAL`], those of them
    /// that exist. `None` if they are (or, with the flag, begin) beyond its end.
    ///
    /// # Errors
    /// `Parameter` for an offset before the blob.
    fn of(arguments: &Arguments<'_>, blob_size: usize) -> Result<Option<Self>, ResultCode> {
        let first = absolute(arguments.offset, blob_size)?;
        let bit_count = blob_size as u64 * 8;
        let end = first + arguments.size;
        if first >= bit_count || end > bit_count && arguments.flags & flags::PARTIAL == 0 {
            return Ok(None);
        }
        let end = end.min(bit_count);
        Ok(Some(BitRange {
            byte_first: (first / 8) as usize,
            byte_end: end.div_ceil(8) as usize,
            start: (first % 8) as usize,
            len: (end - first) as usize,
        }))
    }

    const fn bytes(&self) -> Range<usize> {
        self.byte_first..self.byte_end
    }
}

/// `offset` in bits, counted from the start of a blob of `blob_size` bytes.
fn absolute(offset: i64, blob_size: usize) -> Result<u64, ResultCode> {
    let from_start = if offset < 0 { blob_size as i64 * 8 + offset } else { offset };
    u64::try_from(from_start).map_err(|_| ResultCode::Parameter)
}

/// Price of work on `size` bytes, in words of eight bytes.
const fn words_steps(size: usize) -> u64 {
    size as u64 / 4
}

fn check_size(blob_size: usize) -> Result<(), ResultCode> {
    if (blob_size as u64) < BLOB_SIZE_MAX { Ok(()) } else { Err(ResultCode::Parameter) }
}

/// `old` with the bytes `at` replaced by `zeros` zeros and then `inserted`.
fn spliced(old: &[u8], at: Range<usize>, zeros: usize, inserted: &[u8]) -> Vec<u8> {
    let (head, tail) = (old.get(..at.start).unwrap_or_default(), old.get(at.end..).unwrap_or_default());
    let mut new = Vec::with_capacity(head.len() + zeros + inserted.len() + tail.len());
    new.extend_from_slice(head);
    new.resize(head.len() + zeros, 0);
    new.extend_from_slice(inserted);
    new.extend_from_slice(tail);
    new
}

fn blob_of<'p>(particle: &'p Particle<'_>) -> Result<&'p [u8], ResultCode> {
    match particle {
        Particle::Bytes(BytesType::Blob, bytes) => Ok(bytes),
        _ => Err(ResultCode::IncompatibleType),
    }
}
