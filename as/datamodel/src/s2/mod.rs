//! Geometry on the sphere: points, regions, and the cells that contain them.
//!
//! Cells and coverings equal those of the S2 library (s2geometry.io) bit for bit, because they are stored in
//! records and indexes that other servers read. This module has what regions of GeoJSON need: the numbering
//! of cells ([`cell_id`]), exact tests of sides and crossings ([`predicates`]), caps, polygons with an index
//! of their edges, and coverings.

mod cap;
mod cell;
mod cell_id;
mod clip;
#[cfg(test)]
mod compared;
mod coverer;
mod exact;
mod index;
mod interval;
mod loops;
mod polygon;
mod predicates;
mod rect;
mod vector;

pub(crate) use cap::Cap;
use cell::Cell;
pub(crate) use cell_id::CellId;
pub use coverer::Covering;
pub(crate) use polygon::Polygon;
pub(crate) use rect::LatLng;
use rect::Rect;
pub(crate) use vector::Vector;

use crate::budget::Budget;

/// A set of points. Queries draw on a budget; their results are meaningless if it is exhausted.
#[derive(Clone, Debug)]
pub(crate) enum Region {
    Cap(Cap),
    Polygon(Box<Polygon>),
    Union(Vec<Polygon>),
}

impl Region {
    pub(crate) fn contains(&self, point: Vector, budget: &Budget<'_>) -> bool {
        match self {
            Region::Cap(cap) => cap.contains(point),
            Region::Polygon(polygon) => polygon.contains(point, budget),
            Region::Union(polygons) => polygons.iter().any(|polygon| polygon.contains(point, budget)),
        }
    }

    /// Whether `cell` is certain to be completely in the region.
    fn contains_cell(&self, cell: &Cell, budget: &Budget<'_>) -> bool {
        match self {
            Region::Cap(cap) => cap.contains_cell(cell),
            Region::Polygon(polygon) => polygon.contains_cell(cell, budget),
            Region::Union(polygons) => polygons.iter().any(|polygon| polygon.contains_cell(cell, budget)),
        }
    }

    /// Whether a part of `cell` may be in the region.
    fn may_intersect(&self, cell: &Cell, budget: &Budget<'_>) -> bool {
        match self {
            Region::Cap(cap) => cap.may_intersect(cell),
            Region::Polygon(polygon) => polygon.may_intersect(cell, budget),
            Region::Union(polygons) => polygons.iter().any(|polygon| polygon.may_intersect(cell, budget)),
        }
    }

    /// A few cells that contain the region.
    fn cell_bound(&self, budget: &Budget<'_>) -> Vec<CellId> {
        match self {
            Region::Cap(cap) => cap.cell_bound(),
            Region::Polygon(polygon) => polygon.cell_bound(budget),
            Region::Union(polygons) => {
                let bound = polygons.iter().fold(Rect::EMPTY, |bound, polygon| bound.union(polygon.bound()));
                bound.cap_bound().cell_bound()
            }
        }
    }
}
