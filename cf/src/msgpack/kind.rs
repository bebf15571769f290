//! What a MessagePack value is, and the numbers that mark the kinds of this dialect.

/// First byte of a raw value that is text.
pub const TEXT: u8 = 3;
/// First byte of a raw value that is plain bytes.
pub const BLOB: u8 = 4;
/// First byte of a raw value that is GeoJSON text.
pub const GEOJSON: u8 = 23;
/// Extension type of values that may be searched for but not stored.
pub const SEARCH: u8 = 0xff;

/// What a value is. The order of the variants is the order of values of different kinds.
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
    /// Equal to everything.
    Wildcard,
    /// Greater than everything else.
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
