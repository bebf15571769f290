//! Numbers of cells: positions on a curve that fills the sphere.
//!
//! The sphere is projected onto a cube. Each of its 6 faces is divided into 4 cells, each of these into 4 and so on up
//! to level 30. A Hilbert curve visits all cells of a level; a cell's number is its position on it:
//! ```text
//! 3 bits face, 2 bits for each level down to the cell, a bit that is 1, zeros
//! ```
//! The numbers of all cells within a cell therefore form a range around its own number.
//!
//! Coordinates on a face: u and v, from -1 to 1, are those of the projection. s and t, from 0 to 1, are
//! transformed so that cells have about the same size. i and j count cells of the highest level.

use super::vector::Vector;

/// The level of the smallest cells.
pub(crate) const LEVEL_MAX: u32 = 30;
/// Cells of the highest level along an edge of a face.
pub(super) const SIZE_MAX: u32 = 1 << LEVEL_MAX;

/// Bit of an orientation: i and j are swapped.
const SWAPPED: usize = 1;
/// Bit of an orientation: the curve runs from the other end of both axes.
const INVERTED: usize = 2;
/// For each orientation and position on the curve, bits of i and j.
const PLACE_TO_IJ: [[u32; 4]; 4] = [[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]];
/// For each orientation and bits of i and j, the position on the curve.
const IJ_TO_PLACE: [[u64; 4]; 4] = [[0, 1, 3, 2], [0, 3, 1, 2], [2, 3, 1, 0], [2, 1, 3, 0]];
/// For each position on the curve, the change of the orientation.
const PLACE_TO_ORIENTATION: [usize; 4] = [SWAPPED, 0, 0, INVERTED | SWAPPED];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct CellId(pub(crate) u64);

/// The position of a cell on its face.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) face: usize,
    /// The lowest i and j of the cell.
    pub(super) ij: [u32; 2],
    pub(super) orientation: usize,
}

impl Placement {
    /// The child at position `place` of the curve, for a cell at `level`.
    pub(super) fn child(self, place: usize, level: u32) -> Self {
        let bits = PLACE_TO_IJ[self.orientation][place];
        let half = SIZE_MAX >> (level + 1);
        Placement {
            face: self.face,
            ij: [self.ij[0] + (bits >> 1) * half, self.ij[1] + (bits & 1) * half],
            orientation: self.orientation ^ PLACE_TO_ORIENTATION[place],
        }
    }

    pub(super) const fn of_face(face: usize) -> Self {
        Placement { face, ij: [0, 0], orientation: face & SWAPPED }
    }

    /// The corners, as i and j, at which the curve enters and leaves a cell of `size`.
    pub(super) const fn ends(self, size: u32) -> [[u32; 2]; 2] {
        let [i, j] = self.ij;
        let entry = if self.orientation & INVERTED == 0 { [i, j] } else { [i + size, j + size] };
        let exit = match self.orientation {
            0 | 3 => [i + size, j],
            _ => [i, j + size],
        };
        [entry, exit]
    }
}

impl CellId {
    pub(super) const fn from_face(face: usize) -> Self {
        CellId((face as u64) << 61 | 1 << 60)
    }

    /// The smallest cell that contains `point`.
    pub(crate) fn from_point(point: Vector) -> Self {
        let face = face_of(point);
        let uv = project(face, point);
        CellId::from_face_ij(face, uv.map(|u| st_to_ij(uv_to_st(u))))
    }

    /// The smallest cell at `ij` of `face`.
    pub(super) fn from_face_ij(face: usize, ij: [u32; 2]) -> Self {
        let mut orientation = face & SWAPPED;
        let mut id = face as u64;
        for bit in (0..LEVEL_MAX).rev() {
            let bits = (ij[0] >> bit & 1) << 1 | ij[1] >> bit & 1;
            let place = IJ_TO_PLACE[orientation][bits as usize];
            id = id << 2 | place;
            orientation ^= PLACE_TO_ORIENTATION[place as usize];
        }
        CellId(id << 1 | 1)
    }

    /// The smallest cell at `ij`, which may be just outside `face`.
    fn from_face_ij_beyond(face: usize, ij: [i64; 2]) -> Self {
        const LIMIT: f64 = 1.0 + f64::EPSILON;
        let size = i64::from(SIZE_MAX);
        if ij.iter().all(|at| (0..size).contains(at)) {
            return CellId::from_face_ij(face, ij.map(|at| at as u32));
        }
        // Any projection gives a point on the neighboring face; this is the simplest one.
        let uv = ij.map(|at| {
            let at = at.clamp(-1, size);
            (1.0 / f64::from(SIZE_MAX) * (2 * (at - size / 2) + 1) as f64).clamp(-LIMIT, LIMIT)
        });
        let point = unproject(face, uv);
        let face = face_of(point);
        CellId::from_face_ij(face, project(face, point).map(|u| st_to_ij(0.5 * (u + 1.0))))
    }

    pub(super) const fn face(self) -> usize {
        (self.0 >> 61) as usize
    }

    const fn lowest_bit(self) -> u64 {
        self.0 & self.0.wrapping_neg()
    }

    pub(super) const fn level(self) -> u32 {
        LEVEL_MAX - self.0.trailing_zeros() / 2
    }

    /// Whether this is the number of a cell.
    pub(crate) const fn is_valid(self) -> bool {
        self.face() < 6 && self.0 != 0 && self.0.trailing_zeros().is_multiple_of(2)
    }

    /// The first of the smallest cells within this one.
    pub(crate) const fn range_min(self) -> Self {
        CellId(self.0 - (self.lowest_bit() - 1))
    }

    /// The last of the smallest cells within this one.
    pub(crate) const fn range_max(self) -> Self {
        CellId(self.0 + (self.lowest_bit() - 1))
    }

    pub(super) fn contains(self, other: Self) -> bool {
        other >= self.range_min() && other <= self.range_max()
    }

    /// The cell at `level` that contains this one. `level` is no higher than that of this cell.
    pub(crate) const fn parent(self, level: u32) -> Self {
        let lowest_bit = 1u64 << (2 * (LEVEL_MAX - level));
        CellId(self.0 & lowest_bit.wrapping_neg() | lowest_bit)
    }

    /// The child at position `place` of the curve. This cell must not be one of the smallest.
    pub(super) const fn child(self, place: u64) -> Self {
        let lowest_bit = self.lowest_bit() >> 2;
        CellId(self.0 - 3 * lowest_bit + 2 * place * lowest_bit)
    }

    /// The next cell of the same level. After the last cell comes one more number, which belongs to no cell.
    pub(super) const fn next(self) -> Self {
        CellId(self.0 + (self.lowest_bit() << 1))
    }

    /// The level of the smallest cell that contains both cells, if there is one.
    pub(super) fn common_level(self, other: Self) -> Option<u32> {
        let differing = (self.0 ^ other.0).max(self.lowest_bit()).max(other.lowest_bit());
        60u32.checked_sub(63 - differing.leading_zeros()).map(|bit| bit / 2)
    }

    /// The largest cell that begins where this cell begins and ends before `limit`; `limit` if this cell is
    /// not before it.
    pub(super) fn largest_before(self, limit: Self) -> Self {
        let mut id = self;
        if id.range_min() >= limit.range_min() {
            return limit;
        }
        if id.range_max() >= limit {
            while id.range_max() >= limit {
                id = id.child(0);
            }
            return id;
        }
        while id.level() > 0 {
            let parent = id.parent(id.level() - 1);
            if parent.range_min() != self.range_min() || parent.range_max() >= limit {
                break;
            }
            id = parent;
        }
        id
    }

    pub(super) fn placement(self) -> Placement {
        let mut placement = Placement::of_face(self.face());
        for level in 0..self.level() {
            let place = self.0 >> (2 * (LEVEL_MAX - level) - 1) & 3;
            placement = placement.child(place as usize, level);
        }
        placement
    }

    /// The cells of `level` around the corner that is nearest to this cell, which is one of the smallest:
    /// four, or three at a corner of the cube. The first one contains this cell.
    pub(super) fn vertex_neighbors(self, level: u32) -> Vec<Self> {
        let Placement { face, ij, .. } = self.placement();
        let half = SIZE_MAX >> (level + 1);
        let size = 2 * i64::from(half);
        let offsets = ij.map(|at| if at & half != 0 { size } else { -size });
        let [i, j] = ij.map(i64::from);
        let inside = |at: i64| (0..i64::from(SIZE_MAX)).contains(&at);
        let mut neighbors = vec![[i, j], [i + offsets[0], j], [i, j + offsets[1]]];
        if inside(i + offsets[0]) || inside(j + offsets[1]) {
            neighbors.push([i + offsets[0], j + offsets[1]]);
        }
        neighbors.into_iter().map(|ij| CellId::from_face_ij_beyond(face, ij).parent(level)).collect()
    }

    /// The point in the middle of the cell.
    pub(crate) fn center(self) -> Vector {
        let Placement { face, ij, .. } = self.placement();
        let size = SIZE_MAX >> self.level();
        point_at(face, ij.map(|at| 2 * at + size))
    }
}

/// The point at twice i and j, within the curve's grid.
pub(super) fn point_at(face: usize, double_ij: [u32; 2]) -> Vector {
    unproject(face, double_ij.map(|at| st_to_uv(1.0 / f64::from(2 * SIZE_MAX) * f64::from(at)))).normalized()
}

/// u or v at twice i or j.
pub(super) fn uv_at(double_ij: u32) -> f64 {
    st_to_uv(1.0 / f64::from(2 * SIZE_MAX) * f64::from(double_ij))
}

fn st_to_uv(s: f64) -> f64 {
    if s >= 0.5 {
        (1.0 / 3.0) * (4.0 * s * s - 1.0)
    } else {
        (1.0 / 3.0) * (1.0 - 4.0 * (1.0 - s) * (1.0 - s))
    }
}

pub(super) fn uv_to_st(u: f64) -> f64 {
    if u >= 0.0 { 0.5 * (1.0 + 3.0 * u).sqrt() } else { 1.0 - 0.5 * (1.0 - 3.0 * u).sqrt() }
}

pub(super) fn st_to_ij(s: f64) -> u32 {
    // Halves round to even.
    let at = (f64::from(SIZE_MAX) * s - 0.5).round_ties_even();
    at.clamp(0.0, f64::from(SIZE_MAX - 1)) as u32
}

/// The face that a point projects to.
pub(super) fn face_of(point: Vector) -> usize {
    let axis = point.largest_component();
    axis + if point.components()[axis] < 0.0 { 3 } else { 0 }
}

/// u and v of a point in the hemisphere of `face`.
pub(super) fn project(face: usize, point: Vector) -> [f64; 2] {
    let Vector { x, y, z } = point;
    match face {
        0 => [y / x, z / x],
        1 => [-x / y, z / y],
        2 => [-x / z, -y / z],
        3 => [z / x, y / x],
        4 => [z / y, -x / y],
        _ => [-y / z, -x / z],
    }
}

/// The point of the cube at u and v of `face`.
pub(super) const fn unproject(face: usize, [u, v]: [f64; 2]) -> Vector {
    match face {
        0 => Vector::new(1.0, u, v),
        1 => Vector::new(-u, 1.0, v),
        2 => Vector::new(-u, -v, 1.0),
        3 => Vector::new(-1.0, -v, -u),
        4 => Vector::new(v, -1.0, -u),
        _ => Vector::new(v, u, -1.0),
    }
}

/// A vector in coordinates along u, v and away from the cube's middle at `face`.
pub(super) const fn to_face(face: usize, point: Vector) -> Vector {
    let Vector { x, y, z } = point;
    match face {
        0 => Vector::new(y, z, x),
        1 => Vector::new(-x, z, y),
        2 => Vector::new(-x, -y, z),
        3 => Vector::new(-z, -y, -x),
        4 => Vector::new(-z, x, -y),
        _ => Vector::new(y, x, -z),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_places_on_the_curve() {
        let face = CellId::from_face(3);
        assert_eq!(face.0, 0x7000_0000_0000_0000);
        assert_eq!((face.level(), face.face()), (0, 3));
        assert_eq!(face.child(2).0, 0x7400_0000_0000_0000);
        assert_eq!(face.child(2).parent(0), face);
        assert_eq!(face.child(1).next(), face.child(2));
        assert_eq!(face.child(1).common_level(face.child(2)), Some(0));
        assert_eq!(face.common_level(CellId::from_face(0)), None);
        assert_eq!(face.common_level(face.child(0)), Some(0));
    }

    proptest! {
        #[test]
        fn a_point_is_in_its_cell_and_the_cell_in_its_parents(x in -1.0..1.0f64, y in -1.0..1.0f64, z in -1.0..1.0f64, level in 0..=30u32) {
            let point = Vector::new(x, y, z).normalized();
            let id = CellId::from_point(point);
            prop_assert_eq!(id.level(), 30);
            prop_assert!((id.center() - point).norm() < 2e-9);
            let parent = id.parent(level);
            prop_assert!(parent.contains(id));
            prop_assert_eq!(parent.level(), level);
            prop_assert_eq!(CellId::from_point(parent.center()).parent(level), parent);
            prop_assert_eq!(parent.common_level(id), Some(level));
            if level < 30 {
                let neighbors = id.vertex_neighbors(level);
                prop_assert!(matches!(neighbors.len(), 3 | 4));
                prop_assert_eq!(neighbors[0], parent);
                let children = [0, 1, 2, 3].map(|place| parent.child(place));
                prop_assert_eq!(children.iter().filter(|child| child.contains(id)).count(), 1);
                prop_assert_eq!(children[0].range_min(), parent.range_min());
                prop_assert_eq!(children[3].range_max(), parent.range_max());
            }
        }
    }
}
