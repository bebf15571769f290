//! Writes the stored form of a list or map.

use cf::msgpack::{
    extension_header_len, is_extension, list_header_len, put_extension_header, put_list_header,
    put_map_header, put_nil,
};
use proto::ResultCode;

use super::container::{Container, Indexing, Shape, flags};
use super::index::{self, Edit};
use crate::budget::Budget;

/// Largest container that an operation may make. Records are smaller, but between two operations of a request
/// a container may exceed the size that can finally be stored.
pub(crate) const CONTAINER_SIZE_MAX: usize = 16 << 20;

/// A container that is about to be written: the caller calls [`begin`](Self::begin), appends exactly
/// `contents_len` bytes of elements, and calls [`seal`](Self::seal).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) shape: Shape,
    pub(crate) flags: u8,
    pub(crate) count: u32,
    pub(crate) contents_len: usize,
    /// Whether the container is at the top of its bin, so that the flags can ask for an index.
    pub(crate) is_top: bool,
}

impl Layout {
    /// Bytes of a container without elements.
    pub(crate) fn empty(shape: Shape, flags: u8, is_top: bool) -> Vec<u8> {
        let layout = Self { shape, flags, count: 0, contents_len: 0, is_top };
        let mut out = Vec::with_capacity(layout.head_len());
        layout.put_head(&mut out);
        out
    }

    pub(crate) fn indexing(&self) -> Indexing {
        let flags = if self.is_top { self.flags } else { 0 };
        Indexing::of(self.shape, flags, self.count, self.contents_len)
    }

    const fn header_count(&self) -> u32 {
        self.count + if self.flags == 0 { 0 } else { 1 }
    }

    /// Bytes before the contents.
    pub(crate) fn head_len(&self) -> usize {
        let header = list_header_len(self.header_count());
        if self.flags == 0 {
            return header;
        }
        let index = self.indexing().len();
        let nil = usize::from(self.shape == Shape::Map);
        header + extension_header_len(u32::try_from(index).unwrap_or(u32::MAX)) + index + nil
    }

    /// A vector with everything before the contents, and capacity for the contents.
    ///
    /// # Errors
    /// `RecordTooBig` above [`CONTAINER_SIZE_MAX`]; `Timeout` when the budget is exhausted.
    pub(crate) fn begin(&self, budget: &Budget<'_>) -> Result<Vec<u8>, ResultCode> {
        let len = self.head_len() + self.contents_len;
        if len > CONTAINER_SIZE_MAX {
            return Err(ResultCode::RecordTooBig);
        }
        budget.draw_for_copy(len)?;
        let mut out = Vec::with_capacity(len);
        self.put_head(&mut out);
        Ok(out)
    }

    /// Appends everything before the contents, with an index of zeros.
    pub(crate) fn put_head(&self, out: &mut Vec<u8>) {
        match self.shape {
            Shape::List => put_list_header(out, self.header_count()),
            Shape::Map => put_map_header(out, self.header_count()),
        }
        if self.flags == 0 {
            return;
        }
        let index = self.indexing().len();
        put_extension_header(out, u32::try_from(index).unwrap_or(u32::MAX), self.flags);
        out.resize(out.len() + index, 0);
        if self.shape == Shape::Map {
            put_nil(out);
        }
    }

    /// Completes the container in `out` by filling in its index.
    ///
    /// # Errors
    /// `Parameter` if the contents do not have that many elements, or if the first element would be read as a
    /// description.
    pub(crate) fn seal(&self, out: Vec<u8>, budget: &Budget<'_>) -> Result<Vec<u8>, ResultCode> {
        debug_assert_eq!(out.len(), self.head_len() + self.contents_len, "contents of the announced size");
        self.check_first(&out)?;
        index::fill(self, out, budget)
    }

    /// Same as [`seal`](Self::seal), for a container that was made from `old` by one change.
    pub(crate) fn seal_changed(
        &self,
        out: Vec<u8>,
        old: &Container<'_>,
        edit: &Edit,
    ) -> Result<Vec<u8>, ResultCode> {
        debug_assert_eq!(out.len(), self.head_len() + self.contents_len, "contents of the announced size");
        self.check_first(&out)?;
        index::refill(self, out, old, edit)
    }

    /// Refuses a list that begins with an extension and has no description on the wire (the index flag is not
    /// sent). Clients, and without that flag also the server, would take the extension for the description.
    fn check_first(&self, out: &[u8]) -> Result<(), ResultCode> {
        let is_described = self.shape == Shape::Map || self.flags & !flags::PERSIST_INDEX != 0;
        match out.get(self.head_len()) {
            Some(&marker) if !is_described && is_extension(marker) => Err(ResultCode::Parameter),
            _ => Ok(()),
        }
    }
}
