//! Tests of the side on which a point lies. Results are exact, as if each point were moved by a tiny amount
//! of its own so that no three points lie on one great circle.

use std::cmp::Ordering;

use super::exact::{Sum, power_of_two};
use super::vector::Vector;

/// An upper bound for the error of a determinant of three unit vectors in doubles.
const DETERMINANT_ERROR: f64 = 1.8274 * f64::EPSILON;

/// 1 if the determinant of `a`, `b` and `c` is certain to be positive, -1 if it is certain to be negative,
/// otherwise 0. The cross product of `a` and `b` is given.
#[inline]
fn plain_sign(a_cross_b: Vector, c: Vector) -> i32 {
    let determinant = a_cross_b.dot(c);
    i32::from(determinant > DETERMINANT_ERROR) - i32::from(determinant < -DETERMINANT_ERROR)
}

/// 1 if `a`, `b` and `c` are counterclockwise, -1 if they are clockwise, and 0 only if two of them are the
/// same.
pub(super) fn sign(a: Vector, b: Vector, c: Vector) -> i32 {
    match plain_sign(a.cross(b), c) {
        0 => exact_sign(a, b, c),
        sign => sign,
    }
}

#[cold]
fn exact_sign(a: Vector, b: Vector, c: Vector) -> i32 {
    if a == b || b == c || c == a {
        return 0;
    }
    let mut points = [a, b, c];
    let mut parity = 1;
    for at in [0, 1, 0] {
        if points[at].order(points[at + 1]) == Ordering::Greater {
            points.swap(at, at + 1);
            parity = -parity;
        }
    }
    let [a, b, c] = points.map(Vector::components);
    let determinant = (0..3).fold(Sum::zero(), |sum, at| {
        let (next, last) = ((at + 1) % 3, (at + 2) % 3);
        sum.plus([a[at], b[next], c[last]]).plus([-a[at], b[last], c[next]])
    });
    parity
        * match determinant.sign() {
            0 => moved_sign(a, b, c),
            sign => sign,
        }
}

/// The sign of the determinant of points on one great circle, in ascending order, after the points have been
/// moved. Earlier points move farther, and farthest along z. (H. Edelsbrunner and E. P. Mücke, "Simulation of
/// Simplicity", 1990.)
fn moved_sign(a: [f64; 3], b: [f64; 3], c: [f64; 3]) -> i32 {
    let minor = |p: [f64; 3], q: [f64; 3], i: usize, j: usize| {
        Sum::zero().plus([p[i], q[j], 1.0]).plus([-p[j], q[i], 1.0]).sign()
    };
    let of = |value: f64| i32::from(value > 0.0) - i32::from(value < 0.0);
    let coefficients: [&dyn Fn() -> i32; 12] = [
        &|| minor(b, c, 0, 1),
        &|| minor(b, c, 2, 0),
        &|| minor(b, c, 1, 2),
        &|| minor(c, a, 0, 1),
        &|| of(c[0]),
        &|| -of(c[1]),
        &|| minor(c, a, 2, 0),
        &|| of(c[2]),
        &|| minor(a, b, 0, 1),
        &|| -of(b[0]),
        &|| of(b[1]),
        &|| of(a[0]),
    ];
    coefficients.iter().map(|coefficient| coefficient()).find(|&sign| sign != 0).unwrap_or(1)
}

/// Whether a counterclockwise turn around `o` from `a` meets `b` no later than `c`.
pub(super) fn ordered_ccw(a: Vector, b: Vector, c: Vector, o: Vector) -> bool {
    let steps = [sign(b, o, a) >= 0, sign(c, o, b) >= 0, sign(a, o, c) > 0];
    steps.into_iter().filter(|&step| step).count() >= 2
}

/// A direction at `a` that differs from `a`. It is the same for equal points.
pub(super) fn reference_direction(a: Vector) -> Vector {
    let other = match a.largest_component() {
        0 => Vector::new(0.012, 0.0053, 1.0),
        1 => Vector::new(1.0, 0.0053, 0.00457),
        _ => Vector::new(0.012, 1.0, 0.00457),
    };
    a.cross(other).normalized()
}

/// Whether a loop with the consecutive vertices `a`, `b` and `c` contains `b`.
pub(super) fn angle_contains_vertex(a: Vector, b: Vector, c: Vector) -> bool {
    !ordered_ccw(reference_direction(b), c, a, b)
}

/// Whether a loop through `a0`, `vertex` and `a2` contains, near `vertex`, a loop through `b0`, `vertex` and `b2`.
pub(super) fn wedge_contains(a0: Vector, vertex: Vector, a2: Vector, b0: Vector, b2: Vector) -> bool {
    ordered_ccw(a2, b2, b0, vertex) && ordered_ccw(b0, a0, a2, vertex)
}

/// Whether edges that share a vertex count as crossing there. They do so in a way that makes the edges of a
/// loop around a point cross a path from it an odd number of times.
fn vertex_crossing(a: Vector, b: Vector, c: Vector, d: Vector) -> bool {
    match () {
        () if a == b || c == d => false,
        () if a == c => b == d || ordered_ccw(reference_direction(a), d, b, a),
        () if b == d => ordered_ccw(reference_direction(b), c, a, b),
        () if a == d => b == c || ordered_ccw(reference_direction(a), c, b, a),
        () => b == c && ordered_ccw(reference_direction(b), d, a, b),
    }
}

/// Finds the edges that cross one edge.
pub(super) struct EdgeCrosser {
    a: Vector,
    b: Vector,
    a_cross_b: Vector,
}

impl EdgeCrosser {
    pub(super) fn new(a: Vector, b: Vector) -> Self {
        EdgeCrosser { a, b, a_cross_b: a.cross(b) }
    }

    /// Whether the edge from `c` to `d` crosses this edge, in the interior of both or by [`vertex_crossing`].
    #[inline]
    pub(super) fn crosses(&self, c: Vector, d: Vector) -> bool {
        let (left, right) = (plain_sign(self.a_cross_b, c), plain_sign(self.a_cross_b, d));
        left * right != 1 && self.may_cross(c, d, left, right)
    }

    fn may_cross(&self, c: Vector, d: Vector, left: i32, right: i32) -> bool {
        let (a, b) = (self.a, self.b);
        if a == c || a == d || b == c || b == d {
            return vertex_crossing(a, b, c, d);
        }
        if a == b || c == d {
            return false;
        }
        let exactly = |sign: i32, point: Vector| if sign == 0 { exact_sign(a, b, point) } else { sign };
        let (left, right) = (exactly(left, c), exactly(right, d));
        // c and d are on different sides of ab. Then a and b must be on different sides of cd, in the same
        // sense.
        left != right && sign(c, d, b) == left && sign(c, d, a) == right
    }
}

/// A vector at right angles to both `a` and `b`, about twice as long as their cross product. It is precise
/// even if they are almost the same or opposite.
pub(super) fn robust_cross(a: Vector, b: Vector) -> Vector {
    /// Below this norm the direction may be wrong by more than six times the precision of a double.
    const NORM_MIN: f64 = {
        const SQRT_3: f64 = 1.732_050_807_568_877_2;
        32.0 * SQRT_3 * (f64::EPSILON / 2.0) / (6.0 - (1.0 + 2.0 * SQRT_3))
    };
    let product = (a - b).cross(a + b);
    if product.norm2() >= NORM_MIN * NORM_MIN {
        product
    } else if a == b {
        reference_direction(a)
    } else {
        exact_cross(a, b)
    }
}

#[cold]
fn exact_cross(a: Vector, b: Vector) -> Vector {
    /// Norms would underflow if all components were smaller.
    const EXPONENT_MIN: i32 = -242;
    let (p, q) = (a.components(), b.components());
    let sums =
        [(1, 2), (2, 0), (0, 1)].map(|(i, j)| Sum::zero().plus([p[i], q[j], 2.0]).plus([-p[j], q[i], 2.0]));
    match sums.iter().filter_map(Sum::exponent).max() {
        Some(exponent) => {
            let scale = if exponent < EXPONENT_MIN { -exponent - 1 } else { 0 };
            let [x, y, z] = sums.map(|sum| sum.to_f64(scale));
            Vector::new(x, y, z)
        }
        None if a.order(b) == Ordering::Less => moved_cross(b),
        None => -moved_cross(a),
    }
}

/// The direction of the cross product of two opposite points after they have been moved, computed from the
/// one that is later in order.
fn moved_cross(later: Vector) -> Vector {
    if later.x == 0.0 && later.y == 0.0 {
        return Vector::new(later.z, 0.0, 0.0);
    }
    let largest = later.x.abs().max(later.y.abs());
    let exponent = (largest.to_bits() >> 52) as i32 - 1023;
    let scale = if exponent < -242 { power_of_two(-exponent) } else { 1.0 };
    Vector::new(-later.y, later.x, 0.0) * scale
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point() -> impl Strategy<Value = Vector> {
        let coordinate =
            prop_oneof![3 => -1.0..1.0f64, 2 => prop::sample::select(vec![0.0, 1.0, -1.0, 1e-17, -1e-300])];
        [coordinate.clone(), coordinate.clone(), coordinate]
            .prop_map(|[x, y, z]| Vector::new(x, y, z).normalized())
            .prop_filter("no direction", |point| point.norm2() > 0.5)
    }

    #[test]
    fn points_on_one_meridian_are_still_ordered() {
        let on_equator =
            |degrees: f64| Vector::new(degrees.to_radians().cos(), degrees.to_radians().sin(), 0.0);
        let [a, b, c] = [0.0, 10.0, 20.0].map(on_equator);
        assert_ne!(sign(a, b, c), 0);
        assert_eq!(sign(a, b, c), sign(b, c, a));
        assert_eq!(sign(a, b, c), -sign(c, b, a));
        assert_eq!(sign(a, b, a), 0);
    }

    #[test]
    fn the_cross_product_of_opposite_points_is_at_right_angles_to_them() {
        let a = Vector::new(0.6, 0.8, 0.0);
        let nearly = Vector::new(-0.6, -0.8, 1e-17);
        for b in [-a, nearly, a + Vector::new(0.0, 0.0, 1e-17)] {
            let cross = robust_cross(a, b).normalized();
            assert!((cross.norm() - 1.0).abs() < 1e-15, "{b:?} {cross:?}");
            assert!(cross.dot(a).abs() < 1e-15);
            assert_eq!(robust_cross(b, a).normalized(), -cross);
        }
        assert_eq!(robust_cross(a, a), reference_direction(a));
    }

    proptest! {
        #[test]
        fn signs_change_with_the_order_of_points(a in point(), b in point(), c in point()) {
            let expected = sign(a, b, c);
            prop_assert_eq!(expected == 0, a == b || b == c || c == a);
            prop_assert_eq!(sign(b, c, a), expected);
            prop_assert_eq!(sign(c, a, b), expected);
            prop_assert_eq!(sign(b, a, c), -expected);
            prop_assert_eq!(sign(a, c, b), -expected);
        }

        #[test]
        fn crossings_do_not_depend_on_direction(a in point(), b in point(), c in point(), d in point()) {
            let crosses = EdgeCrosser::new(a, b).crosses(c, d);
            prop_assert_eq!(EdgeCrosser::new(b, a).crosses(c, d), crosses);
            prop_assert_eq!(EdgeCrosser::new(a, b).crosses(d, c), crosses);
        }

        #[test]
        fn a_path_crosses_a_triangle_equally_often_in_both_directions(a in point(), b in point(), c in point(), p in point(), q in point(), r in point()) {
            let inside = |from, to| {
                let path = EdgeCrosser::new(from, to);
                [(a, b), (b, c), (c, a)].into_iter().filter(|&(v, w)| path.crosses(v, w)).count() % 2
            };
            prop_assume!(p != q && q != r && p != r);
            prop_assert_eq!((inside(p, q) + inside(q, r)) % 2, inside(p, r));
        }
    }
}
