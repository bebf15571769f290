//! The hash of a set's element, computed from its msgpack bytes.
//!
//! An element is hashed in its shortest form, so that a number is the same element however a client encodes
//! it. Bytes with headers of the `bin` family keep these headers, unless a shorter length field is possible.

use std::borrow::Cow;

use cf::msgpack::{Head, Reader, put_extension_header, put_integer, put_raw_header, put_unsigned};

/// Murmur3, the 128-bit variant for 64-bit machines, with seed 0.
pub(super) fn murmur3(bytes: &[u8]) -> [u64; 2] {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let scatter_1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let scatter_2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let [k1, k2] = halves(block);
        h1 ^= scatter_1(k1);
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= scatter_2(k2);
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let [k1, k2] = halves(&last);
    h1 ^= scatter_1(k1);
    h2 ^= scatter_2(k2);

    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    [h1, h2]
}

fn halves(block: &[u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(*block);
    [both as u64, (both >> 64) as u64]
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

/// The shortest form of a valid value that is not a list or map; `None` for others.
pub(super) fn shortest(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut reader = Reader::new(value);
    let marker = reader.marker()?;
    let mut out = Vec::new();
    match reader.head()? {
        Head::List(_) | Head::Map(_) => return None,
        Head::Unsigned(number) => put_unsigned(&mut out, number),
        Head::Negative(number) => put_integer(&mut out, number),
        Head::Raw(raw) if raw.len() <= length_needing_less(marker) => {
            put_raw_header(&mut out, raw.len() as u32);
            out.extend_from_slice(raw);
        }
        Head::Extension(extension) if matches!(marker, 0xc7..=0xc9) => {
            put_extension_header(&mut out, extension.data.len() as u32, extension.kind);
            out.extend_from_slice(extension.data);
        }
        _ => return Some(Cow::Borrowed(value)),
    }
    Some(if out == value { Cow::Borrowed(value) } else { Cow::Owned(out) })
}

/// The largest length for which a raw value with header byte `marker` could use a shorter header.
const fn length_needing_less(marker: u8) -> usize {
    match marker {
        0xc4 | 0xd9 => 0x1f,
        0xc5 | 0xda => 0xff,
        0xc6 | 0xdb => 0xffff,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_murmur3() {
        assert_eq!(murmur3(b""), [0, 0]);
        assert_eq!(murmur3(b"hello"), [0xcbd8_a7b3_41bd_9b02, 0x5b1e_906a_48ae_1d19]);
        let text = b"The quick brown fox jumps over the lazy dog";
        assert_eq!(murmur3(text), [0xe34b_bc7b_bc07_1b6c, 0x7a43_3ca9_c49a_9347]);
    }

    #[test]
    fn elements_have_one_form_but_for_long_binaries() {
        let form = |bytes: &[u8]| shortest(bytes).map(Cow::into_owned);
        assert_eq!(form(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 5]), Some(vec![5]));
        assert_eq!(form(&[0xd1, 0xff, 0xff]), Some(vec![0xff]));
        assert_eq!(form(&[0xcd, 0, 200]), Some(vec![0xcc, 200]));
        assert_eq!(form(&[0xc4, 2, 4, 1]), Some(vec![0xa2, 4, 1]));
        let long = [&[0xc4, 32][..], &[4; 32]].concat();
        assert_eq!(form(&long), Some(long));
        let longer = [&[0xc5, 0, 32][..], &[4; 32]].concat();
        assert_eq!(form(&longer), Some([&[0xd9, 32][..], &[4; 32]].concat()));
        assert_eq!(form(&[0xc7, 1, 9, 7]), Some(vec![0xd4, 9, 7]));
        assert_eq!(form(&[0xc8, 0, 3, 9, 7, 7, 7]), Some(vec![0xc7, 3, 9, 7, 7, 7]));
        assert_eq!(form(&[0xca, 0, 0, 0, 0]), Some(vec![0xca, 0, 0, 0, 0]));
        assert_eq!(form(&[0x90]), None);
        assert_eq!(form(&[0x81, 1, 2]), None);
        assert_eq!(form(&[0xc1]), None);
    }
}
