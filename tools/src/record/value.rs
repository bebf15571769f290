//! Bytes of generated values: particles of bins, and MessagePack inside lists and maps.
//!
//! The server expects that strings and blobs inside MessagePack begin with their particle type.

use super::object_spec::{ValueSpec, integer_range};
use super::particle_type as types;
use crate::load::random::Random;

/// Letters of generated strings.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Appends the particle of `spec` to `out`, without type and length.
pub fn append_particle(spec: &ValueSpec, random: &mut Random, out: &mut Vec<u8>) {
    match spec {
        ValueSpec::Bool => out.push((random.next_u64() & 1) as u8),
        ValueSpec::ConstantBool(value) => out.push(u8::from(*value)),
        ValueSpec::Integer(bytes) => out.extend_from_slice(&random_integer(*bytes, random).to_be_bytes()),
        ValueSpec::ConstantInteger(value) => out.extend_from_slice(&value.to_be_bytes()),
        ValueSpec::Float => out.extend_from_slice(&random_float(random).to_be_bytes()),
        ValueSpec::ConstantFloat(value) => out.extend_from_slice(&value.to_be_bytes()),
        ValueSpec::String(length) => append_letters(*length, random, out),
        ValueSpec::ConstantString(text) => out.extend_from_slice(text.as_bytes()),
        ValueSpec::Blob(length) => append_random_bytes(*length, random, out),
        ValueSpec::List(_) | ValueSpec::Map(_) => append_packed(spec, random, out),
    }
}

/// Appends the MessagePack of `spec` to `out`.
fn append_packed(spec: &ValueSpec, random: &mut Random, out: &mut Vec<u8>) {
    match spec {
        ValueSpec::Bool => out.push(if random.next_u64() & 1 == 0 { 0xC2 } else { 0xC3 }),
        ValueSpec::ConstantBool(value) => out.push(if *value { 0xC3 } else { 0xC2 }),
        ValueSpec::Integer(bytes) => pack_unsigned(random_integer(*bytes, random), out),
        ValueSpec::ConstantInteger(value) => pack_signed(*value, out),
        ValueSpec::Float => pack_float(random_float(random), out),
        ValueSpec::ConstantFloat(value) => pack_float(*value, out),
        ValueSpec::String(length) => {
            pack_header(u64::from(*length) + 1, &STRING_HEADERS, out);
            out.push(types::STRING);
            append_letters(*length, random, out);
        }
        ValueSpec::ConstantString(text) => {
            pack_header(text.len() as u64 + 1, &STRING_HEADERS, out);
            out.push(types::STRING);
            out.extend_from_slice(text.as_bytes());
        }
        ValueSpec::Blob(length) => {
            pack_header(u64::from(*length) + 1, &BLOB_HEADERS, out);
            out.push(types::BLOB);
            append_random_bytes(*length, random, out);
        }
        ValueSpec::List(elements) => {
            pack_header(elements.iter().map(|(count, _)| u64::from(*count)).sum(), &LIST_HEADERS, out);
            for (count, element) in elements {
                for _ in 0..*count {
                    append_packed(element, random, out);
                }
            }
        }
        ValueSpec::Map(pairs) => append_map(pairs, random, out),
    }
}

/// Appends a map. Its random keys are consecutive numbers from a random start, so that keys of one kind
/// differ.
fn append_map(pairs: &[(u32, ValueSpec, ValueSpec)], random: &mut Random, out: &mut Vec<u8>) {
    pack_header(pairs.iter().map(|(count, ..)| u64::from(*count)).sum(), &MAP_HEADERS, out);
    let start = random.next_u64() >> 1;
    let mut step = 0;
    for (count, key, value) in pairs {
        for _ in 0..*count {
            append_map_key(key, start + step, random, out);
            append_packed(value, random, out);
            step += 1;
        }
    }
}

/// Appends key `number` of the kind `key`. Neighbouring numbers give different keys, if the kind has enough
/// of them.
fn append_map_key(key: &ValueSpec, number: u64, random: &mut Random, out: &mut Vec<u8>) {
    match key {
        ValueSpec::Integer(bytes) => {
            let (low, high) = integer_range(*bytes);
            pack_unsigned(low + number % (high - low).saturating_add(1), out);
        }
        ValueSpec::String(length) => {
            pack_header(u64::from(*length) + 1, &STRING_HEADERS, out);
            out.push(types::STRING);
            let mut rest = number;
            for _ in 0..*length {
                out.push(ALPHABET[(rest % 36) as usize]);
                rest /= 36;
            }
        }
        ValueSpec::Blob(length) => {
            pack_header(u64::from(*length) + 1, &BLOB_HEADERS, out);
            out.push(types::BLOB);
            let mut rest = number;
            for _ in 0..*length {
                out.push(rest as u8);
                rest >>= 8;
            }
        }
        _ => append_packed(key, random, out),
    }
}

fn random_integer(bytes: u8, random: &mut Random) -> u64 {
    let (low, high) = integer_range(bytes);
    match (high - low).checked_add(1) {
        Some(count) => low + random.below(count),
        None => random.next_u64(),
    }
}

fn random_float(random: &mut Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * 1e6
}

fn append_letters(length: u32, random: &mut Random, out: &mut Vec<u8>) {
    let mut left = length;
    while left > 0 {
        let mut bits = random.next_u64();
        for _ in 0..left.min(12) {
            out.push(ALPHABET[(bits % 36) as usize]);
            bits /= 36;
        }
        left -= left.min(12);
    }
}

fn append_random_bytes(length: u32, random: &mut Random, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + length as usize, 0);
    random.fill(&mut out[start..]);
}

/// First bytes of a MessagePack kind, by the width of the length that follows.
struct Headers {
    /// Smaller lengths are part of the first byte.
    short_below: u64,
    short: u8,
    with_u8: Option<u8>,
    with_u16: u8,
    with_u32: u8,
}

const STRING_HEADERS: Headers =
    Headers { short_below: 32, short: 0xA0, with_u8: Some(0xD9), with_u16: 0xDA, with_u32: 0xDB };
const BLOB_HEADERS: Headers =
    Headers { short_below: 0, short: 0, with_u8: Some(0xC4), with_u16: 0xC5, with_u32: 0xC6 };
const LIST_HEADERS: Headers =
    Headers { short_below: 16, short: 0x90, with_u8: None, with_u16: 0xDC, with_u32: 0xDD };
const MAP_HEADERS: Headers =
    Headers { short_below: 16, short: 0x80, with_u8: None, with_u16: 0xDE, with_u32: 0xDF };

fn pack_header(length: u64, headers: &Headers, out: &mut Vec<u8>) {
    if length < headers.short_below {
        out.push(headers.short | length as u8);
    } else if let (Some(first), Ok(length)) = (headers.with_u8, u8::try_from(length)) {
        out.extend_from_slice(&[first, length]);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(headers.with_u16);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(headers.with_u32);
        out.extend_from_slice(&(length as u32).to_be_bytes());
    }
}

fn pack_unsigned(value: u64, out: &mut Vec<u8>) {
    if value < 0x80 {
        out.push(value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&[0xCC, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(0xCD);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(0xCE);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0xCF);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

fn pack_signed(value: i64, out: &mut Vec<u8>) {
    if let Ok(value) = u64::try_from(value) {
        pack_unsigned(value, out);
    } else if value >= -32 {
        out.push(value as u8);
    } else if let Ok(value) = i8::try_from(value) {
        out.extend_from_slice(&[0xD0, value as u8]);
    } else if let Ok(value) = i16::try_from(value) {
        out.push(0xD1);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        out.push(0xD2);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0xD3);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

fn pack_float(value: f64, out: &mut Vec<u8>) {
    out.push(0xCB);
    out.extend_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::object_spec::ObjectSpec;
    use super::*;

    fn particle(spec: &str) -> Vec<u8> {
        let spec = ObjectSpec::parse(spec).unwrap();
        let mut out = Vec::new();
        append_particle(&spec.bins[0], &mut Random::new(3), &mut out);
        out
    }

    #[test]
    fn scalars_are_big_endian_with_the_requested_length() {
        assert_eq!(particle("258"), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(particle("-1"), [0xFF; 8]);
        assert_eq!(particle("1.0"), 1.0f64.to_be_bytes());
        assert_eq!(particle("true"), [1]);
        assert_eq!(particle("B13").len(), 13);
        let letters = particle("S100");
        assert!(letters.len() == 100 && letters.iter().all(|letter| ALPHABET.contains(letter)));
        for _ in 0..100 {
            let number = random_integer(2, &mut Random::new(9));
            assert!((256..65_536).contains(&number));
        }
    }

    #[test]
    fn collections_are_messagepack() {
        assert_eq!(particle("[]"), [0x90]);
        assert_eq!(
            particle(r#"[1, -1, -200, 300, "ab", true, [T]]"#),
            [0x97, 1, 0xFF, 0xD1, 0xFF, 0x38, 0xCD, 1, 44, 0xA3, 3, b'a', b'b', 0xC3, 0x91, 0xC3]
        );
        assert_eq!(particle(r#"{1:2, "a":3}"#), [0x82, 1, 2, 0xA2, 3, b'a', 3]);
        assert_eq!(particle("[B2]")[..3], [0x91, 0xC4, 3]);
        assert_eq!(particle("[20*1]")[..4], [0xDC, 0, 20, 1]);
        assert_eq!(particle("[S40]")[..3], [0x91, 0xD9, 41]);
    }

    #[test]
    fn keys_of_a_map_differ() {
        let map = particle("{36*S1:1}");
        let seen: HashSet<u8> = map[3..].chunks(4).map(|entry| entry[2]).collect();
        assert_eq!((map.len(), seen.len()), (3 + 36 * 4, 36));
    }
}
