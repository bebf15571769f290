//! The 20-byte identity of a record.

use ripemd::{Digest as _, Ripemd160};

/// Length of a digest in bytes.
pub const DIGEST_SIZE: usize = 20;

/// RIPEMD-160 of set name, key type and key; it identifies a record.
///
/// Clients compute and send it; the server checks only its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Digest(pub [u8; DIGEST_SIZE]);

impl Digest {
    /// The digest of a user key. `key` is the key in its wire form, without the type byte.
    #[must_use]
    pub fn of_key(set: &[u8], key_type: u8, key: &[u8]) -> Self {
        let mut hash = Ripemd160::new();
        hash.update(set);
        hash.update([key_type]);
        hash.update(key);
        Digest(hash.finalize().into())
    }

    /// The digest in `bytes`, or `None` if they are not exactly 20.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Digest)
    }

    /// Little-endian u32 at byte `offset`; partition, stripe and digest-modulo are derived from it.
    ///
    /// `offset` is one of a few constants ≤ 16, so the indexing cannot fail.
    #[inline]
    #[must_use]
    pub const fn le_u32_at(&self, offset: usize) -> u32 {
        let d = &self.0;
        u32::from_le_bytes([d[offset], d[offset + 1], d[offset + 2], d[offset + 3]])
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_key_equals_that_of_official_clients() {
        // aerospike.calc_digest("test", "demo", 1) and ("test", "demo", "k") of the Python client.
        let integer = Digest::of_key(b"demo", 1, &1i64.to_be_bytes());
        assert_eq!(integer.to_string(), "b7f4b83889e2da67de683e1df6919a1eacc446c8");
        let string = Digest::of_key(b"demo", 3, b"k");
        assert_eq!(string.to_string(), "ddbd526bc5517c4d1bd6d5ddc0bb36044a932dcd");
        assert_ne!(string, Digest::of_key(b"", 3, b"k"));
    }

    #[test]
    fn only_twenty_bytes_are_a_digest() {
        assert!(Digest::from_slice(&[0; 19]).is_none());
        assert!(Digest::from_slice(&[0; 21]).is_none());
        assert_eq!(Digest::from_slice(&[7; 20]), Some(Digest([7; 20])));
    }
}
