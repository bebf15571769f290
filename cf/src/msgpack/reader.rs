//! Reads values from bytes, one head at a time.

use super::{GEOJSON, Kind, Meter, SEARCH, TEXT, end_of, end_of_metered};

/// The first part of a value: the whole value if it is a scalar, the number of elements if it is a container.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Head<'a> {
    Nil,
    Bool(bool),
    /// An integer below zero.
    Negative(i64),
    /// An integer from zero up to 2⁶⁴ − 1.
    Unsigned(u64),
    Double(f64),
    /// Text, bytes or GeoJSON, with the type byte.
    Raw(&'a [u8]),
    /// Number of elements, including an extension that describes the list.
    List(u32),
    /// Number of pairs, including the one that describes the map.
    Map(u32),
    Extension(Extension<'a>),
}

/// An extension value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extension<'a> {
    pub kind: u8,
    pub data: &'a [u8],
}

impl Head<'_> {
    /// The kind of the value.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Nil => Kind::Nil,
            Self::Bool(false) => Kind::False,
            Self::Bool(true) => Kind::True,
            Self::Negative(_) => Kind::Negative,
            Self::Unsigned(_) => Kind::Unsigned,
            Self::Double(_) => Kind::Double,
            Self::Raw([TEXT, ..]) => Kind::Text,
            Self::Raw([GEOJSON, ..]) => Kind::GeoJson,
            Self::Raw(_) => Kind::Bytes,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
            Self::Extension(Extension { kind: SEARCH, data: [0] }) => Kind::Wildcard,
            Self::Extension(Extension { kind: SEARCH, data: [1] }) => Kind::Infinity,
            Self::Extension(_) => Kind::Extension,
        }
    }
}

/// Whether a value with this first byte is an extension.
#[inline]
#[must_use]
pub const fn is_extension(marker: u8) -> bool {
    matches!(marker, 0xc7..=0xc9 | 0xd4..=0xd8)
}

/// Reads values from bytes, in order.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Never past the end of `bytes`.
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of bytes read.
    #[inline]
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// The unread bytes.
    #[inline]
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Whether everything has been read.
    #[inline]
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The marker of the next value.
    #[inline]
    #[must_use]
    pub fn marker(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The kind of the next value.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.clone_head().map(|head| head.kind())
    }

    #[inline]
    fn clone_head(mut self) -> Option<Head<'a>> {
        self.head()
    }

    /// Reads the head of the next value. A container's elements follow its head.
    #[inline]
    pub fn head(&mut self) -> Option<Head<'a>> {
        let (&marker, tail) = self.bytes.get(self.at..)?.split_first()?;
        let (head, len) = match marker {
            0x00..=0x7f => (Head::Unsigned(u64::from(marker)), 0),
            0xe0..=0xff => (Head::Negative(i64::from(marker.cast_signed())), 0),
            0xa0..=0xbf => {
                let len = usize::from(marker & 0x1f);
                (Head::Raw(tail.get(..len)?), len)
            }
            0x90..=0x9f => (Head::List(u32::from(marker & 0x0f)), 0),
            0x80..=0x8f => (Head::Map(u32::from(marker & 0x0f)), 0),
            0xcc => (Head::Unsigned(u64::from(*tail.first()?)), 1),
            0xcd => (Head::Unsigned(u64::from(u16::from_be_bytes(*tail.first_chunk()?))), 2),
            0xce => (Head::Unsigned(u64::from(u32::from_be_bytes(*tail.first_chunk()?))), 4),
            0xcb => (Head::Double(f64::from_bits(u64::from_be_bytes(*tail.first_chunk()?))), 8),
            _ => {
                return self.long_head(marker);
            }
        };
        self.at += 1 + len;
        Some(head)
    }

    /// Reads a head of one of the rarer forms.
    fn long_head(&mut self, marker: u8) -> Option<Head<'a>> {
        self.at += 1;
        Some(match marker {
            0xc0 => Head::Nil,
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xca => Head::Double(f64::from(f32::from_bits(self.be32()?))),
            0xcf => Head::Unsigned(self.be64()?),
            0xd0 => signed(i64::from(self.be8()?.cast_signed())),
            0xd1 => signed(i64::from(self.be16()?.cast_signed())),
            0xd2 => signed(i64::from(self.be32()?.cast_signed())),
            0xd3 => signed(self.be64()?.cast_signed()),
            0xc4 | 0xd9 => self.be8().and_then(|len| self.take(usize::from(len))).map(Head::Raw)?,
            0xc5 | 0xda => self.be16().and_then(|len| self.take(usize::from(len))).map(Head::Raw)?,
            0xc6 | 0xdb => self.be32().and_then(|len| self.take(len as usize)).map(Head::Raw)?,
            0xdc => Head::List(u32::from(self.be16()?)),
            0xdd => Head::List(self.be32()?),
            0xde => Head::Map(u32::from(self.be16()?)),
            0xdf => Head::Map(self.be32()?),
            _ => Head::Extension(self.extension_body(marker)?),
        })
    }

    fn extension_body(&mut self, marker: u8) -> Option<Extension<'a>> {
        let len = match marker {
            0xc7 => usize::from(self.be8()?),
            0xc8 => usize::from(self.be16()?),
            0xc9 => self.be32()? as usize,
            0xd4..=0xd8 => 1 << (marker - 0xd4),
            _ => return None,
        };
        let kind = self.be8()?;
        Some(Extension { kind, data: self.take(len)? })
    }

    /// Reads the next value if it is an extension; otherwise leaves it.
    #[inline]
    pub fn extension(&mut self) -> Option<Extension<'a>> {
        let marker = self.marker().filter(|&marker| is_extension(marker))?;
        let start = self.at;
        self.at += 1;
        let extension = self.extension_body(marker);
        if extension.is_none() {
            self.at = start;
        }
        extension
    }

    /// Reads the number of elements of a list.
    #[inline]
    pub fn list_header(&mut self) -> Option<u32> {
        match self.head()? {
            Head::List(count) => Some(count),
            _ => None,
        }
    }

    /// Reads the number of pairs of a map.
    #[inline]
    pub fn map_header(&mut self) -> Option<u32> {
        match self.head()? {
            Head::Map(count) => Some(count),
            _ => None,
        }
    }

    /// Reads an integer as 64 bits in two's complement.
    #[inline]
    pub fn integer(&mut self) -> Option<u64> {
        match self.head()? {
            Head::Unsigned(value) => Some(value),
            Head::Negative(value) => Some(value.cast_unsigned()),
            _ => None,
        }
    }

    /// Reads the whole of the next value.
    #[inline]
    pub fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.at = end_of(self.bytes, start, 1)?;
        self.bytes.get(start..self.at)
    }

    /// Same as [`value`](Self::value), but draws on a meter; `None` also if that is exhausted.
    #[inline]
    pub fn value_metered(&mut self, meter: &impl Meter) -> Option<&'a [u8]> {
        let start = self.at;
        self.at = end_of_metered(self.bytes, start, 1, meter)?;
        self.bytes.get(start..self.at)
    }

    /// Same as [`skip`](Self::skip), but draws on a meter; `None` also if that is exhausted.
    #[inline]
    pub fn skip_metered(&mut self, count: u32, meter: &impl Meter) -> Option<()> {
        self.at = end_of_metered(self.bytes, self.at, u64::from(count), meter)?;
        Some(())
    }

    /// Skips `count` values.
    #[inline]
    pub fn skip(&mut self, count: u32) -> Option<()> {
        self.at = end_of(self.bytes, self.at, u64::from(count))?;
        Some(())
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }

    #[inline]
    fn be8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn be16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    fn be32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    fn be64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[inline]
const fn signed(value: i64) -> Head<'static> {
    if value < 0 { Head::Negative(value) } else { Head::Unsigned(value.cast_unsigned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> Option<Head<'_>> {
        Reader::new(bytes).head()
    }

    #[test]
    fn integers_of_every_width_keep_their_value_and_sign() {
        assert_eq!(head(&[0x7f]), Some(Head::Unsigned(127)));
        assert_eq!(head(&[0xe0]), Some(Head::Negative(-32)));
        assert_eq!(head(&[0xcc, 200]), Some(Head::Unsigned(200)));
        assert_eq!(head(&[0xd0, 0x80]), Some(Head::Negative(-128)));
        assert_eq!(head(&[0xd0, 5]), Some(Head::Unsigned(5)));
        assert_eq!(head(&[0xd1, 0xff, 0x00]), Some(Head::Negative(-256)));
        assert_eq!(head(&[0xcf, 0xff, 255, 255, 255, 255, 255, 255, 255]), Some(Head::Unsigned(u64::MAX)));
        assert_eq!(head(&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]), Some(Head::Negative(i64::MIN)));
        let mut reader = Reader::new(&[0xff, 0xc0]);
        assert_eq!(reader.integer(), Some(u64::MAX));
        assert_eq!(reader.integer(), None);
    }

    #[test]
    fn kinds_follow_the_first_byte_of_raw_values_and_the_type_of_extensions() {
        let kind = |bytes| Reader::new(bytes).kind();
        assert_eq!(kind(&[0xa2, 3, b'x']), Some(Kind::Text));
        assert_eq!(kind(&[0xc4, 1, 23]), Some(Kind::GeoJson));
        assert_eq!(kind(&[0xa1, 4]), Some(Kind::Bytes));
        assert_eq!(kind(&[0xa0]), Some(Kind::Bytes));
        assert_eq!(kind(&[0xd4, 0xff, 0]), Some(Kind::Wildcard));
        assert_eq!(kind(&[0xc7, 1, 0xff, 1]), Some(Kind::Infinity));
        assert_eq!(kind(&[0xd4, 0xff, 2]), Some(Kind::Extension));
        assert_eq!(kind(&[0xd5, 1, 0, 0]), Some(Kind::Extension));
        assert_eq!(kind(&[0xc1]), None);
        assert_eq!(kind(&[0xda, 0, 9, 3]), None);
    }

    #[test]
    fn an_extension_is_taken_only_where_there_is_one() {
        let mut reader = Reader::new(&[0xc7, 2, 0x11, 8, 9, 0xc0]);
        assert_eq!(reader.extension(), Some(Extension { kind: 0x11, data: &[8, 9] }));
        assert_eq!(reader.extension(), None);
        assert_eq!(reader.rest(), &[0xc0]);
        let mut cut = Reader::new(&[0xd7, 1, 0]);
        assert_eq!(cut.extension(), None);
        assert_eq!(cut.position(), 0);
    }
}
