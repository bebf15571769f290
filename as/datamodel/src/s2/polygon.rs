//! Polygons: shells and holes.

use std::sync::OnceLock;

use super::cell::Cell;
use super::cell_id::CellId;
use super::clip::{FACE_CLIP_ERROR, MEETS_RECT_ERROR, clip_to_face, meets_rect};
use super::index::{Edge, Index, IndexCell, Relation};
use super::loops::Loop;
use super::predicates::EdgeCrosser;
use super::rect::Rect;
use super::vector::Vector;
use crate::budget::Budget;

/// Prices of a test of an edge, of a vertex of a new polygon, and of a test of a loop's bound.
const EDGE_STEPS: usize = 10;
const VERTEX_STEPS: usize = 100;
const BOUND_STEPS: usize = 4;

/// Nested loops. Every second loop, from the outside inward, is a hole.
#[derive(Clone, Debug)]
pub(crate) struct Polygon {
    edges: Vec<Edge>,
    contains_origin: bool,
    bound: Rect,
    /// Built by the first query about a cell.
    index: OnceLock<Index>,
}

/// A loop and the loops directly within it.
struct Nest {
    shell: Loop,
    children: Vec<Nest>,
}

impl Polygon {
    /// The polygon that is bounded by loops of vertices. The smaller side of each loop is its inside. `None`
    /// if the budget is exhausted.
    pub(crate) fn new(loops: Vec<Vec<Vector>>, budget: &Budget<'_>) -> Option<Self> {
        let mut nests = Vec::new();
        for vertices in loops {
            budget.draw_for(vertices.len() * VERTEX_STEPS).ok()?;
            insert(budget, &mut nests, Nest { shell: Loop::normalized(vertices), children: Vec::new() })?;
        }
        let bound = nests.iter().fold(Rect::EMPTY, |bound, nest| bound.union(&nest.shell.bound));
        let mut loops = Vec::new();
        flatten(nests, &mut loops);
        let contains_origin = loops.iter().fold(false, |inside, outline| inside ^ outline.contains_origin);
        let edges = loops.iter_mut().flat_map(|outline| {
            if outline.is_hole {
                // The inside of the polygon is outside the hole.
                outline.vertices.reverse();
            }
            outline.edges().collect::<Vec<_>>()
        });
        Some(Polygon { edges: edges.collect(), contains_origin, bound, index: OnceLock::new() })
    }

    pub(super) const fn bound(&self) -> &Rect {
        &self.bound
    }

    /// `None` if the budget is exhausted.
    fn index(&self, budget: &Budget<'_>) -> Option<&Index> {
        if self.index.get().is_none() {
            let index = Index::new(&self.edges, self.contains_origin, budget)?;
            return Some(self.index.get_or_init(|| index));
        }
        self.index.get()
    }

    pub(super) fn contains(&self, point: Vector, budget: &Budget<'_>) -> bool {
        /// With at most this many edges, a test of all of them is faster than finding a cell.
        const FEW_EDGES: usize = 32;
        match self.index.get() {
            Some(index) if self.edges.len() > FEW_EDGES => match index.relation(CellId::from_point(point)) {
                Relation::Within(cell) => self.contains_in(cell, point, budget),
                _ => false,
            },
            index => {
                if index.is_none() && !self.bound.contains(point) {
                    return false;
                }
                if budget.draw_for(self.edges.len() * EDGE_STEPS).is_err() {
                    return false;
                }
                let path = EdgeCrosser::new(super::loops::ORIGIN, point);
                self.edges.iter().fold(self.contains_origin, |inside, &(a, b)| inside ^ path.crosses(a, b))
            }
        }
    }

    /// Whether the polygon contains a point of a cell of the index.
    fn contains_in(&self, cell: &IndexCell, point: Vector, budget: &Budget<'_>) -> bool {
        if cell.edges.is_empty() || budget.draw_for(cell.edges.len() * EDGE_STEPS).is_err() {
            return cell.contains_center;
        }
        let path = EdgeCrosser::new(cell.id.center(), point);
        self.edges_of(cell).fold(cell.contains_center, |inside, (a, b)| inside ^ path.crosses(a, b))
    }

    fn edges_of<'a>(&'a self, cell: &'a IndexCell) -> impl Iterator<Item = Edge> + 'a {
        cell.edges.iter().filter_map(|&number| self.edges.get(number as usize).copied())
    }

    /// Whether an edge in a cell of the index meets `target`, or almost does.
    fn any_edge_meets(&self, cell: &IndexCell, target: &Cell, budget: &Budget<'_>) -> bool {
        const ERROR: f64 = FACE_CLIP_ERROR + MEETS_RECT_ERROR;
        if budget.draw_for(2 * cell.edges.len() * EDGE_STEPS).is_err() {
            return false;
        }
        let bound = target.bound.map(|bound| bound.expanded(ERROR));
        self.edges_of(cell).any(|(a, b)| {
            clip_to_face(a, b, target.face(), ERROR).is_some_and(|line| meets_rect(line, bound))
        })
    }

    pub(super) fn contains_cell(&self, target: &Cell, budget: &Budget<'_>) -> bool {
        let Some(index) = self.index(budget) else { return false };
        match index.relation(target.id) {
            Relation::Within(cell) if cell.id == target.id => cell.edges.is_empty() && cell.contains_center,
            Relation::Within(cell) => {
                !self.any_edge_meets(cell, target, budget)
                    && self.contains_in(cell, target.id.center(), budget)
            }
            _ => false,
        }
    }

    pub(super) fn may_intersect(&self, target: &Cell, budget: &Budget<'_>) -> bool {
        let Some(index) = self.index(budget) else { return false };
        match index.relation(target.id) {
            Relation::Within(cell) => {
                cell.id == target.id
                    || self.any_edge_meets(cell, target, budget)
                    || self.contains_in(cell, target.id.center(), budget)
            }
            Relation::Divided => true,
            Relation::Disjoint => false,
        }
    }

    /// A few cells that contain the polygon.
    pub(super) fn cell_bound(&self, budget: &Budget<'_>) -> Vec<CellId> {
        self.index(budget).map_or_else(Vec::new, Index::cell_bound)
    }
}

/// Inserts `new` at its place in `nests`: into the first nest that contains it, or beside the nests and
/// around those that it contains. `None` if the budget is exhausted.
fn insert(budget: &Budget<'_>, nests: &mut Vec<Nest>, mut new: Nest) -> Option<()> {
    let contains = |outer: &Loop, inner: &Loop| outer.contains_nested(inner, budget);
    let mut siblings = nests;
    // All siblings are tested twice, here and below.
    budget.draw_for(2 * siblings.len() * BOUND_STEPS).ok()?;
    while let Some(at) = siblings.iter().position(|nest| contains(&nest.shell, &new.shell)) {
        siblings = &mut siblings[at].children;
        budget.draw_for(2 * siblings.len() * BOUND_STEPS).ok()?;
    }
    new.children = siblings.extract_if(.., |nest| contains(&new.shell, &nest.shell)).collect();
    siblings.push(new);
    Some(())
}

/// The loops of `nests`. Each loop comes before the loops within it.
fn flatten(nests: Vec<Nest>, loops: &mut Vec<Loop>) {
    // Nests may be deep, so this does not recurse.
    let mut pending: Vec<(Nest, bool)> = nests.into_iter().rev().map(|nest| (nest, false)).collect();
    while let Some((Nest { mut shell, children }, is_hole)) = pending.pop() {
        shell.is_hole = is_hole;
        loops.push(shell);
        pending.extend(children.into_iter().rev().map(|nest| (nest, !is_hole)));
    }
}
