//! Answers of list and map operations.

use std::borrow::Cow;

use cf::msgpack::{Head, Reader, put_integer, put_list_header};
use proto::ResultCode;

use super::container::{Shape, flags};
use super::layout::Layout;
use crate::budget::Budget;
use crate::particle::{BytesType, Particle};

/// The answer of an operation: a value, or none.
pub(crate) type ResultValue = Option<Particle<'static>>;

/// The part of the selected elements that an operation returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReturnType {
    None,
    Index,
    ReverseIndex,
    Rank,
    ReverseRank,
    Count,
    Key,
    Value,
    KeyValueMap,
    IndexRange,
    ReverseIndexRange,
    RankRange,
    ReverseRankRange,
    Exists,
    UnorderedMap,
    OrderedMap,
    /// An unknown number. Some operations refuse it only if they have something to return.
    Unknown,
}

impl ReturnType {
    const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Index,
            2 => Self::ReverseIndex,
            3 => Self::Rank,
            4 => Self::ReverseRank,
            5 => Self::Count,
            6 => Self::Key,
            7 => Self::Value,
            8 => Self::KeyValueMap,
            9 => Self::IndexRange,
            10 => Self::ReverseIndexRange,
            11 => Self::RankRange,
            12 => Self::ReverseRankRange,
            13 => Self::Exists,
            16 => Self::UnorderedMap,
            17 => Self::OrderedMap,
            _ => Self::Unknown,
        }
    }
}

/// The result that a request asks for about the selected elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) kind: ReturnType,
    /// Whether the operation is on the elements that are not selected.
    pub(crate) is_inverted: bool,
    /// Whether any number of elements may be selected, so that answers are lists or maps.
    pub(crate) is_multi: bool,
}

impl Want {
    /// Parses the return type argument of a call.
    pub(crate) const fn from_argument(argument: u64, is_multi: bool) -> Self {
        let kind = ReturnType::from_number(argument & 0xffff);
        Self { kind, is_inverted: argument & 0x1_0000 != 0, is_multi }
    }

    pub(crate) const fn upright(self) -> Self {
        Self { is_inverted: false, ..self }
    }

    pub(crate) const fn inverted(self) -> Self {
        Self { is_inverted: true, ..self }
    }

    pub(crate) const fn is_index(self) -> bool {
        matches!(self.kind, ReturnType::Index | ReturnType::ReverseIndex)
    }

    pub(crate) const fn is_index_range(self) -> bool {
        matches!(self.kind, ReturnType::IndexRange | ReturnType::ReverseIndexRange)
    }

    pub(crate) const fn is_rank(self) -> bool {
        matches!(self.kind, ReturnType::Rank | ReturnType::ReverseRank)
    }

    pub(crate) const fn is_rank_range(self) -> bool {
        matches!(self.kind, ReturnType::RankRange | ReturnType::ReverseRankRange)
    }

    pub(crate) const fn is_map(self) -> bool {
        matches!(self.kind, ReturnType::KeyValueMap | ReturnType::UnorderedMap | ReturnType::OrderedMap)
    }

    /// Whether to return keys, values or pairs.
    pub(crate) const fn is_elements(self) -> bool {
        matches!(self.kind, ReturnType::Key | ReturnType::Value) || self.is_map()
    }

    /// Whether positions count from the end.
    pub(crate) const fn is_reverse(self) -> bool {
        matches!(
            self.kind,
            ReturnType::ReverseIndex
                | ReturnType::ReverseRank
                | ReturnType::ReverseIndexRange
                | ReturnType::ReverseRankRange
        )
    }

    /// The position to return for `position` of `total`. Ranks and indexes are counted in the same way.
    pub(crate) const fn directed(self, position: u32, total: u32) -> i64 {
        if self.is_reverse() { total as i64 - position as i64 - 1 } else { position as i64 }
    }

    /// Flags of the map to return.
    pub(crate) const fn map_flags(self) -> u8 {
        match self.kind {
            ReturnType::KeyValueMap => flags::PRESERVE_ORDER,
            ReturnType::OrderedMap => flags::KEY_ORDERED,
            _ => 0,
        }
    }
}

/// A list of integers that is being built.
#[derive(Debug)]
pub(crate) struct Integers {
    bytes: Vec<u8>,
}

impl Integers {
    pub(crate) fn with_count(count: u32) -> Self {
        let mut bytes = Vec::with_capacity(5 + count as usize);
        put_list_header(&mut bytes, count);
        Self { bytes }
    }

    pub(crate) fn push(&mut self, value: i64) {
        put_integer(&mut self.bytes, value);
    }

    /// Appends `count` positions from `start` of `total`. If reversed, they are counted from the end and
    /// still ascend.
    pub(crate) fn push_range(&mut self, start: u32, count: u32, total: u32, is_reverse: bool) {
        let start = if is_reverse { total - start - count } else { start };
        for position in start..start + count {
            self.push(i64::from(position));
        }
    }

    /// A list of all of `values`.
    pub(crate) fn of(values: impl Iterator<Item = i64>) -> ResultValue {
        let values: Vec<i64> = values.collect();
        let mut list = Self::with_count(u32::try_from(values.len()).unwrap_or(u32::MAX));
        values.into_iter().for_each(|value| list.push(value));
        list.finish()
    }

    pub(crate) fn finish(self) -> ResultValue {
        Some(Particle::owned(BytesType::List, self.bytes))
    }

    /// A list of two integers.
    pub(crate) fn two(first: i64, second: i64) -> ResultValue {
        let mut list = Self::with_count(2);
        list.push(first);
        list.push(second);
        list.finish()
    }
}

pub(crate) fn integer(value: impl Into<i64>) -> ResultValue {
    Some(Particle::Integer(value.into()))
}

/// A list without flags of the `count` elements in `contents`.
pub(crate) fn list(count: u32, contents: &[u8]) -> ResultValue {
    let mut bytes = Vec::with_capacity(5 + contents.len());
    put_list_header(&mut bytes, count);
    bytes.extend_from_slice(contents);
    Some(Particle::owned(BytesType::List, bytes))
}

/// The answer if no element is selected. `position` is where the elements would be.
///
/// # Errors
/// `OpNotApplicable` for an unknown return type.
pub(crate) fn not_found(want: Want, position: i64) -> Result<ResultValue, ResultCode> {
    Ok(match want.kind {
        ReturnType::None => None,
        ReturnType::IndexRange
        | ReturnType::ReverseIndexRange
        | ReturnType::RankRange
        | ReturnType::ReverseRankRange => Integers::two(position, 0),
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank
            if !want.is_multi =>
        {
            integer(-1)
        }
        ReturnType::Key | ReturnType::Value if !want.is_multi => None,
        ReturnType::Index
        | ReturnType::ReverseIndex
        | ReturnType::Rank
        | ReturnType::ReverseRank
        | ReturnType::Key
        | ReturnType::Value => list(0, &[]),
        ReturnType::Count => integer(0),
        ReturnType::Exists => Some(Particle::Bool(false)),
        ReturnType::KeyValueMap | ReturnType::UnorderedMap | ReturnType::OrderedMap => {
            Some(Particle::owned(BytesType::Map, Layout::empty(Shape::Map, want.map_flags(), false)))
        }
        ReturnType::Unknown => return Err(ResultCode::OpNotApplicable),
    })
}

/// The answer for `count` of `total` elements. They are consecutive from `start`, in the order that the
/// return type uses.
///
/// # Errors
/// `OpNotApplicable` for return types that need more.
pub(crate) fn run(want: Want, start: u32, count: u32, total: u32) -> Result<ResultValue, ResultCode> {
    let rest = total - count;
    Ok(match want.kind {
        ReturnType::None => None,
        ReturnType::Count => integer(if want.is_inverted { rest } else { count }),
        ReturnType::Exists => Some(Particle::Bool((count == 0) == want.is_inverted)),
        ReturnType::Index | ReturnType::ReverseIndex | ReturnType::Rank | ReturnType::ReverseRank => {
            if !want.is_multi {
                return Ok(integer(if count == 0 { -1 } else { want.directed(start, total) }));
            }
            let reverse = want.is_reverse();
            let mut list = Integers::with_count(if want.is_inverted { rest } else { count });
            if want.is_inverted {
                list.push_range(0, start, total, reverse);
                list.push_range(start + count, rest - start, total, reverse);
            } else {
                list.push_range(start, count, total, reverse);
            }
            list.finish()
        }
        ReturnType::IndexRange
        | ReturnType::ReverseIndexRange
        | ReturnType::RankRange
        | ReturnType::ReverseRankRange
            if !want.is_inverted =>
        {
            let start = if want.is_reverse() { rest - start } else { start };
            Integers::two(i64::from(start), i64::from(count))
        }
        _ => return Err(ResultCode::OpNotApplicable),
    })
}

/// The particle for an element's value; nothing for nil.
///
/// # Errors
/// `Unknown` for a value that no particle can hold; `Timeout` when the budget is exhausted.
pub(crate) fn element(bytes: &[u8], budget: &Budget<'_>) -> Result<ResultValue, ResultCode> {
    budget.draw_for_copy(bytes.len())?;
    let owned = |bytes_type, bytes: &[u8]| Some(Particle::Bytes(bytes_type, Cow::Owned(bytes.to_vec())));
    Ok(match Reader::new(bytes).head().ok_or(ResultCode::Unknown)? {
        Head::Nil => None,
        Head::Bool(value) => Some(Particle::Bool(value)),
        Head::Negative(value) => integer(value),
        Head::Unsigned(value) => integer(value.cast_signed()),
        Head::Double(value) => Some(Particle::Float(value)),
        Head::List(_) => owned(BytesType::List, bytes),
        Head::Map(_) => owned(BytesType::Map, bytes),
        Head::Raw(raw) => {
            let (&kind, raw) = raw.split_first().unwrap_or((&cf::msgpack::BLOB, &[]));
            match BytesType::from_number(kind) {
                Some(BytesType::GeoJson) => {
                    // The stored form: no flags, no cells, and the text.
                    Some(Particle::owned(BytesType::GeoJson, [&[0, 0, 0], raw].concat()))
                }
                None | Some(BytesType::List | BytesType::Map) => owned(BytesType::Blob, raw),
                Some(bytes_type) => owned(bytes_type, raw),
            }
        }
        Head::Extension(_) => return Err(ResultCode::Unknown),
    })
}
