//! The part of an edge that is on a face, in u and v, and whether it meets a rectangle there.
//!
//! A face can be padded: it is then slightly larger on all sides, so that computation errors lose nothing.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::cell::RectUv;
use super::cell_id::{face_of, project, to_face};
use super::interval::Interval;
use super::predicates::robust_cross;
use super::vector::Vector;

/// Maximum error of u or v of a clipped edge.
pub(super) const FACE_CLIP_ERROR: f64 = 9.0 * FRAC_1_SQRT_2 * f64::EPSILON;
/// Maximum distance between a rectangle and an edge that counts as meeting it.
pub(super) const MEETS_RECT_ERROR: f64 = 3.0 * SQRT_2 * f64::EPSILON;
/// Maximum error of u or v after an edge has been clipped to a cell.
pub(super) const EDGE_CLIP_ERROR: f64 = 2.25 * f64::EPSILON;

/// u and v of a point.
pub(super) type PointUv = [f64; 2];

/// The part of the edge from `a` to `b` that is on `face`, padded by `padding`.
pub(super) fn clip_to_face(a: Vector, b: Vector, face: usize, padding: f64) -> Option<[PointUv; 2]> {
    if face_of(a) == face && face_of(b) == face {
        return Some([project(face, a), project(face, b)]);
    }
    let normal = to_face(face, robust_cross(a, b));
    let (a, b) = (to_face(face, a), to_face(face, b));
    // A normal with larger u and v corresponds to a larger face.
    let scale = 1.0 + padding;
    let scaled = Vector::new(scale * normal.x, scale * normal.y, normal.z);
    if !meets_face(scaled) {
        return None;
    }
    let normal = normal.normalized();
    let (a_tangent, b_tangent) = (normal.cross(a), b.cross(normal));
    let (a_score, a_uv) = clip_end(b, a, -scaled, b_tangent, a_tangent, scale);
    let (b_score, b_uv) = clip_end(a, b, scaled, a_tangent, b_tangent, scale);
    (a_score + b_score < 3).then_some([a_uv, b_uv])
}

/// The end of the edge from `a` to `b` on a face, with all arguments in the face's coordinates, and a score.
/// If the scores of both ends add up to 3 or more, the edge is not on the face.
fn clip_end(
    a: Vector,
    b: Vector,
    normal: Vector,
    a_tangent: Vector,
    b_tangent: Vector,
    scale: f64,
) -> (u32, PointUv) {
    const SAFE: f64 = 1.0 - FACE_CLIP_ERROR;
    let b_uv = [b.x / b.z, b.y / b.z];
    if b.z > 0.0 && b_uv[0].abs().max(b_uv[1].abs()) <= SAFE {
        return (0, b_uv);
    }
    // The point where the great circle leaves the face, if it is within the edge.
    let exit = exit_point(normal).map(|at| scale * at);
    let exit_point = Vector::new(exit[0], exit[1], 1.0);
    let score = match () {
        () if (exit_point - a).dot(a_tangent) < 0.0 => 2,
        () if (exit_point - b).dot(b_tangent) < 0.0 => 1,
        () => return (0, exit),
    };
    if b.z <= 0.0 { (3, exit) } else { (score, b_uv) }
}

/// Whether the great circle with this normal meets the face. The result is exact: see [`exit_axis`].
fn meets_face(normal: Vector) -> bool {
    let [u, v, w] = normal.components().map(f64::abs);
    v >= w - u && u >= w - v
}

/// Whether a great circle that meets the face leaves it at its left or right edge (0), or at its lower or
/// upper edge (1). Sums of two numbers are compared with a third in such a way that rounding does not matter.
fn exit_axis(normal: Vector) -> usize {
    let [u, v, w] = normal.components().map(f64::abs);
    let meets_opposite_edges = match (u - v).abs() {
        difference if difference != w => difference >= w,
        _ if u >= v => u - w >= v,
        _ => v - w >= u,
    };
    if meets_opposite_edges {
        usize::from(u >= v)
    } else {
        let negative = normal.components().map(f64::is_sign_negative);
        usize::from(!(negative[0] ^ negative[1] ^ negative[2]))
    }
}

fn exit_point(normal: Vector) -> PointUv {
    let Vector { x, y, z } = normal;
    if exit_axis(normal) == 0 {
        let u = if y > 0.0 { 1.0 } else { -1.0 };
        [u, (-u * x - z) / y]
    } else {
        let v = if x < 0.0 { 1.0 } else { -1.0 };
        [(-v * y - z) / x, v]
    }
}

/// Whether the line from `a` to `b` meets `rect`.
pub(super) fn meets_rect([a, b]: [PointUv; 2], rect: RectUv) -> bool {
    let [u_bound, v_bound] = [Interval::between(a[0], b[0]), Interval::between(a[1], b[1])];
    if !rect[0].intersects(u_bound) || !rect[1].intersects(v_bound) {
        return false;
    }
    // The line meets the rectangle if corners are on both sides of the line. It is enough to test the
    // outermost corners in the direction of its normal.
    let normal = [-(b[1] - a[1]), b[0] - a[0]];
    let corner = |far: bool| -> f64 {
        let at =
            [0, 1].map(|axis| if (normal[axis] >= 0.0) == far { rect[axis].high } else { rect[axis].low });
        normal[0] * (at[0] - a[0]) + normal[1] * (at[1] - a[1])
    };
    corner(true) >= 0.0 && corner(false) <= 0.0
}

/// The value at `x` of the line through `a1` at `a` and `b1` at `b`. `a` and `b` differ.
pub(super) fn interpolated(x: f64, a: f64, b: f64, a1: f64, b1: f64) -> f64 {
    // The computation starts from the nearer end, which is more precise.
    if (a - x).abs() <= (b - x).abs() {
        a1 + (b1 - a1) * (x - a) / (b - a)
    } else {
        b1 + (a1 - b1) * (x - b) / (a - b)
    }
}
