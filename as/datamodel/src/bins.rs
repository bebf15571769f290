//! The bins of one record while a request works on them.
//!
//! Order matters: it is the order of the stored record and of the reply to "all bins". A new bin goes to the end; the
//! last bin takes the place of a deleted one.

use std::borrow::Cow;

use proto::ResultCode;
use smallvec::SmallVec;

use crate::Particle;

/// Longest bin name in bytes.
pub const BIN_NAME_SIZE_MAX: usize = 15;
/// Most bins a record can have.
pub const BIN_COUNT_MAX: usize = 32_767;
/// Bins kept without an allocation.
const INLINE_BINS: usize = 8;

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub struct Bin<'a> {
    pub name: &'a [u8],
    pub particle: Particle<'a>,
}

/// Checks a name that a client sent.
///
/// # Errors
/// `BinName` when it is longer than [`BIN_NAME_SIZE_MAX`] or holds a zero byte.
#[inline]
pub fn check_name(name: &[u8]) -> Result<(), ResultCode> {
    if name.len() <= BIN_NAME_SIZE_MAX && !name.contains(&0) { Ok(()) } else { Err(ResultCode::BinName) }
}

/// The bins of a record, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bins<'a>(SmallVec<[Bin<'a>; INLINE_BINS]>);

impl<'a> Bins<'a> {
    /// No bins.
    #[must_use]
    pub fn new() -> Self {
        Bins(SmallVec::new())
    }

    /// The value of bin `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Particle<'a>> {
        self.0.iter().find(|bin| bin.name == name).map(|bin| &bin.particle)
    }

    /// The value of bin `name`, to change it.
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut Particle<'a>> {
        self.0.iter_mut().find(|bin| bin.name == name).map(|bin| &mut bin.particle)
    }

    /// Gives bin `name` the value `particle`, creating it at the end if need be.
    pub fn set(&mut self, name: &'a [u8], particle: Particle<'a>) {
        match self.get_mut(name) {
            Some(old) => *old = particle,
            None => self.0.push(Bin { name, particle }),
        }
    }

    /// Adds a bin whose name no other has.
    pub fn push(&mut self, bin: Bin<'a>) {
        self.0.push(bin);
    }

    /// Removes bin `name`; the last bin takes its place.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some(at) = self.0.iter().position(|bin| bin.name == name) {
            self.0.swap_remove(at);
        }
    }

    /// Removes all bins.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Number of bins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the values that were made here, neither in the stored record nor in the request.
    #[must_use]
    pub fn made_size(&self) -> usize {
        let made = |bin: &Bin<'_>| match &bin.particle {
            Particle::Bytes(_, Cow::Owned(bytes)) => bytes.len(),
            _ => 0,
        };
        self.0.iter().map(made).sum()
    }

    /// The bins in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Bin<'a>> {
        self.0.iter()
    }
}

impl<'b, 'a> IntoIterator for &'b Bins<'a> {
    type Item = &'b Bin<'a>;
    type IntoIter = std::slice::Iter<'b, Bin<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_follows_creation_and_deletion() {
        let mut bins = Bins::new();
        for (value, name) in [&b"a"[..], b"b", b"c", b"d"].into_iter().enumerate() {
            bins.set(name, Particle::Integer(value as i64));
        }
        bins.set(b"b", Particle::Integer(9));
        bins.remove(b"a");
        bins.remove(b"none");
        let names: Vec<&[u8]> = bins.iter().map(|bin| bin.name).collect();
        assert_eq!(names, [b"d", b"b", b"c"]);
        assert_eq!(bins.get(b"b"), Some(&Particle::Integer(9)));
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name(b"").is_ok());
        assert!(check_name(&[b'x'; 15]).is_ok());
        assert_eq!(check_name(&[b'x'; 16]), Err(ResultCode::BinName));
        assert_eq!(check_name(b"a\0b"), Err(ResultCode::BinName));
    }
}
