//! Predicates of queries on an index: a range of integers, a string, a blob, or GeoJSON within a region or around a
//! point.
//!
//! ```text
//! field     ranges u8, always 1; size of the bin's name u8 and name; particle type u8; then
//! integer   8 as u32, lowest i64, 8 as u32, highest i64
//! others    size u32 and the value; what follows is not looked at
//! ```
//! Numbers are big-endian.

use std::ops::ControlFlow;

use proto::ResultCode;

use super::{BYTES_SIZE_MAX, Indexable, IndexedValue, Key, KeyType};
use crate::bins::BIN_NAME_SIZE_MAX;
use crate::budget::Budget;
use crate::geojson::{GeoSettings, Geometry};
use crate::particle::Particle;

/// Length limit (exclusive) of a GeoJSON text.
const GEOJSON_SIZE_MAX: usize = 1 << 20;

/// The condition on the values of an index.
#[derive(Clone, Debug)]
pub enum Predicate {
    /// Both ends are included.
    Integers {
        low: i64,
        high: i64,
    },
    String(Box<[u8]>),
    Blob(Box<[u8]>),
    Geo {
        geometry: Geometry,
        ranges: Vec<(Key, Key)>,
        strict: bool,
    },
}

impl Predicate {
    /// Parses the predicate in the field of a request, and the name of its bin.
    ///
    /// # Errors
    /// `Parameter` for an invalid field; `Timeout` when the budget is exhausted.
    pub fn parse<'f>(
        field: &'f [u8],
        geo: &GeoSettings,
        budget: &Budget<'_>,
    ) -> Result<(&'f [u8], Self), ResultCode> {
        let result = parse(field, geo, budget);
        budget.check(result.ok_or(ResultCode::Parameter))
    }

    /// The type of the values that the predicate applies to.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        match self {
            Self::Integers { .. } => KeyType::Numeric,
            Self::String(_) => KeyType::String,
            Self::Blob(_) => KeyType::Blob,
            Self::Geo { .. } => KeyType::Geo2DSphere,
        }
    }

    /// The ranges of keys that contain all matches, both ends included, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> Vec<(Key, Key)> {
        match self {
            Self::Integers { low, high } => vec![(Key(*low), Key(*high))],
            Self::String(bytes) | Self::Blob(bytes) => vec![(Key::of_bytes(bytes), Key::of_bytes(bytes))],
            Self::Geo { ranges, .. } => ranges.clone(),
        }
    }

    /// Whether the predicate selects one key, which a record has at most once.
    #[must_use]
    pub fn is_equality(&self) -> bool {
        match self {
            Self::Integers { low, high } => low == high,
            Self::String(_) | Self::Blob(_) => true,
            Self::Geo { .. } => false,
        }
    }

    /// Whether every key in the ranges matches, so that the record need not be read.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Integers { .. })
    }

    /// Number of cells of the region's covering; `None` unless the predicate is for a region.
    #[must_use]
    pub fn region_cell_count(&self) -> Option<usize> {
        match self {
            Self::Geo { geometry, ranges, .. } if geometry.is_region() => Some(ranges.len()),
            _ => None,
        }
    }

    /// Whether a record with `bin` has a matching value among those that `indexed` covers.
    ///
    /// # Errors
    /// `Timeout` when the budget is exhausted.
    pub fn matches(
        &self,
        indexed: &IndexedValue,
        bin: &Particle<'_>,
        budget: &Budget<'_>,
    ) -> Result<bool, ResultCode> {
        if self.key_type() != indexed.key_type {
            return Ok(false);
        }
        let mut matches = false;
        let visited = indexed.visit(bin, budget, &mut |found| {
            matches = self.matches_value(found, budget);
            if matches || budget.is_exhausted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match visited {
            ControlFlow::Break(result) => Err(result),
            ControlFlow::Continue(()) => budget.check(Ok(matches)),
        }
    }

    fn matches_value(&self, found: Indexable<'_>, budget: &Budget<'_>) -> bool {
        match (self, found) {
            (Self::Integers { low, high }, Indexable::Integer(value)) => (*low..=*high).contains(&value),
            (Self::String(wanted) | Self::Blob(wanted), Indexable::Bytes(bytes)) => **wanted == *bytes,
            (Self::Geo { geometry, strict, .. }, Indexable::StoredGeoJson(stored)) => {
                geometry.matches_stored(stored, *strict, budget)
            }
            (Self::Geo { geometry, strict, .. }, Indexable::GeoJson(json)) => {
                geometry.matches_json(json, *strict, budget)
            }
            _ => false,
        }
    }
}

fn parse<'f>(field: &'f [u8], geo: &GeoSettings, budget: &Budget<'_>) -> Option<(&'f [u8], Predicate)> {
    let (&[1, name_size], rest) = field.split_first_chunk()? else { return None };
    let name_size = usize::from(name_size);
    if name_size == 0 || name_size > BIN_NAME_SIZE_MAX {
        return None;
    }
    let (name, rest) = rest.split_at_checked(name_size)?;
    let (&particle_type, rest) = rest.split_first()?;
    let predicate = match KeyType::from_particle_type(particle_type)? {
        KeyType::Numeric => integers(rest)?,
        KeyType::String => Predicate::String(sized(rest, BYTES_SIZE_MAX)?.into()),
        KeyType::Blob => Predicate::Blob(sized(rest, BYTES_SIZE_MAX)?.into()),
        KeyType::Geo2DSphere => {
            let json = sized(rest, GEOJSON_SIZE_MAX).filter(|json| !json.is_empty())?;
            let geometry = Geometry::parse(json, geo.earth_radius_m, budget).ok()?;
            let ranges = geometry.query_ranges(&geo.covering, budget)?;
            let ranges =
                ranges.into_iter().map(|(low, high)| (Key::of_cell(low), Key::of_cell(high))).collect();
            Predicate::Geo { geometry, ranges, strict: geo.strict }
        }
    };
    Some((name, predicate))
}

fn integers(bytes: &[u8]) -> Option<Predicate> {
    let bytes = bytes.first_chunk::<24>()?;
    let end = |at: usize| -> Option<i64> {
        let (size, value) = bytes.get(at..at + 12)?.split_first_chunk::<4>()?;
        (u32::from_be_bytes(*size) == 8).then_some(i64::from_be_bytes(value.try_into().ok()?))
    };
    let (low, high) = (end(0)?, end(12)?);
    (low <= high).then_some(Predicate::Integers { low, high })
}

/// The value that follows its size, which must be less than `size_max`.
fn sized(bytes: &[u8], size_max: usize) -> Option<&[u8]> {
    let (size, rest) = bytes.split_first_chunk()?;
    let size = u32::from_be_bytes(*size) as usize;
    rest.get(..size).filter(|_| size < size_max)
}
