//! Runs of bits inside bytes, read and rewritten 64 bits at a time.
//!
//! Bits are counted from the most significant bit of the first byte. A word is 64 consecutive bits of a run, the
//! first of them most significant.

/// Bits of a byte slice. Bits outside it read as zeros.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    bytes: &'a [u8],
    /// The first bit, counted from the start of `bytes`.
    start: usize,
    /// Number of bits; all of them are within `bytes`.
    len: usize,
}

impl<'a> Run<'a> {
    /// `len` bits of `bytes` from bit `start`, fewer if `bytes` ends before.
    pub(super) fn new(bytes: &'a [u8], start: usize, len: usize) -> Self {
        Run { bytes, start, len: len.min((bytes.len() * 8).saturating_sub(start)) }
    }

    /// The word that begins at bit `at` of the run; `at` may be negative.
    #[inline]
    pub(super) fn word(&self, at: isize) -> u64 {
        if at >= 0 && (at as usize) + 64 <= self.len {
            let bit = self.start + at as usize;
            let shift = bit % 8;
            if let Some((head, rest)) =
                self.bytes.get(bit / 8..).and_then(|bytes| bytes.split_first_chunk::<8>())
            {
                let head = u64::from_be_bytes(*head) << shift;
                let tail = rest.first().map_or(0, |&byte| u64::from(byte) << shift >> 8);
                return head | tail;
            }
        }
        self.word_at_edge(at)
    }

    /// Same as [`Run::word`], for words that are partly outside the bytes.
    #[cold]
    fn word_at_edge(&self, at: isize) -> u64 {
        let first = at.max(0);
        let end = at.saturating_add(64).min(self.len as isize);
        if first >= end {
            return 0;
        }
        let (start, count) = (self.start + first as usize, (end - first) as usize);
        let last_byte = (start + count).div_ceil(8);
        let bytes = self.bytes.get(start / 8..last_byte).unwrap_or_default();
        let gathered = bytes.iter().fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
        let bits = (gathered >> (last_byte * 8 - start - count)) as u64;
        bits << (64 - count) >> (first - at)
    }

    /// The words of the run in order; the last is padded with zeros.
    pub(super) fn words(self) -> impl Iterator<Item = u64> {
        (0..self.len).step_by(64).map(move |at| self.word(at as isize))
    }

    /// Number of 1 bits.
    pub(super) fn count_ones(self) -> u64 {
        self.words().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Position of the first bit that is `wanted`.
    pub(super) fn first(self, wanted: bool) -> Option<usize> {
        self.words().enumerate().find_map(|(index, word)| {
            let at = index * 64;
            let found = if wanted { word } else { !word & leading_ones(self.len - at) };
            (found != 0).then(|| at + found.leading_zeros() as usize)
        })
    }

    /// Position of the last bit that is `wanted`.
    pub(super) fn last(self, wanted: bool) -> Option<usize> {
        let mut end = self.len;
        while end != 0 {
            // The word's last bit is bit end - 1 of the run.
            let word = self.word(end as isize - 64);
            let found = if wanted { word } else { !word & !leading_ones(64usize.saturating_sub(end)) };
            if found != 0 {
                return Some(end - 1 - found.trailing_zeros() as usize);
            }
            end = end.saturating_sub(64);
        }
        None
    }

    /// The run as bytes; the last is padded with zeros.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len.div_ceil(64) * 8);
        for word in self.words() {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.truncate(self.len.div_ceil(8));
        bytes
    }
}

/// A word whose first `count` bits are 1.
#[inline]
fn leading_ones(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { !(u64::MAX >> count) }
}

/// Gives `len` bits of `bytes` from bit `start` (below 8) new values. `change` gets the position and the old
/// content of a word. The position is counted from the first of these bits; that of the first word is
/// negative if `start` is not zero. Only these bits of the result are used.
#[inline]
pub(super) fn rewrite(bytes: &mut [u8], start: usize, len: usize, mut change: impl FnMut(isize, u64) -> u64) {
    let mut merged = |index: usize, old: u64| {
        let at = index * 64;
        let outside =
            leading_ones(start.saturating_sub(at)) | !leading_ones((start + len).saturating_sub(at));
        let new = change(at as isize - start as isize, old);
        old & outside | new & !outside
    };
    let whole = bytes.len() / 8;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for (index, word) in words.iter_mut().enumerate() {
        *word = merged(index, u64::from_be_bytes(*word)).to_be_bytes();
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        let word = merged(whole, u64::from_be_bytes(word)).to_be_bytes();
        rest.copy_from_slice(&word[..rest.len()]);
    }
}
