//! Values of bins: their types, and their forms on the wire and in a flat record.
//!
//! A particle borrows its bytes from a request or a stored record where it can. Byte-valued types hold their
//! stored form; for all but GeoJSON that is the wire form too.
//!
//! Flat form, after one type byte:
//! ```text
//! integer   size u8 (1, 2, 4 or 8), then the value, little-endian; the smallest size that holds it as unsigned
//! float     8 bytes, little-endian double
//! bool      1 byte, 0 or 1
//! others    length u32 little-endian, then the stored bytes
//! ```

use std::borrow::Cow;

use proto::ResultCode;

use crate::budget::Budget;
use crate::{cdt, geojson, hll};

/// Types of byte-valued particles.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum BytesType {
    String = 3,
    Blob = 4,
    JavaBlob = 7,
    CSharpBlob = 8,
    PythonBlob = 9,
    RubyBlob = 10,
    PhpBlob = 11,
    ErlangBlob = 12,
    Vector = 16,
    Hll = 18,
    Map = 19,
    List = 20,
    GeoJson = 23,
}

impl BytesType {
    /// The type numbered `number` on the wire and in flat records.
    #[inline]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            3 => Self::String,
            4 => Self::Blob,
            7 => Self::JavaBlob,
            8 => Self::CSharpBlob,
            9 => Self::PythonBlob,
            10 => Self::RubyBlob,
            11 => Self::PhpBlob,
            12 => Self::ErlangBlob,
            16 => Self::Vector,
            18 => Self::Hll,
            19 => Self::Map,
            20 => Self::List,
            23 => Self::GeoJson,
            _ => return None,
        })
    }
}

/// Type numbers, on the wire and in flat records.
pub mod type_number {
    /// No value; in a write it deletes the bin.
    pub const NULL: u8 = 0;
    pub const INTEGER: u8 = 1;
    pub const FLOAT: u8 = 2;
    pub const STRING: u8 = 3;
    pub const BLOB: u8 = 4;
    pub const BOOL: u8 = 17;
    pub const HLL: u8 = 18;
    pub const MAP: u8 = 19;
    pub const LIST: u8 = 20;
    pub const GEOJSON: u8 = 23;

    /// Whether values of this type exist; null is none.
    #[must_use]
    pub const fn is_known(number: u8) -> bool {
        matches!(number, INTEGER | FLOAT | BOOL) || super::BytesType::from_number(number).is_some()
    }
}

/// The value of a bin.
#[derive(Clone, PartialEq, Debug)]
pub enum Particle<'a> {
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// Every type whose value is bytes, in stored form.
    Bytes(BytesType, Cow<'a, [u8]>),
}

impl<'a> Particle<'a> {
    /// A byte-valued particle that owns its bytes.
    #[must_use]
    pub const fn owned(bytes_type: BytesType, bytes: Vec<u8>) -> Particle<'static> {
        Particle::Bytes(bytes_type, Cow::Owned(bytes))
    }

    /// The same particle, borrowing its bytes.
    #[inline]
    #[must_use]
    pub fn borrowed(&self) -> Particle<'_> {
        match self {
            Particle::Integer(value) => Particle::Integer(*value),
            Particle::Float(value) => Particle::Float(*value),
            Particle::Bool(value) => Particle::Bool(*value),
            Particle::Bytes(bytes_type, bytes) => Particle::Bytes(*bytes_type, Cow::Borrowed(bytes)),
        }
    }

    /// The type's number.
    #[inline]
    #[must_use]
    pub const fn type_number(&self) -> u8 {
        match self {
            Particle::Integer(_) => type_number::INTEGER,
            Particle::Float(_) => type_number::FLOAT,
            Particle::Bool(_) => type_number::BOOL,
            Particle::Bytes(bytes_type, _) => *bytes_type as u8,
        }
    }
}

/// Why a flat particle cannot be read: the stored bytes are damaged or of a newer format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedParticle;

/// # Wire form
impl<'a> Particle<'a> {
    /// The particle a client sent as `value` of type `number`.
    ///
    /// # Errors
    /// `Parameter` for types that do not exist, and for values that are not of their type; `InvalidGeoJson`.
    pub fn from_wire(number: u8, value: &'a [u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        match number {
            type_number::INTEGER => wire_integer(value).map(Particle::Integer).ok_or(ResultCode::Parameter),
            type_number::FLOAT => wire_float(value).map(Particle::Float).ok_or(ResultCode::Parameter),
            type_number::BOOL => match value {
                [0] => Ok(Particle::Bool(false)),
                [1] => Ok(Particle::Bool(true)),
                _ => Err(ResultCode::Parameter),
            },
            _ => {
                let bytes_type = BytesType::from_number(number).ok_or(ResultCode::Parameter)?;
                let stored = match bytes_type {
                    BytesType::List => cdt::list_from_wire(value, budget)?,
                    BytesType::Map => cdt::map_from_wire(value, budget)?,
                    BytesType::Hll => {
                        hll::check_wire(value)?;
                        Cow::Borrowed(value)
                    }
                    BytesType::GeoJson => Cow::Owned(geojson::from_wire(value, budget)?),
                    _ => Cow::Borrowed(value),
                };
                Ok(Particle::Bytes(bytes_type, stored))
            }
        }
    }

    /// Appends the value as a client receives it.
    #[inline]
    pub fn write_wire(&self, out: &mut Vec<u8>) {
        match self {
            Particle::Integer(value) => out.extend_from_slice(&value.to_be_bytes()),
            Particle::Float(value) => out.extend_from_slice(&value.to_bits().to_be_bytes()),
            Particle::Bool(value) => out.push(u8::from(*value)),
            Particle::Bytes(BytesType::List, bytes) => cdt::list_to_wire(bytes).write(out),
            Particle::Bytes(BytesType::Map, bytes) => cdt::map_to_wire(bytes).write(out),
            Particle::Bytes(BytesType::GeoJson, bytes) => geojson::to_wire(bytes, out),
            Particle::Bytes(_, bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// # Flat form
impl<'a> Particle<'a> {
    /// Takes the particle at the start of `flat`; returns it and what follows.
    ///
    /// # Errors
    /// [`DamagedParticle`] when the bytes are not one.
    #[inline]
    pub fn split_flat(flat: &'a [u8]) -> Result<(Self, &'a [u8]), DamagedParticle> {
        let (&number, rest) = flat.split_first().ok_or(DamagedParticle)?;
        match number {
            type_number::INTEGER => {
                let (&size, rest) = rest.split_first().ok_or(DamagedParticle)?;
                let (value, rest) = rest.split_at_checked(usize::from(size)).ok_or(DamagedParticle)?;
                let value = match value {
                    [a] => u64::from(*a),
                    [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
                    [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
                    _ => u64::from_le_bytes(value.try_into().map_err(|_| DamagedParticle)?),
                };
                Ok((Particle::Integer(value.cast_signed()), rest))
            }
            type_number::FLOAT => {
                let (bits, rest) = rest.split_first_chunk().ok_or(DamagedParticle)?;
                Ok((Particle::Float(f64::from_bits(u64::from_le_bytes(*bits))), rest))
            }
            type_number::BOOL => {
                let (&value, rest) = rest.split_first().ok_or(DamagedParticle)?;
                Ok((Particle::Bool(value != 0), rest))
            }
            _ => {
                let bytes_type = BytesType::from_number(number).ok_or(DamagedParticle)?;
                let (size, rest) = rest.split_first_chunk().ok_or(DamagedParticle)?;
                let size = u32::from_le_bytes(*size) as usize;
                let (bytes, rest) = rest.split_at_checked(size).ok_or(DamagedParticle)?;
                Ok((Particle::Bytes(bytes_type, Cow::Borrowed(bytes)), rest))
            }
        }
    }

    /// Bytes of the flat form, with its type byte.
    #[inline]
    #[must_use]
    pub fn flat_size(&self) -> usize {
        match self {
            Particle::Integer(value) => 2 + integer_size(*value),
            Particle::Float(_) => 9,
            Particle::Bool(_) => 2,
            Particle::Bytes(_, bytes) => 5 + bytes.len(),
        }
    }

    /// Appends the flat form. Byte-valued particles are below 4 GiB: they came in a frame or were checked against the
    /// record size limit.
    #[inline]
    pub fn write_flat(&self, out: &mut Vec<u8>) {
        out.push(self.type_number());
        match self {
            Particle::Integer(value) => {
                let size = integer_size(*value);
                out.push(size as u8);
                out.extend_from_slice(&value.to_le_bytes()[..size]);
            }
            Particle::Float(value) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
            Particle::Bool(value) => out.push(u8::from(*value)),
            Particle::Bytes(_, bytes) => {
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// # Changes by a client's operand
impl<'a> Particle<'a> {
    /// Adds the integer or float `operand` of type `number`. Integers wrap. A 16-byte integer operand is the memcached
    /// form: its first half counts, and a decrement stops at 0.
    ///
    /// # Errors
    /// `IncompatibleType` when this or the operand is no number of the same type, `Unknown` when this is GeoJSON;
    /// `Parameter` for an operand of a wrong size.
    pub fn increment(&mut self, number: u8, operand: &[u8]) -> Result<(), ResultCode> {
        match self {
            Particle::Integer(value) if number == type_number::INTEGER => {
                *value = match operand.first_chunk::<8>() {
                    Some(delta) if operand.len() == 16 => {
                        memcached_sum(value.cast_unsigned(), i64::from_be_bytes(*delta)).cast_signed()
                    }
                    _ => value.wrapping_add(wire_integer(operand).ok_or(ResultCode::Parameter)?),
                };
                Ok(())
            }
            Particle::Float(value) if number == type_number::FLOAT => {
                *value += wire_float(operand).ok_or(ResultCode::Parameter)?;
                Ok(())
            }
            Particle::Bytes(BytesType::GeoJson, _) => Err(ResultCode::Unknown),
            _ => Err(ResultCode::IncompatibleType),
        }
    }

    /// Puts `operand` of type `number` behind (or before) the bytes of this particle.
    ///
    /// # Errors
    /// `IncompatibleType` unless both are of the same string or blob type, `Unknown` when this is GeoJSON.
    pub fn concatenate(&mut self, number: u8, operand: &[u8], before: bool) -> Result<(), ResultCode> {
        match self {
            Particle::Bytes(bytes_type, bytes) if bytes_type.can_grow() && *bytes_type as u8 == number => {
                if let (Cow::Owned(bytes), false) = (&mut *bytes, before) {
                    // Many appends in one request do not copy the whole each time.
                    bytes.extend_from_slice(operand);
                    return Ok(());
                }
                let mut joined = Vec::with_capacity(bytes.len() + operand.len());
                let (first, second) = if before { (operand, &**bytes) } else { (&**bytes, operand) };
                joined.extend_from_slice(first);
                joined.extend_from_slice(second);
                *bytes = Cow::Owned(joined);
                Ok(())
            }
            Particle::Bytes(BytesType::GeoJson, _) => Err(ResultCode::Unknown),
            _ => Err(ResultCode::IncompatibleType),
        }
    }
}

impl BytesType {
    /// Whether append and prepend work on the type.
    const fn can_grow(self) -> bool {
        !matches!(self, Self::Hll | Self::Map | Self::List | Self::GeoJson)
    }
}

/// Unsigned big-endian of 1, 2, 4 or 8 bytes.
fn wire_integer(value: &[u8]) -> Option<i64> {
    Some(match *value {
        [a] => i64::from(a),
        [a, b] => i64::from(u16::from_be_bytes([a, b])),
        [a, b, c, d] => i64::from(u32::from_be_bytes([a, b, c, d])),
        _ => i64::from_be_bytes(value.try_into().ok()?),
    })
}

fn wire_float(value: &[u8]) -> Option<f64> {
    Some(f64::from_bits(u64::from_be_bytes(value.try_into().ok()?)))
}

/// An unsigned counter that does not fall below zero.
fn memcached_sum(value: u64, delta: i64) -> u64 {
    let sum = value.wrapping_add(delta.cast_unsigned());
    if delta < 0 && sum > value { 0 } else { sum }
}

/// Bytes that hold `value` as unsigned: 1, 2, 4 or 8.
#[inline]
fn integer_size(value: i64) -> usize {
    match value.cast_unsigned() {
        0..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat_of(particle: &Particle<'_>) -> Vec<u8> {
        let mut flat = Vec::new();
        particle.write_flat(&mut flat);
        assert_eq!(flat.len(), particle.flat_size());
        flat
    }

    #[test]
    fn integers_take_the_smallest_unsigned_size() {
        for (value, flat) in [
            (0, vec![1, 1, 0]),
            (255, vec![1, 1, 255]),
            (256, vec![1, 2, 0, 1]),
            (65_536, vec![1, 4, 0, 0, 1, 0]),
            (-1, vec![1, 8, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            assert_eq!(flat_of(&Particle::Integer(value)), flat);
        }
    }

    #[test]
    fn only_values_of_their_type_come_from_the_wire() {
        assert_eq!(
            Particle::from_wire(1, &[0xFF, 0xFF], &Budget::unlimited()),
            Ok(Particle::Integer(65_535))
        );
        assert_eq!(Particle::from_wire(1, &[1, 2, 3], &Budget::unlimited()), Err(ResultCode::Parameter));
        assert_eq!(Particle::from_wire(2, &[0; 4], &Budget::unlimited()), Err(ResultCode::Parameter));
        assert_eq!(Particle::from_wire(17, &[2], &Budget::unlimited()), Err(ResultCode::Parameter));
        assert_eq!(Particle::from_wire(0, &[], &Budget::unlimited()), Err(ResultCode::Parameter));
        assert_eq!(Particle::from_wire(5, &[], &Budget::unlimited()), Err(ResultCode::Parameter));
    }

    #[test]
    fn memcached_decrement_stops_at_zero() {
        let mut value = Particle::Integer(5);
        let mut operand = (-7i64).to_be_bytes().to_vec();
        operand.extend([0; 8]);
        value.increment(1, &operand).unwrap();
        assert_eq!(value, Particle::Integer(0));
        assert_eq!(value.increment(1, &[0; 3]), Err(ResultCode::Parameter));
        assert_eq!(value.increment(2, &[0; 8]), Err(ResultCode::IncompatibleType));
    }

    #[test]
    fn only_equal_growing_types_concatenate() {
        let mut text = Particle::Bytes(BytesType::String, Cow::Borrowed(b"b"));
        text.concatenate(3, b"c", false).unwrap();
        text.concatenate(3, b"a", true).unwrap();
        assert_eq!(text, Particle::owned(BytesType::String, b"abc".to_vec()));
        assert_eq!(text.concatenate(4, b"x", false), Err(ResultCode::IncompatibleType));
        let mut list = Particle::Bytes(BytesType::List, Cow::Borrowed(&[0x90]));
        assert_eq!(list.concatenate(20, b"x", false), Err(ResultCode::IncompatibleType));
        let mut point = Particle::Bytes(BytesType::GeoJson, Cow::Borrowed(&[0, 0, 0]));
        assert_eq!(point.concatenate(23, b"x", false), Err(ResultCode::Unknown));
        assert_eq!(point.increment(1, &[0; 8]), Err(ResultCode::Unknown));
    }

    #[test]
    fn geojson_is_stored_with_its_cells() {
        let wire = [&[0, 0, 0], &br#"{"type":"Point","coordinates":[0,0]}"#[..]].concat();
        let point = Particle::from_wire(23, &wire, &Budget::unlimited()).unwrap();
        let Particle::Bytes(BytesType::GeoJson, stored) = &point else { panic!("{point:?}") };
        assert_eq!(stored[..11], [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0x10]);
        let mut out = Vec::new();
        point.write_wire(&mut out);
        assert_eq!(out[..11], [0, 0, 1, 0x10, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(out[11..], wire[3..]);
        assert_eq!(Particle::from_wire(23, b"{}", &Budget::unlimited()), Err(ResultCode::InvalidGeoJson));
    }

    proptest! {
        #[test]
        fn any_particle_survives_the_flat_form(integer: i64, bits: u64, flag: bool, bytes: Vec<u8>) {
            for particle in [
                Particle::Integer(integer),
                Particle::Integer(integer >> 40),
                Particle::Float(f64::from_bits(bits & !(0x7FF << 52))),
                Particle::Bool(flag),
                Particle::Bytes(BytesType::JavaBlob, Cow::Owned(bytes.clone())),
            ] {
                let mut flat = flat_of(&particle);
                flat.push(0xAB);
                let (read, rest) = Particle::split_flat(&flat).unwrap();
                prop_assert_eq!(&read, &particle);
                prop_assert_eq!(rest, &[0xAB][..]);
                for cut in 0..flat.len() - 1 {
                    prop_assert!(Particle::split_flat(&flat[..cut]).is_err());
                }
            }
        }

        #[test]
        fn random_bytes_are_a_particle_or_damaged(bytes: Vec<u8>) {
            let _ = Particle::split_flat(&bytes);
        }
    }
}
