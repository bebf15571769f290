//! Rectangles of latitude and longitude, and the smallest ones that are certain to contain a loop.

use std::f64::consts::{FRAC_PI_2, PI};

use super::cap::Cap;
use super::interval::{Arc, Interval};
use super::vector::Vector;

/// A position in radians.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct LatLng {
    pub(crate) lat: f64,
    pub(crate) lng: f64,
}

impl LatLng {
    /// The position in degrees, if it is valid.
    pub(crate) fn from_degrees(lat: f64, lng: f64) -> Option<Self> {
        const DEGREE: f64 = PI / 180.0;
        let position = LatLng { lat: DEGREE * lat, lng: DEGREE * lng };
        (position.lat.abs() <= FRAC_PI_2 && position.lng.abs() <= PI).then_some(position)
    }

    fn of(point: Vector) -> Self {
        // Adding zero makes a negative zero positive.
        let lat = (point.z + 0.0).atan2((point.x * point.x + point.y * point.y).sqrt());
        LatLng { lat, lng: (point.y + 0.0).atan2(point.x + 0.0) }
    }

    pub(crate) fn to_point(self) -> Vector {
        let cos_lat = self.lat.cos();
        Vector::new(self.lng.cos() * cos_lat, self.lng.sin() * cos_lat, self.lat.sin())
    }
}

/// A rectangle of latitude and longitude. Either both intervals are empty, or neither is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Rect {
    pub(super) lat: Interval,
    pub(super) lng: Arc,
}

impl Rect {
    pub(super) const EMPTY: Self = Rect { lat: Interval::EMPTY, lng: Arc::EMPTY };
    pub(super) const FULL: Self = Rect { lat: Interval::new(-FRAC_PI_2, FRAC_PI_2), lng: Arc::FULL };

    pub(super) fn is_empty(&self) -> bool {
        self.lat.is_empty()
    }

    pub(super) fn contains(&self, point: Vector) -> bool {
        let position = LatLng::of(point);
        self.lat.contains(position.lat) && self.lng.contains(position.lng)
    }

    pub(super) fn contains_all(&self, other: &Self) -> bool {
        self.lat.contains_all(other.lat) && self.lng.contains_all(other.lng)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Rect { lat: self.lat.union(other.lat), lng: self.lng.union(other.lng) }
    }

    /// The rectangle with a larger range of latitude. A rectangle that touches a pole has all longitudes.
    fn expanded(&self, lat_margin: f64, lng: Arc) -> Self {
        let lat = self.lat.expanded(lat_margin);
        if lat.is_empty() || lng.is_empty() {
            return Rect::EMPTY;
        }
        let lat = lat.intersection(Rect::FULL.lat);
        let at_pole = lat.low == -FRAC_PI_2 || lat.high == FRAC_PI_2;
        Rect { lat, lng: if at_pole { Arc::FULL } else { lng } }
    }

    /// The smaller of two caps around the rectangle: one around a pole, and one around its center.
    pub(super) fn cap_bound(&self) -> Cap {
        if self.is_empty() {
            return Cap::EMPTY;
        }
        let (pole, angle) = if self.lat.low + self.lat.high < 0.0 {
            (-1.0, FRAC_PI_2 + self.lat.high)
        } else {
            (1.0, FRAC_PI_2 - self.lat.low)
        };
        let at_pole = Cap::new(Vector::new(0.0, 0.0, pole), (1.0 + 2.0 * f64::EPSILON) * angle);
        if self.lng.length() >= 2.0 * PI {
            return at_pole;
        }
        let center = LatLng { lat: self.lat.center(), lng: self.lng.center() };
        let mut around_center = Cap::new(center.to_point(), 0.0);
        let corner = |lat, lng| LatLng { lat, lng }.to_point();
        for lat in [self.lat.low, self.lat.high] {
            for lng in [self.lng.low, self.lng.high] {
                around_center.add(corner(lat, lng));
            }
        }
        if around_center.length2() < at_pole.length2() { around_center } else { at_pole }
    }

    /// A rectangle that contains the bound of every loop within a loop with this bound.
    pub(super) fn for_subregions(&self) -> Self {
        if self.is_empty() {
            return *self;
        }
        // An edge between almost opposite points may take any direction.
        let lng_gap = (PI - self.lng.length() - 2.5 * f64::EPSILON).max(0.0);
        let from_equator = self.lat.low.max(-self.lat.high);
        let (south_gap, north_gap) = (FRAC_PI_2 + self.lat.low, FRAC_PI_2 - self.lat.high);
        let has_opposites = if from_equator >= 0.0 {
            2.0 * from_equator + lng_gap < 1.354e-15
        } else if lng_gap >= FRAC_PI_2 {
            south_gap + north_gap < 1.687e-15
        } else {
            south_gap.max(north_gap) * lng_gap < 1.765e-15
        };
        if has_opposites {
            return Rect::FULL;
        }
        let lng = if lng_gap <= 0.0 { Arc::FULL } else { self.lng.closed_if_full() };
        self.expanded(9.0 * f64::EPSILON, lng)
    }
}

/// Bounds the edges between consecutive points. A margin is added to them to cover computation errors.
pub(super) struct RectBounder {
    bound: Rect,
    last: Option<(Vector, LatLng)>,
}

impl RectBounder {
    pub(super) const fn new() -> Self {
        RectBounder { bound: Rect::EMPTY, last: None }
    }

    pub(super) fn add(&mut self, point: Vector) {
        let position = LatLng::of(point);
        self.bound = match self.last {
            Some((last, last_position)) if !self.bound.is_empty() => {
                self.bound.union(&edge_bound(last, last_position, point, position))
            }
            _ => Rect { lat: Interval::new(position.lat, position.lat), lng: Arc::at(position.lng) },
        };
        self.last = Some((point, position));
    }

    pub(super) fn bound(&self) -> Rect {
        self.bound.expanded(2.0 * f64::EPSILON, self.bound.lng.closed_if_full())
    }
}

/// The rectangle around the edge from `a` to `b`.
fn edge_bound(a: Vector, a_position: LatLng, b: Vector, b_position: LatLng) -> Rect {
    let mut lng = Arc::between(a_position.lng, b_position.lng);
    let mut lat = Interval::between(a_position.lat, b_position.lat);
    // This is twice the normal of the plane of the edge.
    let normal = (a - b).cross(a + b);
    let norm = normal.norm();
    if norm < 1.91346e-15 {
        // The points are almost equal or almost opposite.
        return if a.dot(b) < 0.0 { Rect::FULL } else { Rect { lat, lng } };
    }
    if lng.length() >= PI - 2.0 * f64::EPSILON {
        // The edge may pass on either side of the pole.
        lng = Arc::FULL;
    }
    // The highest point of the great circle is between the two points if they are on different sides of the plane
    // through it and the poles.
    let across = normal.cross(Vector::new(0.0, 0.0, 1.0));
    let (a_side, b_side) = (across.dot(a), across.dot(b));
    let error = 6.06638e-16 * norm + 6.83174e-31;
    if a_side * b_side < 0.0 || a_side.abs() <= error || b_side.abs() <= error {
        let horizontal = (normal.x * normal.x + normal.y * normal.y).sqrt();
        let lat_max = (horizontal.atan2(normal.z.abs()) + 3.0 * f64::EPSILON).min(FRAC_PI_2);
        // No point of the edge is farther from its ends than half its length.
        let reach = 0.5 * (a - b).norm() * lat_max.sin();
        let reach = 2.0 * ((1.0 + 4.0 * f64::EPSILON) * reach).min(1.0).asin();
        let beyond = 0.5 * (reach - lat.length()) + f64::EPSILON;
        let (low, high) = (lat.low, lat.high);
        if a_side <= error && b_side >= -error {
            lat.high = lat_max.min(high + beyond);
        }
        if b_side <= error && a_side >= -error {
            lat.low = (-lat_max).max(low - beyond);
        }
    }
    Rect { lat, lng }
}
