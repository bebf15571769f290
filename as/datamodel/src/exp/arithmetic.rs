//! Arithmetic on integers and floats. Integers wrap. If an operation has no result (a division by zero), the
//! value is unknown.

use super::value::Value;

/// Operators with two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// The first to the power of the second.
    Power,
    /// Logarithm of the first to the base of the second.
    Logarithm,
    Modulo,
    Minimum,
    Maximum,
    And,
    Or,
    Xor,
    /// Shifts use the low six bits of the distance.
    ShiftLeft,
    ShiftRight,
    ShiftRightArithmetic,
    /// The position of the first one (or zero) from the highest bit; -1 for none.
    ScanLeft,
    /// The position of the last one (or zero) from the highest bit; -1 for none.
    ScanRight,
}

/// Operators with one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unary {
    Negate,
    Reciprocal,
    Absolute,
    Floor,
    Ceiling,
    ToInteger,
    ToFloat,
    Not,
    CountOnes,
}

impl Binary {
    /// The result; `None` if it is unknown.
    #[inline]
    pub(super) fn apply(self, left: &Value<'_>, right: &Value<'_>) -> Option<Value<'static>> {
        match (left, right) {
            (Value::Integer(left), Value::Integer(right)) => {
                self.apply_to_integers(*left, *right).map(Value::Integer)
            }
            (Value::Float(left), Value::Float(right)) => {
                self.apply_to_floats(*left, *right).map(Value::Float)
            }
            (Value::Integer(bits), Value::Bool(wanted)) => self.scan(*bits, *wanted).map(Value::Integer),
            _ => None,
        }
    }

    fn apply_to_integers(self, left: i64, right: i64) -> Option<i64> {
        Some(match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            Self::Divide if right != 0 => left.wrapping_div(right),
            Self::Modulo if right != 0 => left.wrapping_rem(right),
            Self::Minimum => left.min(right),
            Self::Maximum => left.max(right),
            Self::And => left & right,
            Self::Or => left | right,
            Self::Xor => left ^ right,
            Self::ShiftLeft => left.wrapping_shl(right as u32),
            Self::ShiftRight => left.cast_unsigned().wrapping_shr(right as u32).cast_signed(),
            Self::ShiftRightArithmetic => left.wrapping_shr(right as u32),
            _ => return None,
        })
    }

    fn apply_to_floats(self, left: f64, right: f64) -> Option<f64> {
        Some(match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide => left / right,
            Self::Power => left.powf(right),
            Self::Logarithm => left.ln() / right.ln(),
            // A comparison with a NaN leaves the value unchanged, unlike minimum and maximum of the standard
            // library.
            Self::Minimum => {
                if left > right {
                    right
                } else {
                    left
                }
            }
            Self::Maximum => {
                if left < right {
                    right
                } else {
                    left
                }
            }
            _ => return None,
        })
    }

    fn scan(self, bits: i64, wanted: bool) -> Option<i64> {
        let bits = if wanted { bits } else { !bits };
        match self {
            Self::ScanLeft if bits == 0 => Some(-1),
            Self::ScanLeft => Some(i64::from(bits.leading_zeros())),
            Self::ScanRight => Some(63 - i64::from(bits.trailing_zeros())),
            _ => None,
        }
    }
}

impl Unary {
    /// The result; `None` if it is unknown.
    #[inline]
    pub(super) fn apply(self, operand: &Value<'_>) -> Option<Value<'static>> {
        Some(match (self, operand) {
            (Self::Negate, Value::Integer(value)) => Value::Integer(value.wrapping_neg()),
            (Self::Negate, Value::Float(value)) => Value::Float(0.0 - value),
            (Self::Reciprocal, Value::Integer(value)) => Value::Integer(1i64.checked_div(*value)?),
            (Self::Reciprocal, Value::Float(value)) => Value::Float(1.0 / value),
            (Self::Absolute, Value::Integer(value)) => Value::Integer(value.wrapping_abs()),
            (Self::Absolute, Value::Float(value)) => Value::Float(value.abs()),
            (Self::Floor, Value::Float(value)) => Value::Float(value.floor()),
            (Self::Ceiling, Value::Float(value)) => Value::Float(value.ceil()),
            (Self::ToInteger, Value::Float(value)) => Value::Integer(truncated(*value)),
            (Self::ToFloat, Value::Integer(value)) => Value::Float(*value as f64),
            (Self::Not, Value::Integer(value)) => Value::Integer(!value),
            (Self::CountOnes, Value::Integer(value)) => Value::Integer(i64::from(value.count_ones())),
            _ => return None,
        })
    }
}

/// `value` without its fraction; the minimum integer if no integer can hold it.
fn truncated(value: f64) -> i64 {
    /// 2⁶³, the first float above all integers.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if (-END..END).contains(&value) { value as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(operator: Binary, left: i64, right: i64) -> Option<i64> {
        match operator.apply(&Value::Integer(left), &Value::Integer(right)) {
            Some(Value::Integer(value)) => Some(value),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn integers_wrap_and_never_trap() {
        assert_eq!(integers(Binary::Add, i64::MAX, 1), Some(i64::MIN));
        assert_eq!(integers(Binary::Divide, i64::MIN, -1), Some(i64::MIN));
        assert_eq!(integers(Binary::Divide, -7, 2), Some(-3));
        assert_eq!(integers(Binary::Divide, 1, 0), None);
        assert_eq!(integers(Binary::Modulo, i64::MIN, -1), Some(0));
        assert_eq!(integers(Binary::Modulo, -7, 2), Some(-1));
        assert_eq!(integers(Binary::Modulo, 1, 0), None);
    }

    #[test]
    fn shifts_take_their_distance_modulo_64() {
        assert_eq!(integers(Binary::ShiftLeft, 1, 65), Some(2));
        assert_eq!(integers(Binary::ShiftRight, -1, 63), Some(1));
        assert_eq!(integers(Binary::ShiftRight, -1, -1), Some(1));
        assert_eq!(integers(Binary::ShiftRightArithmetic, -8, 1), Some(-4));
    }

    #[test]
    fn scans_count_from_the_highest_bit() {
        for (operator, bits, wanted, at) in [
            (Binary::ScanLeft, 1, true, 63),
            (Binary::ScanLeft, 0, true, -1),
            (Binary::ScanLeft, -1, false, -1),
            (Binary::ScanLeft, i64::MIN, false, 1),
            (Binary::ScanRight, 6, true, 62),
            (Binary::ScanRight, 0, true, -1),
            (Binary::ScanRight, 0, false, 63),
        ] {
            let found = operator.apply(&Value::Integer(bits), &Value::Bool(wanted));
            assert!(
                matches!(found, Some(Value::Integer(found)) if found == at),
                "{operator:?} {bits} {wanted}"
            );
        }
    }

    #[test]
    fn floats_that_no_integer_is_become_the_least() {
        for (value, integer) in [
            (1.9, 1),
            (-1.9, -1),
            (9.3e18, i64::MIN),
            (-9.3e18, i64::MIN),
            (f64::NAN, i64::MIN),
            (-9_223_372_036_854_775_808.0, i64::MIN),
        ] {
            assert_eq!(truncated(value), integer, "{value}");
        }
    }

    #[test]
    fn comparison_with_nan_keeps_the_first() {
        let one = Value::Float(1.0);
        let nan = Value::Float(f64::NAN);
        assert!(matches!(Binary::Minimum.apply(&one, &nan), Some(Value::Float(value)) if value == 1.0));
        assert!(matches!(Binary::Maximum.apply(&nan, &one), Some(Value::Float(value)) if value.is_nan()));
    }
}
