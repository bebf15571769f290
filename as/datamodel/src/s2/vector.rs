//! Three-dimensional vectors. Products and sums are computed in a fixed order, because coverings depend on every bit.

use std::cmp::Ordering;
use std::ops::{Add, Mul, Neg, Sub};

/// A vector, mostly a point on the unit sphere. x points towards 0° N 0° E, y towards 0° N 90° E, z towards
/// the north pole.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub(crate) struct Vector {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) z: f64,
}

impl Vector {
    pub(crate) const fn new(x: f64, y: f64, z: f64) -> Self {
        Vector { x, y, z }
    }

    pub(crate) const fn components(self) -> [f64; 3] {
        [self.x, self.y, self.z]
    }

    pub(crate) fn dot(self, other: Self) -> f64 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    pub(crate) fn cross(self, other: Self) -> Self {
        Vector {
            x: self.y * other.z - self.z * other.y,
            y: self.z * other.x - self.x * other.z,
            z: self.x * other.y - self.y * other.x,
        }
    }

    pub(crate) fn norm2(self) -> f64 {
        self.dot(self)
    }

    pub(crate) fn norm(self) -> f64 {
        self.norm2().sqrt()
    }

    /// The vector of length 1 in this direction.
    pub(crate) fn normalized(self) -> Self {
        let norm = self.norm();
        self * if norm == 0.0 { norm } else { 1.0 / norm }
    }

    /// The angle to `other` in radians.
    pub(crate) fn angle(self, other: Self) -> f64 {
        self.cross(other).norm().atan2(self.dot(other))
    }

    /// Index of the component with the largest magnitude; of equal ones the last.
    pub(crate) fn largest_component(self) -> usize {
        let [x, y, z] = self.components().map(f64::abs);
        match () {
            () if x > y && x > z => 0,
            () if x <= y && y > z => 1,
            () => 2,
        }
    }

    /// The order by x, then y, then z. Components are never NaN, so the order is total.
    pub(super) fn order(self, other: Self) -> Ordering {
        self.partial_cmp(&other).unwrap_or(Ordering::Equal)
    }
}

impl Add for Vector {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Vector::new(self.x + other.x, self.y + other.y, self.z + other.z)
    }
}

impl Sub for Vector {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Vector::new(self.x - other.x, self.y - other.y, self.z - other.z)
    }
}

impl Neg for Vector {
    type Output = Self;
    fn neg(self) -> Self {
        Vector::new(-self.x, -self.y, -self.z)
    }
}

impl Mul<f64> for Vector {
    type Output = Self;
    fn mul(self, factor: f64) -> Self {
        Vector::new(self.x * factor, self.y * factor, self.z * factor)
    }
}
