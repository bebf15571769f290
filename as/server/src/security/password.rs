//! Passwords: how they are stored, and how they are verified quickly.
//!
//! Clients do not send a password but its bcrypt hash with a fixed salt, the credential. A client that knows the
//! credential can log in, so the server hashes the credential again, by Argon2id with a random salt, which is slow on
//! purpose. To keep clients fast that log in for each connection, the last credential that was right is remembered as a
//! digest, keyed with a secret of this process.

use std::collections::HashMap;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::Sha256;

/// Memory, passes and lanes of Argon2id, as OWASP recommends for one lane.
const ARGON_MEMORY_KIB: u32 = 19 << 10;
const ARGON_PASSES: u32 = 2;
const ARGON_LANES: u32 = 1;
/// Maximum number of users whose credentials are remembered.
const REMEMBERED_MAX: usize = 10_000;

type Digest = [u8; 32];

fn argon2() -> Argon2<'static> {
    let params =
        Params::new(ARGON_MEMORY_KIB, ARGON_PASSES, ARGON_LANES, None).expect("the parameters are constant");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Whether `text` has the form of a [hash](Verifier::hash). If not, nobody could log in with it.
pub(super) fn is_hash(text: &str) -> bool {
    let is_own = |hash: &PasswordHash<'_>| {
        Algorithm::try_from(hash.algorithm).is_ok() && hash.salt.is_some() && hash.hash.is_some()
    };
    PasswordHash::new(text).as_ref().is_ok_and(is_own)
}

/// Random bytes of the system.
///
/// # Errors
/// When the system has none.
pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A digest of `parts` with `key`. It depends on where each part ends.
pub(super) fn keyed_digest(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any size");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

/// Verifies credentials.
pub(super) struct Verifier {
    key: [u8; 32],
    /// For each user, the stored hash and the digest of the credential that matched it.
    remembered: Mutex<HashMap<String, (String, Digest)>>,
}

impl Verifier {
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Verifier { key: random()?, remembered: Mutex::default() })
    }

    /// The hash to store for a credential. Takes some 20 ms.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn hash(&self, credential: &[u8]) -> Result<String, getrandom::Error> {
        let salt: [u8; 16] = random()?;
        let salt = SaltString::encode_b64(&salt).expect("a salt of 16 bytes");
        let hash = argon2().hash_password(credential, &salt).expect("Argon2 with constant parameters");
        Ok(hash.to_string())
    }

    /// Whether `credential` has been verified against the user's `hash` before. Quick.
    pub(super) fn remembers(&self, user: &str, hash: &str, credential: &[u8]) -> bool {
        let known = self.remembered.lock().get(user).cloned();
        known.is_some_and(|(known_hash, digest)| {
            known_hash == hash && self.digest(user, credential).verify_slice(&digest).is_ok()
        })
    }

    fn digest(&self, user: &str, credential: &[u8]) -> Hmac<Sha256> {
        keyed_digest(&self.key, &[user.as_bytes(), credential])
    }

    /// Whether `credential` matches the user's `hash`. Takes some 20 ms unless the credential is
    /// [remembered](Self::remembers).
    pub(super) fn verify(&self, user: &str, hash: &str, credential: &[u8]) -> bool {
        if self.remembers(user, hash, credential) {
            return true;
        }
        let Ok(parsed) = PasswordHash::new(hash) else { return false };
        if argon2().verify_password(credential, &parsed).is_err() {
            return false;
        }
        let digest = self.digest(user, credential).finalize().into_bytes().into();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(user) {
            remembered.clear();
        }
        remembered.insert(user.to_owned(), (hash.to_owned(), digest));
        true
    }

    /// Takes as long as a verification, so that the time does not reveal which users exist.
    pub(super) fn verify_nobody(&self, credential: &[u8]) {
        let salt = SaltString::encode_b64(&self.key[..16]).expect("a salt of 16 bytes");
        let _ = argon2().hash_password(credential, &salt);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A hash of some credential.
    pub(in super::super) const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                                             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn a_credential_is_verified_the_slow_and_the_quick_way() {
        let verifier = Verifier::new().expect("random bytes");
        let hash = verifier.hash(b"credential").expect("random bytes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && is_hash(&hash), "{hash}");
        assert!(
            is_hash(HASH) && !is_hash("") && !is_hash("credential") && !is_hash(&hash[..hash.len() - 44])
        );
        assert_ne!(hash, verifier.hash(b"credential").expect("random bytes"), "each has its own salt");
        assert!(!verifier.verify("user", &hash, b"Credential"));
        assert!(!verifier.remembers("user", &hash, b"credential"));
        assert!(verifier.verify("user", &hash, b"credential"));
        assert!(verifier.remembers("user", &hash, b"credential"));
        assert!(
            !verifier.remembers("user", &hash, b"Credential")
                && !verifier.remembers("eve", &hash, b"credential")
        );
        for _ in 0..1_000 {
            assert!(verifier.verify("user", &hash, b"credential"));
        }
        assert!(!verifier.verify("user", &hash, b"other"), "the right one is remembered, not the user");
        let other = verifier.hash(b"new").expect("random bytes");
        assert!(!verifier.verify("user", &other, b"credential"), "the password has changed");
        assert!(!verifier.verify("user", "no hash", b"credential"));
    }
}
