//! The bins of generated records: the `-o` option.
//!
//! ```text
//! spec   item { "," item }
//! item   [ count "*" ] type
//! type   b | I[1-8] | S<length> | B<length> | D | constant | "[" [ spec ] "]" | "{" [ pair { "," pair } ] "}"
//! pair   [ count "*" ] key ":" type         key is an I, S or B, or a constant integer or string
//! ```

use super::object_spec_parse;
use super::particle_type as types;

/// Deepest nesting of lists and maps in a spec.
pub const DEPTH_MAX: usize = 16;

/// Largest number of bins of a record.
pub const BINS_MAX: usize = 32_767;

/// Largest number of list elements or map entries at one place of a spec.
pub const COUNT_MAX: u32 = 1 << 20;

/// Longest string or blob in a spec, in bytes. Records are limited to 8 MiB anyway.
pub const LENGTH_MAX: u32 = 8 << 20;

/// Bins of a record in order.
#[derive(Clone, PartialEq, Debug)]
pub struct ObjectSpec {
    /// One entry for each bin, with counts expanded.
    pub bins: Vec<ValueSpec>,
}

/// The kinds of values.
#[derive(Clone, PartialEq, Debug)]
pub enum ValueSpec {
    /// A random bool.
    Bool,
    /// A random integer of this many bytes, 1 to 8.
    Integer(u8),
    /// This many random lower-case letters and digits.
    String(u32),
    /// This many random bytes.
    Blob(u32),
    /// A random double.
    Float,
    /// Always this bool.
    ConstantBool(bool),
    /// Always this integer.
    ConstantInteger(i64),
    /// Always this double.
    ConstantFloat(f64),
    /// Always this string.
    ConstantString(String),
    /// A list of such elements, each of which occurs a number of times.
    List(Vec<(u32, ValueSpec)>),
    /// A map with such entries, each of which occurs a number of times with different keys.
    Map(Vec<(u32, ValueSpec, ValueSpec)>),
}

impl ObjectSpec {
    /// Parses the text of `-o`.
    ///
    /// # Errors
    /// A sentence that quotes the invalid part.
    pub fn parse(text: &str) -> Result<Self, String> {
        object_spec_parse::parse(text)
    }

    /// Whether all values of the spec are always the same.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.bins.iter().all(ValueSpec::is_constant)
    }
}

impl ValueSpec {
    /// The particle type of the value as a bin.
    #[must_use]
    pub fn particle_type(&self) -> u8 {
        match self {
            ValueSpec::Bool | ValueSpec::ConstantBool(_) => types::BOOL,
            ValueSpec::Integer(_) | ValueSpec::ConstantInteger(_) => types::INTEGER,
            ValueSpec::Float | ValueSpec::ConstantFloat(_) => types::FLOAT,
            ValueSpec::String(_) | ValueSpec::ConstantString(_) => types::STRING,
            ValueSpec::Blob(_) => types::BLOB,
            ValueSpec::List(_) => types::LIST,
            ValueSpec::Map(_) => types::MAP,
        }
    }

    /// Length of the particle on the wire in bytes; `None` if it varies.
    #[must_use]
    pub fn particle_size(&self) -> Option<usize> {
        match self {
            ValueSpec::Bool | ValueSpec::ConstantBool(_) => Some(1),
            ValueSpec::Integer(_)
            | ValueSpec::ConstantInteger(_)
            | ValueSpec::Float
            | ValueSpec::ConstantFloat(_) => Some(8),
            ValueSpec::String(length) | ValueSpec::Blob(length) => Some(*length as usize),
            ValueSpec::ConstantString(text) => Some(text.len()),
            ValueSpec::List(_) | ValueSpec::Map(_) => None,
        }
    }

    fn is_constant(&self) -> bool {
        match self {
            ValueSpec::ConstantBool(_)
            | ValueSpec::ConstantInteger(_)
            | ValueSpec::ConstantFloat(_)
            | ValueSpec::ConstantString(_) => true,
            ValueSpec::List(elements) => elements.iter().all(|(_, element)| element.is_constant()),
            ValueSpec::Map(pairs) => {
                pairs.iter().all(|(_, key, value)| key.is_constant() && value.is_constant())
            }
            _ => false,
        }
    }

    /// Number of different values, at most `u64::MAX`. It decides whether a map can have that many keys.
    pub(super) fn variety(&self) -> u64 {
        match self {
            ValueSpec::Integer(bytes) => {
                let (low, high) = integer_range(*bytes);
                (high - low).saturating_add(1)
            }
            ValueSpec::String(length) => 36u64.saturating_pow(*length),
            ValueSpec::Blob(length) => 256u64.saturating_pow(*length),
            _ => 1,
        }
    }
}

/// Smallest and largest number of exactly `bytes` bytes, as unsigned numbers.
pub(super) fn integer_range(bytes: u8) -> (u64, u64) {
    let bits = u32::from(bytes.clamp(1, 8)) * 8;
    let low = if bits == 8 { 0 } else { 1u64 << (bits - 8) };
    (low, u64::MAX >> (64 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_take_as_many_bytes_as_asked_for() {
        assert_eq!(integer_range(1), (0, 255));
        assert_eq!(integer_range(2), (256, 65_535));
        assert_eq!(integer_range(4), (1 << 24, u64::from(u32::MAX)));
        assert_eq!(integer_range(8), (1 << 56, u64::MAX));
    }

    #[test]
    fn constants_are_known_as_such() {
        assert!(ObjectSpec::parse("1, \"x\", [true, 2.5], {1:2}").unwrap().is_constant());
        assert!(!ObjectSpec::parse("1, [S3]").unwrap().is_constant());
    }

    #[test]
    fn sizes_are_known_where_they_are_fixed() {
        let spec = ObjectSpec::parse("I1, S10, B100, D, b, [I1], \"four\"").unwrap();
        let sizes: Vec<_> = spec.bins.iter().map(ValueSpec::particle_size).collect();
        assert_eq!(sizes, [Some(8), Some(10), Some(100), Some(8), Some(1), None, Some(4)]);
    }
}
