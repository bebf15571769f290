//! Clients, one for each key. A client writes one token after the other and notes the acknowledged ones.

use crate::store::{Key, Token};

/// The history of a key.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) key: Key,
    /// The request under way.
    pub(crate) token: Option<Token>,
    pub(crate) next_token: Token,
    pub(crate) acknowledged: Vec<Token>,
    pub(crate) deadline_ms: u64,
    /// Index of the host that it asks next.
    pub(crate) favourite: usize,
    pub(crate) hops: u32,
    /// Whether the last request that ended was acknowledged.
    pub(crate) is_certain: bool,
}

impl Client {
    pub(crate) fn new(key: Key) -> Self {
        Client {
            key,
            token: None,
            next_token: 1,
            acknowledged: Vec::new(),
            deadline_ms: 0,
            favourite: 0,
            hops: 0,
            is_certain: true,
        }
    }

    /// Checks that a record has all acknowledged tokens, in order and once each, and no token that was never
    /// sent.
    pub(crate) fn judge(&self, tokens: &[Token]) -> Result<(), String> {
        if !tokens.is_sorted_by(|left, right| left < right) {
            return Err(format!("key {}: tokens twice or out of order: {tokens:?}", self.key));
        }
        let lost = self.acknowledged.iter().find(|token| !tokens.contains(token));
        match lost {
            Some(token) => Err(format!("key {}: acknowledged token {token} is lost: {tokens:?}", self.key)),
            None if tokens.iter().any(|token| *token >= self.next_token) => {
                Err(format!("key {}: tokens from nowhere: {tokens:?}", self.key))
            }
            None => Ok(()),
        }
    }
}
