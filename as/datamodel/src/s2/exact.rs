//! Sums of products of doubles without rounding, for the few cases in which rounding could cause a wrong
//! decision.
//!
//! A sum is a fixed-point number in two's complement. It is wide enough for products of three doubles of
//! magnitude up to 2¹⁰, including the smallest ones. It is on the stack.

/// Weight of the lowest bit: the product of three of the smallest doubles.
const LOWEST_EXPONENT: i32 = -3 * 1074;
const LIMB_COUNT: usize = 52;

/// A sum of products.
pub(super) struct Sum([u64; LIMB_COUNT]);

impl Sum {
    pub(super) const fn zero() -> Self {
        Sum([0; LIMB_COUNT])
    }

    /// Adds `a * b * c`.
    pub(super) fn plus(mut self, [a, b, c]: [f64; 3]) -> Self {
        let [(a, a_exponent), (b, b_exponent), (c, c_exponent)] = [a, b, c].map(split);
        let negative = a_exponent.1 ^ b_exponent.1 ^ c_exponent.1;
        let shift = (a_exponent.0 + b_exponent.0 + c_exponent.0 - LOWEST_EXPONENT) as usize;
        let (limb, bit) = (shift / 64, shift % 64);
        // 53 + 53 bits, then 159, then up to 222.
        let product = u128::from(a) * u128::from(b);
        let low = (product & u128::from(u64::MAX)) * u128::from(c);
        let high = (product >> 64) * u128::from(c) + (low >> 64);
        let digits = [low as u64, high as u64, (high >> 64) as u64];
        let mut spilled = 0;
        let mut carry = false;
        for (at, slot) in self.0.iter_mut().skip(limb).enumerate() {
            let digit = digits.get(at).copied().unwrap_or(0);
            let shifted = digit << bit | spilled;
            spilled = if bit == 0 { 0 } else { digit >> (64 - bit) };
            if at > digits.len() && !carry {
                break;
            }
            let combine = if negative { u64::overflowing_sub } else { u64::overflowing_add };
            let (partial, first) = combine(*slot, shifted);
            let (whole, second) = combine(partial, u64::from(carry));
            (*slot, carry) = (whole, first | second);
        }
        self
    }

    /// The sign: 1, 0 or -1.
    pub(super) fn sign(&self) -> i32 {
        match self.0.last() {
            Some(top) if top >> 63 == 1 => -1,
            _ => i32::from(self.0.iter().any(|&limb| limb != 0)),
        }
    }

    /// The exponent of the highest bit of the magnitude, and the first 64 bits of the magnitude from there.
    /// The last of these bits is 1 if any lower bit is set. `None` for zero.
    fn leading(&self) -> Option<(i32, u64)> {
        let mut magnitude = self.0;
        if self.sign() < 0 {
            let mut carry = true;
            for limb in &mut magnitude {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let top = magnitude.iter().rposition(|&limb| limb != 0)?;
        let limb = |at: Option<usize>| at.and_then(|at| magnitude.get(at)).copied().unwrap_or(0);
        let high = limb(Some(top));
        let zeros = high.leading_zeros();
        let next = limb(top.checked_sub(1));
        let bits = if zeros == 0 { high } else { high << zeros | next >> (64 - zeros) };
        let rest = next << zeros != 0 || magnitude.iter().take(top.saturating_sub(1)).any(|&limb| limb != 0);
        let exponent = top as i32 * 64 + 63 - zeros as i32 + LOWEST_EXPONENT;
        Some((exponent, bits | u64::from(rest)))
    }

    /// The exponent of the largest power of two that is not above the magnitude; `None` for zero.
    pub(super) fn exponent(&self) -> Option<i32> {
        self.leading().map(|(exponent, _)| exponent)
    }

    /// The sum times 2 to the power of `scale`. It is rounded once.
    pub(super) fn to_f64(&self, scale: i32) -> f64 {
        let Some((exponent, bits)) = self.leading() else { return 0.0 };
        // The conversion rounds to even. The last bit makes it round ties correctly.
        let value = bits as f64 * power_of_two(exponent - 63 + scale);
        if self.sign() < 0 { -value } else { value }
    }
}

/// The magnitude of the double as an integer of up to 53 bits, its exponent, and its sign.
fn split(value: f64) -> (u64, (i32, bool)) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let negative = value.is_sign_negative();
    if exponent == 0 {
        (fraction, (-1074, negative))
    } else {
        (fraction | 1 << 52, (exponent - 1075, negative))
    }
}

/// 2 to the power of `exponent`; 0 if that is too small for a double.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    match exponent {
        ..-1074 => 0.0,
        -1074..-1022 => f64::from_bits(1 << (exponent + 1074)),
        -1022..1024 => f64::from_bits(((exponent + 1023) as u64) << 52),
        1024.. => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_that_are_equal_as_doubles_are_distinguished() {
        let tiny = f64::from_bits(1);
        assert_eq!(Sum::zero().plus([tiny, tiny, tiny]).sign(), 1);
        assert_eq!(Sum::zero().plus([tiny, -tiny, tiny]).sign(), -1);
        assert_eq!(Sum::zero().plus([1.0, 1.0, 1.0]).plus([-1.0, 1.0, 1.0]).sign(), 0);
        assert_eq!(
            Sum::zero().plus([1.0, 1.0, 1.0]).plus([-1.0, 1.0, 1.0]).plus([tiny, -1.0, 1.0]).sign(),
            -1
        );
        assert_eq!(Sum::zero().plus([0.0, -1.0, 1.0]).sign(), 0);
        let squares = Sum::zero().plus([1.0 + f64::EPSILON, 1.0 - f64::EPSILON, 1.0]).plus([-1.0, 1.0, 1.0]);
        assert_eq!(squares.to_f64(0), -f64::EPSILON * f64::EPSILON);
        assert_eq!(squares.exponent(), Some(-104));
        assert_eq!(squares.to_f64(100), -0.0625);
        assert_eq!(Sum::zero().plus([tiny, tiny, 1.0]).exponent(), Some(-2148));
        assert_eq!(Sum::zero().plus([tiny, tiny, 1.0]).to_f64(2148), 1.0);
        assert_eq!(Sum::zero().to_f64(5), 0.0);
    }

    proptest! {
        #[test]
        fn sums_of_integers_are_exact(terms in prop::collection::vec((-400i32..400, -400i32..400, -400i32..400, -12i32..3), 1..9)) {
            let mut sum = Sum::zero();
            let mut expected = 0i64;
            for (a, b, c, shift) in terms {
                sum = sum.plus([f64::from(a) * power_of_two(shift), f64::from(b), f64::from(c)]);
                expected += (i64::from(a) * i64::from(b) * i64::from(c)) << (shift + 12);
            }
            prop_assert_eq!(sum.sign(), expected.signum() as i32);
            prop_assert_eq!(sum.to_f64(12), expected as f64);
        }

        #[test]
        fn one_product_is_rounded_like_a_double(a in -8.0..8.0f64, b in -8.0..8.0f64) {
            prop_assert_eq!(Sum::zero().plus([a, b, 1.0]).to_f64(0), a * b);
        }
    }
}
