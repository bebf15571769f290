//! Requests for HyperLogLog operations: msgpack lists of a code and its arguments.
//!
//! One table holds the operations that modify, and one holds those that read:
//! `code → operator, arguments, number of required arguments, flags allowed`.

use cf::msgpack::{Head, Kind, Reader};
use proto::ResultCode;
use smallvec::SmallVec;

use super::flags;
use super::hash::{murmur3, shortest};
use super::sketch::{Sketch, SketchShape};

/// Operations that modify. The order is that of their codes, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ModifyOperator {
    Init,
    Add,
    Union,
    RefreshCount,
    Fold,
}

/// Operations that read. The order is that of their codes, from [`READ_CODE_FIRST`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadOperator {
    Count,
    Union,
    UnionCount,
    IntersectCount,
    Similarity,
    Describe,
    MayContain,
}

const READ_CODE_FIRST: u32 = 50;

#[derive(Clone, Copy)]
enum Argument {
    IndexBits,
    MinhashBits,
    Elements,
    Sketches,
    /// Sketches that can be intersected.
    IntersectSketches,
    Flags,
}

pub(super) struct Row<T> {
    operator: T,
    arguments: &'static [Argument],
    required: usize,
    flags: u64,
}

use Argument as A;

static MODIFY: [Row<ModifyOperator>; 5] = {
    use ModifyOperator as O;
    const INIT: u64 = flags::CREATE_ONLY | flags::UPDATE_ONLY | flags::NO_FAIL;
    const ADD: u64 = flags::CREATE_ONLY | flags::NO_FAIL;
    [
        row(O::Init, &[A::IndexBits, A::MinhashBits, A::Flags], 0, INIT),
        row(O::Add, &[A::Elements, A::IndexBits, A::MinhashBits, A::Flags], 1, ADD),
        row(O::Union, &[A::Sketches, A::Flags], 1, INIT | flags::ALLOW_FOLD),
        row(O::RefreshCount, &[], 0, 0),
        row(O::Fold, &[A::IndexBits], 1, 0),
    ]
};

static READ: [Row<ReadOperator>; 7] = {
    use ReadOperator as O;
    [
        row(O::Count, &[], 0, 0),
        row(O::Union, &[A::Sketches], 1, 0),
        row(O::UnionCount, &[A::Sketches], 1, 0),
        row(O::IntersectCount, &[A::IntersectSketches], 1, 0),
        row(O::Similarity, &[A::IntersectSketches], 1, 0),
        row(O::Describe, &[], 0, 0),
        row(O::MayContain, &[A::Elements], 1, 0),
    ]
};

const fn row<T: Copy>(operator: T, arguments: &'static [Argument], required: usize, flags: u64) -> Row<T> {
    Row { operator, arguments, required, flags }
}

/// A list of sketches, usually short.
pub(super) type Sketches<'a> = SmallVec<[Sketch<'a>; 4]>;

/// The arguments of an operation. Arguments that the operation does not take are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arguments<'a> {
    pub(super) index_bits: Option<u8>,
    /// If index bits are given too, one hash is long enough for both.
    pub(super) minhash_bits: Option<u8>,
    pub(super) elements: Elements<'a>,
    pub(super) sketches: Sketches<'a>,
    pub(super) flags: u64,
}

/// Valid msgpack values. None of them is a list or map.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl Elements<'_> {
    /// Number of elements.
    pub(super) fn len(&self) -> u64 {
        self.count.into()
    }

    /// The hash of each element in order.
    pub(super) fn hashes(&self) -> impl Iterator<Item = [u64; 2]> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| Some(murmur3(&shortest(reader.value()?)?)))
    }
}

/// A request with a known code. Its arguments have not been read.
pub(super) struct Unread<'a, T: 'static> {
    row: &'static Row<T>,
    count: usize,
    reader: Reader<'a>,
}

/// Reads the code of a request for an operation that modifies.
pub(super) fn parse_modify(payload: &[u8]) -> Result<Unread<'_, ModifyOperator>, ResultCode> {
    parse(payload, &MODIFY, 0).ok_or(ResultCode::Parameter)
}

/// Reads the code of a request for an operation that reads.
pub(super) fn parse_read(payload: &[u8]) -> Result<Unread<'_, ReadOperator>, ResultCode> {
    parse(payload, &READ, READ_CODE_FIRST).ok_or(ResultCode::Parameter)
}

fn parse<'a, T>(payload: &'a [u8], table: &'static [Row<T>], code_first: u32) -> Option<Unread<'a, T>> {
    let mut reader = Reader::new(payload);
    let count = reader.list_header()?.checked_sub(1)? as usize;
    // Codes are compared as 32 bits.
    let code = reader.integer()? as u32;
    let row = table.get(code.checked_sub(code_first)? as usize)?;
    Some(Unread { row, count, reader })
}

impl<'a, T: Copy> Unread<'a, T> {
    pub(super) const fn operator(&self) -> T {
        self.row.operator
    }

    /// Reads the arguments.
    pub(super) fn finish(mut self) -> Result<(T, Arguments<'a>), ResultCode> {
        self.arguments().map(|arguments| (self.row.operator, arguments)).ok_or(ResultCode::Parameter)
    }

    fn arguments(&mut self) -> Option<Arguments<'a>> {
        if !(self.row.required..=self.row.arguments.len()).contains(&self.count) {
            return None;
        }
        let mut arguments = Arguments::default();
        for &argument in self.row.arguments.iter().take(self.count) {
            arguments.read(argument, &mut self.reader, self.row.flags)?;
        }
        Some(arguments)
    }
}

impl<'a> Arguments<'a> {
    fn read(&mut self, argument: Argument, reader: &mut Reader<'a>, flags_allowed: u64) -> Option<()> {
        match argument {
            A::IndexBits => self.index_bits = bits(reader, SketchShape::is_index_bits)?,
            A::MinhashBits => {
                self.minhash_bits = bits(reader, SketchShape::is_minhash_bits)?;
                if let (Some(index_bits), Some(minhash_bits)) = (self.index_bits, self.minhash_bits) {
                    return SketchShape { index_bits, minhash_bits }.fits_hash().then_some(());
                }
            }
            A::Elements => self.elements = elements(reader)?,
            A::Sketches => self.sketches = sketches(reader)?,
            A::IntersectSketches => {
                self.sketches = sketches(reader)?;
                let minhash_bits = self.sketches.first()?.shape.minhash_bits;
                let same = |sketch: &Sketch<'_>| sketch.shape.minhash_bits == minhash_bits;
                if self.sketches.len() > 2 && (minhash_bits == 0 || !self.sketches.iter().all(same)) {
                    return None;
                }
            }
            A::Flags => {
                self.flags = reader.integer()?;
                let exclusive = flags::CREATE_ONLY | flags::UPDATE_ONLY;
                if self.flags & !flags_allowed != 0 || self.flags & exclusive == exclusive {
                    return None;
                }
            }
        }
        Some(())
    }
}

/// A number of bits; -1 means none.
fn bits(reader: &mut Reader<'_>, is_valid: impl Fn(u64) -> bool) -> Option<Option<u8>> {
    match reader.integer()? {
        u64::MAX => Some(None),
        bits => is_valid(bits).then_some(Some(bits as u8)),
    }
}

fn elements<'a>(reader: &mut Reader<'a>) -> Option<Elements<'a>> {
    let count = reader.list_header().filter(|&count| count != 0)?;
    let bytes = reader.rest();
    for _ in 0..count {
        if matches!(reader.kind()?, Kind::List | Kind::Map) {
            return None;
        }
        reader.skip(1)?;
    }
    Some(Elements { bytes, count })
}

/// A sketch or a list of sketches, each after its type byte.
fn sketches<'a>(reader: &mut Reader<'a>) -> Option<Sketches<'a>> {
    let count = match reader.kind()? {
        Kind::List => reader.list_header().filter(|&count| count != 0)?,
        _ => 1,
    };
    let mut sketches = SmallVec::new();
    for _ in 0..count {
        let Head::Raw([_, bytes @ ..]) = reader.head()? else { return None };
        sketches.push(Sketch::parse(bytes)?);
    }
    Some(sketches)
}
