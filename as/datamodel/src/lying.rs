//! Finds lists and maps in stored records whose header announces more elements than the bytes can hold:
//! record headers and end marks do not show this damage. Only the first bytes of each bin are read, so that
//! the check is cheap enough for a start.

use crate::flat::FlatRecord;
use crate::particle::{BytesType, Particle};

/// The name of the first bin of `record` with a list or map whose header announces more elements than it has bytes.
#[must_use]
pub fn lying_container<'a>(record: &FlatRecord<'a>) -> Option<&'a [u8]> {
    let is_lying = |particle: &Particle<'_>| match particle {
        Particle::Bytes(BytesType::List, bytes) => announces_too_much(bytes, 1),
        Particle::Bytes(BytesType::Map, bytes) => announces_too_much(bytes, 2),
        _ => false,
    };
    record.bins().filter_map(Result::ok).find(|bin| is_lying(&bin.particle)).map(|bin| bin.name)
}

/// Whether the header of a msgpack array or map announces more values than the bytes after it can hold, at
/// `values_per_element` values for each element and at least one byte for each value.
fn announces_too_much(bytes: &[u8], values_per_element: u64) -> bool {
    let (count, rest) = match *bytes {
        [head @ 0x80..=0x9F, ref rest @ ..] => (u64::from(head & 0x0F), rest),
        [0xDC | 0xDE, high, low, ref rest @ ..] => (u64::from(u16::from_be_bytes([high, low])), rest),
        [0xDD | 0xDF, a, b, c, d, ref rest @ ..] => (u64::from(u32::from_be_bytes([a, b, c, d])), rest),
        _ => return false,
    };
    count * values_per_element > rest.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_a_byte_for_each_value_at_least() {
        for (bytes, per_element, is_lying) in [
            (&[0x90][..], 1, false),
            (&[0x92, 1, 2], 1, false),
            (&[0x93, 1, 2], 1, true),
            (&[0x81, 1, 2], 2, false),
            (&[0x82, 1, 2], 2, true),
            (&[0xDC, 0, 2, 1, 2], 1, false),
            (&[0xDC, 1, 2, 1, 2], 1, true),
            (&[0xDD, 0xFF, 0xFF, 0xFF, 0xFF, 1], 1, true),
            (&[0xDF, 0xFF, 0xFF, 0xFF, 0xFF, 1], 2, true),
            (&[], 1, false),
            (&[0xC0], 1, false),
        ] {
            assert_eq!(announces_too_much(bytes, per_element), is_lying, "{bytes:02X?}");
        }
    }
}
