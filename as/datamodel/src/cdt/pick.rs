//! The elements that an operation has selected, and the container without them.

use std::ops::Range;

use proto::ResultCode;
use smallvec::{SmallVec, smallvec};

use super::ContainerChange;
use super::container::Container;
use super::index::Edit;
use super::layout::Layout;
use super::result::{Integers, ResultValue, Want};

/// A set of positions.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    words: SmallVec<[u64; 8]>,
    total: u32,
}

impl Mask {
    /// An empty set of positions below `total`.
    pub(crate) fn new(total: u32) -> Self {
        Self { words: smallvec![0; (total as usize).div_ceil(64)], total }
    }

    pub(crate) fn set(&mut self, position: u32) {
        if position < self.total {
            self.words[(position / 64) as usize] |= 1 << (position % 64);
        }
    }

    pub(crate) fn set_all(&mut self, positions: impl IntoIterator<Item = u32>) {
        positions.into_iter().for_each(|position| self.set(position));
    }

    pub(crate) fn is_set(&self, position: u32) -> bool {
        self.words.get((position / 64) as usize).is_some_and(|word| word >> (position % 64) & 1 != 0)
    }

    /// All positions that are not in the set.
    #[must_use]
    pub(crate) fn inverted(mut self) -> Self {
        for word in &mut self.words {
            *word = !*word;
        }
        if let Some(last) = self.words.last_mut().filter(|_| !self.total.is_multiple_of(64)) {
            *last &= (1 << (self.total % 64)) - 1;
        }
        self
    }

    #[must_use]
    pub(crate) fn inverted_if(self, is_inverted: bool) -> Self {
        if is_inverted { self.inverted() } else { self }
    }

    pub(crate) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The positions, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip((0..).step_by(64)).flat_map(|(&word, base)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(base + bit)
            })
        })
    }

    /// The positions as an answer, counted in the direction of `want`.
    pub(crate) fn positions(&self, want: Want) -> ResultValue {
        let mut list = Integers::with_count(self.count());
        self.iter().for_each(|position| list.push(want.directed(position, self.total)));
        list.finish()
    }
}

/// Picked positions.
#[derive(Debug)]
pub(crate) enum Picked {
    Range {
        start: u32,
        count: u32,
    },
    /// An element whose bytes are known.
    One {
        position: u32,
        range: Range<usize>,
    },
    Mask(Mask),
}

impl Picked {
    pub(crate) const NOTHING: Self = Self::Range { start: 0, count: 0 };
}

/// The result of a selection: elements, and the answer about them.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) picked: Picked,
    pub(crate) answer: ResultValue,
    /// Whether a list keeps all its flags when it loses all its elements. Otherwise it keeps only the flag
    /// for order.
    pub(crate) keeps_flags: bool,
}

impl Selection {
    pub(crate) const fn new(picked: Picked, answer: ResultValue) -> Self {
        Self { picked, answer, keeps_flags: false }
    }

    pub(crate) const fn nothing(answer: ResultValue) -> Self {
        Self::new(Picked::NOTHING, answer)
    }
}

/// The container with `inserted` instead of the bytes that the edit removes.
///
/// # Errors
/// `Parameter` for a damaged container; `RecordTooBig`.
pub(crate) fn splice(
    container: &Container<'_>,
    edit: &Edit,
    inserted: &[&[u8]],
    is_top: bool,
) -> Result<ContainerChange, ResultCode> {
    let head = container.slice(0..edit.range.start)?;
    let tail = container.slice(edit.range.end..container.contents.len())?;
    let inserted_len: usize = inserted.iter().map(|part| part.len()).sum();
    let layout = Layout {
        shape: container.shape,
        flags: container.flags,
        count: container.count.saturating_sub(edit.removed).saturating_add(edit.inserted),
        contents_len: head.len() + inserted_len + tail.len(),
        is_top,
    };
    let mut out = layout.begin(container.budget)?;
    out.extend_from_slice(head);
    inserted.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(tail);
    layout.seal_changed(out, container, edit).map(ContainerChange::Replaced)
}

/// The container without the picked elements. It gets `emptied_flags` if no elements are left.
///
/// # Errors
/// `Parameter` for a container whose contents are not its elements.
pub(crate) fn remove(
    container: &Container<'_>,
    picked: &Picked,
    emptied_flags: u8,
    is_top: bool,
) -> Result<ContainerChange, ResultCode> {
    let removed = match picked {
        Picked::Range { count, .. } => *count,
        Picked::One { .. } => 1,
        Picked::Mask(mask) => mask.count(),
    };
    if removed == 0 {
        return Ok(ContainerChange::Kept);
    }
    let count = container.count.checked_sub(removed).ok_or(ResultCode::Parameter)?;
    if count == 0 {
        return Ok(ContainerChange::Replaced(Layout::empty(container.shape, emptied_flags, is_top)));
    }
    match picked {
        Picked::Range { start, count: removed } => {
            let range = container.range(*start, *removed)?;
            splice(container, &Edit { position: *start, removed: *removed, range, inserted: 0 }, &[], is_top)
        }
        Picked::One { position, range } => {
            let edit = Edit { position: *position, removed: 1, range: range.clone(), inserted: 0 };
            splice(container, &edit, &[], is_top)
        }
        Picked::Mask(mask) => {
            let offsets = container.offsets()?;
            container.budget.draw_for(4 * removed as usize)?;
            let removed_len: usize = mask.iter().map(|position| offsets.range(position, 1).len()).sum();
            let contents_len = container.contents.len().saturating_sub(removed_len);
            let layout =
                Layout { shape: container.shape, flags: container.flags, count, contents_len, is_top };
            let mut out = layout.begin(container.budget)?;
            let mut kept_from = 0;
            for position in mask.iter() {
                let range = offsets.range(position, 1);
                out.extend_from_slice(container.slice(kept_from..range.start)?);
                kept_from = range.end;
            }
            out.extend_from_slice(container.slice(kept_from..container.contents.len())?);
            layout.seal(out, container.budget).map(ContainerChange::Replaced)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_a_set() {
        for total in [0u32, 1, 63, 64, 65, 200] {
            let mut mask = Mask::new(total);
            mask.set_all((0..total + 9).step_by(3));
            let positions: Vec<u32> = (0..total).step_by(3).collect();
            assert_eq!(mask.iter().collect::<Vec<_>>(), positions);
            assert_eq!(mask.count() as usize, positions.len());
            let rest: Vec<u32> = (0..total).filter(|position| position % 3 != 0).collect();
            let inverted = mask.clone().inverted();
            assert_eq!(inverted.iter().collect::<Vec<_>>(), rest);
            assert!((0..total).all(|position| mask.is_set(position) != inverted.is_set(position)));
        }
    }
}
