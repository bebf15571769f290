//! Random numbers from a seed: splitmix64.

/// A sequence of numbers determined by its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// The seed of a soak's round, from `FERROSPIKE_SOAK_SEED`; 0 if it is not set.
///
/// # Panics
/// If the variable is not a number.
pub fn soak_seed() -> u64 {
    std::env::var("FERROSPIKE_SOAK_SEED").map_or(0, |text| text.parse().expect("a number"))
}

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number in `range`, which must not be empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }

    /// True in `pct` percent of the cases.
    pub fn chance(&mut self, pct: u64) -> bool {
        self.number() % 100 < pct
    }

    /// `count` random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed() {
        // The first number for seed 0, from the inventors of the method.
        assert_eq!(Random::new(0).number(), 0xe220_a839_7b1d_cdaf);
        let mut random = Random::new(1);
        assert!((0..1000).all(|_| (5..9).contains(&random.within(5..9))));
        assert_eq!(random.bytes(11).len(), 11);
    }
}
