//! The wire form of bin values, and operations with an operand from a client.

use std::borrow::Cow;

use proto::ResultCode;

use crate::budget::Budget;
use crate::particle::{BytesType, Particle, type_number};
use crate::{cdt, geojson, hll};

/// # Wire form
impl<'a> Particle<'a> {
    /// The particle that a client sent as `value` of type `number`.
    ///
    /// # Errors
    /// `Parameter` for unknown types, and for values that do not fit their type; `InvalidGeoJson`.
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

    /// Appends the value in wire form.
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

/// # Changes by a client's operand
impl<'a> Particle<'a> {
    /// Adds the integer or float `operand` of type `number`. Integers wrap. A 16-byte integer operand is the memcached
    /// form: its first half is the operand, and a decrement stops at 0.
    ///
    /// # Errors
    /// `IncompatibleType` unless this and the operand are numbers of the same type, `Unknown` if this is
    /// GeoJSON; `Parameter` for an operand of a wrong size.
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

    /// Appends (or prepends) `operand` of type `number` to the bytes of this particle.
    ///
    /// # Errors
    /// `IncompatibleType` unless both have the same string or blob type, `Unknown` if this is GeoJSON.
    pub fn concatenate(&mut self, number: u8, operand: &[u8], before: bool) -> Result<(), ResultCode> {
        match self {
            Particle::Bytes(bytes_type, bytes) if bytes_type.can_grow() && *bytes_type as u8 == number => {
                if let (Cow::Owned(bytes), false) = (&mut *bytes, before) {
                    // Owned bytes grow in place, so that many appends in one request do not copy all bytes
                    // each time.
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
    /// Whether bytes can be appended to values of the type and prepended to them.
    const fn can_grow(self) -> bool {
        !matches!(self, Self::Hll | Self::Map | Self::List | Self::GeoJson)
    }
}

/// An unsigned big-endian integer of 1, 2, 4 or 8 bytes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_do_not_fit_their_type_are_refused() {
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
}
