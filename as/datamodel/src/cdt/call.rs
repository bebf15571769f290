//! Operations on lists and maps as clients call them.
//!
//! ```text
//! call     msgpack list: code, arguments ...
//!          or [0xff, context, call], for a container inside the bin's value
//!          or, from old clients, code u16 big-endian (so that the first byte is 0) and a list of arguments
//! ```

use cf::msgpack::{Reader, holds_search_value};
use proto::ResultCode;

use super::result::{ReturnType, Want};
use crate::budget::Budget;

/// Code of a call with a context.
pub(crate) const CONTEXT_EVAL: u32 = 0xff;
/// Smaller codes are for lists, the others for maps.
const MAP_CODES: u32 = 64;

/// The way in which elements are selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Index,
    IndexRange,
    Rank,
    RankRange,
    /// The first element with the value.
    Value,
    AllByValue,
    ValueList,
    ValueInterval,
    ValueRelativeRankRange,
    Key,
    KeyList,
    KeyInterval,
    KeyRelativeIndexRange,
}

/// The meaning of a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CdtOperation {
    ListSetType,
    ListAppend,
    ListAppendItems,
    ListInsert,
    ListInsertItems,
    ListSet,
    ListClear,
    ListIncrement,
    ListSort,
    ListSize,
    MapSetType,
    MapAdd,
    MapAddItems,
    MapPut,
    MapPutItems,
    MapReplace,
    MapReplaceItems,
    MapIncrement,
    MapDecrement,
    MapClear,
    MapSize,
    /// Return elements, with the return type as first argument.
    Get(By),
    /// Return and remove elements, with the return type as first argument.
    Remove(By),
    /// Return the values of elements.
    GetValue(By),
    /// Return and remove the values of elements.
    Pop(By),
    /// Remove elements and return how many.
    RemoveCount(By),
    /// Remove all but the selected elements and return how many.
    Trim(By),
}

/// A code, its meaning, and the minimum and maximum number of arguments. Operations without arguments ignore
/// any that they get.
type Row = (u8, CdtOperation, u8, u8);

/// Operations that may be sent as reads.
const READ: &[Row] = {
    use By::*;
    use CdtOperation::*;
    &[
        (16, ListSize, 0, 0),
        (17, GetValue(Index), 1, 1),
        (18, GetValue(IndexRange), 1, 2),
        (19, Get(Index), 2, 2),
        (20, Get(Value), 2, 2),
        (21, Get(Rank), 2, 2),
        (22, Get(AllByValue), 2, 2),
        (23, Get(ValueList), 2, 2),
        (24, Get(IndexRange), 2, 3),
        (25, Get(ValueInterval), 2, 3),
        (26, Get(RankRange), 2, 3),
        (27, Get(ValueRelativeRankRange), 3, 4),
        (96, MapSize, 0, 0),
        (97, Get(Key), 2, 2),
        (98, Get(Index), 2, 2),
        (99, Get(Value), 2, 2),
        (100, Get(Rank), 2, 2),
        (102, Get(AllByValue), 2, 2),
        (103, Get(KeyInterval), 2, 3),
        (104, Get(IndexRange), 2, 3),
        (105, Get(ValueInterval), 2, 3),
        (106, Get(RankRange), 2, 3),
        (107, Get(KeyList), 2, 2),
        (108, Get(ValueList), 2, 2),
        (109, Get(KeyRelativeIndexRange), 3, 4),
        (110, Get(ValueRelativeRankRange), 3, 4),
    ]
};

/// Operations that may be sent as modifications.
const MODIFY: &[Row] = {
    use By::*;
    use CdtOperation::*;
    &[
        (0, ListSetType, 1, 1),
        (1, ListAppend, 1, 3),
        (2, ListAppendItems, 1, 3),
        (3, ListInsert, 2, 3),
        (4, ListInsertItems, 2, 3),
        (5, Pop(Index), 1, 1),
        (6, Pop(IndexRange), 1, 2),
        (7, RemoveCount(Index), 1, 1),
        (8, RemoveCount(IndexRange), 1, 2),
        (9, ListSet, 2, 3),
        (10, Trim(IndexRange), 2, 2),
        (11, ListClear, 0, 0),
        (12, ListIncrement, 1, 4),
        (13, ListSort, 0, 1),
        (32, Remove(Index), 2, 2),
        (33, Remove(Value), 2, 2),
        (34, Remove(Rank), 2, 2),
        (35, Remove(AllByValue), 2, 2),
        (36, Remove(ValueList), 2, 2),
        (37, Remove(IndexRange), 2, 3),
        (38, Remove(ValueInterval), 2, 3),
        (39, Remove(RankRange), 2, 3),
        (40, Remove(ValueRelativeRankRange), 3, 4),
        (64, MapSetType, 1, 1),
        (65, MapAdd, 2, 3),
        (66, MapAddItems, 1, 2),
        (67, MapPut, 2, 4),
        (68, MapPutItems, 1, 3),
        (69, MapReplace, 2, 2),
        (70, MapReplaceItems, 1, 1),
        (73, MapIncrement, 1, 3),
        (74, MapDecrement, 1, 3),
        (75, MapClear, 0, 0),
        (76, Remove(Key), 2, 2),
        (77, Remove(Index), 2, 2),
        (78, Remove(Value), 2, 2),
        (79, Remove(Rank), 2, 2),
        (81, Remove(KeyList), 2, 2),
        (82, Remove(AllByValue), 2, 2),
        (83, Remove(ValueList), 2, 2),
        (84, Remove(KeyInterval), 2, 3),
        (85, Remove(IndexRange), 2, 3),
        (86, Remove(ValueInterval), 2, 3),
        (87, Remove(RankRange), 2, 3),
        (88, Remove(KeyRelativeIndexRange), 3, 4),
        (89, Remove(ValueRelativeRankRange), 3, 4),
    ]
};

/// Rows of [`READ`] and [`MODIFY`] by code.
static BY_CODE: [Option<Row>; 128] = {
    let mut rows = [None; 128];
    let mut table = READ;
    while let [row, rest @ ..] = table {
        rows[row.0 as usize] = Some(*row);
        table = rest;
    }
    table = MODIFY;
    while let [row, rest @ ..] = table {
        rows[row.0 as usize] = Some(*row);
        table = rest;
    }
    rows
};

impl CdtOperation {
    const fn modifies(self) -> bool {
        !matches!(self, Self::Get(_) | Self::GetValue(_) | Self::ListSize | Self::MapSize)
    }
}

/// A call whose arguments have not been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) code: u32,
    arguments: Reader<'a>,
    /// Number of arguments.
    count: u32,
    /// Whether a context of the call held a value that cannot be stored. The call must then store nothing.
    holds_search_value: bool,
    /// The budget that the call draws on.
    pub(crate) budget: &'a Budget<'a>,
}

impl<'a> Call<'a> {
    /// Parses the call in `payload`.
    ///
    /// # Errors
    /// `Parameter` if there is no call.
    pub(crate) fn parse(payload: &'a [u8], budget: &'a Budget<'a>) -> Result<Self, ResultCode> {
        if let [0, code, rest @ ..] = payload {
            let mut arguments = Reader::new(rest);
            let count =
                if rest.is_empty() { 0 } else { arguments.list_header().ok_or(ResultCode::Parameter)? };
            return Ok(Self { code: u32::from(*code), arguments, count, holds_search_value: false, budget });
        }
        Self::from_reader(Reader::new(payload), false, budget).ok_or(ResultCode::Parameter)
    }

    /// Parses the next call in `reader`.
    pub(crate) fn from_reader(
        mut reader: Reader<'a>,
        holds_search_value: bool,
        budget: &'a Budget<'a>,
    ) -> Option<Self> {
        let count = reader.list_header()?.checked_sub(1)?;
        // Codes are 32 bits wide.
        let code = reader.integer()? as u32;
        Some(Self { code, arguments: reader, count, holds_search_value, budget })
    }

    /// The offset of the context in a call with a context.
    ///
    /// # Errors
    /// `Parameter` unless the call consists of exactly a context and a call.
    pub(crate) const fn context(&self) -> Result<Reader<'a>, ResultCode> {
        if self.count == 2 { Ok(self.arguments) } else { Err(ResultCode::Parameter) }
    }

    /// Whether the call is for a list rather than a map.
    pub(crate) const fn is_for_list(&self) -> bool {
        self.code < MAP_CODES
    }

    /// The operation of the call, and its arguments.
    ///
    /// # Errors
    /// `Parameter` for an unknown code, or for a code of the other kind (reading or modifying).
    pub(crate) fn operation(&self, modifies: bool) -> Result<(CdtOperation, Arguments<'a>), ResultCode> {
        let row = BY_CODE.get(self.code as usize).and_then(Option::as_ref);
        match row {
            Some(&(_, operation, least, most)) if operation.modifies() == modifies => {
                let arguments = Arguments {
                    reader: self.arguments,
                    left: self.count,
                    least: u32::from(least),
                    most: u32::from(most),
                    holds_search_value: self.holds_search_value,
                };
                Ok((operation, arguments))
            }
            _ => Err(ResultCode::Parameter),
        }
    }
}

/// Arguments of a call, read in order. The caller must use [`checked`](Self::checked) first. Every error is
/// `Parameter`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a> {
    reader: Reader<'a>,
    left: u32,
    least: u32,
    most: u32,
    holds_search_value: bool,
}

impl<'a> Arguments<'a> {
    /// Checks the number of arguments.
    pub(crate) fn checked(self) -> Result<Self, ResultCode> {
        if (self.least..=self.most).contains(&self.left) { Ok(self) } else { Err(ResultCode::Parameter) }
    }

    /// The minimum, maximum and given number of arguments, if the given number is wrong.
    pub(crate) const fn checked_counts(&self) -> Result<(), (u32, u32, u32)> {
        if self.left < self.least || self.left > self.most {
            return Err((self.least, self.most, self.left));
        }
        Ok(())
    }

    /// An argument that is an integer of any kind, in two's complement.
    pub(crate) fn integer(&mut self) -> Result<u64, ResultCode> {
        self.left = self.left.checked_sub(1).ok_or(ResultCode::Parameter)?;
        self.reader.integer().ok_or(ResultCode::Parameter)
    }

    pub(crate) fn integer_or(&mut self, default: u64) -> Result<u64, ResultCode> {
        if self.left == 0 { Ok(default) } else { self.integer() }
    }

    /// An argument that counts from the end if it is negative.
    pub(crate) fn index(&mut self) -> Result<i64, ResultCode> {
        self.integer().map(u64::cast_signed)
    }

    /// An argument of any type.
    pub(crate) fn value(&mut self) -> Result<&'a [u8], ResultCode> {
        self.left = self.left.checked_sub(1).ok_or(ResultCode::Parameter)?;
        self.reader.value().ok_or(ResultCode::Parameter)
    }

    pub(crate) fn value_or_none(&mut self) -> Result<Option<&'a [u8]>, ResultCode> {
        if self.left == 0 { Ok(None) } else { self.value().map(Some) }
    }

    /// An argument that will be stored. Its form is not checked here.
    pub(crate) fn storable(&mut self) -> Result<&'a [u8], ResultCode> {
        let value = self.value()?;
        self.holds_search_value |= holds_search_value(value);
        if self.holds_search_value { Err(ResultCode::Parameter) } else { Ok(value) }
    }
}

/// The elements that an operation selects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selector<'a> {
    Indexes {
        index: i64,
        count: u64,
    },
    Ranks {
        rank: i64,
        count: u64,
    },
    Value(&'a [u8]),
    /// Elements from a value up to another one (exclusive), or to the end.
    Values {
        begin: &'a [u8],
        end: Option<&'a [u8]>,
    },
    ValueList(&'a [u8]),
    RanksFromValue {
        value: &'a [u8],
        rank: i64,
        count: u64,
    },
    Key(&'a [u8]),
    /// Pairs from a key up to another one (exclusive), or to the end.
    Keys {
        begin: &'a [u8],
        end: Option<&'a [u8]>,
    },
    KeyList(&'a [u8]),
    IndexesFromKey {
        key: &'a [u8],
        index: i64,
        count: u64,
    },
}

/// The elements that an operation selects, and what it returns about them.
///
/// # Errors
/// `Parameter` for invalid arguments.
pub(crate) fn selection(
    operation: CdtOperation,
    arguments: Arguments<'_>,
) -> Result<(Selector<'_>, Want), ResultCode> {
    let mut arguments = arguments.checked()?;
    let (by, fixed) = match operation {
        CdtOperation::Get(by) | CdtOperation::Remove(by) => (by, None),
        CdtOperation::GetValue(by) | CdtOperation::Pop(by) => (by, Some(ReturnType::Value)),
        CdtOperation::RemoveCount(by) | CdtOperation::Trim(by) => (by, Some(ReturnType::Count)),
        _ => return Err(ResultCode::Parameter),
    };
    let is_multi = !matches!(by, By::Index | By::Rank | By::Value | By::Key);
    let want = match fixed {
        None => Want::from_argument(arguments.integer()?, is_multi),
        Some(kind) => Want { kind, is_inverted: matches!(operation, CdtOperation::Trim(_)), is_multi },
    };
    let to_the_end = u64::from(u32::MAX);
    let selector = match by {
        By::Index => Selector::Indexes { index: arguments.index()?, count: 1 },
        By::IndexRange => {
            Selector::Indexes { index: arguments.index()?, count: arguments.integer_or(to_the_end)? }
        }
        By::Rank => Selector::Ranks { rank: arguments.index()?, count: 1 },
        By::RankRange => {
            Selector::Ranks { rank: arguments.index()?, count: arguments.integer_or(to_the_end)? }
        }
        By::Value | By::AllByValue => Selector::Value(arguments.value()?),
        By::ValueList => Selector::ValueList(arguments.value()?),
        By::ValueInterval => Selector::Values { begin: arguments.value()?, end: arguments.value_or_none()? },
        By::ValueRelativeRankRange => Selector::RanksFromValue {
            value: arguments.value()?,
            rank: arguments.index()?,
            count: arguments.integer_or(to_the_end)?,
        },
        By::Key => Selector::Key(arguments.value()?),
        By::KeyList => Selector::KeyList(arguments.value()?),
        By::KeyInterval => Selector::Keys { begin: arguments.value()?, end: arguments.value_or_none()? },
        By::KeyRelativeIndexRange => Selector::IndexesFromKey {
            key: arguments.value()?,
            index: arguments.index()?,
            count: arguments.integer_or(to_the_end)?,
        },
    };
    Ok((selector, want))
}

/// The codes of all operations.
#[cfg(test)]
pub(super) fn codes() -> impl Iterator<Item = u32> {
    READ.iter().chain(MODIFY).map(|row| u32::from(row.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_one_row_of_its_kind() {
        for (table, modifies) in [(READ, false), (MODIFY, true)] {
            for &(code, operation, least, most) in table {
                assert!(least <= most);
                assert_eq!(operation.modifies(), modifies);
                assert_eq!(BY_CODE[usize::from(code)], Some((code, operation, least, most)));
            }
        }
        assert_eq!(BY_CODE.iter().flatten().count(), READ.len() + MODIFY.len());
    }

    #[test]
    fn calls_come_in_two_forms() {
        let budget = Budget::unlimited();
        let call = Call::parse(&[0x92, 17, 5], &budget).unwrap();
        let (operation, mut arguments) = call.operation(false).unwrap();
        assert_eq!((operation, arguments.index()), (CdtOperation::GetValue(By::Index), Ok(5)));
        assert_eq!(call.operation(true).unwrap_err(), ResultCode::Parameter);
        let old = Call::parse(&[0, 17, 0x91, 5], &budget).unwrap();
        assert_eq!((old.code, old.count), (17, 1));
        assert_eq!(Call::parse(&[0, 16], &budget).unwrap().count, 0);
        for bad in [&[][..], &[0], &[0x90], &[0x91], &[5], &[0x91, 0xc0], &[0, 17, 5]] {
            assert_eq!(Call::parse(bad, &budget).unwrap_err(), ResultCode::Parameter, "{bad:x?}");
        }
    }

    #[test]
    fn the_number_of_arguments_is_checked() {
        let budget = Budget::unlimited();
        for (payload, is_right) in
            [(&[0x93, 19, 7, 1][..], true), (&[0x92, 19, 7], false), (&[0x94, 19, 7, 1, 1], false)]
        {
            let (operation, arguments) = Call::parse(payload, &budget).unwrap().operation(false).unwrap();
            assert_eq!(selection(operation, arguments).is_ok(), is_right, "{payload:x?}");
        }
    }
}
