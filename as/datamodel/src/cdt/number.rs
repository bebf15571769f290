//! Additions to an element that is a number.

use cf::msgpack::{Head, Reader, put_double, put_integer};
use proto::ResultCode;

use super::result::ResultValue;
use crate::particle::Particle;

/// A number in an element, or an amount that is added to one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Number {
    Integer(i64),
    Double(f64),
}

impl Number {
    fn read(bytes: &[u8]) -> Result<Option<Self>, ResultCode> {
        match Reader::new(bytes).head() {
            Some(Head::Nil) => Ok(None),
            Some(Head::Unsigned(value)) => Ok(Some(Self::Integer(value.cast_signed()))),
            Some(Head::Negative(value)) => Ok(Some(Self::Integer(value))),
            Some(Head::Double(value)) => Ok(Some(Self::Double(value))),
            _ => Err(ResultCode::Parameter),
        }
    }

    /// The number that an increment (or decrement) adds: its argument, or 1 if that is missing or nil.
    ///
    /// # Errors
    /// `Parameter` for an argument that is not a number.
    pub(crate) fn delta(argument: Option<&[u8]>, is_decrement: bool) -> Result<Self, ResultCode> {
        let delta = argument.map_or(Ok(None), Self::read)?.unwrap_or(Self::Integer(1));
        Ok(match delta {
            Self::Integer(value) if is_decrement => Self::Integer(value.wrapping_neg()),
            Self::Double(value) if is_decrement => Self::Double(-value),
            delta => delta,
        })
    }

    /// The element `element` plus this delta; the element keeps its type, and integers wrap. A missing element counts
    /// as zero of the delta's type.
    ///
    /// # Errors
    /// `Parameter` for an element that is not a number.
    pub(crate) fn added_to(self, element: Option<&[u8]>) -> Result<Self, ResultCode> {
        let Some(element) = element else { return Ok(self) };
        Ok(match (Self::read(element)?.ok_or(ResultCode::Parameter)?, self) {
            (Self::Integer(value), Self::Integer(delta)) => Self::Integer(value.wrapping_add(delta)),
            (Self::Integer(value), Self::Double(delta)) => {
                Self::Integer(value.wrapping_add(truncated(delta)))
            }
            (Self::Double(value), Self::Double(delta)) => Self::Double(value + delta),
            (Self::Double(value), Self::Integer(delta)) => Self::Double(value + delta as f64),
        })
    }

    /// The number as an element.
    pub(crate) fn element(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9);
        match self {
            Self::Integer(value) => put_integer(&mut out, value),
            Self::Double(value) => put_double(&mut out, value),
        }
        out
    }

    /// The number as an answer.
    pub(crate) const fn answer(self) -> ResultValue {
        Some(match self {
            Self::Integer(value) => Particle::Integer(value),
            Self::Double(value) => Particle::Float(value),
        })
    }
}

/// Rounds toward zero. Values out of range become the minimum integer, as in a conversion by x86.
fn truncated(value: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&value) { value as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_element_keeps_its_type() {
        let delta = |bytes| Number::delta(Some(bytes), false).unwrap();
        let half = [0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0];
        assert_eq!(delta(&[5]).added_to(Some(&[0xff])), Ok(Number::Integer(4)));
        assert_eq!(delta(&half).added_to(Some(&[7])), Ok(Number::Integer(7)));
        assert_eq!(delta(&[1]).added_to(Some(&half)), Ok(Number::Double(1.5)));
        assert_eq!(delta(&half).added_to(None), Ok(Number::Double(0.5)));
        assert_eq!(delta(&[0xc0]).added_to(None), Ok(Number::Integer(1)));
        assert_eq!(Number::delta(None, true), Ok(Number::Integer(-1)));
        assert_eq!(Number::delta(Some(&[0xc3]), false), Err(ResultCode::Parameter));
        assert_eq!(delta(&[1]).added_to(Some(&[0xc0])), Err(ResultCode::Parameter));
        assert_eq!(truncated(f64::NAN), i64::MIN);
        assert_eq!(truncated(-2.9), -2);
    }
}
