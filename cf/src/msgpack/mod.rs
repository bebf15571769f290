//! MessagePack in the form that the server stores and compares: reading, measuring, total order, writing.
//!
//! All functions work on byte ranges and build no trees. Bytes may be hostile: every reading function returns
//! `None` for truncated or invalid bytes, allocates nothing, and does not recurse, so that deep nesting costs
//! neither stack nor heap.
//!
//! The dialect: a raw value (the `str` and `bin` families alike) begins with a type byte: [`TEXT`],
//! [`GEOJSON`], or anything else for bytes. A list may begin with an extension value, and a map with a pair
//! of one and nil. The type of the extension is the set of the container's flags; the extension is not an
//! element. Extension type [`SEARCH`] marks values that only searches use: the wildcard and infinity.

mod compare;
mod kind;
mod measure;
mod meter;
#[cfg(test)]
mod properties;
mod reader;
mod writer;

pub use compare::{Probe, compare, compare_heads, compare_metered, compare_ordered, compare_ordered_metered};
pub use kind::{BLOB, GEOJSON, Kind, SEARCH, TEXT};
pub use measure::{Walk, end_of, end_of_metered, holds_search_value};
pub use meter::Meter;
pub use reader::{Extension, Head, Reader, is_extension};
pub use writer::{
    double_len, extension_header_len, integer_len, list_header_len, map_header_len, put_double,
    put_extension_header, put_integer, put_list_header, put_map_header, put_nil, put_raw_header,
    put_unsigned,
};
