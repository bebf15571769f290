//! Closed intervals of numbers and of angles.

use std::f64::consts::PI;

/// A closed interval. It is empty if its lower bound is above its upper bound.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    pub(super) const EMPTY: Self = Interval { low: 1.0, high: 0.0 };

    pub(super) const fn new(low: f64, high: f64) -> Self {
        Interval { low, high }
    }

    /// The interval between two numbers.
    pub(super) fn between(a: f64, b: f64) -> Self {
        if a <= b { Interval { low: a, high: b } } else { Interval { low: b, high: a } }
    }

    pub(super) fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub(super) fn length(self) -> f64 {
        self.high - self.low
    }

    pub(super) fn center(self) -> f64 {
        0.5 * (self.low + self.high)
    }

    pub(super) fn contains(self, number: f64) -> bool {
        number >= self.low && number <= self.high
    }

    pub(super) fn contains_all(self, other: Self) -> bool {
        other.is_empty() || other.low >= self.low && other.high <= self.high
    }

    pub(super) fn intersects(self, other: Self) -> bool {
        if self.low <= other.low {
            other.low <= self.high && other.low <= other.high
        } else {
            self.low <= other.high && self.low <= self.high
        }
    }

    pub(super) fn expanded(self, margin: f64) -> Self {
        if self.is_empty() { self } else { Interval { low: self.low - margin, high: self.high + margin } }
    }

    /// The number in the interval that is closest to `number`.
    pub(super) fn nearest(self, number: f64) -> f64 {
        self.low.max(self.high.min(number))
    }

    pub(super) fn union(self, other: Self) -> Self {
        match () {
            () if self.is_empty() => other,
            () if other.is_empty() => self,
            () => Interval { low: self.low.min(other.low), high: self.high.max(other.high) },
        }
    }

    pub(super) fn intersection(self, other: Self) -> Self {
        Interval { low: self.low.max(other.low), high: self.high.min(other.high) }
    }
}

/// An arc of the circle, counterclockwise from one angle to another, both in -π to π. If the first angle is
/// larger, the arc contains π. -π is written as π, except in the full arc, which is -π to π. The empty arc is
/// π to -π.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Arc {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Arc {
    pub(super) const EMPTY: Self = Arc { low: PI, high: -PI };
    pub(super) const FULL: Self = Arc { low: -PI, high: PI };

    pub(super) fn at(angle: f64) -> Self {
        let angle = canonical(angle);
        Arc { low: angle, high: angle }
    }

    /// The shorter arc between two angles.
    pub(super) fn between(a: f64, b: f64) -> Self {
        let (a, b) = (canonical(a), canonical(b));
        if ahead(a, b) <= PI { Arc { low: a, high: b } } else { Arc { low: b, high: a } }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    pub(super) fn is_full(self) -> bool {
        self == Self::FULL
    }

    fn is_inverted(self) -> bool {
        self.low > self.high
    }

    /// The length; negative for the empty arc.
    pub(super) fn length(self) -> f64 {
        let length = self.high - self.low;
        match length + 2.0 * PI {
            _ if length >= 0.0 => length,
            around if around > 0.0 => around,
            _ => -1.0,
        }
    }

    pub(super) fn center(self) -> f64 {
        let center = 0.5 * (self.low + self.high);
        match () {
            () if !self.is_inverted() => center,
            () if center <= 0.0 => center + PI,
            () => center - PI,
        }
    }

    pub(super) fn contains(self, angle: f64) -> bool {
        let angle = canonical(angle);
        if self.is_inverted() {
            (angle >= self.low || angle <= self.high) && !self.is_empty()
        } else {
            angle >= self.low && angle <= self.high
        }
    }

    pub(super) fn contains_all(self, other: Self) -> bool {
        let (from, to) = (other.low >= self.low, other.high <= self.high);
        match (self.is_inverted(), other.is_inverted()) {
            (true, false) => (from || to) && !self.is_empty(),
            (false, true) => self.is_full() || other.is_empty(),
            _ => from && to,
        }
    }

    pub(super) fn union(self, other: Self) -> Self {
        if other.is_empty() {
            return self;
        }
        match (self.contains(other.low), self.contains(other.high)) {
            (true, true) if self.contains_all(other) => self,
            (true, true) => Arc::FULL,
            (true, false) => Arc { low: self.low, high: other.high },
            (false, true) => Arc { low: other.low, high: self.high },
            (false, false) if self.is_empty() || other.contains(self.low) => other,
            (false, false) if ahead(other.high, self.low) < ahead(self.high, other.low) => {
                Arc { low: other.low, high: self.high }
            }
            (false, false) => Arc { low: self.low, high: other.high },
        }
    }

    /// The arc itself, or the full arc if only rounding prevents it from being full.
    pub(super) fn closed_if_full(self) -> Self {
        if !self.is_empty() && self.length() + 2.0 * f64::EPSILON >= 2.0 * PI { Arc::FULL } else { self }
    }
}

fn canonical(angle: f64) -> f64 {
    if angle == -PI { PI } else { angle }
}

/// The counterclockwise distance from `a` to `b`.
fn ahead(a: f64, b: f64) -> f64 {
    let distance = b - a;
    if distance >= 0.0 { distance } else { (b + PI) - (a - PI) }
}
