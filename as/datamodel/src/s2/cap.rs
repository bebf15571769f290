//! Caps: all points within a distance of one point.

use std::f64::consts::{PI, SQRT_2};

use super::cell::Cell;
use super::cell_id::{CellId, LEVEL_MAX};
use super::vector::Vector;

/// All points within a distance of a point. The distance is stored as the squared length of the straight line
/// between two such points, 0 to 4; it is negative for the empty cap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cap {
    center: Vector,
    length2: f64,
}

/// The smallest width of a face's cells, as an angle; it halves with each level.
const WIDTH_MIN: f64 = 2.0 * SQRT_2 / 3.0;
/// The average length of a face's edges, as an angle; it halves with each level.
const EDGE_AVERAGE: f64 = 1.459_213_746_386_106_1;

impl Cap {
    pub(super) const EMPTY: Self = Cap { center: Vector::new(1.0, 0.0, 0.0), length2: -1.0 };

    /// The points within `radius` (an angle) of `center`.
    pub(crate) fn new(center: Vector, radius: f64) -> Self {
        let length = 2.0 * (0.5 * radius.min(PI)).sin();
        Cap { center, length2: if radius < 0.0 { -1.0 } else { length * length } }
    }

    pub(super) const fn length2(&self) -> f64 {
        self.length2
    }

    /// Extends the nonempty cap to contain `point`.
    pub(super) fn add(&mut self, point: Vector) {
        self.length2 = self.length2.max(length2(self.center, point));
    }

    pub(super) fn contains(&self, point: Vector) -> bool {
        length2(self.center, point) <= self.length2
    }

    pub(super) fn contains_cell(&self, cell: &Cell) -> bool {
        let vertices = cell.vertices();
        vertices.iter().all(|&vertex| self.contains(vertex)) && !self.complement().cuts(cell, vertices)
    }

    pub(super) fn may_intersect(&self, cell: &Cell) -> bool {
        let vertices = cell.vertices();
        vertices.iter().any(|&vertex| self.contains(vertex)) || self.cuts(cell, vertices)
    }

    /// The four cells around the corner next to the center, which together contain the cap. At a corner of
    /// the cube there are fewer; for a large cap the result is all faces.
    pub(super) fn cell_bound(&self) -> Vec<CellId> {
        let radius = if self.length2 < 0.0 { -1.0 } else { 2.0 * (0.5 * self.length2.sqrt()).asin() };
        match level_of_width(radius) {
            0 => (0..6).map(CellId::from_face).collect(),
            level => CellId::from_point(self.center).vertex_neighbors(level - 1),
        }
    }

    fn complement(&self) -> Self {
        match self.length2 {
            4.0 => Cap::EMPTY,
            ..0.0 => Cap { length2: 4.0, ..Cap::EMPTY },
            length2 => Cap { center: -self.center, length2: 4.0 - length2 },
        }
    }

    /// Whether the cap contains a point of `cell`. It contains none of the cell's vertices.
    fn cuts(&self, cell: &Cell, vertices: [Vector; 4]) -> bool {
        // If the cap is larger than a hemisphere, its complement and the cell are both convex.
        if self.length2 >= 2.0 || self.length2 < 0.0 {
            return false;
        }
        if cell.contains(self.center) {
            return true;
        }
        let sin2 = self.length2 * (1.0 - 0.25 * self.length2);
        let edges = (0..4).map(|at| (cell.edge_normal(at), vertices[at], vertices[(at + 1) % 4]));
        for (normal, from, to) in edges {
            let height = self.center.dot(normal);
            if height > 0.0 {
                // A cap that cuts this edge cuts the opposite one too.
                continue;
            }
            if height * height > sin2 * normal.norm2() {
                return false;
            }
            let direction = normal.cross(self.center);
            if direction.dot(from) < 0.0 && direction.dot(to) > 0.0 {
                return true;
            }
        }
        false
    }
}

fn length2(a: Vector, b: Vector) -> f64 {
    (a - b).norm2().min(4.0)
}

/// The highest level at which all cells are at least `width` (an angle) wide.
fn level_of_width(width: f64) -> u32 {
    if width <= 0.0 { LEVEL_MAX } else { exponent(WIDTH_MIN / width).clamp(0, LEVEL_MAX as i32) as u32 }
}

/// The lowest level at which cells have, on average, edges at most `edge` (an angle) long.
pub(super) fn level_of_edge(edge: f64) -> u32 {
    if edge <= 0.0 { LEVEL_MAX } else { (-exponent(edge / EDGE_AVERAGE)).clamp(0, LEVEL_MAX as i32) as u32 }
}

/// The exponent of the largest power of two that is not above `value`, which is positive. The result need not
/// be right outside the range of levels.
fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52) as i32 - 1023
}
