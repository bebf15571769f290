//! The total order of values.
//!
//! The kind counts first, in the order of [`Kind`]. Integers and doubles are compared by value (a NaN equals
//! every double), raw values by their bytes with a prefix before longer values, lists element by element with
//! a prefix first, maps by their number of pairs and then pair by pair in their stored order. A wildcard ends
//! the comparison: everything before it was equal, so the values are equal.

use std::cmp::Ordering;

use super::{Extension, Head, Kind, Meter, Reader, SEARCH, is_extension};

/// Bit of a map's flags: the pairs are in the order of their keys.
const MAP_IS_ORDERED: u8 = 1;

/// Compares the value at the start of `left` with that at the start of `right`; `None` if either is invalid
/// in the part that was read.
#[inline]
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Option<Ordering> {
    compare_metered(left, right, &())
}

/// Same as [`compare`], but draws on a meter for long work; `None` also if the meter is exhausted. Small integers and
/// short texts draw nothing.
#[inline]
#[must_use]
pub fn compare_metered(left: &[u8], right: &[u8], meter: &impl Meter) -> Option<Ordering> {
    match (left, right) {
        ([a @ 0..=0x7f, ..], [b @ 0..=0x7f, ..]) => return Some(a.cmp(b)),
        ([0xcd, a0, a1, ..], [0xcd, b0, b1, ..]) => return Some([a0, a1].cmp(&[b0, b1])),
        ([a @ 0xa1..=0xbf, a_rest @ ..], [b @ 0xa1..=0xbf, b_rest @ ..])
            if a_rest.first() == b_rest.first() =>
        {
            let (a, b) = (usize::from(a & 0x1f), usize::from(b & 0x1f));
            return Some(a_rest.get(..a)?.cmp(b_rest.get(..b)?));
        }
        _ => {}
    }
    compare_any(&mut Reader::new(left), &mut Reader::new(right), &mut false, meter)
}

/// Same as [`compare`], and also returns whether it met a map whose pairs have no order. The result for such
/// a map depends on the current order of its pairs, so a caller may reject it.
#[must_use]
pub fn compare_ordered(left: &[u8], right: &[u8]) -> Option<(Ordering, bool)> {
    compare_ordered_metered(left, right, &())
}

/// Same as [`compare_ordered`], but draws on a meter; `None` also if that is exhausted.
#[must_use]
pub fn compare_ordered_metered(left: &[u8], right: &[u8], meter: &impl Meter) -> Option<(Ordering, bool)> {
    let mut has_unordered_map = false;
    let order = compare_any(&mut Reader::new(left), &mut Reader::new(right), &mut has_unordered_map, meter)?;
    Some((order, has_unordered_map))
}

/// A value to be compared with many others; it is parsed once.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    bytes: &'a [u8],
    sought: Sought<'a>,
}

/// The part of a value that can be compared quickly.
#[derive(Clone, Copy, Debug)]
enum Sought<'a> {
    Unsigned(u64),
    Raw(&'a [u8]),
    /// Any other scalar value, which is all in its head.
    Scalar(Head<'a>),
    /// A container or wildcard, or no value.
    Other,
}

impl<'a> Probe<'a> {
    /// The value at the start of `bytes`.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let sought = match Reader::new(bytes).head() {
            Some(Head::Unsigned(value)) => Sought::Unsigned(value),
            Some(Head::Raw(raw)) => Sought::Raw(raw),
            Some(Head::List(_) | Head::Map(_)) | None => Sought::Other,
            Some(head) if is_wildcard(&head) => Sought::Other,
            Some(head) => Sought::Scalar(head),
        };
        Self { bytes, sought }
    }

    /// Compares the value with that at the start of `other`, as [`compare`] does.
    #[inline]
    #[must_use]
    pub fn compare(&self, other: &[u8]) -> Option<Ordering> {
        self.compare_metered(other, &())
    }

    /// Same as [`compare`](Self::compare), but draws on a meter for long work; `None` also if that is exhausted.
    #[inline]
    #[must_use]
    pub fn compare_metered(&self, other: &[u8], meter: &impl Meter) -> Option<Ordering> {
        // Integers and short raw values of the same kind are compared without parsing heads.
        match (self.sought, other) {
            (Sought::Unsigned(value), [byte @ 0..=0x7f, ..]) => Some(value.cmp(&u64::from(*byte))),
            (Sought::Unsigned(value), [0xcd, a, b, ..]) => {
                Some(value.cmp(&u64::from(u16::from_be_bytes([*a, *b]))))
            }
            (Sought::Raw(value), [marker @ 0xa1..=0xbf, rest @ ..]) if rest.first() == value.first() => {
                Some(value.cmp(rest.get(..usize::from(marker & 0x1f))?))
            }
            _ => self.compare_any(other, meter),
        }
    }

    #[inline(never)]
    fn compare_any(&self, other: &[u8], meter: &impl Meter) -> Option<Ordering> {
        let scalar = match self.sought {
            Sought::Unsigned(value) => Head::Unsigned(value),
            Sought::Raw(raw) => Head::Raw(raw),
            Sought::Scalar(head) => head,
            Sought::Other => return compare_metered(self.bytes, other, meter),
        };
        let head = Reader::new(other).head()?;
        meter.draw(steps(&scalar, &head))?;
        Some(if is_wildcard(&head) { Ordering::Equal } else { compare_heads(&scalar, &head) })
    }
}

#[inline]
fn is_wildcard(head: &Head<'_>) -> bool {
    matches!(head, Head::Extension(_)) && head.kind() == Kind::Wildcard
}

/// Compares two values by their heads. This is complete, except that two lists, or two maps, count as equal.
/// A wildcard must not occur.
#[inline]
#[must_use]
pub fn compare_heads(left: &Head<'_>, right: &Head<'_>) -> Ordering {
    match (left, right) {
        (Head::Negative(a), Head::Negative(b)) => a.cmp(b),
        (Head::Unsigned(a), Head::Unsigned(b)) => a.cmp(b),
        (Head::Double(a), Head::Double(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Head::Raw(a), Head::Raw(b)) if a.first() == b.first() => a.cmp(b),
        (Head::Raw(a), Head::Raw(b)) => left.kind().cmp(&right.kind()).then_with(|| a.cmp(b)),
        (Head::Extension(a), Head::Extension(b)) => {
            left.kind().cmp(&right.kind()).then_with(|| a.data.cmp(b.data))
        }
        _ => left.kind().cmp(&right.kind()),
    }
}

#[inline(never)]
fn compare_any(
    left: &mut Reader<'_>,
    right: &mut Reader<'_>,
    has_unordered_map: &mut bool,
    meter: &impl Meter,
) -> Option<Ordering> {
    // Number of pairs of values still to be compared, and the result if all of them are equal.
    let mut pending = 1u64;
    let mut otherwise = Ordering::Equal;
    while pending != 0 {
        pending -= 1;
        let (left_head, right_head) = (left.head()?, right.head()?);
        meter.draw(steps(&left_head, &right_head))?;
        *has_unordered_map |= is_unordered_map(&left_head, left) || is_unordered_map(&right_head, right);
        let order = match (left_head, right_head) {
            (Head::List(a), Head::List(b)) => {
                let (a, b) = (elements(left, a, 1, meter)?, elements(right, b, 1, meter)?);
                if a == b {
                    pending += u64::from(a);
                } else {
                    // The rest of the outer lists is no longer relevant.
                    pending = u64::from(a.min(b));
                    otherwise = a.cmp(&b);
                }
                continue;
            }
            (Head::Map(a), Head::Map(b)) => {
                let (a, b) = (elements(left, a, 2, meter)?, elements(right, b, 2, meter)?);
                pending += 2 * u64::from(a);
                a.cmp(&b)
            }
            (a, b) if is_wildcard(&a) || is_wildcard(&b) => {
                return Some(Ordering::Equal);
            }
            (a, b) => compare_heads(&a, &b),
        };
        if order != Ordering::Equal {
            return Some(order);
        }
    }
    Some(otherwise)
}

/// Number of steps for a comparison of two heads.
#[inline]
fn steps(left: &Head<'_>, right: &Head<'_>) -> usize {
    /// Number of bytes compared in a step.
    const BYTES_PER_STEP: usize = 16;
    match (left, right) {
        (Head::Raw(left), Head::Raw(right)) => 8 + left.len().min(right.len()) / BYTES_PER_STEP,
        (Head::Extension(left), Head::Extension(right)) => {
            8 + left.data.len().min(right.data.len()) / BYTES_PER_STEP
        }
        _ => 8,
    }
}

/// Whether `head`, which was just read, belongs to a nonempty map that is not described as ordered.
#[inline]
fn is_unordered_map(head: &Head<'_>, reader: &Reader<'_>) -> bool {
    if !matches!(head, Head::Map(1..)) {
        return false;
    }
    let mut ahead = *reader;
    !matches!(ahead.extension(), Some(Extension { kind, .. }) if kind & MAP_IS_ORDERED != 0)
}

/// The number of elements of the container whose header was just read, without the extension that describes
/// it (one value of a list, two of a map), which is skipped.
#[inline]
fn elements(reader: &mut Reader<'_>, count: u32, description: u32, meter: &impl Meter) -> Option<u32> {
    if count == 0 || !is_extension(reader.marker()?) {
        return Some(count);
    }
    let mut ahead = *reader;
    if ahead.extension()?.kind == SEARCH {
        return Some(count);
    }
    reader.skip_metered(description, meter)?;
    Some(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_in_their_order() {
        let ascending: [&[u8]; 14] = [
            &[0xc0],
            &[0xc2],
            &[0xc3],
            &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0xff],
            &[0x00],
            &[0xcf, 0xff, 255, 255, 255, 255, 255, 255, 255],
            &[0xa1, 3],
            &[0x90],
            &[0x80],
            &[0xa1, 4],
            &[0xca, 0, 0, 0, 0],
            &[0xa1, 23],
            &[0xd4, 0xff, 1],
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), Some(i.cmp(&j)), "{a:x?} {b:x?}");
            }
        }
    }

    #[test]
    fn lists_are_lexicographic_and_maps_go_by_size_first() {
        assert_eq!(compare(&[0x91, 2], &[0x92, 1, 1]), Some(Ordering::Greater));
        assert_eq!(compare(&[0x91, 1], &[0x92, 1, 1]), Some(Ordering::Less));
        assert_eq!(compare(&[0x92, 0x91, 1, 9], &[0x92, 0x92, 1, 2, 0]), Some(Ordering::Less));
        assert_eq!(compare(&[0x81, 9, 9], &[0x82, 1, 1, 2, 2]), Some(Ordering::Less));
        assert_eq!(compare(&[0x81, 1, 5], &[0x81, 1, 4]), Some(Ordering::Greater));
        assert_eq!(
            compare(&[0x92, 0xc7, 0, 1, 7], &[0x91, 7]),
            Some(Ordering::Equal),
            "flags are no element"
        );
        assert_eq!(compare(&[0x82, 0xc7, 0, 1, 0xc0, 1, 2], &[0x81, 1, 2]), Some(Ordering::Equal));
    }

    #[test]
    fn a_wildcard_equals_all_that_follows_and_infinity_exceeds_all() {
        let wildcard = [0xd4, 0xff, 0];
        assert_eq!(compare(&wildcard, &[0x90]), Some(Ordering::Equal));
        assert_eq!(compare(&[0x92, 1, 0xd4, 0xff, 0], &[0x92, 1, 0xc3]), Some(Ordering::Equal));
        assert_eq!(compare(&[0x92, 1, 0xd4, 0xff, 0], &[0x93, 1, 2, 3]), Some(Ordering::Equal));
        assert_eq!(compare(&[0x92, 1, 0xd4, 0xff, 0], &[0x91, 1]), Some(Ordering::Greater));
        assert_eq!(compare(&[0x92, 2, 0xd4, 0xff, 0], &[0x92, 1, 1]), Some(Ordering::Greater));
        assert_eq!(compare(&[0x91, 0xd4, 0xff, 1], &[0x91, 0xa1, 23]), Some(Ordering::Greater));
    }

    #[test]
    fn unordered_maps_are_noted_if_they_are_met() {
        let ordered = [0x82, 0xc7, 0, 1, 0xc0, 1, 2];
        assert_eq!(compare_ordered(&ordered, &ordered), Some((Ordering::Equal, false)));
        assert_eq!(compare_ordered(&[0x80], &ordered), Some((Ordering::Less, false)));
        assert_eq!(compare_ordered(&[0x81, 1, 2], &ordered), Some((Ordering::Equal, true)));
        assert_eq!(compare_ordered(&[5], &[0x81, 1, 2]), Some((Ordering::Less, true)));
        assert_eq!(compare_ordered(&[0x82, 0xc7, 0, 2, 0xc0, 1, 2], &[5]), Some((Ordering::Greater, true)));
        assert_eq!(
            compare_ordered(&[0x92, 1, 0x81, 1, 2], &[0x92, 2, 0x81, 1, 2]),
            Some((Ordering::Less, false)),
            "the maps are not reached"
        );
    }

    #[test]
    fn doubles_compare_by_value_whatever_their_width() {
        let single = [0xca, 0x3f, 0x80, 0, 0];
        let double = [0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0];
        let nan = [0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0];
        assert_eq!(compare(&single, &double), Some(Ordering::Equal));
        assert_eq!(compare(&nan, &double), Some(Ordering::Equal));
    }

    #[test]
    fn invalid_bytes_compare_as_nothing_and_depth_costs_nothing() {
        assert_eq!(compare(&[0xc1], &[0]), None);
        assert_eq!(compare(&[0x91], &[0x91, 1]), None);
        assert_eq!(compare(&[], &[]), None);
        let mut deep = vec![0x91; 1 << 20];
        deep.push(1);
        assert_eq!(compare(&deep, &deep), Some(Ordering::Equal));
    }
}
