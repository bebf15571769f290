//! Values of bins: their types, and their form in a flat record. [`crate::particle_wire`] has their wire form.
//!
//! A particle borrows its bytes from a request or a stored record if possible. Byte-valued types hold their
//! stored form, which except for GeoJSON is also the wire form.
//!
//! Flat form, after one type byte:
//! ```text
//! integer   size u8 (1, 2, 4 or 8), then the value, little-endian; the smallest size that holds it as unsigned
//! float     8 bytes, little-endian double
//! bool      1 byte, 0 or 1
//! others    length u32 little-endian, then the stored bytes
//! ```

use std::borrow::Cow;

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
    /// The type with number `number` on the wire and in flat records.
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
    /// No value. A write of it deletes the bin.
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

    /// Whether values of this type exist. Null is not a value.
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
    /// All types whose value is bytes, in stored form.
    Bytes(BytesType, Cow<'a, [u8]>),
}

impl<'a> Particle<'a> {
    /// A byte-valued particle that owns its bytes.
    #[must_use]
    pub const fn owned(bytes_type: BytesType, bytes: Vec<u8>) -> Particle<'static> {
        Particle::Bytes(bytes_type, Cow::Owned(bytes))
    }

    /// The same particle with borrowed bytes.
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

/// A flat particle that cannot be read, because the stored bytes are damaged or have a newer format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedParticle;

/// # Flat form
impl<'a> Particle<'a> {
    /// Splits `flat` into the particle at its start and the rest.
    ///
    /// # Errors
    /// [`DamagedParticle`] when the bytes are not a particle.
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

    /// Appends the flat form. Byte-valued particles are smaller than 4 GiB, because they came in a frame or
    /// the record size limit was checked.
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

/// Number of bytes for `value` as an unsigned integer: 1, 2, 4 or 8.
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
