//! Kinds of MessagePack values, and the numbers that mark them in this dialect.

/// First byte of a raw value that is text.
pub const TEXT: u8 = 3;
/// First byte of a raw value that is plain bytes.
pub const BLOB: u8 = 4;
/// First byte of a raw value that is GeoJSON text.
pub const GEOJSON: u8 = 23;
/// Extension type of values that exist only in searches; they are never stored.
pub const SEARCH: u8 = 0xff;

/// The kind of a value. The order of the variants is the order of values of different kinds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Nil,
    False,
    True,
    Negative,
    Unsigned,
    Text,
    List,
    Map,
    Bytes,
    Double,
    GeoJson,
    Extension,
    /// Equal to every value.
    Wildcard,
    /// Greater than every other value.
    Infinity,
}

impl Kind {
    /// An integer of either sign.
    #[inline]
    #[must_use]
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::Negative | Self::Unsigned)
    }
}
