//! How long values are: the walk over elements that everything else leans on.
//!
//! Lists and maps add their elements to the count of values still to be passed, in saturating 64 bits, so a header that
//! promises more than the bytes hold runs off their end.
//!
//! The length of a value is found by a branch for its marker rather than in a table: neighbours tend to be of one kind, and
//! a branch that was predicted lets the next marker be looked at before this one has arrived. For values of one kind
//! this takes a third of the time.

use super::SEARCH;

/// Where `count` values that begin at `at` end, or `None` if they are invalid or cut short.
#[inline]
#[must_use]
pub fn end_of(bytes: &[u8], at: usize, count: u64) -> Option<usize> {
    let (mut at, mut pending) = (at, count);
    while pending != 0 {
        let marker = *bytes.get(at)?;
        pending -= 1;
        // Both ranges of one-byte integers.
        if marker.cast_signed() >= -32 {
            at += 1;
            continue;
        }
        match marker {
            0xa0..=0xbf => at += 1 + usize::from(marker & 0x1f),
            0xc0 | 0xc2 | 0xc3 => at += 1,
            0xcc | 0xd0 => at += 2,
            0xcd | 0xd1 | 0xd4 => at += 3,
            0xca | 0xce | 0xd2 => at += 5,
            0xcb | 0xcf | 0xd3 => at += 9,
            0x90..=0x9f => {
                at += 1;
                pending = pending.saturating_add(u64::from(marker & 0x0f));
            }
            0x80..=0x8f => {
                at += 1;
                pending = pending.saturating_add(2 * u64::from(marker & 0x0f));
            }
            0xd5 => at += 4,
            0xd6 => at += 6,
            0xd7 => at += 10,
            0xd8 => at += 18,
            _ => at = end_of_long(bytes, at, &mut pending)?,
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// The end of a value, or of a container's header, whose length is in the bytes after its marker.
fn end_of_long(bytes: &[u8], at: usize, pending: &mut u64) -> Option<usize> {
    let tail = bytes.get(at + 1..)?;
    let byte = || tail.first().map(|&byte| usize::from(byte));
    let short = || tail.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
    let long = || tail.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    let long_len = || long().map(|len| len as usize);
    let end = match bytes[at] {
        0xc4 | 0xd9 => 2 + byte()?,
        0xc5 | 0xda => 3 + short()?,
        0xc6 | 0xdb => 5 + long_len()?,
        0xc7 => 3 + byte()?,
        0xc8 => 4 + short()?,
        0xc9 => 6 + long_len()?,
        0xdc => {
            *pending = pending.saturating_add(short()? as u64);
            3
        }
        0xdd => {
            *pending = pending.saturating_add(u64::from(long()?));
            5
        }
        0xde => {
            *pending = pending.saturating_add(2 * short()? as u64);
            3
        }
        0xdf => {
            *pending = pending.saturating_add(2 * u64::from(long()?));
            5
        }
        _ => return None,
    };
    // Never past the end, so that adding the next step cannot overflow.
    Some(at + end).filter(|&end| end <= bytes.len())
}

/// Whether the (valid) value that is `bytes` is or contains one that may only be searched for.
#[must_use]
pub fn holds_search_value(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&marker) = bytes.get(at) {
        match marker {
            0xd4 | 0xd5 if bytes.get(at + 1) == Some(&SEARCH) => return true,
            0xc7..=0xc9 if bytes.get(at..).is_some_and(is_long_search_value) => return true,
            _ => {}
        }
        // Containers are entered, so that each value within is looked at.
        let end = match marker {
            0x80..=0x9f => Some(at + 1),
            0xdc | 0xde => Some(at + 3),
            0xdd | 0xdf => Some(at + 5),
            _ => end_of(bytes, at, 1),
        };
        let Some(end) = end else { return false };
        at = end;
    }
    false
}

/// Whether the value is an extension of type [`SEARCH`] with a length field, of the lengths such values have.
fn is_long_search_value(bytes: &[u8]) -> bool {
    let (len, kind) = match bytes {
        [0xc7, len, kind, ..] => (u32::from(*len), *kind),
        [0xc8, high, low, kind, ..] => (u32::from(u16::from_be_bytes([*high, *low])), *kind),
        [0xc9, a, b, c, d, kind, ..] => (u32::from_be_bytes([*a, *b, *c, *d]), *kind),
        _ => return false,
    };
    kind == SEARCH && (1..4).contains(&len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_marker_has_the_length_the_format_gives_it() {
        let cases: [(&[u8], usize); 14] = [
            (&[0x00], 1),
            (&[0xff], 1),
            (&[0xc0], 1),
            (&[0xa2, 3, b'a'], 3),
            (&[0xcb, 0, 0, 0, 0, 0, 0, 0, 0], 9),
            (&[0xd9, 1, 3], 3),
            (&[0xc5, 0, 2, 4, 5], 5),
            (&[0xdb, 0, 0, 0, 1, 3], 6),
            (&[0x92, 1, 0x91, 2], 4),
            (&[0x81, 1, 0x81, 2, 3], 5),
            (&[0xdc, 0, 2, 1, 2], 5),
            (&[0xdf, 0, 0, 0, 1, 1, 2], 7),
            (&[0xd8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 18),
            (&[0xc7, 2, 1, 7, 8], 5),
        ];
        for (bytes, len) in cases {
            assert_eq!(end_of(bytes, 0, 1), Some(len), "{bytes:x?}");
            let mut followed = bytes.to_vec();
            followed.push(7);
            assert_eq!(end_of(&followed, 0, 1), Some(len));
            assert_eq!(end_of(&followed, 0, 2), Some(len + 1));
            assert_eq!(end_of(&bytes[..len - 1], 0, 1), None, "{bytes:x?} cut short");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert_eq!(end_of(&[0xc1], 0, 1), None);
        assert_eq!(end_of(&[0xdf, 0x80, 0, 0, 0], 0, 1), None, "a count whose double overflows 32 bits");
        assert_eq!(end_of(&[0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2], 0, 1), None);
        assert_eq!(end_of(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1], 0, 1), None);
        assert_eq!(end_of(&[0xc9, 0xff, 0xff, 0xff, 0xff, 1, 1], 0, 1), None);
        assert_eq!(end_of(&[], 0, 1), None);
        assert_eq!(end_of(&[1], 2, 1), None);
        assert_eq!(end_of(&[1], 1, 0), Some(1));
    }

    #[test]
    fn search_values_are_found_at_any_depth() {
        assert!(holds_search_value(&[0xd4, 0xff, 0]));
        assert!(holds_search_value(&[0x92, 1, 0x91, 0xd4, 0xff, 1]));
        assert!(holds_search_value(&[0x81, 1, 0xc7, 1, 0xff, 1]));
        assert!(!holds_search_value(&[0x93, 1, 0xd4, 1, 0xff, 0xa2, 0xff, 0xff]));
        assert!(!holds_search_value(&[0xc7, 0, 0xff]));
    }
}
