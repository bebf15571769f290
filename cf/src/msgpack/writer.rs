//! Writes values in their shortest form to a vector, and computes the lengths of these forms.
//!
//! Raw values always get headers of the `str` family.

#[inline]
pub fn put_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a signed integer.
#[inline]
pub fn put_integer(out: &mut Vec<u8>, value: i64) {
    match value {
        0.. => put_unsigned(out, value.cast_unsigned()),
        -0x20..0 => out.push(value.to_be_bytes()[7]),
        -0x80..-0x20 => put(out, 0xd0, &value.to_be_bytes()[7..]),
        -0x8000..-0x80 => put(out, 0xd1, &value.to_be_bytes()[6..]),
        -0x8000_0000..-0x8000 => put(out, 0xd2, &value.to_be_bytes()[4..]),
        _ => put(out, 0xd3, &value.to_be_bytes()),
    }
}

/// Appends an unsigned integer.
#[inline]
pub fn put_unsigned(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x80 => out.push(value.to_be_bytes()[7]),
        0x80..0x100 => put(out, 0xcc, &value.to_be_bytes()[7..]),
        0x100..0x1_0000 => put(out, 0xcd, &value.to_be_bytes()[6..]),
        0x1_0000..0x1_0000_0000 => put(out, 0xce, &value.to_be_bytes()[4..]),
        _ => put(out, 0xcf, &value.to_be_bytes()),
    }
}

/// The length of a signed integer.
#[inline]
#[must_use]
pub const fn integer_len(value: i64) -> usize {
    match value {
        -0x20..0x80 => 1,
        -0x80..-0x20 | 0x80..0x100 => 2,
        -0x8000..-0x80 | 0x100..0x1_0000 => 3,
        -0x8000_0000..-0x8000 | 0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

#[inline]
pub fn put_double(out: &mut Vec<u8>, value: f64) {
    put(out, 0xcb, &value.to_bits().to_be_bytes());
}

/// The length of a double.
#[must_use]
pub const fn double_len() -> usize {
    9
}

/// Appends the header of a raw value of `len` bytes.
#[inline]
pub fn put_raw_header(out: &mut Vec<u8>, len: u32) {
    match len {
        0..0x20 => out.push(0xa0 | len.to_be_bytes()[3]),
        0x20..0x100 => put(out, 0xd9, &len.to_be_bytes()[3..]),
        0x100..0x1_0000 => put(out, 0xda, &len.to_be_bytes()[2..]),
        _ => put(out, 0xdb, &len.to_be_bytes()),
    }
}

/// Appends the header of a list of `count` values.
#[inline]
pub fn put_list_header(out: &mut Vec<u8>, count: u32) {
    put_container_header(out, count, 0x90, 0xdc);
}

/// Appends the header of a map of `count` pairs.
#[inline]
pub fn put_map_header(out: &mut Vec<u8>, count: u32) {
    put_container_header(out, count, 0x80, 0xde);
}

#[inline]
fn put_container_header(out: &mut Vec<u8>, count: u32, short: u8, long: u8) {
    match count {
        0..0x10 => out.push(short | count.to_be_bytes()[3]),
        0x10..0x1_0000 => put(out, long, &count.to_be_bytes()[2..]),
        _ => put(out, long + 1, &count.to_be_bytes()),
    }
}

/// The length of the header of a list of `count` values.
#[inline]
#[must_use]
pub const fn list_header_len(count: u32) -> usize {
    match count {
        0..0x10 => 1,
        0x10..0x1_0000 => 3,
        _ => 5,
    }
}

/// The length of the header of a map of `count` pairs.
#[inline]
#[must_use]
pub const fn map_header_len(count: u32) -> usize {
    list_header_len(count)
}

/// Appends the header of an extension of `len` bytes.
#[inline]
pub fn put_extension_header(out: &mut Vec<u8>, len: u32, kind: u8) {
    match len {
        1 => out.push(0xd4),
        2 => out.push(0xd5),
        4 => out.push(0xd6),
        8 => out.push(0xd7),
        16 => out.push(0xd8),
        0..0x100 => put(out, 0xc7, &len.to_be_bytes()[3..]),
        0x100..0x1_0000 => put(out, 0xc8, &len.to_be_bytes()[2..]),
        _ => put(out, 0xc9, &len.to_be_bytes()),
    }
    out.push(kind);
}

/// The length of the header of an extension of `len` bytes.
#[inline]
#[must_use]
pub const fn extension_header_len(len: u32) -> usize {
    match len {
        1 | 2 | 4 | 8 | 16 => 2,
        0..0x100 => 3,
        0x100..0x1_0000 => 4,
        _ => 6,
    }
}

#[inline]
fn put(out: &mut Vec<u8>, marker: u8, bytes: &[u8]) {
    out.push(marker);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::{Head, Reader};
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn integers_are_as_short_as_they_can_be_and_read_back() {
        let mut values = vec![i64::MIN, i64::MAX];
        for shift in [5, 7, 8, 15, 16, 31, 32, 47] {
            let edge = 1i64 << shift;
            values.extend([edge - 1, edge, edge + 1, 1 - edge, -edge, -edge - 1]);
        }
        for value in values {
            let bytes = written(|out| put_integer(out, value));
            assert_eq!(bytes.len(), integer_len(value), "{value}");
            assert_eq!(Reader::new(&bytes).integer(), Some(value.cast_unsigned()));
        }
        assert_eq!(written(|out| put_integer(out, -33)), [0xd0, 0xdf]);
        assert_eq!(written(|out| put_integer(out, 128)), [0xcc, 0x80]);
        assert_eq!(written(|out| put_unsigned(out, u64::MAX)).len(), 9);
    }

    #[test]
    fn headers_have_the_lengths_announced_for_them() {
        for count in [0, 1, 15, 16, 0xffff, 0x1_0000, u32::MAX] {
            let list = written(|out| put_list_header(out, count));
            assert_eq!(list.len(), list_header_len(count));
            assert_eq!(Reader::new(&list).head(), Some(Head::List(count)));
            let map = written(|out| put_map_header(out, count));
            assert_eq!(map.len(), map_header_len(count));
            assert_eq!(Reader::new(&map).head(), Some(Head::Map(count)));
        }
        for len in [0, 1, 2, 3, 4, 8, 9, 16, 255, 256, 0xffff, 0x1_0000] {
            let mut bytes = written(|out| put_extension_header(out, len, 7));
            assert_eq!(bytes.len(), extension_header_len(len));
            bytes.resize(bytes.len() + len as usize, 0);
            let extension = Reader::new(&bytes).extension().unwrap();
            assert_eq!((extension.kind, extension.data.len()), (7, len as usize));
        }
        for len in [0u32, 31, 32, 255, 256, 0xffff, 0x1_0000] {
            let mut bytes = written(|out| put_raw_header(out, len));
            bytes.resize(bytes.len() + len as usize, 3);
            assert!(matches!(Reader::new(&bytes).head(), Some(Head::Raw(raw)) if raw.len() == len as usize));
        }
        assert_eq!(written(|out| put_double(out, 1.5)).len(), double_len());
    }
}
