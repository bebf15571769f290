//! Addition and subtraction of integers of 1 to 64 bits.

use super::integer_subflags::{SATURATE, SIGNED, WRAP};

/// The first `size` bits of `word` as an integer.
pub(super) const fn load(word: u64, size: u64) -> u64 {
    word >> (64 - size)
}

/// The `size` bits of `value` as the first of a word.
pub(super) const fn store(value: u64, size: u64) -> u64 {
    value << (64 - size)
}

/// `value`, of `size` bits, with its sign extended.
pub(super) const fn sign_extended(value: u64, size: u64) -> i64 {
    store(value, size).cast_signed() >> (64 - size)
}

/// The largest value of `size` bits.
const fn mask(size: u64) -> u64 {
    u64::MAX >> (64 - size)
}

/// `left + right` in `size` bits; `None` if it overflows and `subflags` name no action for it.
pub(super) fn add(left: u64, right: u64, size: u64, subflags: u64) -> Option<u64> {
    let right = right & mask(size);
    let sum = left.wrapping_add(right) & mask(size);
    if subflags & WRAP != 0 {
        Some(sum)
    } else if subflags & SIGNED != 0 {
        signed_sum(left, right, sum, size, subflags)
    } else if sum < left {
        (subflags & SATURATE != 0).then_some(mask(size))
    } else {
        Some(sum)
    }
}

/// `left - right` in `size` bits; `None` if it overflows and `subflags` name no action for it.
pub(super) fn subtract(left: u64, right: u64, size: u64, subflags: u64) -> Option<u64> {
    let right = right & mask(size);
    let difference = left.wrapping_sub(right) & mask(size);
    if subflags & WRAP != 0 {
        Some(difference)
    } else if subflags & SIGNED != 0 {
        signed_sum(left, right.wrapping_neg(), difference, size, subflags)
    } else if difference > left {
        (subflags & SATURATE != 0).then_some(0)
    } else {
        Some(difference)
    }
}

/// Checks the signed sum of `left` and `right`, which is `sum` in `size` bits. Two operands with the same
/// sign whose sum has the other sign are an overflow. A sum of exactly zero passes, and so does the negation
/// of the minimum value, which is itself.
fn signed_sum(left: u64, right: u64, sum: u64, size: u64, subflags: u64) -> Option<u64> {
    let [left, right, signed] = [left, right, sum].map(|value| sign_extended(value, size));
    let limit = if left < 0 && right < 0 && signed > 0 {
        1 << (size - 1)
    } else if left > 0 && right > 0 && signed < 0 {
        mask(size) >> 1
    } else {
        return Some(sum);
    };
    (subflags & SATURATE != 0).then_some(limit)
}
