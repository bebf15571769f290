//! Loops: closed chains of edges with the inside to their left.
//!
//! A loop need not be simple. The number of times that the path from a fixed point to a point crosses the
//! edges of the loop determines whether the loop contains the point.

use std::cmp::Ordering;
use std::f64::consts::{FRAC_PI_2, PI};

use super::interval::{Arc, Interval};
use super::predicates::{EdgeCrosser, angle_contains_vertex, robust_cross, sign, wedge_contains};
use super::rect::{Rect, RectBounder};
use super::vector::Vector;
use crate::budget::Budget;

/// The fixed point. It is near the north pole, where clients' polygons are unlikely to have an edge.
pub(super) const ORIGIN: Vector =
    Vector::new(-0.009_999_466_435_025_02, 0.002_592_454_260_932_412, 0.999_946_643_502_502);

/// A loop of at least three vertices. Consecutive vertices differ.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub(super) vertices: Vec<Vector>,
    pub(super) contains_origin: bool,
    pub(super) bound: Rect,
    /// [`Rect::for_subregions`] of the bound.
    subregion_bound: Rect,
    /// Whether the loop bounds a hole of a polygon.
    pub(super) is_hole: bool,
}

impl Loop {
    /// The loop through `vertices`, or its reverse if the loop contains more than half of the sphere.
    pub(super) fn normalized(vertices: Vec<Vector>) -> Self {
        let mut new = Loop {
            vertices,
            contains_origin: false,
            bound: Rect::EMPTY,
            subregion_bound: Rect::EMPTY,
            is_hole: false,
        };
        if let [a, b, c, ..] = *new.vertices {
            let contains_vertex = a != b && c != b && angle_contains_vertex(a, b, c);
            new.contains_origin = contains_vertex != new.contains_by_edges(b);
        }
        new.set_bound();
        if new.bound.lng.length() >= PI && curvature(&new.vertices) < -curvature_error(&new.vertices) {
            new.invert();
        }
        new
    }

    fn invert(&mut self) {
        self.vertices.reverse();
        self.contains_origin = !self.contains_origin;
        if self.bound.lat.low > -FRAC_PI_2 && self.bound.lat.high < FRAC_PI_2 {
            // The inverse contains both poles.
            (self.bound, self.subregion_bound) = (Rect::FULL, Rect::FULL);
        } else {
            self.set_bound();
        }
    }

    fn set_bound(&mut self) {
        let mut bounder = RectBounder::new();
        for &vertex in self.vertices.iter().chain(self.vertices.first()) {
            bounder.add(vertex);
        }
        let mut bound = bounder.bound();
        if self.contains_by_edges(Vector::new(0.0, 0.0, 1.0)) {
            bound = Rect { lat: Interval::new(bound.lat.low, FRAC_PI_2), lng: Arc::FULL };
        }
        if bound.lng.is_full() && self.contains_by_edges(Vector::new(0.0, 0.0, -1.0)) {
            bound.lat.low = -FRAC_PI_2;
        }
        (self.bound, self.subregion_bound) = (bound, bound.for_subregions());
    }

    /// The edges in order.
    pub(super) fn edges(&self) -> impl Iterator<Item = (Vector, Vector)> {
        let next = self.vertices.iter().cycle().skip(1);
        self.vertices.iter().copied().zip(next.copied())
    }

    /// Whether the loop contains `point`, computed only from crossings of its edges.
    pub(super) fn contains_by_edges(&self, point: Vector) -> bool {
        let path = EdgeCrosser::new(ORIGIN, point);
        self.edges().fold(self.contains_origin, |inside, (a, b)| inside ^ path.crosses(a, b))
    }

    fn contains(&self, point: Vector) -> bool {
        self.bound.contains(point) && self.contains_by_edges(point)
    }

    /// Whether the loop contains `other`, if no edges cross and none is shared. The result is meaningless if
    /// the budget is exhausted.
    pub(super) fn contains_nested(&self, other: &Self, budget: &Budget<'_>) -> bool {
        let [before, vertex, after, ..] = *other.vertices else { return false };
        if !self.subregion_bound.contains_all(&other.bound) {
            return false;
        }
        let count = self.vertices.len();
        // In the worst case all vertices are compared, and all edges are crossed.
        if budget.draw_for(count * 12).is_err() {
            return false;
        }
        // The first vertex is compared last.
        match (1..=count).find(|at| self.vertices[at % count] == vertex) {
            None => self.contains(vertex),
            Some(at) => {
                let [own_before, own_after] = [at - 1, at + 1].map(|at| self.vertices[at % count]);
                wedge_contains(own_before, vertex, own_after, before, after)
            }
        }
    }
}

/// The total turn of the loop to the left: 2 π minus the area to its left. The order of the sum depends only
/// on the shape.
fn curvature(vertices: &[Vector]) -> f64 {
    const MAX: f64 = 2.0 * PI - 4.0 * f64::EPSILON;
    let pruned = without_spikes(vertices);
    let count = pruned.len();
    if count < 3 {
        return 2.0 * PI;
    }
    let (start, forward) = canonical_order(&pruned);
    let at = |step: usize| pruned[position(start, forward, step, count)];
    let mut sum = turn(at(count - 1), at(0), at(1));
    let mut lost = 0.0;
    for step in 1..count {
        let angle = turn(at(step - 1), at(step), at(step + 1)) + lost;
        let before = sum;
        sum += angle;
        lost = (before - sum) + angle;
    }
    sum += lost;
    (if forward { sum } else { -sum }).clamp(-MAX, MAX)
}

/// The vertex that is `step` steps from `start`, in one direction or the other.
const fn position(start: usize, forward: bool, step: usize, count: usize) -> usize {
    if forward { (start + step) % count } else { (start + 2 * count - step % count) % count }
}

fn curvature_error(vertices: &[Vector]) -> f64 {
    11.25 * f64::EPSILON * vertices.len() as f64
}

/// The angle by which the path from `a` by `b` to `c` turns left at `b`.
fn turn(a: Vector, b: Vector, c: Vector) -> f64 {
    let angle = robust_cross(a, b).angle(robust_cross(b, c));
    if sign(a, b, c) > 0 { angle } else { -angle }
}

/// The loop without the parts that go out and come back the same way.
fn without_spikes(vertices: &[Vector]) -> Vec<Vector> {
    let mut kept: Vec<Vector> = Vec::with_capacity(vertices.len());
    for &vertex in vertices {
        match kept[..] {
            [.., last] if last == vertex => {}
            [.., before, _] if before == vertex => {
                kept.pop();
            }
            _ => kept.push(vertex),
        }
    }
    if kept.len() < 3 {
        return Vec::new();
    }
    if kept.first() == kept.last() {
        kept.pop();
    }
    let count = kept.len();
    // A spike may still extend over both ends.
    let spike = (0..count / 2).take_while(|at| kept[at + 1] == kept[count - 1 - at]).count();
    kept.truncate(count - spike);
    kept.drain(..spike.min(kept.len()));
    kept
}

/// The vertex and the direction (whether forward) that give the smallest sequence of vertices.
fn canonical_order(vertices: &[Vector]) -> (usize, bool) {
    let count = vertices.len();
    let least = vertices.iter().copied().min_by(|a, b| a.order(*b));
    let starts = (0..count).filter(|&at| Some(vertices[at]) == least);
    let sequence =
        |(start, forward)| (1..count).map(move |step| vertices[position(start, forward, step, count)]);
    let compare = |a: &(usize, bool), b: &(usize, bool)| {
        let differing = sequence(*a).zip(sequence(*b)).map(|(a, b)| a.order(b)).find(|order| order.is_ne());
        differing.unwrap_or(Ordering::Equal)
    };
    starts.flat_map(|start| [(start, true), (start, false)]).min_by(compare).unwrap_or((0, true))
}
