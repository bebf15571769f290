//! Converts client values to normal form: checks what may be stored, and gives each value one stored form.
//!
//! Every value takes its shortest form (binary headers stay if no other length field would be shorter). Maps
//! have integers, text or plain bytes as keys, each key once, and are sorted by key even without the flag for
//! order. A container that is flagged as ordered must arrive in order. Unknown flags, an index from a client
//! and a description without flags are dropped. Search values (such as wildcards) are refused. A list that
//! would then begin with an extension is refused too, because every reader would take the extension for the
//! list's description.
//!
//! Bytes that are already in normal form are not copied. The nesting depth is limited, because other code may
//! recurse over stored values.

use std::borrow::Cow;
use std::cmp::Ordering;

use cf::msgpack::{
    Head, Kind, Reader, SEARCH, compare_metered, integer_len, is_extension, put_extension_header,
    put_integer, put_list_header, put_map_header, put_nil, put_raw_header, put_unsigned,
};
use proto::ResultCode;
use smallvec::SmallVec;

use super::container::{Header, Offsets, Shape, flags};
use super::layout::Layout;
use super::order::merge_sort;
use super::pair::{is_key, split};
use crate::budget::Budget;

/// Deepest nesting of containers in a value that a client stores.
const NESTING_MAX: usize = 1024;

/// The normal form of the single value in `bytes`. `None` if it cannot be stored.
#[inline]
pub(crate) fn normal<'b>(bytes: &'b [u8], budget: &Budget<'_>) -> Option<Cow<'b, [u8]>> {
    if is_normal(bytes, budget) {
        return Some(Cow::Borrowed(bytes));
    }
    Rewriter::rewrite(bytes, budget).ok().map(Cow::Owned)
}

/// The normal form of a list or map at the top of a bin, with its index if its flags ask for one.
///
/// # Errors
/// `Unknown` for a value that cannot be stored; `Parameter` for a list that would be misread after it is stored.
pub(crate) fn normal_top<'b>(
    shape: Shape,
    bytes: &'b [u8],
    budget: &Budget<'_>,
) -> Result<Cow<'b, [u8]>, ResultCode> {
    let raw = Header::parse(shape, bytes).ok_or(ResultCode::Unknown)?;
    if is_normal(bytes, budget) {
        return Ok(Cow::Borrowed(bytes));
    }
    let rewritten = Rewriter::rewrite(bytes, budget)?;
    if raw.flags & flags::PERSIST_INDEX == 0 {
        return Ok(Cow::Owned(rewritten));
    }
    let container = Header::parse(shape, &rewritten).ok_or(ResultCode::Unknown)?;
    let layout = Layout {
        shape,
        flags: raw.flags & shape.storable_flags(),
        count: container.count,
        contents_len: container.contents.len(),
        is_top: true,
    };
    let mut out = Vec::with_capacity(layout.head_len() + container.contents.len());
    layout.put_head(&mut out);
    out.extend_from_slice(container.contents);
    layout.seal(out, budget).map(Cow::Owned)
}

/// Whether a value, apart from the contents of a container, is in its shortest form. `marker` is its first byte.
pub(crate) fn is_shortest(marker: u8, head: &Head<'_>) -> bool {
    let raw_len = |len: usize| match marker {
        0xa0..=0xbf => true,
        0xc4 | 0xd9 => len > 0x1f,
        0xc5 | 0xda => len > 0xff,
        _ => len > 0xffff,
    };
    match *head {
        Head::Nil | Head::Bool(_) | Head::Double(_) => true,
        Head::Unsigned(value) => match marker {
            0..=0x7f => true,
            0xcc => value > 0x7f,
            0xcd => value > 0xff,
            0xce => value > 0xffff,
            0xcf => value > 0xffff_ffff,
            _ => false,
        },
        Head::Negative(value) => {
            let len = if marker >= 0xe0 { 1 } else { 1 + (1 << (marker & 3)) };
            integer_len(value) == len
        }
        Head::Raw(raw) => raw_len(raw.len()),
        Head::List(count) | Head::Map(count) => match marker {
            0x80..=0x9f => true,
            0xdc | 0xde => count > 0xf,
            _ => count > 0xffff,
        },
        Head::Extension(extension) => match marker {
            0xc7 => !matches!(extension.data.len(), 1 | 2 | 4 | 8 | 16),
            0xc8 => extension.data.len() > 0xff,
            0xc9 => extension.data.len() > 0xffff,
            _ => true,
        },
    }
}

/// Price of checking a value.
const VALUE_STEPS: usize = 4;
/// Number of values checked between two draws on the budget.
const VALUES_AT_ONCE: u32 = 256;

/// Whether the single value in `bytes` is in normal form. The result may be false for some that are.
fn is_normal(bytes: &[u8], budget: &Budget<'_>) -> bool {
    struct Level {
        is_map: bool,
        /// Number of values still to come.
        left: u64,
        /// The offset of the previous key.
        key: Option<usize>,
    }
    let mut levels: SmallVec<[Level; 8]> = SmallVec::new();
    let mut reader = Reader::new(bytes);
    let mut until_drawn = VALUES_AT_ONCE;
    loop {
        until_drawn -= 1;
        if until_drawn == 0 {
            until_drawn = VALUES_AT_ONCE;
            if budget.draw_for(VALUES_AT_ONCE as usize * VALUE_STEPS).is_err() {
                return false;
            }
        }
        let start = reader.position();
        let (Some(marker), Some(head)) = (reader.marker(), reader.head()) else { return false };
        if !is_shortest(marker, &head) {
            return false;
        }
        if let Some(level) = levels.last_mut() {
            if level.is_map && level.left % 2 == 0 {
                let follows = |key: usize| {
                    compare_metered(&bytes[key..], &bytes[start..], budget) == Some(Ordering::Less)
                };
                if !is_key(&head) || !level.key.is_none_or(follows) {
                    return false;
                }
                level.key = Some(start);
            }
            level.left -= 1;
        }
        match head {
            Head::Extension(_) => return false,
            Head::List(count) | Head::Map(count) if count != 0 => {
                // The rewriter decides about descriptions.
                if levels.len() == NESTING_MAX || reader.marker().is_none_or(is_extension) {
                    return false;
                }
                let is_map = matches!(head, Head::Map(_));
                levels.push(Level { is_map, left: u64::from(count) * (1 + u64::from(is_map)), key: None });
            }
            _ => {}
        }
        while levels.last().is_some_and(|level| level.left == 0) {
            levels.pop();
        }
        if levels.is_empty() {
            return reader.is_at_end();
        }
    }
}

/// A container that is being rewritten.
struct Open {
    shape: Shape,
    flags: u8,
    /// Number of elements.
    count: u32,
    /// Number of values still to come.
    left: u64,
    /// Offsets in the output: the contents, the current element (of a map: its key), and the previous one.
    contents: usize,
    current: usize,
    previous: Option<usize>,
    is_unsorted: bool,
}

struct Rewriter<'a> {
    reader: Reader<'a>,
    out: Vec<u8>,
    open: SmallVec<[Open; 8]>,
    /// Whether the list was refused because its first element would be read as its description.
    is_misread: bool,
    budget: &'a Budget<'a>,
}

impl<'a> Rewriter<'a> {
    fn rewrite(bytes: &'a [u8], budget: &'a Budget<'a>) -> Result<Vec<u8>, ResultCode> {
        let mut rewriter = Self {
            reader: Reader::new(bytes),
            out: Vec::with_capacity(bytes.len()),
            open: SmallVec::new(),
            is_misread: false,
            budget,
        };
        match rewriter.whole() {
            Some(()) => Ok(rewriter.out),
            None if rewriter.is_misread => Err(ResultCode::Parameter),
            None => Err(ResultCode::Unknown),
        }
    }

    /// Rewrites the whole input.
    fn whole(&mut self) -> Option<()> {
        loop {
            self.value()?;
            if self.open.is_empty() {
                return self.reader.is_at_end().then_some(());
            }
        }
    }

    /// Rewrites one value, or the head of a container with elements.
    fn value(&mut self) -> Option<()> {
        self.budget.draw_for(2 * VALUE_STEPS).ok()?;
        let rest = self.reader.rest();
        let marker = self.reader.marker()?;
        let head = self.reader.head()?;
        let start = self.out.len();
        if let Some(open) = self.open.last_mut() {
            let begins_element = open.shape == Shape::List || open.left % 2 == 0;
            if open.shape == Shape::Map && begins_element && !is_key(&head) {
                return None;
            }
            if begins_element {
                open.current = start;
            }
        }
        match head {
            Head::List(count) => return self.container(Shape::List, count),
            Head::Map(count) => return self.container(Shape::Map, count),
            _ if matches!(head.kind(), Kind::Wildcard | Kind::Infinity) => return None,
            Head::Extension(extension)
                if extension.kind == SEARCH && (1..4).contains(&extension.data.len()) =>
            {
                return None;
            }
            _ if is_shortest(marker, &head) => {
                let len = rest.len() - self.reader.rest().len();
                self.out.extend_from_slice(rest.get(..len)?);
            }
            Head::Unsigned(value) => put_unsigned(&mut self.out, value),
            Head::Negative(value) => put_integer(&mut self.out, value),
            Head::Raw(raw) => {
                put_raw_header(&mut self.out, u32::try_from(raw.len()).ok()?);
                self.out.extend_from_slice(raw);
            }
            Head::Extension(extension) => {
                let len = u32::try_from(extension.data.len()).ok()?;
                put_extension_header(&mut self.out, len, extension.kind);
                self.out.extend_from_slice(extension.data);
            }
            Head::Nil | Head::Bool(_) | Head::Double(_) => return None,
        }
        self.value_done()
    }

    /// Rewrites the header and the description of a container.
    fn container(&mut self, shape: Shape, header_count: u32) -> Option<()> {
        let (mut count, mut container_flags) = (header_count, 0);
        if count != 0 && is_extension(self.reader.marker()?) {
            let description = self.reader.extension()?;
            if description.kind == SEARCH {
                return None;
            }
            count -= 1;
            container_flags = description.kind & shape.storable_flags() & !flags::PERSIST_INDEX;
            if shape == Shape::Map && matches!(self.reader.head()?, Head::List(1..) | Head::Map(1..)) {
                return None;
            }
        }
        let described = count.checked_add(u32::from(container_flags != 0))?;
        match shape {
            Shape::List => put_list_header(&mut self.out, described),
            Shape::Map => put_map_header(&mut self.out, described),
        }
        if container_flags != 0 {
            put_extension_header(&mut self.out, 0, container_flags);
            if shape == Shape::Map {
                put_nil(&mut self.out);
            }
        }
        if count == 0 {
            return self.value_done();
        }
        if shape == Shape::List && container_flags == 0 && is_extension(self.reader.marker()?) {
            self.is_misread = true;
            return None;
        }
        if self.open.len() == NESTING_MAX {
            return None;
        }
        let contents = self.out.len();
        self.open.push(Open {
            shape,
            flags: container_flags,
            count,
            left: u64::from(count) * shape.values_per_element(),
            contents,
            current: contents,
            previous: None,
            is_unsorted: false,
        });
        Some(())
    }

    /// Counts a finished value, and closes the containers that it completes.
    fn value_done(&mut self) -> Option<()> {
        while let Some(open) = self.open.last_mut() {
            open.left -= 1;
            let was_key = open.shape == Shape::Map && open.left % 2 == 1;
            let was_ordered_element = open.shape == Shape::List && open.flags & flags::ORDERED != 0;
            if was_key || was_ordered_element {
                open.check_order(&self.out, self.budget)?;
            }
            if open.left != 0 {
                break;
            }
            if open.is_unsorted {
                sort_pairs(&mut self.out, open.contents, open.count, self.budget)?;
            }
            self.open.pop();
        }
        Some(())
    }
}

impl Open {
    /// Compares the finished element (of a map: its key) with the element before it.
    fn check_order(&mut self, out: &[u8], budget: &Budget<'_>) -> Option<()> {
        let current = self.current;
        let Some(previous) = self.previous.replace(current).filter(|_| !self.is_unsorted) else {
            return Some(());
        };
        let is_flagged_map = self.flags & flags::KEY_ORDERED != 0;
        match (compare_metered(out.get(previous..)?, out.get(current..)?, budget)?, self.shape) {
            (Ordering::Less, _) | (Ordering::Equal, Shape::List) => Some(()),
            (Ordering::Greater, Shape::Map) if !is_flagged_map => {
                self.is_unsorted = true;
                Some(())
            }
            _ => None,
        }
    }
}

/// Sorts the `count` pairs from `start` on by key; `None` for a duplicate key.
fn sort_pairs(out: &mut [u8], start: usize, count: u32, budget: &Budget<'_>) -> Option<()> {
    let contents = out.get_mut(start..)?;
    budget.draw_for_copy(2 * contents.len()).ok()?;
    let offsets = Offsets::scan(contents, count, Shape::Map, budget)?;
    let key = |position| split(contents.get(offsets.range(position, 1))?, budget).ok().map(|(key, _)| key);
    let mut positions: Vec<u32> = (0..count).collect();
    merge_sort(&mut positions, budget, |a, b| compare_metered(key(a)?, key(b)?, budget)).ok()?;
    for pair in positions.windows(2) {
        if compare_metered(key(pair[0])?, key(pair[1])?, budget)? != Ordering::Less {
            return None;
        }
    }
    let mut sorted = Vec::with_capacity(contents.len());
    for &position in &positions {
        sorted.extend_from_slice(contents.get(offsets.range(position, 1))?);
    }
    contents.copy_from_slice(&sorted);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal_top(shape: Shape, bytes: &[u8]) -> Result<Cow<'_, [u8]>, ResultCode> {
        super::normal_top(shape, bytes, &Budget::unlimited())
    }

    fn of(bytes: &[u8]) -> Option<Vec<u8>> {
        normal(bytes, &Budget::unlimited()).map(Cow::into_owned)
    }

    #[test]
    fn values_take_their_shortest_form() {
        let cases: [(&[u8], &[u8]); 16] = [
            (&[0xcc, 5], &[5]),
            (&[0xd3, 0, 0, 0, 0, 0, 0, 1, 0], &[0xcd, 1, 0]),
            (&[0xd1, 0xff, 0xff], &[0xff]),
            (&[0xd2, 0xff, 0xff, 0x63, 0xc0], &[0xd2, 0xff, 0xff, 0x63, 0xc0]),
            (&[0xd1, 0x01, 0x2c], &[0xcd, 0x01, 0x2c]),
            (&[0xd9, 2, 3, b'a'], &[0xa2, 3, b'a']),
            (&[0xc4, 2, 4, 9], &[0xa2, 4, 9]),
            (&[0xdb, 0, 0, 0, 1, 3], &[0xa1, 3]),
            (&[0xdc, 0, 1, 7], &[0x91, 7]),
            (&[0xdf, 0, 0, 0, 1, 1, 2], &[0x81, 1, 2]),
            (&[0xdd, 0, 0, 0, 0], &[0x90]),
            (&[0x92, 1, 0xc7, 1, 5, 6], &[0x92, 1, 0xd4, 5, 6]),
            (&[0x91, 0xc7, 0, 0], &[0x90]),
            (&[0x81, 0xc7, 0, 8, 0xc0], &[0x80]),
            (&[0x92, 0xc7, 1, 0x11, 0, 5], &[0x92, 0xc7, 0, 1, 5]),
            (&[0x82, 2, 0xa0, 1, 0xa0], &[0x82, 1, 0xa0, 2, 0xa0]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(of(bytes).as_deref(), Some(expected), "{bytes:x?}");
            assert_eq!(of(expected).as_deref(), Some(expected), "normal form is final");
        }
        let mut long_blob = vec![0xc4, 40, 4];
        long_blob.resize(42, 0);
        assert!(
            matches!(normal(&long_blob, &Budget::unlimited()), Some(Cow::Borrowed(_))),
            "binary headers stay"
        );
    }

    #[test]
    fn values_that_cannot_be_stored_are_refused() {
        let refused: [&[u8]; 17] = [
            &[],
            &[0xc1],
            &[1, 2],
            &[0x90, 1],
            &[0x92, 1],
            &[0x91, 0xd4, 0xff, 0],
            &[0xd4, 0xff, 1],
            &[0x81, 0xc0, 1],
            &[0x81, 0x90, 1],
            &[0x81, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x81, 0xa1, 23, 1],
            &[0x82, 1, 1, 1, 2],
            &[0x83, 2, 1, 1, 1, 2, 3],
            &[0x83, 0xc7, 0, 1, 0xc0, 2, 1, 1, 1],
            &[0x93, 0xc7, 0, 1, 2, 1],
            &[0xdf, 0x80, 0, 0, 0],
            &[0x82, 0xc7, 0, 1, 0x91, 1, 1, 1],
        ];
        for bytes in refused {
            assert_eq!(of(bytes), None, "{bytes:x?}");
        }
        assert_eq!(of(&[0x83, 0xc7, 0, 2, 0xc0, 2, 1, 1, 1]), Some(vec![0x83, 0xc7, 0, 2, 0xc0, 1, 1, 2, 1]));
    }

    #[test]
    fn a_list_that_would_be_misread_is_refused() {
        let refused: [&[u8]; 5] = [
            &[0x92, 0xc7, 0, 0, 0xd4, 5, 6],
            &[0x93, 0xc7, 0, 0, 0xc7, 0, 1, 7],
            &[0x92, 0xd4, 2, 9, 0xd4, 5, 6],
            // The index flag is not on the wire.
            &[0x92, 0xc7, 0, 0x10, 0xd4, 5, 6],
            &[0x92, 1, 0x92, 0xc7, 0, 0, 0xd4, 5, 6],
        ];
        for bytes in refused {
            assert_eq!(of(bytes), None, "{bytes:x?}");
            assert_eq!(normal_top(Shape::List, bytes), Err(ResultCode::Parameter), "{bytes:x?}");
        }
        // An extension after a kept description or another element is an ordinary element.
        let stored: [&[u8]; 3] =
            [&[0x92, 0xc7, 0, 1, 0xd4, 5, 6], &[0x92, 1, 0xd4, 5, 6], &[0x81, 1, 0xd4, 5, 6]];
        for bytes in stored {
            assert_eq!(of(bytes).as_deref(), Some(bytes));
        }
    }

    #[test]
    fn nesting_is_limited_whatever_the_shape() {
        for marker in [vec![0x91], vec![0x81, 1], vec![0x92, 0xc7, 0, 1]] {
            for (depth, is_stored) in [(NESTING_MAX, true), (NESTING_MAX + 1, false), (200_000, false)] {
                let mut bytes = marker.repeat(depth);
                bytes.push(1);
                assert_eq!(of(&bytes).is_some(), is_stored, "{marker:x?} {depth}");
            }
        }
    }

    #[test]
    fn an_index_is_made_at_the_top_only() {
        let nested = [0x91, 0x93, 0xc7, 0, 0x11, 1, 2];
        assert_eq!(of(&nested), Some(vec![0x91, 0x93, 0xc7, 0, 1, 1, 2]));
        let top = normal_top(Shape::List, &[0x94, 0xc7, 0, 0x11, 1, 2, 5]).unwrap();
        assert_eq!(&*top, [0x94, 0xc7, 3, 0x11, 3, 1, 2, 1, 2, 5]);
        let map = normal_top(Shape::Map, &[0x83, 0xc7, 0, 0x13, 0xc0, 1, 7, 2, 6]).unwrap();
        assert_eq!(&*map, [0x83, 0xd6, 0x13, 2, 2, 1, 0, 0xc0, 1, 7, 2, 6]);
        assert_eq!(normal_top(Shape::Map, &[0x90]), Err(ResultCode::Unknown));
    }
}
