//! Reads the stored form of a list or map.
//!
//! ```text
//! header      msgpack list or map header; counts the description, if there is one
//! description extension whose type is the flags and whose data is the index; in a map followed by nil.
//!             Absent when the flags are 0
//! contents    the elements (list) or pairs (map), every value in its shortest form
//!
//! index       of a list:  offsets of elements; unordered lists: of every 128th element
//!             of a map:   offsets of pairs, then, with VALUE_ORDERED, positions of pairs in order of value
//!             Integers are little-endian, of as many bytes (1 to 4) as the size of the contents needs (of the
//!             order by value: as the number of pairs needs). Offset 0 is not stored: in its place stands how
//!             many offsets are filled in. A first position that is the number of pairs: order not filled in.
//!             Empty for fewer than two elements, and for unordered lists up to 128 elements.
//! ```
//! Only containers at the top of a bin have an index, and only with PERSIST_INDEX. The index is a hint that
//! may be damaged, so everything that is read through it is checked again.

use std::cell::OnceCell;
use std::ops::Range;

use cf::msgpack::{Reader, Walk, end_of_metered, is_extension};
use proto::ResultCode;

use crate::budget::Budget;

/// Flags of a container.
pub(crate) mod flags {
    /// The elements of a list are in order.
    pub(crate) const ORDERED: u8 = 0x01;
    /// The pairs of a map are in order of their keys.
    pub(crate) const KEY_ORDERED: u8 = 0x01;
    /// The index of a map holds the order of its values.
    pub(crate) const VALUE_ORDERED: u8 = 0x02;
    /// The pairs of a result are in an order that matters.
    pub(crate) const PRESERVE_ORDER: u8 = 0x08;
    /// The container has an index if it is at the top of a bin.
    pub(crate) const PERSIST_INDEX: u8 = 0x10;
}

/// Elements between two entries of an unordered list's index.
const LIST_INDEX_STEP: u32 = 128;

/// List or map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    List,
    Map,
}

impl Shape {
    /// Values that make up one element.
    #[inline]
    pub(crate) const fn values_per_element(self) -> u64 {
        match self {
            Self::List => 1,
            Self::Map => 2,
        }
    }

    /// Flags with which containers of this shape may be stored.
    pub(crate) const fn storable_flags(self) -> u8 {
        match self {
            Self::List => flags::ORDERED | flags::PERSIST_INDEX,
            Self::Map => flags::KEY_ORDERED | flags::VALUE_ORDERED | flags::PERSIST_INDEX,
        }
    }
}

/// The parsed header of a list or map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) flags: u8,
    /// Number of elements.
    pub(crate) count: u32,
    pub(crate) contents: &'a [u8],
    /// Data of the description.
    pub(crate) index: &'a [u8],
}

impl<'a> Header<'a> {
    /// The header at the start of `bytes`; `None` if it has another shape, or promises more elements than the
    /// bytes can hold.
    #[inline]
    pub(crate) fn parse(shape: Shape, bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut count = match shape {
            Shape::List => reader.list_header()?,
            Shape::Map => reader.map_header()?,
        };
        let (mut flags, mut index) = (0, [].as_slice());
        if count != 0 && is_extension(reader.marker()?) {
            let description = reader.extension()?;
            if shape == Shape::Map {
                reader.skip(1)?;
            }
            (flags, index) = (description.kind, description.data);
            count -= 1;
        }
        let contents = reader.rest();
        let is_possible = u64::from(count) * shape.values_per_element() <= contents.len() as u64;
        is_possible.then_some(Self { flags, count, contents, index })
    }
}

/// A list or map in stored form. "Element" means an element of a list or a pair of a map.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) shape: Shape,
    pub(crate) flags: u8,
    /// Number of elements.
    pub(crate) count: u32,
    pub(crate) contents: &'a [u8],
    index: &'a [u8],
    offsets: OnceCell<Offsets>,
    /// The budget for all work on the container.
    pub(crate) budget: &'a Budget<'a>,
}

impl<'a> Container<'a> {
    /// The container in `bytes`; `None` if `bytes` have another shape.
    #[inline]
    pub(crate) fn parse(shape: Shape, bytes: &'a [u8], budget: &'a Budget<'a>) -> Option<Self> {
        let Header { flags, count, contents, index } = Header::parse(shape, bytes)?;
        Some(Self { shape, flags, count, contents, index, offsets: OnceCell::new(), budget })
    }

    /// A container without an index, from its parts.
    pub(crate) const fn of_contents(
        shape: Shape,
        flags: u8,
        count: u32,
        contents: &'a [u8],
        budget: &'a Budget<'a>,
    ) -> Self {
        Self { shape, flags, count, contents, index: &[], offsets: OnceCell::new(), budget }
    }

    /// A container without elements.
    pub(crate) const fn empty(shape: Shape, flags: u8, budget: &'a Budget<'a>) -> Self {
        Self::of_contents(shape, flags, 0, &[], budget)
    }

    /// Whether the elements are in order: the elements of a list by value, those of a map by key. A map with
    /// any flag is in order.
    #[inline]
    pub(crate) const fn is_ordered(&self) -> bool {
        match self.shape {
            Shape::List => self.flags & flags::ORDERED != 0,
            Shape::Map => self.flags != 0,
        }
    }

    /// Whether there is an index, even if no part of it is filled in.
    #[inline]
    pub(crate) const fn has_index(&self) -> bool {
        self.flags & flags::PERSIST_INDEX != 0 && !self.index.is_empty()
    }

    /// Whether results by value are in the order of values, as they are for maps whose index has that order.
    #[inline]
    pub(crate) fn has_value_order(&self) -> bool {
        let indexing = Indexing::of(self.shape, self.flags, self.count, self.contents.len());
        indexing.order_len() != 0 && self.index.len() >= indexing.len()
    }

    /// The stored positions of the pairs in the order of their values, if the index has this part filled in.
    pub(crate) fn stored_value_order(&self) -> Option<Vec<u32>> {
        let indexing = Indexing::of(self.shape, self.flags, self.count, self.contents.len());
        let order =
            self.index.get(indexing.offsets_len()..indexing.len()).filter(|order| !order.is_empty())?;
        let packed = Packed { bytes: order, width: indexing.order_width };
        self.budget.draw_for(order.len()).ok()?;
        // A damaged order must not lose or repeat a pair.
        let mut seen = vec![false; self.count as usize];
        packed
            .iter()
            .map(|position| {
                let seen = seen.get_mut(position as usize)?;
                (!std::mem::replace(seen, true)).then_some(position)
            })
            .collect()
    }

    /// The filled-in offsets of the index: entry `i` (from 1) is the offset of element `i × step`.
    pub(crate) fn stored_offsets(&self) -> Option<StoredOffsets<'a>> {
        if !self.has_index() {
            return None;
        }
        let indexing = Indexing::of(self.shape, self.flags, self.count, self.contents.len());
        let offsets = self.index.get(..indexing.offsets_len()).filter(|offsets| !offsets.is_empty())?;
        let packed = Packed { bytes: offsets, width: indexing.offset_width };
        let filled = packed.get(0)?.min(indexing.offsets);
        Some(StoredOffsets { packed, filled, step: indexing.step })
    }

    /// Offsets of all elements.
    ///
    /// # Errors
    /// `Parameter` when the contents do not have that many elements.
    pub(crate) fn offsets(&self) -> Result<&Offsets, ResultCode> {
        if let Some(offsets) = self.offsets.get() {
            return Ok(offsets);
        }
        let offsets = self
            .stored_offsets()
            .and_then(|stored| stored.to_offsets(self))
            .or_else(|| Offsets::scan(self.contents, self.count, self.shape, self.budget))
            .ok_or(ResultCode::Parameter)?;
        Ok(self.offsets.get_or_init(|| offsets))
    }

    /// The offset of element `position`; for the number of elements, the end of the contents.
    pub(crate) fn start_of(&self, position: u32) -> Result<usize, ResultCode> {
        if position == self.count {
            return Ok(self.contents.len());
        }
        if let Some(offsets) = self.offsets.get() {
            return Ok(offsets.start(position));
        }
        let (known, start) =
            self.stored_offsets().map_or((0, 0), |stored| stored.nearest(position).unwrap_or((0, 0)));
        self.start_from(known, start, position)
    }

    /// The offset of element `position`, if element `known`, which is not after it, begins at `start`.
    pub(crate) fn start_from(&self, known: u32, start: usize, position: u32) -> Result<usize, ResultCode> {
        if position == self.count {
            return Ok(self.contents.len());
        }
        let values = u64::from(position.saturating_sub(known)) * self.shape.values_per_element();
        end_of_metered(self.contents, start, values, self.budget).ok_or(ResultCode::Parameter)
    }

    /// Bytes of the `count` elements from `position`, as a range of the contents.
    pub(crate) fn range(&self, position: u32, count: u32) -> Result<Range<usize>, ResultCode> {
        let start = self.start_of(position)?;
        let end = match self.offsets.get() {
            Some(offsets) => offsets.start(position + count),
            None if count > LIST_INDEX_STEP && self.has_index() => self.start_of(position + count)?,
            None => self.start_from(position, start, position + count)?,
        };
        if start <= end { Ok(start..end) } else { Err(ResultCode::Parameter) }
    }

    /// Bytes of the contents; `Parameter` if a damaged index points outside them.
    pub(crate) fn slice(&self, range: Range<usize>) -> Result<&'a [u8], ResultCode> {
        self.contents.get(range).ok_or(ResultCode::Parameter)
    }

    /// Bytes of element `position`, which is below the number of elements.
    pub(crate) fn element(&self, position: u32) -> Result<&'a [u8], ResultCode> {
        let range = self.range(position, 1)?;
        self.slice(range)
    }
}

/// Offsets of all elements in a container's contents, ascending, and the end of the contents.
#[derive(Debug)]
pub(crate) struct Offsets {
    starts: Vec<u32>,
}

impl Offsets {
    /// Walks `contents`, which must be exactly `count` elements.
    pub(crate) fn scan(contents: &[u8], count: u32, shape: Shape, budget: &Budget<'_>) -> Option<Self> {
        u32::try_from(contents.len()).ok()?;
        // Each element has at least one byte, even if a damaged header states otherwise.
        let count = usize::try_from(count).ok().filter(|&count| count <= contents.len())?;
        let mut starts = vec![0; count + 1];
        let mut walk = Walk::new(contents, 0, budget);
        for start in starts.iter_mut().skip(1) {
            *start = walk.pass(shape.values_per_element())? as u32;
        }
        walk.finish()?;
        (walk.position() == contents.len()).then_some(Self { starts })
    }

    /// The offset of element `position`; after the last element, the end of the contents.
    #[inline]
    pub(crate) fn start(&self, position: u32) -> usize {
        self.starts.get(position as usize).or(self.starts.last()).map_or(0, |&start| start as usize)
    }

    /// Bytes of `count` elements.
    #[inline]
    pub(crate) fn range(&self, position: u32, count: u32) -> Range<usize> {
        self.start(position)..self.start(position + count)
    }
}

/// The offsets part of an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredOffsets<'a> {
    packed: Packed<'a>,
    filled: u32,
    step: u32,
}

impl StoredOffsets<'_> {
    /// The last element at or before `position` whose offset is stored, and that offset.
    pub(crate) fn nearest(&self, position: u32) -> Option<(u32, usize)> {
        let entry = (position / self.step).min(self.filled.checked_sub(1)?);
        if entry == 0 {
            return Some((0, 0));
        }
        Some((entry * self.step, self.packed.get(entry)? as usize))
    }

    /// The offset in entry `entry`.
    pub(crate) fn entry(&self, entry: u32) -> Option<u32> {
        self.packed.get(entry)
    }

    /// All offsets, if the index has those of all elements and they ascend.
    fn to_offsets(self, container: &Container<'_>) -> Option<Offsets> {
        if self.step != 1 || self.filled != container.count {
            return None;
        }
        container.budget.draw_for(container.count as usize).ok()?;
        let mut starts = Vec::with_capacity(container.count as usize + 1);
        starts.push(0);
        let mut previous = 0;
        for offset in self.packed.iter().skip(1) {
            if offset <= previous {
                return None;
            }
            starts.push(offset);
            previous = offset;
        }
        let end = u32::try_from(container.contents.len()).ok().filter(|&end| end > previous)?;
        starts.push(end);
        Some(Offsets { starts })
    }

    /// Whether the offset of every element is stored.
    pub(crate) const fn is_complete(&self, count: u32) -> bool {
        self.step == 1 && self.filled == count
    }

    /// The offset of element `position`, when [`is_complete`](Self::is_complete).
    #[inline]
    pub(crate) fn start(&self, position: u32) -> Option<usize> {
        if position == 0 { Some(0) } else { Some(self.packed.get(position)? as usize) }
    }
}

/// Integers of a fixed width from 1 to 4 bytes, little-endian.
#[derive(Clone, Copy, Debug)]
struct Packed<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl Packed<'_> {
    #[inline]
    fn get(&self, position: u32) -> Option<u32> {
        let start = position as usize * self.width;
        self.bytes.get(start..start + self.width).map(little_endian)
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes.chunks_exact(self.width).map(little_endian)
    }
}

#[inline]
fn little_endian(bytes: &[u8]) -> u32 {
    match *bytes {
        [a] => u32::from(a),
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c] => u32::from_le_bytes([a, b, c, 0]),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// Sizes of the index of a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indexing {
    /// Entries of the offsets part, and bytes of each.
    pub(crate) offsets: u32,
    pub(crate) offset_width: usize,
    /// Elements from one entry to the next.
    pub(crate) step: u32,
    /// Entries of the order part, and bytes of each.
    pub(crate) order: u32,
    pub(crate) order_width: usize,
}

impl Indexing {
    /// The index of a container at the top of a bin.
    pub(crate) const fn of(shape: Shape, flags: u8, count: u32, contents_len: usize) -> Self {
        let mut indexing = Self {
            offsets: 0,
            offset_width: width_for(contents_len),
            step: 1,
            order: 0,
            order_width: width_for(count as usize),
        };
        if flags & flags::PERSIST_INDEX == 0 || count < 2 {
            return indexing;
        }
        indexing.offsets = count;
        match shape {
            Shape::List if flags & flags::ORDERED == 0 => {
                indexing.step = LIST_INDEX_STEP;
                indexing.offsets =
                    if count > LIST_INDEX_STEP { (count - 1) / LIST_INDEX_STEP + 1 } else { 0 };
            }
            Shape::Map if flags & flags::VALUE_ORDERED != 0 => indexing.order = count,
            _ => {}
        }
        indexing
    }

    pub(crate) const fn offsets_len(&self) -> usize {
        self.offsets as usize * self.offset_width
    }

    pub(crate) const fn order_len(&self) -> usize {
        self.order as usize * self.order_width
    }

    pub(crate) const fn len(&self) -> usize {
        self.offsets_len() + self.order_len()
    }
}

const fn width_for(value: usize) -> usize {
    match value {
        0..0x100 => 1,
        0x100..0x1_0000 => 2,
        0x1_0000..0x100_0000 => 3,
        _ => 4,
    }
}
