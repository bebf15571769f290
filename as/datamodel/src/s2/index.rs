//! The index of a polygon: the edges in each cell.
//!
//! Cells are divided until each has few edges, or only edges that are long for the cell. The index keeps only
//! cells with edges and cells within the polygon. It determines the cells with which a covering begins, so it
//! follows the same rules as the S2 library. The numbers here are in effect part of the stored format.

use super::cap::level_of_edge;
use super::cell::RectUv;
use super::cell_id::{
    CellId, LEVEL_MAX, Placement, SIZE_MAX, face_of, point_at, project, st_to_ij, uv_at, uv_to_st,
};
use super::clip::{EDGE_CLIP_ERROR, FACE_CLIP_ERROR, PointUv, clip_to_face, interpolated};
use super::interval::Interval;
use super::loops::ORIGIN;
use super::predicates::EdgeCrosser;
use super::vector::Vector;
use crate::budget::Budget;

/// Price of an edge in a cell.
const EDGE_STEPS: usize = 30;

/// Margin by which cells are enlarged on all sides, so that computation errors here or in a query lose no
/// edge.
const PADDING: f64 = 2.0 * (FACE_CLIP_ERROR + EDGE_CLIP_ERROR);
/// A cell with more edges than this is divided if enough of them are short.
const SHORT_EDGES_MAX: usize = 10;
/// The share of a cell's edges that must be short for the cell to be divided.
const SHORT_EDGES_PART: f64 = 0.2;

/// An edge with the inside of the polygon to its left.
pub(super) type Edge = (Vector, Vector);

#[derive(Clone, Debug)]
pub(super) struct IndexCell {
    pub(super) id: CellId,
    /// Whether the polygon contains the center.
    pub(super) contains_center: bool,
    /// Numbers of the edges that may meet the cell.
    pub(super) edges: Vec<u32>,
}

/// The relation between a cell and the cells of an index.
pub(super) enum Relation<'a> {
    /// The cell is this cell or is within it.
    Within(&'a IndexCell),
    /// The cell contains smaller cells of the index.
    Divided,
    Disjoint,
}

/// The cells of a polygon, in the order of their numbers. No cell is within another.
#[derive(Clone, Debug)]
pub(super) struct Index(Vec<IndexCell>);

impl Index {
    /// Indexes `edges`. `contains_origin` says whether [`ORIGIN`] is inside them. `None` if the budget is
    /// exhausted.
    pub(super) fn new(edges: &[Edge], contains_origin: bool, budget: &Budget<'_>) -> Option<Self> {
        budget.draw_for(2 * edges.len() * EDGE_STEPS).ok()?;
        let start = point_at(0, [0, 0]);
        let path = EdgeCrosser::new(ORIGIN, start);
        let inside = edges.iter().fold(contains_origin, |inside, &(a, b)| inside ^ path.crosses(a, b));
        let mut builder = Builder { edges, cells: Vec::new(), inside, at: start, next: CellId(1), budget };
        let on_faces = clip_to_faces(edges);
        for (face, edges) in on_faces.iter().enumerate() {
            builder.add_face(face, edges);
        }
        budget.check(Ok(Index(builder.cells))).ok()
    }

    /// The position of the first cell that ends at `id` or after it.
    fn position(&self, id: CellId) -> usize {
        self.0.partition_point(|cell| cell.id.range_max() < id)
    }

    pub(super) fn relation(&self, id: CellId) -> Relation<'_> {
        match self.0.get(self.position(id.range_min())) {
            Some(cell) if cell.id.contains(id) => Relation::Within(cell),
            Some(cell) if cell.id <= id.range_max() => Relation::Divided,
            _ => Relation::Disjoint,
        }
    }

    /// A few cells that contain all others.
    pub(super) fn cell_bound(&self) -> Vec<CellId> {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return Vec::new() };
        if first.id == last.id {
            return vec![first.id];
        }
        let level = first.id.common_level(last.id).map_or(0, |level| level + 1);
        // For each cell of the level below the smallest common one, this is the smallest cell around the
        // index cells in it.
        self.0
            .chunk_by(|a, b| a.id.parent(level) == b.id.parent(level))
            .filter_map(|cells| {
                let (first, last) = (cells.first()?.id, cells.last()?.id);
                Some(if first == last { first } else { first.parent(first.common_level(last)?) })
            })
            .collect()
    }
}

/// An edge clipped to a padded face.
struct FaceEdge {
    number: u32,
    /// The edge is long for cells from this level on.
    long_level: u32,
    ends: [PointUv; 2],
}

fn clip_to_faces(edges: &[Edge]) -> [Vec<FaceEdge>; 6] {
    const SAFE: f64 = 1.0 - PADDING;
    let mut on_faces: [Vec<FaceEdge>; 6] = Default::default();
    for (number, &(a, b)) in edges.iter().enumerate() {
        let face_edge =
            |ends| FaceEdge { number: number as u32, long_level: level_of_edge((a - b).norm()), ends };
        let face = face_of(a);
        if face == face_of(b) {
            let ends = [project(face, a), project(face, b)];
            if ends.as_flattened().iter().all(|at| at.abs() <= SAFE) {
                on_faces[face].push(face_edge(ends));
                continue;
            }
        }
        for (face, edges) in on_faces.iter_mut().enumerate() {
            edges.extend(clip_to_face(a, b, face, PADDING).map(face_edge));
        }
    }
    on_faces
}

/// An edge clipped to a padded cell.
#[derive(Clone, Copy)]
struct Clipped<'e> {
    edge: &'e FaceEdge,
    bound: RectUv,
}

impl Clipped<'_> {
    /// The edge with one end of its bound along `axis` (0 for u) moved inward to `limit`.
    fn limited(mut self, axis: usize, upper: bool, limit: f64) -> Self {
        let bound = self.bound[axis];
        if if upper { bound.high <= limit } else { bound.low >= limit } {
            return self;
        }
        // The original ends are used, so that errors do not add up.
        let [a, b] = self.edge.ends;
        let other = 1 - axis;
        let value = interpolated(limit, a[axis], b[axis], a[other], b[other]);
        let value = self.bound[other].nearest(value);
        let falls = (a[0] > b[0]) != (a[1] > b[1]);
        for (axis, upper, value) in [(axis, upper, limit), (other, upper ^ falls, value)] {
            let end = if upper { &mut self.bound[axis].high } else { &mut self.bound[axis].low };
            *end = value;
        }
        self
    }

    /// The parts below and above `middle` along `axis`. `middle` is an interval in which the edge belongs to
    /// both parts.
    fn halves(self, axis: usize, middle: Interval) -> [Option<Self>; 2] {
        let bound = self.bound[axis];
        match () {
            () if bound.high <= middle.low => [Some(self), None],
            () if bound.low >= middle.high => [None, Some(self)],
            () => [Some(self.limited(axis, true, middle.high)), Some(self.limited(axis, false, middle.low))],
        }
    }
}

/// An enlarged cell.
#[derive(Clone, Copy)]
struct PaddedCell {
    id: CellId,
    level: u32,
    placement: Placement,
}

impl PaddedCell {
    fn new(id: CellId) -> Self {
        PaddedCell { id, level: id.level(), placement: id.placement() }
    }

    fn child(&self, place: usize) -> Self {
        PaddedCell {
            id: self.id.child(place as u64),
            level: self.level + 1,
            placement: self.placement.child(place, self.level),
        }
    }

    /// Number of cells of the highest level along its edge.
    fn size(&self) -> u32 {
        SIZE_MAX >> self.level
    }

    /// The point where the children meet.
    fn middle_uv(&self) -> PointUv {
        self.placement.ij.map(|at| uv_at(2 * at + self.size()))
    }

    fn middle(&self) -> RectUv {
        self.middle_uv().map(|at| Interval::new(at - PADDING, at + PADDING))
    }

    fn center(&self) -> Vector {
        point_at(self.placement.face, self.placement.ij.map(|at| 2 * at + self.size()))
    }

    /// The points at which the curve enters and leaves the cell.
    fn ends(&self) -> [Vector; 2] {
        self.placement.ends(self.size()).map(|ij| point_at(self.placement.face, ij.map(|at| 2 * at)))
    }

    /// The smallest cell within this one that contains all its descendants that meet `rect`.
    fn shrunk_to(&self, rect: RectUv) -> CellId {
        let middle = self.middle_uv();
        if (0..2).any(|axis| rect[axis].contains(middle[axis])) {
            return self.id;
        }
        let mut first = [0; 2];
        let mut differing = 0;
        for axis in 0..2 {
            let padded = rect[axis].expanded(PADDING + 1.5 * f64::EPSILON);
            let low = self.placement.ij[axis];
            let [from, to] = [padded.low, padded.high].map(|at| st_to_ij(uv_to_st(at)));
            first[axis] = from.max(low);
            differing |= first[axis] ^ to.min(low + self.size() - 1);
        }
        let level = LEVEL_MAX - (u32::BITS - differing.leading_zeros()).min(LEVEL_MAX);
        if level <= self.level {
            return self.id;
        }
        CellId::from_face_ij(self.placement.face, first).parent(level)
    }
}

/// Visits cells in the order of the curve. It counts the edges between its position and the next center or
/// corner, from which follows whether that is inside.
struct Builder<'e> {
    edges: &'e [Edge],
    cells: Vec<IndexCell>,
    /// Whether the polygon contains the current point.
    inside: bool,
    at: Vector,
    /// The smallest cell whose entry is that point.
    next: CellId,
    /// When it is exhausted, no more cells are added.
    budget: &'e Budget<'e>,
}

impl Builder<'_> {
    fn add_face(&mut self, face: usize, edges: &[FaceEdge]) {
        let id = CellId::from_face(face);
        let cell = PaddedCell::new(id);
        let clipped: Vec<Clipped<'_>> = edges
            .iter()
            .map(|edge| {
                let [a, b] = edge.ends;
                Clipped { edge, bound: [0, 1].map(|axis| Interval::between(a[axis], b[axis])) }
            })
            .collect();
        if clipped.is_empty() {
            return self.add_cell(&cell, &[]);
        }
        let bound = clipped.iter().fold([Interval::EMPTY; 2], |bound, edge| {
            [bound[0].union(edge.bound[0]), bound[1].union(edge.bound[1])]
        });
        // Cells without edges are skipped, except those within the polygon.
        let shrunk = cell.shrunk_to(bound);
        self.add_range(id.range_min(), shrunk.range_min());
        self.add_cell(&PaddedCell::new(shrunk), &clipped);
        self.add_range(shrunk.range_max().next(), id.range_max().next());
    }

    /// Adds the cells from one of the smallest cells up to another one (exclusive). There are no edges
    /// between them.
    fn add_range(&mut self, begin: CellId, end: CellId) {
        if !self.inside {
            return;
        }
        let mut id = begin.largest_before(end);
        while id != end {
            self.cells.push(IndexCell { id, contains_center: true, edges: Vec::new() });
            id = id.next().largest_before(end);
        }
    }

    /// Adds `cell` or its descendants. `edges` may meet the cell.
    fn add_cell(&mut self, cell: &PaddedCell, edges: &[Clipped<'_>]) {
        let is_empty = edges.is_empty() && !self.inside;
        if is_empty || self.budget.draw_for((1 + edges.len()) * EDGE_STEPS).is_err() {
            return;
        }
        if !self.is_to_be_divided(cell, edges) {
            return self.keep(cell, edges);
        }
        let [u_middle, v_middle] = cell.middle();
        // The edges are split by halves of u, then of v.
        let mut parts: [[Vec<Clipped<'_>>; 2]; 2] = Default::default();
        for edge in edges {
            for (half, part) in parts.iter_mut().zip(edge.halves(0, u_middle)) {
                for (quarter, part) in
                    half.iter_mut().zip(part.map_or([None; 2], |part| part.halves(1, v_middle)))
                {
                    quarter.extend(part);
                }
            }
        }
        for place in 0..4 {
            let child = cell.child(place);
            let [i, j] = [0, 1].map(|axis| usize::from(child.placement.ij[axis] != cell.placement.ij[axis]));
            self.add_cell(&child, &parts[i][j]);
        }
    }

    fn is_to_be_divided(&self, cell: &PaddedCell, edges: &[Clipped<'_>]) -> bool {
        if edges.len() <= SHORT_EDGES_MAX {
            return false;
        }
        let all = edges.len() + usize::from(self.inside);
        let most = SHORT_EDGES_MAX.max((SHORT_EDGES_PART * all as f64) as usize);
        edges.iter().filter(|edge| cell.level < edge.edge.long_level).count() > most
    }

    fn keep(&mut self, cell: &PaddedCell, edges: &[Clipped<'_>]) {
        let numbers: Vec<u32> = edges.iter().map(|edge| edge.edge.number).collect();
        let [entry, exit] = cell.ends();
        if !edges.is_empty() {
            if self.next != cell.id.range_min() {
                self.at = entry;
            }
            self.go_to(cell.center(), &numbers);
        }
        let contains_center = self.inside;
        if !edges.is_empty() {
            self.go_to(exit, &numbers);
            self.next = cell.id.next().range_min();
        }
        self.cells.push(IndexCell { id: cell.id, contains_center, edges: numbers });
    }

    fn go_to(&mut self, point: Vector, edges: &[u32]) {
        let path = EdgeCrosser::new(self.at, point);
        for &number in edges {
            if let Some(&(a, b)) = self.edges.get(number as usize) {
                self.inside ^= path.crosses(a, b);
            }
        }
        self.at = point;
    }
}
