//! Short queries as load: for the records of some partitions, or for those of a range of an index. Each request is a copy of
//! one frame in which it sets the partitions or the range.

use super::object_spec::{ObjectSpec, ValueSpec, integer_range};
use super::particle_type;
use super::request::{FIELD_PARTITIONS, Header, PARTITION_COUNT, Target, Template, info};
use super::workload::Asked;
use crate::load::random::Random;

const FIELD_INDEX_RANGE: u8 = 22;
/// Bytes of each bound of a range: its size, and the number.
const BOUND_SIZE: usize = 12;

/// Makes queries.
#[derive(Clone, Debug)]
pub struct Queries {
    bytes: Vec<u8>,
    /// Where the numbers of the partitions are.
    partitions_at: usize,
    partition_count: u16,
    range: Option<Range>,
}

/// A range of numbers of a bin that each request chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    /// Where its bounds are in a request.
    at: usize,
    /// The lowest number that it begins with, and how many there are for it to begin with.
    low: u64,
    starts: u64,
    /// Its numbers less one.
    span: u64,
}

impl Queries {
    /// Queries for what `asked` says of records of `target`, whose first bin is called `bin` and made as `spec` says. The
    /// server may give one up after `timeout_ms`, 0 for its default.
    ///
    /// # Errors
    /// A sentence for the user when the first bin is no integer, and a range of it is asked for.
    pub fn new(
        asked: Asked,
        target: Target<'_>,
        (bin, spec): (&str, &ObjectSpec),
        timeout_ms: u32,
    ) -> Result<Self, String> {
        let header = Header {
            info1: info::INFO1_READ | info::INFO1_GET_ALL | info::INFO1_SHORT_QUERY,
            info3: info::INFO3_PARTITION_DONE,
            timeout_ms,
            ..Header::default()
        };
        let mut template = Template::of_set(header, target);
        let partition_count = match asked {
            Asked::Partitions(count) => count.min(PARTITION_COUNT),
            Asked::Range { .. } => PARTITION_COUNT,
        };
        let partitions_at = template.field(FIELD_PARTITIONS, &vec![0; usize::from(partition_count) * 2]);
        let range = match asked {
            Asked::Partitions(_) => None,
            Asked::Range { share_pct } => {
                let Some(ValueSpec::Integer(bytes)) = spec.bins.first() else {
                    return Err("workload QI needs I1 to I8 as the first bin of the object spec".to_owned());
                };
                let mut value = vec![1, bin.len() as u8];
                value.extend_from_slice(bin.as_bytes());
                value.push(particle_type::INTEGER);
                let before_bounds = value.len();
                value.resize(before_bounds + 2 * BOUND_SIZE, 0);
                let at = template.field(FIELD_INDEX_RANGE, &value) + before_bounds;
                Some(Range::of_share(at, *bytes, share_pct))
            }
        };
        Ok(Queries { bytes: template.into_bytes(), partitions_at, partition_count, range })
    }

    /// Appends a query to `out`.
    pub fn append(&self, random: &mut Random, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let request = &mut out[start..];
        let first = random.below(u64::from(PARTITION_COUNT)) as u16;
        let places = request[self.partitions_at..].chunks_exact_mut(2);
        for (at, place) in (0..self.partition_count).zip(places) {
            place.copy_from_slice(&((first + at) % PARTITION_COUNT).to_le_bytes());
        }
        if let Some(range) = self.range {
            let low = range.low + random.below(range.starts);
            let places = request[range.at..].chunks_exact_mut(BOUND_SIZE);
            for (bound, place) in [low, low + range.span].into_iter().zip(places) {
                place[..4].copy_from_slice(&8u32.to_be_bytes());
                place[4..].copy_from_slice(&bound.to_be_bytes());
            }
        }
    }
}

impl Range {
    /// So many percent of the numbers that take `bytes` bytes.
    fn of_share(at: usize, bytes: u8, share_pct: f64) -> Self {
        let (low, high) = integer_range(bytes);
        // What is larger is negative to the server.
        let high = high.min(i64::MAX as u64);
        let count = (high - low).saturating_add(1);
        let wanted = ((count as f64 * share_pct / 100.0) as u64).clamp(1, count);
        Range { at, low, starts: count - wanted + 1, span: wanted - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'static> = Target { namespace: "test", set: "s", send_key: true };

    fn request(asked: Asked, spec: ValueSpec) -> Vec<u8> {
        let spec = ObjectSpec { bins: vec![spec] };
        let queries = Queries::new(asked, TARGET, ("n", &spec), 500).unwrap();
        let mut out = b"before".to_vec();
        queries.append(&mut Random::new(1), &mut out);
        out.split_off(6)
    }

    #[test]
    fn partitions_are_named_one_after_the_other() {
        let request = request(Asked::Partitions(3), ValueSpec::Bool);
        assert_eq!(u64::from_be_bytes(request[..8].try_into().unwrap()) & 0xFFFF, request.len() as u64 - 8);
        let message = &request[8..];
        assert_eq!((message[1], message[3], &message[14..22]), (7, 4, &[0, 0, 1, 0xF4, 0, 3, 0, 0][..]));
        let numbers: Vec<u16> = request[request.len() - 6..]
            .chunks(2)
            .map(|number| u16::from_le_bytes(number.try_into().unwrap()))
            .collect();
        assert!(numbers.windows(2).all(|two| (two[0] + 1) % PARTITION_COUNT == two[1]), "{numbers:?}");
    }

    #[test]
    fn a_range_is_a_share_of_what_there_is() {
        let request = request(Asked::Range { share_pct: 10.0 }, ValueSpec::Integer(2));
        let tail = &request[request.len() - 29..];
        assert_eq!(&tail[..5], [22, 1, 1, b'n', particle_type::INTEGER]);
        let bound = |at: usize| u64::from_be_bytes(tail[at + 4..at + 12].try_into().unwrap());
        let (low, high) = (bound(5), bound(17));
        assert!(low >= 256 && high <= 65_535 && high - low == 6_527, "{low} to {high}");
        let all = Range::of_share(0, 8, 100.0);
        assert_eq!((all.low, all.starts, all.low + all.span), (1 << 56, 1, i64::MAX as u64));
        let spec = ObjectSpec { bins: vec![ValueSpec::Bool] };
        assert!(Queries::new(Asked::Range { share_pct: 1.0 }, TARGET, ("n", &spec), 0).is_err());
    }
}
