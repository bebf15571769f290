//! The bins of one record while a request works on them.
//!
//! Their order is that of the stored record and of the reply to "all bins". A new bin goes to the end; the
//! last bin takes the place of a deleted one.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

use proto::ResultCode;
use smallvec::SmallVec;

use crate::Particle;

/// Longest bin name in bytes.
pub const BIN_NAME_SIZE_MAX: usize = 15;
/// Largest number of bins of a record.
pub const BIN_COUNT_MAX: usize = 32_767;
/// Records with this many bins or more find them through a table of names.
pub(crate) const TABLE_BINS_MIN: usize = 64;
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
/// `BinName` when the name is longer than [`BIN_NAME_SIZE_MAX`] or holds a zero byte.
#[inline]
pub fn check_name(name: &[u8]) -> Result<(), ResultCode> {
    if name.len() <= BIN_NAME_SIZE_MAX && !name.contains(&0) { Ok(()) } else { Err(ResultCode::BinName) }
}

/// The bins of a record, in order.
#[derive(Clone, Debug, Default)]
pub struct Bins<'a> {
    bins: SmallVec<[Bin<'a>; INLINE_BINS]>,
    /// Positions by name. The first lookup in a record with many bins makes the table, and every change then
    /// updates it.
    positions: OnceCell<HashMap<&'a [u8], usize>>,
}

impl PartialEq for Bins<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bins == other.bins
    }
}

/// Price of a lookup among `count` bins.
pub(crate) const fn lookup_steps(count: usize) -> u64 {
    if count < TABLE_BINS_MIN { 2 + count as u64 } else { 20 }
}

impl<'a> Bins<'a> {
    /// No bins.
    #[must_use]
    pub fn new() -> Self {
        Bins { bins: SmallVec::new(), positions: OnceCell::new() }
    }

    /// The position of bin `name`.
    #[inline]
    fn position(&self, name: &[u8]) -> Option<usize> {
        if self.bins.len() < TABLE_BINS_MIN {
            return self.bins.iter().position(|bin| bin.name == name);
        }
        self.position_by_table(name)
    }

    #[cold]
    fn position_by_table(&self, name: &[u8]) -> Option<usize> {
        let positions = self.positions.get_or_init(|| {
            let mut positions = HashMap::with_capacity(self.bins.len());
            for (position, bin) in self.bins.iter().enumerate() {
                // Two bins of a damaged record may have the same name. The first one is found.
                positions.entry(bin.name).or_insert(position);
            }
            positions
        });
        positions.get(name).copied()
    }

    /// The value of bin `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Particle<'a>> {
        self.bins.get(self.position(name)?).map(|bin| &bin.particle)
    }

    /// The value of bin `name`, mutable.
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut Particle<'a>> {
        let position = self.position(name)?;
        self.bins.get_mut(position).map(|bin| &mut bin.particle)
    }

    /// Gives bin `name` the value `particle`, creating it at the end if it does not exist.
    pub fn set(&mut self, name: &'a [u8], particle: Particle<'a>) {
        match self.get_mut(name) {
            Some(old) => *old = particle,
            None => self.push(Bin { name, particle }),
        }
    }

    /// Adds a bin whose name no other bin has.
    pub fn push(&mut self, bin: Bin<'a>) {
        if let Some(positions) = self.positions.get_mut() {
            positions.entry(bin.name).or_insert(self.bins.len());
        }
        self.bins.push(bin);
    }

    /// Removes bin `name`; the last bin takes its place.
    pub fn remove(&mut self, name: &[u8]) {
        let Some(position) = self.position(name) else { return };
        self.bins.swap_remove(position);
        if let Some(positions) = self.positions.get_mut() {
            positions.remove(name);
            if let Some(moved) = self.bins.get(position) {
                positions.insert(moved.name, position);
            }
        }
    }

    /// Price of a bin lookup.
    #[must_use]
    pub fn lookup_steps(&self) -> u64 {
        lookup_steps(self.bins.len())
    }

    /// Removes all bins.
    pub fn clear(&mut self) {
        self.bins.clear();
        self.positions.take();
    }

    /// Number of bins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bins.len()
    }

    /// Whether there are no bins.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// Size of the values that are neither in the stored record nor in the request, in bytes.
    #[must_use]
    pub fn made_size(&self) -> usize {
        let made = |bin: &Bin<'_>| match &bin.particle {
            Particle::Bytes(_, Cow::Owned(bytes)) => bytes.len(),
            _ => 0,
        };
        self.bins.iter().map(made).sum()
    }

    /// The bins in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Bin<'a>> {
        self.bins.iter()
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
    use proptest::prelude::*;

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

    /// Same as [`Bins`], searched from the front.
    #[derive(Default)]
    struct Model(Vec<(Vec<u8>, i64)>);

    impl Model {
        fn position(&self, name: &[u8]) -> Option<usize> {
            self.0.iter().position(|(other, _)| other == name)
        }
    }

    proptest! {
        #[test]
        fn many_bins_are_found_and_keep_their_order(
            changes in prop::collection::vec((0usize..400, 0u8..10), 0..1200),
        ) {
            let names: Vec<Vec<u8>> = (0..400).map(|n| format!("name {n}").into_bytes()).collect();
            let (mut bins, mut model) = (Bins::new(), Model::default());
            for (value, (name, kind)) in changes.into_iter().enumerate() {
                let (name, value) = (&names[name], value as i64);
                let position = model.position(name);
                match kind {
                    0 if value % 64 == 0 => {
                        bins.clear();
                        model.0.clear();
                    }
                    0..=2 => {
                        bins.remove(name);
                        position.map(|position| model.0.swap_remove(position));
                    }
                    _ => {
                        bins.set(name, Particle::Integer(value));
                        match position {
                            Some(position) => model.0[position].1 = value,
                            None => model.0.push((name.clone(), value)),
                        }
                    }
                }
                let expected = model.position(name).map(|position| Particle::Integer(model.0[position].1));
                prop_assert_eq!(bins.get(name), expected.as_ref());
                prop_assert_eq!(bins.get_mut(name).map(|particle| particle.clone()), expected);
            }
            let found: Vec<_> = bins.iter().map(|bin| (bin.name.to_vec(), bin.particle.clone())).collect();
            let expected: Vec<_> =
                model.0.into_iter().map(|(name, value)| (name, Particle::Integer(value))).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn each_of_many_bins_is_looked_up_in_little_time() {
        let names: Vec<Vec<u8>> = (0..BIN_COUNT_MAX).map(|n| format!("bin {n}").into_bytes()).collect();
        let mut bins = Bins::new();
        let start = std::time::Instant::now();
        for (value, name) in names.iter().enumerate() {
            bins.set(name, Particle::Integer(value as i64));
        }
        for (value, name) in names.iter().enumerate() {
            assert_eq!(bins.get(name), Some(&Particle::Integer(value as i64)));
        }
        for name in &names {
            bins.remove(name);
        }
        assert!(bins.is_empty());
        // A search through all bins each time would take several seconds.
        assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name(b"").is_ok());
        assert!(check_name(&[b'x'; 15]).is_ok());
        assert_eq!(check_name(&[b'x'; 16]), Err(ResultCode::BinName));
        assert_eq!(check_name(b"a\0b"), Err(ResultCode::BinName));
    }
}
