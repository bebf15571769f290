//! wyhash, final version 3, with the seed that stored formats use.

const SECRET: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];
const SEED: u64 = 0x0002_9fbb_14cc_886f;

/// The 64-bit hash of `bytes`.
#[inline]
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    let size = bytes.len();
    let mut seed = SEED ^ SECRET[0];
    let (a, b);
    if size <= 16 {
        (a, b) = match size {
            0 => (0, 0),
            1..4 => (read_3(bytes), 0),
            _ => {
                let middle = (size >> 3) << 2;
                (
                    read_4(bytes, 0) << 32 | read_4(bytes, middle),
                    read_4(bytes, size - 4) << 32 | read_4(bytes, size - 4 - middle),
                )
            }
        };
    } else {
        let mut at = 0;
        if size > 48 {
            let (mut seed_1, mut seed_2) = (seed, seed);
            while size - at > 48 {
                seed = mix(read_8(bytes, at) ^ SECRET[1], read_8(bytes, at + 8) ^ seed);
                seed_1 = mix(read_8(bytes, at + 16) ^ SECRET[2], read_8(bytes, at + 24) ^ seed_1);
                seed_2 = mix(read_8(bytes, at + 32) ^ SECRET[3], read_8(bytes, at + 40) ^ seed_2);
                at += 48;
            }
            seed ^= seed_1 ^ seed_2;
        }
        while size - at > 16 {
            seed = mix(read_8(bytes, at) ^ SECRET[1], read_8(bytes, at + 8) ^ seed);
            at += 16;
        }
        (a, b) = (read_8(bytes, size - 16), read_8(bytes, size - 8));
    }
    mix(SECRET[1] ^ size as u64, mix(a ^ SECRET[1], b ^ seed))
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[inline]
fn read_8(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn read_4(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

#[inline]
fn read_3(bytes: &[u8]) -> u64 {
    let (first, middle, last) = (bytes[0], bytes[bytes.len() >> 1], bytes[bytes.len() - 1]);
    u64::from(first) << 16 | u64::from(middle) << 8 | u64::from(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_hashes_differently() {
        let bytes: Vec<u8> = (0..=255).collect();
        let hashes: std::collections::HashSet<u64> = (0..200).map(|size| hash64(&bytes[..size])).collect();
        assert_eq!(hashes.len(), 200);
    }
}
