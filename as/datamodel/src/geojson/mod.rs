//! GeoJSON values.
//!
//! The wire form and the stored form contain the client's text and the cells that contain the value, so that
//! indexes need not parse the text: one cell for a point, a covering for a region. Cells that a client sends
//! are ignored.
//! ```text
//! offset  size  content
//!      0     1  flags: bit 0 for a region
//!      1     2  number of cells
//!      3   8 n  cells
//!             …  JSON text
//! ```
//! Numbers are big-endian on the wire and little-endian in a record. A value inside a list or map has no
//! cells.

mod geometry;
mod json;
#[cfg(test)]
mod tests;

use geometry::PointOrRegion;
use proto::ResultCode;

use crate::budget::Budget;

pub use crate::s2::Covering;
use crate::s2::{CellId, Region};

const HEADER_SIZE: usize = 3;
const CELL_SIZE: usize = 8;
const FLAG_REGION: u8 = 1;

/// Radius of the earth for stored values, in meters.
pub const EARTH_RADIUS_M: u32 = 6_371_000;

/// How queries treat the regions of a namespace. Stored values do not depend on it, because they always use
/// [`Covering::STORED`] and [`EARTH_RADIUS_M`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeoSettings {
    /// Whether points and regions are compared exactly, and not only by their cells.
    pub strict: bool,
    pub covering: Covering,
    pub earth_radius_m: u32,
}

/// The stored form of a value that a client sent.
///
/// # Errors
/// `InvalidGeoJson` unless it is a point, or a region that few enough cells can cover.
pub fn from_wire(wire: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, ResultCode> {
    let json = match wire {
        [_, high, low, rest @ ..] => rest.get(usize::from(u16::from_be_bytes([*high, *low])) * CELL_SIZE..),
        _ => None,
    };
    from_json(json.ok_or(ResultCode::InvalidGeoJson)?, budget)
}

/// The stored form of a text.
///
/// # Errors
/// Those of [`from_wire`].
pub fn from_json(json: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, ResultCode> {
    let geometry = Geometry::parse(json, EARTH_RADIUS_M, budget)?;
    let cells = budget.check(geometry.cells(&Covering::STORED, budget).ok_or(ResultCode::InvalidGeoJson))?;
    let mut stored = Vec::with_capacity(HEADER_SIZE + cells.len() * CELL_SIZE + json.len());
    stored.push(if geometry.is_region() { FLAG_REGION } else { 0 });
    stored.extend_from_slice(&(cells.len() as u16).to_le_bytes());
    for cell in cells {
        stored.extend_from_slice(&cell.to_le_bytes());
    }
    stored.extend_from_slice(json);
    Ok(stored)
}

/// The stored form of a text that is not checked. It is the form of an element of a list or map.
#[must_use]
pub fn without_cells(json: &[u8]) -> Vec<u8> {
    [&[0; HEADER_SIZE], json].concat()
}

/// Appends a stored value in wire form.
pub fn to_wire(stored: &[u8], wire: &mut Vec<u8>) {
    let Some((&[flags, low, high], _)) = stored.split_first_chunk() else {
        wire.extend_from_slice(stored);
        return;
    };
    wire.extend_from_slice(&[flags, high, low]);
    for cell in cells(stored) {
        wire.extend_from_slice(&cell.to_be_bytes());
    }
    wire.extend_from_slice(json(stored));
}

/// The cells of a stored value.
pub fn cells(stored: &[u8]) -> impl Iterator<Item = u64> {
    let (cells, _) = split(stored);
    let (cells, _) = cells.as_chunks::<CELL_SIZE>();
    cells.iter().map(|cell| u64::from_le_bytes(*cell))
}

/// The text of a stored value.
#[must_use]
pub fn json(stored: &[u8]) -> &[u8] {
    split(stored).1
}

/// Whether a stored value is a region rather than a point.
#[must_use]
pub fn is_region(stored: &[u8]) -> bool {
    stored.first().is_some_and(|flags| flags & FLAG_REGION != 0)
}

/// The cells and the text of a stored value. For a damaged value, as much as exists.
fn split(stored: &[u8]) -> (&[u8], &[u8]) {
    let Some((&[_, low, high], rest)) = stored.split_first_chunk() else { return (&[], &[]) };
    let size = usize::from(u16::from_le_bytes([low, high])) * CELL_SIZE;
    rest.split_at_checked(size).unwrap_or((rest, &[]))
}

/// Whether one of two stored values is a region and contains the other, a point. `None` if a value is neither
/// a point nor a region.
#[must_use]
pub fn compare(left: &[u8], right: &[u8], budget: &Budget<'_>) -> Option<bool> {
    let left = Geometry::of_stored(left, budget).ok()?;
    let right = Geometry::of_stored(right, budget).ok()?;
    Some(left.matches(&right, budget))
}

/// A parsed point or region. Results are meaningless if their budget is exhausted.
#[derive(Clone, Debug)]
pub struct Geometry(PointOrRegion);

impl Geometry {
    /// Parses a text. Its circles are on a sphere of radius `earth_radius_m`.
    ///
    /// # Errors
    /// `InvalidGeoJson` if it is neither a point nor a region; `Timeout` if the budget is exhausted.
    pub fn parse(json: &[u8], earth_radius_m: u32, budget: &Budget<'_>) -> Result<Self, ResultCode> {
        let shape = geometry::parse(json, f64::from(earth_radius_m), budget);
        budget.check(shape.map(Geometry).ok_or(ResultCode::InvalidGeoJson))
    }

    /// Parses a stored value.
    ///
    /// # Errors
    /// Those of [`Geometry::parse`].
    pub fn of_stored(stored: &[u8], budget: &Budget<'_>) -> Result<Self, ResultCode> {
        match (is_region(stored), cells(stored).next()) {
            (false, Some(cell)) => Ok(Geometry(PointOrRegion::Point(CellId(cell)))),
            _ => Geometry::parse(json(stored), EARTH_RADIUS_M, budget),
        }
    }

    #[must_use]
    pub const fn is_region(&self) -> bool {
        matches!(self.0, PointOrRegion::Region(_))
    }

    /// The cells that contain the geometry, in the order of their numbers: for a point the smallest cell, for
    /// a region a covering. `None` if that takes more cells than allowed.
    #[must_use]
    pub fn cells(&self, covering: &Covering, budget: &Budget<'_>) -> Option<Vec<u64>> {
        match &self.0 {
            PointOrRegion::Point(cell) => Some(vec![cell.0]),
            PointOrRegion::Region(region) => {
                covering.of(region, budget).map(|cells| cells.into_iter().map(|cell| cell.0).collect())
            }
        }
    }

    /// The ranges of cells, both ends included and in ascending order, whose index entries may match: for a
    /// point the ranges of all cells that contain it, for a region the ranges of all points in a covering.
    #[must_use]
    pub fn query_ranges(&self, covering: &Covering, budget: &Budget<'_>) -> Option<Vec<(u64, u64)>> {
        let mut ranges: Vec<(u64, u64)> = match &self.0 {
            PointOrRegion::Point(cell) => {
                (1..=30).map(|level| cell.parent(level).0).map(|cell| (cell, cell)).collect()
            }
            PointOrRegion::Region(region) => {
                let range = |cell: CellId| (cell.range_min().0, cell.range_max().0);
                covering.of(region, budget)?.into_iter().map(range).collect()
            }
        };
        ranges.sort_unstable();
        Some(ranges)
    }

    /// Whether one of the two is a region and contains the other, a point.
    #[must_use]
    pub fn matches(&self, other: &Self, budget: &Budget<'_>) -> bool {
        match (&self.0, &other.0) {
            (PointOrRegion::Point(cell), PointOrRegion::Region(region))
            | (PointOrRegion::Region(region), PointOrRegion::Point(cell)) => contains(region, *cell, budget),
            _ => false,
        }
    }

    /// Whether a stored value whose cells are in the [`Geometry::query_ranges`] matches. Unless `strict`, any
    /// pair of a point and a region matches.
    #[must_use]
    pub fn matches_stored(&self, stored: &[u8], strict: bool, budget: &Budget<'_>) -> bool {
        match (&self.0, is_region(stored), cells(stored).next()) {
            (PointOrRegion::Point(_), true, _) => {
                !strict
                    || Geometry::parse(json(stored), EARTH_RADIUS_M, budget)
                        .is_ok_and(|other| self.matches(&other, budget))
            }
            (PointOrRegion::Region(region), false, Some(cell)) => {
                !strict || contains(region, CellId(cell), budget)
            }
            _ => false,
        }
    }

    /// Same as [`Geometry::matches_stored`], for the text of an element of a list or map.
    #[must_use]
    pub fn matches_json(&self, json: &[u8], strict: bool, budget: &Budget<'_>) -> bool {
        Geometry::parse(json, EARTH_RADIUS_M, budget).is_ok_and(|other| {
            if strict { self.matches(&other, budget) } else { self.is_region() != other.is_region() }
        })
    }
}

/// Whether `region` contains the middle of `cell`. An invalid cell number is in no region.
fn contains(region: &Region, cell: CellId, budget: &Budget<'_>) -> bool {
    cell.is_valid() && region.contains(cell.center(), budget)
}
