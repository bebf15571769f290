//! The stored form of a sketch.
//!
//! ```text
//! offset  size  content
//!      0     1  flags, 0
//!      1     1  index bits n: there are 2ⁿ registers
//!      2     1  minhash bits m
//!      3     8  estimated count, little-endian, or 0 if it is not known
//!     11        registers of 6 + m bits each, packed from the most significant bit of each byte on: the rank of the
//!               largest hash that the register has seen, then m bits of that hash
//! ```

use std::borrow::Cow;

/// Bytes before the registers.
pub(super) const HEADER_SIZE: usize = 11;
/// Bits of the rank in a register.
pub(super) const RANK_BITS: u32 = 6;
const CACHE_START: usize = 3;

/// The size of a sketch, and the contents of its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SketchShape {
    /// [`SketchShape::is_index_bits`]
    pub(super) index_bits: u8,
    /// [`SketchShape::is_minhash_bits`]
    pub(super) minhash_bits: u8,
}

impl SketchShape {
    pub(super) const fn is_index_bits(bits: u64) -> bool {
        matches!(bits, 4..=16)
    }

    pub(super) const fn is_minhash_bits(bits: u64) -> bool {
        matches!(bits, 0 | 4..=51)
    }

    /// Whether one hash is long enough for both.
    pub(super) const fn fits_hash(self) -> bool {
        self.index_bits as u32 + self.minhash_bits as u32 <= 64
    }

    pub(super) const fn register_count(self) -> usize {
        1 << self.index_bits
    }

    pub(super) const fn register_bits(self) -> u32 {
        RANK_BITS + self.minhash_bits as u32
    }

    /// Bytes of the sketch.
    pub(super) const fn size(self) -> usize {
        // There are at least 16 registers, so the sum is a whole number of bytes.
        HEADER_SIZE + self.register_count() * self.register_bits() as usize / 8
    }

    /// The shape that all of `sketches` can be reduced to. Minhash bits are dropped unless all sketches have the same
    /// number.
    pub(super) fn common(sketches: &[Sketch<'_>]) -> Self {
        let mut shapes = sketches.iter().map(|sketch| sketch.shape);
        let first = shapes.next().unwrap_or(SketchShape { index_bits: 4, minhash_bits: 0 });
        shapes.fold(first, |common, shape| SketchShape {
            index_bits: common.index_bits.min(shape.index_bits),
            minhash_bits: if common.minhash_bits == shape.minhash_bits { shape.minhash_bits } else { 0 },
        })
    }

    /// The register and the trace of an element with this hash.
    pub(super) const fn trace(self, [place, rank]: [u64; 2]) -> (usize, u64) {
        let index = place as usize & (self.register_count() - 1);
        let minhash = place >> self.index_bits & ((1 << self.minhash_bits) - 1);
        (index, (rank.trailing_zeros() as u64 + 1) << self.minhash_bits | minhash)
    }
}

/// A sketch in the bytes of a bin or a request. The number of bytes is right for its shape.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sketch<'a> {
    pub(super) shape: SketchShape,
    bytes: &'a [u8],
}

impl<'a> Sketch<'a> {
    /// The sketch in `bytes`, if they are a sketch. Does not check that one hash is long enough for its
    /// shape.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [0, index_bits, minhash_bits, ..] = *bytes else { return None };
        let shape = SketchShape { index_bits, minhash_bits };
        let is_valid = SketchShape::is_index_bits(index_bits.into())
            && SketchShape::is_minhash_bits(minhash_bits.into());
        (is_valid && bytes.len() == shape.size()).then_some(Sketch { shape, bytes })
    }

    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The estimated count, if it is known.
    pub(super) fn cached_count(&self) -> Option<u64> {
        let cache = self.bytes.get(CACHE_START..)?.first_chunk()?;
        Some(u64::from_le_bytes(*cache)).filter(|&count| count != 0)
    }

    pub(super) fn register(&self, index: usize) -> u64 {
        let bits = self.shape.register_bits();
        window(self.bytes, index, bits).map_or(0, |(_, shift, word)| word >> shift & low_bits(bits))
    }

    /// Calls `f` with the number and the value of each register in order.
    #[inline]
    pub(super) fn for_each_register(&self, mut f: impl FnMut(usize, u64)) {
        if self.shape.minhash_bits == 0 {
            let (triples, _) = self.bytes.get(HEADER_SIZE..).unwrap_or_default().as_chunks::<3>();
            for (index, &[a, b, c]) in triples.iter().enumerate() {
                let four = u64::from(a) << 16 | u64::from(b) << 8 | u64::from(c);
                for at in 0..4 {
                    f(4 * index + at, four >> (18 - 6 * at) & 0x3f);
                }
            }
        } else {
            for index in 0..self.shape.register_count() {
                f(index, self.register(index));
            }
        }
    }

    /// Whether the first registers hold data. As many of their bytes are checked as there are registers; with
    /// minhash bits these are not all.
    pub(super) fn has_data(&self) -> bool {
        let end = HEADER_SIZE + self.shape.register_count();
        self.bytes.get(HEADER_SIZE..end).unwrap_or_default().iter().any(|&byte| byte != 0)
    }
}

/// The 8 bytes of a sketch that contain register `index` of `bits` bits: their offset, the distance from the
/// end of the register to their end, and their value.
#[inline]
fn window(bytes: &[u8], index: usize, bits: u32) -> Option<(usize, u32, u64)> {
    let first_bit = index * bits as usize;
    let at = (HEADER_SIZE + first_bit / 8).min(bytes.len() - 8);
    let word = u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
    let end_bit = HEADER_SIZE * 8 + first_bit + bits as usize;
    Some((at, (at * 8 + 64 - end_bit) as u32, word))
}

const fn low_bits(count: u32) -> u64 {
    (1 << count) - 1
}

/// A sketch to which elements are added. The first change copies it.
pub(super) struct Filling<'a> {
    shape: SketchShape,
    bytes: Cow<'a, [u8]>,
    /// Number of elements that changed the sketch.
    pub(super) added: u64,
}

impl<'a> Filling<'a> {
    /// Starts from `sketch`.
    pub(super) const fn of(sketch: Sketch<'a>) -> Self {
        Filling { shape: sketch.shape, bytes: Cow::Borrowed(sketch.bytes), added: 0 }
    }

    /// Starts from an empty sketch.
    pub(super) fn empty(shape: SketchShape) -> Self {
        Filling { shape, bytes: Cow::Owned(empty(shape)), added: 0 }
    }

    /// Adds the element of this hash.
    pub(super) fn add(&mut self, hash: [u64; 2]) {
        let (index, trace) = self.shape.trace(hash);
        if (Sketch { shape: self.shape, bytes: &self.bytes }).register(index) >= trace {
            return;
        }
        self.added += 1;
        let bits = self.shape.register_bits();
        if let Some((at, shift, word)) = window(&self.bytes, index, bits) {
            // A rank with too many bits is truncated.
            let mask = low_bits(bits);
            let word = word & !(mask << shift) | (trace & mask) << shift;
            let bytes = self.bytes.to_mut();
            if let Some(target) = bytes.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
                *target = word.to_be_bytes();
            }
            set_cached_count(bytes, 0);
        }
    }

    /// The sketch, if it has changed.
    pub(super) fn changed(self) -> Option<Vec<u8>> {
        match self.bytes {
            Cow::Borrowed(_) => None,
            Cow::Owned(bytes) => Some(bytes),
        }
    }
}

/// A sketch without elements.
pub(super) fn empty(shape: SketchShape) -> Vec<u8> {
    let mut bytes = vec![0; shape.size()];
    if let Some([_, index_bits, minhash_bits, ..]) = bytes.first_chunk_mut::<HEADER_SIZE>() {
        (*index_bits, *minhash_bits) = (shape.index_bits, shape.minhash_bits);
    }
    bytes
}

/// Stores the estimated count in a sketch.
pub(super) fn set_cached_count(sketch: &mut [u8], count: u64) {
    if let Some(cache) = sketch.get_mut(CACHE_START..).and_then(|bytes| bytes.first_chunk_mut()) {
        *cache = count.to_le_bytes();
    }
}

/// Merged registers of several sketches, unpacked.
pub(super) struct Registers {
    pub(super) shape: SketchShape,
    values: Vec<u64>,
}

impl Registers {
    /// The largest trace in each register of `sketches`, reduced to `shape`, which is no larger than theirs.
    pub(super) fn union(shape: SketchShape, sketches: &[Sketch<'_>]) -> Self {
        let mut values = vec![0; shape.register_count()];
        for sketch in sketches {
            // Minhash bits are either all kept or all dropped.
            let dropped = sketch.shape.minhash_bits - shape.minhash_bits.min(sketch.shape.minhash_bits);
            sketch.for_each_register(|index, value| {
                let index = index & (shape.register_count() - 1);
                if let Some(slot) = values.get_mut(index) {
                    *slot = u64::max(*slot, value >> dropped);
                }
            });
        }
        Registers { shape, values }
    }

    /// Keeps the traces that `sketch` has too. A larger sketch has them only if all registers that are merged
    /// into one agree.
    pub(super) fn intersect(&mut self, sketch: &Sketch<'_>) {
        let mask = self.shape.register_count() - 1;
        sketch.for_each_register(|index, value| {
            if let Some(slot) = self.values.get_mut(index & mask)
                && *slot != value
            {
                *slot = 0;
            }
        });
    }

    /// Number of registers that hold a trace.
    pub(super) fn used_count(&self) -> usize {
        self.values.iter().filter(|&&value| value != 0).count()
    }

    pub(super) fn for_each_rank(&self, mut f: impl FnMut(u64)) {
        for value in &self.values {
            f(value >> self.shape.minhash_bits);
        }
    }

    /// The sketch of these registers.
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut bytes = empty(self.shape);
        bytes.truncate(HEADER_SIZE);
        bytes.reserve_exact(self.shape.size() - HEADER_SIZE);
        let bits = self.shape.register_bits();
        // Fewer than 8 bits are pending, and a register has at most 57.
        let (mut pending, mut pending_bits) = (0u64, 0);
        for value in &self.values {
            pending = pending << bits | value;
            pending_bits += bits;
            while pending_bits >= 8 {
                pending_bits -= 8;
                bytes.push((pending >> pending_bits) as u8);
            }
        }
        bytes
    }
}
