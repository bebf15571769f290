//! Converts lists and maps between their wire form and their stored form.
//!
//! The wire form is the stored form without an index, and without the flag for one.

use std::borrow::Cow;

use cf::msgpack::{put_extension_header, put_list_header, put_map_header, put_nil};
use proto::ResultCode;
use smallvec::SmallVec;

use super::container::{Header, Shape, flags};
use super::normal::normal_top;
use crate::budget::Budget;

/// The stored form of a list that a client writes.
///
/// # Errors
/// `Unknown` for bytes that are not a list that can be stored; `Parameter` if the first element of the list,
/// or of a list in it, would be read as a description.
pub fn list_from_wire<'a>(bytes: &'a [u8], budget: &Budget<'_>) -> Result<Cow<'a, [u8]>, ResultCode> {
    budget.check(normal_top(Shape::List, bytes, budget))
}

/// The stored form of a map that a client writes.
///
/// # Errors
/// `Unknown` for bytes that are not a map that can be stored; `Parameter` as for [`list_from_wire`].
pub fn map_from_wire<'a>(bytes: &'a [u8], budget: &Budget<'_>) -> Result<Cow<'a, [u8]>, ResultCode> {
    budget.check(normal_top(Shape::Map, bytes, budget))
}

#[inline]
#[must_use]
pub fn list_to_wire(stored: &[u8]) -> WireForm<'_> {
    WireForm::new(Shape::List, stored)
}

#[inline]
#[must_use]
pub fn map_to_wire(stored: &[u8]) -> WireForm<'_> {
    WireForm::new(Shape::Map, stored)
}

/// A list or map in the form that clients receive: a few new bytes, then bytes of the stored form.
#[derive(Clone, Debug)]
pub struct WireForm<'a> {
    head: SmallVec<[u8; 16]>,
    body: &'a [u8],
}

impl<'a> WireForm<'a> {
    /// Damaged bytes are sent unchanged.
    fn new(shape: Shape, stored: &'a [u8]) -> Self {
        let unchanged = Self { head: SmallVec::new(), body: stored };
        // The second marker shows whether there is a description. Most containers have none.
        let Some(container) = Header::parse(shape, stored) else { return unchanged };
        if container.flags & flags::PERSIST_INDEX == 0 && container.index.is_empty() {
            return unchanged;
        }
        let flags = container.flags & !flags::PERSIST_INDEX;
        let count = container.count.saturating_add(u32::from(flags != 0));
        let mut head = Vec::with_capacity(16);
        match shape {
            Shape::List => put_list_header(&mut head, count),
            Shape::Map => put_map_header(&mut head, count),
        }
        if flags != 0 {
            put_extension_header(&mut head, 0, flags);
            if shape == Shape::Map {
                put_nil(&mut head);
            }
        }
        Self { head: SmallVec::from_vec(head), body: container.contents }
    }

    /// Number of bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a list or map is never empty bytes")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(self.body);
    }

    /// The bytes in one piece. They are borrowed if the stored form is the wire form.
    #[must_use]
    pub fn into_bytes(self) -> Cow<'a, [u8]> {
        if self.head.is_empty() {
            return Cow::Borrowed(self.body);
        }
        let mut bytes = self.head.into_vec();
        bytes.extend_from_slice(self.body);
        Cow::Owned(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_does_not_leave_the_server() {
        let wire: [(&[u8], &[u8]); 4] = [
            (&[0x94, 0xc7, 0, 0x11, 1, 2, 3], &[0x94, 0xc7, 0, 1, 1, 2, 3]),
            (&[0x94, 0xc7, 0, 0x10, 3, 1, 2], &[0x93, 3, 1, 2]),
            (&[0x92, 0xc7, 0, 1, 5], &[0x92, 0xc7, 0, 1, 5]),
            (&[0x91, 0xc7, 0, 0x10], &[0x90]),
        ];
        for (sent, received) in wire {
            let stored = list_from_wire(sent, &Budget::unlimited()).unwrap();
            let form = list_to_wire(&stored);
            assert_eq!(form.len(), received.len());
            let mut written = Vec::new();
            form.write(&mut written);
            assert_eq!(written, received);
            assert_eq!(&*form.into_bytes(), received);
        }
        let stored = map_from_wire(&[0x83, 0xc7, 0, 0x10, 0xc0, 2, 1, 1, 1], &Budget::unlimited()).unwrap();
        assert_eq!(&*map_to_wire(&stored).into_bytes(), [0x82, 1, 1, 2, 1]);
        // An expression can make this value.
        assert_eq!(
            &*map_to_wire(&[0x82, 0xd5, 3, 7, 8, 0xc0, 1, 2]).into_bytes(),
            [0x82, 0xc7, 0, 3, 0xc0, 1, 2]
        );
        let stored = map_from_wire(&[0x83, 0xc7, 0, 0x11, 0xc0, 1, 1, 2, 1], &Budget::unlimited()).unwrap();
        assert_eq!(&*map_to_wire(&stored).into_bytes(), [0x83, 0xc7, 0, 1, 0xc0, 1, 1, 2, 1]);
    }

    #[test]
    fn other_shapes_are_no_list_or_map() {
        assert_eq!(list_from_wire(&[0x80], &Budget::unlimited()), Err(ResultCode::Unknown));
        assert_eq!(map_from_wire(&[0x90], &Budget::unlimited()), Err(ResultCode::Unknown));
        assert_eq!(list_from_wire(&[], &Budget::unlimited()), Err(ResultCode::Unknown));
        assert_eq!(&*list_to_wire(&[0xc1]).into_bytes(), [0xc1]);
    }
}
