//! Encryption of devices: AES-XTS in units of 512 bytes, with a random key for each device. The device's
//! header holds that key wrapped by the key of the configured file. The format is specific to this server,
//! because the format of the C server's Enterprise Edition is not public.
//!
//! # Keys
//! The key of a file is the SHA-256 (AES-128) or SHA-512 (AES-256) of all its bytes. The key of a device is
//! random, 64 bytes: 32 or 64 of them are the two keys of XTS. The header holds it encrypted by XTS with the
//! file's key, and a canary beside it: the first 16 bytes of the HMAC-SHA-256, by the device's key, of a text
//! that names the strength. By the canary, a wrong file, a wrong strength and a damaged header are detected
//! before anything is read or written. If the file changes, only the header is rewritten.
//!
//! # Units
//! Each unit of 512 bytes after the header is encrypted separately, with its number on the device as the
//! tweak. There is no nonce that could repeat. If a unit is written again (the end of a block that is being
//! filled), an observer of both versions can see which of its 16-byte pieces changed, and nothing else. A
//! record that moves is encrypted differently. After a crash during a write, each unit is old or new. A unit
//! of zeros was never written and stays zeros, because a read of a hole in a file returns them. XTS does not
//! detect a change of the encrypted bytes, but any change turns 16 bytes into noise, which the checksums of
//! packed records detect.

use aes::cipher::{Block, BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256, Sha512};

/// Number of bytes that are encrypted together.
pub const UNIT_SIZE: usize = 512;
/// Bytes of a device's key.
pub const DEVICE_KEY_SIZE: usize = 64;
/// Bytes of a canary.
pub const CANARY_SIZE: usize = 16;
const BLOCK_SIZE: usize = 16;
const BLOCKS_PER_UNIT: usize = UNIT_SIZE / BLOCK_SIZE;

/// Key sizes of AES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strength {
    Aes128,
    Aes256,
}

impl Strength {
    pub const ALL: [Strength; 2] = [Strength::Aes128, Strength::Aes256];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Strength::Aes128 => "aes-128",
            Strength::Aes256 => "aes-256",
        }
    }
}

/// A device's key as the header stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrappedKey {
    pub key: [u8; DEVICE_KEY_SIZE],
    pub canary: [u8; CANARY_SIZE],
}

#[derive(Clone, PartialEq, Eq)]
pub struct DeviceKey([u8; DEVICE_KEY_SIZE]);

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey")
    }
}

impl DeviceKey {
    /// Makes a key of random bytes.
    #[must_use]
    pub const fn new(random: [u8; DEVICE_KEY_SIZE]) -> Self {
        DeviceKey(random)
    }

    fn canary(&self, strength: Strength) -> [u8; CANARY_SIZE] {
        let mut canary = [0; CANARY_SIZE];
        // HMAC accepts a key of any size.
        if let Ok(mac) = <Hmac<Sha256> as Mac>::new_from_slice(&self.0) {
            let text = format!("Ferrospike device key, {}", strength.name());
            canary.copy_from_slice(&mac.chain_update(text).finalize().into_bytes()[..CANARY_SIZE]);
        }
        canary
    }

    /// The key for a header, wrapped by the key of a file with `content`.
    #[must_use]
    pub fn wrap(&self, content: &[u8], strength: Strength) -> WrappedKey {
        let mut key = self.0;
        file_cipher(content, strength).crypt(0, &mut key, Direction::Encrypt);
        WrappedKey { key, canary: self.canary(strength) }
    }

    /// The key in a header, if it was wrapped with a file that has `content`.
    #[must_use]
    pub fn unwrap(wrapped: &WrappedKey, content: &[u8], strength: Strength) -> Option<Self> {
        let mut key = wrapped.key;
        file_cipher(content, strength).crypt(0, &mut key, Direction::Decrypt);
        Some(DeviceKey(key)).filter(|key| key.canary(strength) == wrapped.canary)
    }

    /// The cipher of the device's units.
    #[must_use]
    pub fn cipher(&self, strength: Strength) -> UnitCipher {
        UnitCipher::new(&self.0, strength)
    }
}

fn file_cipher(content: &[u8], strength: Strength) -> UnitCipher {
    match strength {
        Strength::Aes128 => UnitCipher::new(&Sha256::digest(content), strength),
        Strength::Aes256 => UnitCipher::new(&Sha512::digest(content), strength),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// Ciphers for data and for tweaks.
#[expect(clippy::large_enum_variant, reason = "there is one for each device")]
enum Ciphers {
    Aes128(Aes128, Aes128),
    Aes256(Aes256, Aes256),
}

/// Encrypts and decrypts units.
pub struct UnitCipher(Ciphers);

impl std::fmt::Debug for UnitCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnitCipher")
    }
}

impl UnitCipher {
    /// # Panics
    /// If `key` is too short for both keys.
    fn new(key: &[u8], strength: Strength) -> Self {
        UnitCipher(match strength {
            Strength::Aes128 => {
                Ciphers::Aes128(Aes128::new(key[..16].into()), Aes128::new(key[16..32].into()))
            }
            Strength::Aes256 => {
                Ciphers::Aes256(Aes256::new(key[..32].into()), Aes256::new(key[32..64].into()))
            }
        })
    }

    /// Encrypts `bytes`, which are whole units for `offset` of the device.
    ///
    /// # Panics
    /// If they are not whole units.
    pub fn encrypt(&self, offset: u64, bytes: &mut [u8]) {
        for (number, unit) in units(offset, bytes) {
            self.crypt(number, unit, Direction::Encrypt);
        }
    }

    /// Decrypts `bytes`, which are whole units read at `offset` of the device. Units of zeros stay zeros.
    ///
    /// # Panics
    /// If they are not whole units.
    pub fn decrypt(&self, offset: u64, bytes: &mut [u8]) {
        for (number, unit) in units(offset, bytes) {
            if !crate::wblock_scan::is_zero(unit) {
                self.crypt(number, unit, Direction::Decrypt);
            }
        }
    }

    /// Encrypts or decrypts a unit, or a shorter run of whole blocks.
    fn crypt(&self, number: u64, unit: &mut [u8], direction: Direction) {
        match &self.0 {
            Ciphers::Aes128(data, tweak) => crypt_unit(data, tweak, number, unit, direction),
            Ciphers::Aes256(data, tweak) => crypt_unit(data, tweak, number, unit, direction),
        }
    }
}

fn units(offset: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8])> {
    assert!(
        offset.is_multiple_of(UNIT_SIZE as u64) && bytes.len().is_multiple_of(UNIT_SIZE),
        "encrypted in whole units"
    );
    (offset / UNIT_SIZE as u64..).zip(bytes.chunks_exact_mut(UNIT_SIZE))
}

/// XTS as in IEEE 1619, for whole blocks. The blocks of a unit pass through the cipher together, which uses
/// its pipeline well.
fn crypt_unit<C>(data: &C, tweak_cipher: &C, number: u64, unit: &mut [u8], direction: Direction)
where
    C: BlockEncrypt + BlockDecrypt + aes::cipher::BlockSizeUser<BlockSize = aes::cipher::consts::U16>,
{
    let mut tweak = [0; BLOCK_SIZE];
    tweak[..8].copy_from_slice(&number.to_le_bytes());
    tweak_cipher.encrypt_block((&mut tweak).into());
    let mut tweak = u128::from_le_bytes(tweak);
    let (mut tweaks, mut blocks) = ([0; BLOCKS_PER_UNIT], [Block::<C>::default(); BLOCKS_PER_UNIT]);
    let (bytes, _) = unit.as_chunks_mut::<BLOCK_SIZE>();
    assert!(bytes.len() <= BLOCKS_PER_UNIT, "one unit at a time");
    for ((bytes, block), kept) in bytes.iter().zip(&mut blocks).zip(&mut tweaks) {
        *block = (u128::from_le_bytes(*bytes) ^ tweak).to_le_bytes().into();
        *kept = tweak;
        // This multiplies by x in the field of 2^128 elements.
        tweak = tweak << 1 ^ if tweak >> 127 == 0 { 0 } else { 0x87 };
    }
    let used = &mut blocks[..bytes.len()];
    match direction {
        Direction::Encrypt => data.encrypt_blocks(used),
        Direction::Decrypt => data.decrypt_blocks(used),
    }
    for ((bytes, block), tweak) in bytes.iter_mut().zip(used).zip(tweaks) {
        *bytes = (u128::from_le_bytes((*block).into()) ^ tweak).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xts_mode::{Xts128, get_tweak_default};

    use super::*;

    fn key(seed: u8) -> DeviceKey {
        DeviceKey::new(std::array::from_fn(|at| (at as u8).wrapping_mul(31) ^ seed))
    }

    #[test]
    fn a_key_is_opened_by_its_file_and_strength_alone() {
        for strength in Strength::ALL {
            let wrapped = key(1).wrap(b"the file", strength);
            assert_eq!(DeviceKey::unwrap(&wrapped, b"the file", strength), Some(key(1)));
            for (content, strength) in Strength::ALL
                .into_iter()
                .flat_map(|other| [(&b"the file"[..], other), (b"the file\n", other)])
            {
                let is_it = content == b"the file" && wrapped == key(1).wrap(content, strength);
                assert_eq!(DeviceKey::unwrap(&wrapped, content, strength).is_some(), is_it);
            }
            let mut damaged = wrapped;
            damaged.key[50] ^= 1;
            assert_eq!(DeviceKey::unwrap(&damaged, b"the file", strength), None);
            let again = key(1).wrap(b"another file", strength);
            assert!(again.key != wrapped.key && again.canary == wrapped.canary);
        }
    }

    #[test]
    fn vectors_of_the_standard() {
        // IEEE 1619-2007, vector 4. Its sector is as long as a unit.
        let key: [u8; 32] = std::array::from_fn(|at| {
            let digits: [u8; 16] = [
                0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35,
                0x26,
            ];
            let second: [u8; 16] = [
                0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27,
                0x95,
            ];
            if at < 16 { digits[at] } else { second[at - 16] }
        });
        let cipher = UnitCipher::new(&key, Strength::Aes128);
        let mut unit: [u8; UNIT_SIZE] = std::array::from_fn(|at| at as u8);
        cipher.encrypt(0, &mut unit);
        assert_eq!(
            unit[..16],
            [0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4, 0x76, 0x48, 0x9f, 0x30, 0x8c, 0xd4, 0xcf, 0xa6, 0xe2]
        );
        cipher.decrypt(0, &mut unit);
        assert!(unit.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    }

    #[test]
    fn units_that_were_never_written_stay_zeros() {
        let cipher = key(3).cipher(Strength::Aes128);
        let mut bytes = [0; 2 * UNIT_SIZE];
        cipher.decrypt(4096, &mut bytes);
        assert_eq!(bytes, [0; 2 * UNIT_SIZE]);
        cipher.encrypt(4096, &mut bytes);
        assert!(bytes[..UNIT_SIZE] != bytes[UNIT_SIZE..] && bytes[..16] != bytes[16..32]);
        cipher.decrypt(4096, &mut bytes);
        assert_eq!(bytes, [0; 2 * UNIT_SIZE]);
    }

    proptest! {
        #[test]
        fn units_are_as_another_implementation_has_them(
            seed in any::<u8>(),
            number in 0..1_u64 << 40,
            bytes in prop::collection::vec(any::<u8>(), 3 * UNIT_SIZE),
        ) {
            let DeviceKey(raw) = key(seed);
            let mut own = bytes.clone();
            let mut other = bytes.clone();
            key(seed).cipher(Strength::Aes256).encrypt(number * UNIT_SIZE as u64, &mut own);
            let xts = Xts128::new(Aes256::new(raw[..32].into()), Aes256::new(raw[32..].into()));
            xts.encrypt_area(&mut other, UNIT_SIZE, number.into(), get_tweak_default);
            prop_assert_eq!(&own, &other);
            key(seed).cipher(Strength::Aes256).decrypt(number * UNIT_SIZE as u64, &mut own);
            prop_assert_eq!(own, bytes);
        }
    }
}
