//! Session tokens. A token names its user and its expiry and is signed with a secret of the cluster, so that each node
//! accepts the tokens of all nodes, before and after a restart.
//!
//! ```text
//! version u8 = 1 | expiry u64 | size of the name u8 | name | stamp 16 bytes | HMAC-SHA256 32 bytes
//! ```
//!
//! Expiry is in seconds since 1970; numbers are big-endian. The stamp is a digest of the user's id and of the hash of
//! the password: a token becomes invalid when the password changes or the user is dropped, even if another user gets
//! the name.

use hmac::Mac;

use super::accounts::AccountId;
use super::password::keyed_digest;

const VERSION: u8 = 1;
const STAMP_SIZE: usize = 16;
const MAC_SIZE: usize = 32;

/// The key that signs tokens.
pub(super) type Secret = [u8; 32];

/// The content of a token with a valid signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token<'a> {
    pub(super) user: &'a str,
    pub(super) expiry_s: u64,
    stamp: [u8; STAMP_SIZE],
}

/// Identifies the holder of a token: the user's id and the hash of the password.
type Holder<'a> = (AccountId, &'a str);

fn stamp(secret: &Secret, (id, password_hash): Holder<'_>) -> [u8; STAMP_SIZE] {
    let parts: [&[u8]; 3] = [b"stamp", &id.0.to_be_bytes(), password_hash.as_bytes()];
    let digest = keyed_digest(secret, &parts).finalize().into_bytes();
    let mut stamp = [0; STAMP_SIZE];
    stamp.copy_from_slice(&digest[..STAMP_SIZE]);
    stamp
}

/// A token for `user`, whose name must be valid, until `expiry_s`.
pub(super) fn issue(secret: &Secret, user: &str, holder: Holder<'_>, expiry_s: u64) -> Vec<u8> {
    let mut token = vec![VERSION];
    token.extend(expiry_s.to_be_bytes());
    token.push(u8::try_from(user.len()).expect("names of users are short"));
    token.extend(user.as_bytes());
    token.extend(stamp(secret, holder));
    let mac = keyed_digest(secret, &[b"token", &token]).finalize().into_bytes();
    token.extend(mac);
    token
}

impl<'a> Token<'a> {
    /// Reads a token; `None` unless this cluster issued it.
    pub(super) fn read(secret: &Secret, bytes: &'a [u8]) -> Option<Self> {
        let (signed, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_SIZE)?)?;
        keyed_digest(secret, &[b"token", signed]).verify_slice(mac).ok()?;
        let (&version, rest) = signed.split_first()?;
        let (expiry_s, rest) = rest.split_first_chunk::<8>()?;
        let (&size, rest) = rest.split_first()?;
        let (user, stamp) = rest.split_at_checked(size.into())?;
        let stamp = stamp.try_into().ok()?;
        let user = str::from_utf8(user).ok()?;
        (version == VERSION).then_some(Token { user, expiry_s: u64::from_be_bytes(*expiry_s), stamp })
    }

    /// Whether this is a token of `holder`.
    pub(super) fn is_for(&self, secret: &Secret, holder: Holder<'_>) -> bool {
        self.stamp == stamp(secret, holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_where_it_was_signed_and_nowhere_else() {
        let (secret, other) = ([1; 32], [2; 32]);
        let bytes = issue(&secret, "bob", (AccountId(7), "hash"), 1_000);
        let token = Token::read(&secret, &bytes).expect("a token");
        assert_eq!((token.user, token.expiry_s), ("bob", 1_000));
        assert!(token.is_for(&secret, (AccountId(7), "hash")));
        assert!(!token.is_for(&secret, (AccountId(7), "new hash")));
        assert!(!token.is_for(&secret, (AccountId(8), "hash")), "another user of this name");
        assert_eq!(Token::read(&other, &bytes), None);
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_eq!(Token::read(&secret, &forged), None, "byte {at}");
            assert_eq!(Token::read(&secret, &bytes[..at]), None, "cut at {at}");
        }
    }
}
