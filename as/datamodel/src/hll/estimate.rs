//! Counts and similarities, estimated from registers.
//!
//! The results must equal those of other servers bit for bit, because clients compare them. Therefore sums
//! and products are computed in a fixed order.
//!
//! Sources: O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6; Y. W. Yu
//! and G. M. Weber, "HyperMinHash: MinHash in LogLog space" (2017).

use super::sketch::{RANK_BITS, Registers, Sketch, SketchShape};

/// Number of ranks that a register can hold.
const RANK_COUNT: usize = 1 << RANK_BITS;

/// Number of registers with each rank.
type Histogram = [u32; RANK_COUNT];

/// The similarity of two empty sets: zero divided by zero, as a processor computes it.
const ZERO_BY_ZERO: f64 = f64::from_bits(0xfff8_0000_0000_0000);

/// The number of elements added to `sketch`.
pub(super) fn count(sketch: &Sketch<'_>) -> u64 {
    sketch.cached_count().unwrap_or_else(|| {
        let mut histogram = [0; RANK_COUNT];
        sketch.for_each_register(|_, value| note(&mut histogram, value >> sketch.shape.minhash_bits));
        count_of(sketch.shape.index_bits, &histogram)
    })
}

/// The number of elements in any of `sketches`.
pub(super) fn union_count(sketches: &[Sketch<'_>]) -> u64 {
    let shape = SketchShape::common(sketches);
    let mut histogram = [0; RANK_COUNT];
    Registers::union(shape, sketches).for_each_rank(|rank| note(&mut histogram, rank));
    count_of(shape.index_bits, &histogram)
}

/// The number of elements in all of `sketches`: two, three, or any number if they share their minhash bits.
pub(super) fn intersect_count(sketches: &[Sketch<'_>]) -> u64 {
    if SketchShape::common(sketches).minhash_bits == 0 {
        return intersect_count_by_inclusion(sketches);
    }
    let similarity = similarity(sketches);
    if similarity.is_nan() { 0 } else { rounded(union_count(sketches) as f64 * similarity) }
}

/// The share of the elements in any of `sketches` that are in all of them; NaN if there are no elements.
pub(super) fn similarity(sketches: &[Sketch<'_>]) -> f64 {
    let shape = SketchShape::common(sketches);
    if shape.minhash_bits == 0 {
        let (common, all) = (intersect_count_by_inclusion(sketches), union_count(sketches));
        return if common == 0 && all == 0 { ZERO_BY_ZERO } else { common as f64 / all as f64 };
    }
    if !sketches.iter().all(Sketch::has_data) {
        return if sketches.iter().any(Sketch::has_data) { 0.0 } else { f64::NAN };
    }
    let used = Registers::union(shape, sketches).used_count();
    let (first, others) = sketches.split_at(1);
    let mut common = Registers::union(shape, first);
    for sketch in others {
        common.intersect(sketch);
    }
    let by_chance = match sketches {
        [left, right] => chance_collisions(shape, count(left), count(right)),
        _ => 0.0,
    };
    ((common.used_count() as f64 - by_chance) / used as f64).max(0.0)
}

/// Computes the number from the sizes of the sets and of their unions. Three sets are split into pairs.
fn intersect_count_by_inclusion(sketches: &[Sketch<'_>]) -> u64 {
    let all = union_count(sketches);
    let sum = sketches.iter().fold(0u64, |sum, sketch| sum.saturating_add(count(sketch)));
    match *sketches {
        [a, b, c] => {
            let pairs = [[a, b], [b, c], [a, c]].map(|pair| intersect_count(&pair));
            let in_pairs = pairs.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
            let estimate = all.wrapping_sub(sum.wrapping_sub(in_pairs)).cast_signed();
            estimate.max(0).cast_unsigned()
        }
        _ => sum.saturating_sub(all),
    }
}

/// The number of registers of two sketches with these counts that agree by chance.
fn chance_collisions(shape: SketchShape, left: u64, right: u64) -> f64 {
    let registers = shape.register_count() as f64;
    let mut sum = 0.0;
    for rank in 1..=RANK_COUNT as i32 {
        let low = if rank == RANK_COUNT as i32 { 0.0 } else { 2f64.powi(-rank) / registers };
        let high = 2f64.powi(1 - rank) / registers;
        let in_register = |count: u64| (1.0 - low).powf(count as f64) - (1.0 - high).powf(count as f64);
        sum += in_register(left) * in_register(right);
    }
    sum * registers / 2f64.powi(shape.minhash_bits.into())
}

fn note(histogram: &mut Histogram, rank: u64) {
    if let Some(slot) = histogram.get_mut(rank as usize) {
        *slot += 1;
    }
}

fn count_of(index_bits: u8, histogram: &Histogram) -> u64 {
    let registers = f64::from(1u32 << index_bits);
    let mut z = 0.0;
    for &count in histogram.iter().skip(1).rev() {
        z = 0.5 * (z + f64::from(count));
    }
    let [unused, ..] = *histogram;
    z += registers * sigma(f64::from(unused) / registers);
    rounded(alpha(index_bits, registers) * registers * registers / z)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn alpha(index_bits: u8, registers: f64) -> f64 {
    match index_bits {
        4 => 0.673,
        5 => 0.697,
        6 => 0.709,
        _ => 0.7213 / (1.0 + 1.079 / registers),
    }
}

/// `value` rounded, halves away from zero. Values out of range become the minimum integer.
fn rounded(value: f64) -> u64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let rounded = value.round();
    if (-LIMIT..LIMIT).contains(&rounded) {
        (rounded as i64).cast_unsigned()
    } else {
        i64::MIN.cast_unsigned()
    }
}
