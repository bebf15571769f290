//! A cell and its bounds on its face.

use super::cell_id::{CellId, Placement, SIZE_MAX, project, unproject, uv_at};
use super::interval::Interval;
use super::vector::Vector;

/// A rectangle in u and v.
pub(super) type RectUv = [Interval; 2];

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) id: CellId,
    level: u32,
    placement: Placement,
    pub(super) bound: RectUv,
}

impl Cell {
    pub(super) fn new(id: CellId) -> Self {
        Cell::at(id, id.level(), id.placement())
    }

    fn at(id: CellId, level: u32, placement: Placement) -> Self {
        let size = SIZE_MAX >> level;
        let bound = placement.ij.map(|at| Interval::new(uv_at(2 * at), uv_at(2 * (at + size))));
        Cell { id, level, placement, bound }
    }

    pub(super) const fn level(&self) -> u32 {
        self.level
    }

    pub(super) const fn face(&self) -> usize {
        self.placement.face
    }

    /// The four children in the order of the curve; none for the smallest cells.
    pub(super) fn children(&self) -> impl Iterator<Item = Cell> {
        let places = if self.level < super::cell_id::LEVEL_MAX { 0..4 } else { 0..0 };
        places.map(|place| {
            let placement = self.placement.child(place, self.level);
            Cell::at(self.id.child(place as u64), self.level + 1, placement)
        })
    }

    /// The corners, counterclockwise.
    pub(super) fn vertices(&self) -> [Vector; 4] {
        let [u, v] = self.bound;
        [[u.low, v.low], [u.high, v.low], [u.high, v.high], [u.low, v.high]]
            .map(|uv| unproject(self.face(), uv).normalized())
    }

    /// The inward normal of the plane of edge `at`. Edge 0 goes from vertex 0 to vertex 1.
    pub(super) fn edge_normal(&self, at: usize) -> Vector {
        let [u, v] = self.bound;
        match at {
            0 => v_normal(self.face(), v.low),
            1 => u_normal(self.face(), u.high),
            2 => -v_normal(self.face(), v.high),
            _ => -u_normal(self.face(), u.low),
        }
    }

    /// Whether the cell, including its boundary and a small margin, contains `point`.
    pub(super) fn contains(&self, point: Vector) -> bool {
        let axis = self.face() % 3;
        let height = point.components()[axis];
        let is_in_front = if self.face() < 3 { height > 0.0 } else { height < 0.0 };
        is_in_front && {
            let [u, v] = project(self.face(), point);
            let [u_bound, v_bound] = self.bound.map(|bound| bound.expanded(f64::EPSILON));
            u_bound.contains(u) && v_bound.contains(v)
        }
    }
}

/// The normal of the plane in which points of `face` have this u.
const fn u_normal(face: usize, u: f64) -> Vector {
    match face {
        0 => Vector::new(u, -1.0, 0.0),
        1 => Vector::new(1.0, u, 0.0),
        2 => Vector::new(1.0, 0.0, u),
        3 => Vector::new(-u, 0.0, 1.0),
        4 => Vector::new(0.0, -u, 1.0),
        _ => Vector::new(0.0, -1.0, -u),
    }
}

/// The normal of the plane in which points of `face` have this v.
const fn v_normal(face: usize, v: f64) -> Vector {
    match face {
        0 => Vector::new(-v, 0.0, 1.0),
        1 => Vector::new(0.0, -v, 1.0),
        2 => Vector::new(0.0, -1.0, -v),
        3 => Vector::new(v, -1.0, 0.0),
        4 => Vector::new(1.0, v, 0.0),
        _ => Vector::new(1.0, 0.0, v),
    }
}
