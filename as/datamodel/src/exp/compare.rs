//! Comparisons of two values of one type.

use std::borrow::Cow;
use std::cmp::Ordering;

use cf::msgpack::compare_ordered_metered;

use super::value::Value;
use crate::budget::Budget;
use crate::geojson::Geometry;
use crate::particle::BytesType;

/// The comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    /// Whether the comparison of `left` with `right` holds. `None` if that is unknown: for values of different types,
    /// for maps whose pairs have no order, and if the budget is exhausted.
    #[inline]
    pub(super) fn holds(self, left: &Value<'_>, right: &Value<'_>, budget: &Budget<'_>) -> Option<bool> {
        let order = match (left, right) {
            (Value::Integer(left), Value::Integer(right)) => left.cmp(right),
            (Value::Float(left), Value::Float(right)) => return Some(self.holds_for_floats(*left, *right)),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Nil, Value::Nil) => Ordering::Equal,
            (Value::Bytes(left_type, left), Value::Bytes(right_type, right)) if left_type == right_type => {
                match left_type {
                    BytesType::List | BytesType::Map => order_of_msgpack(left, right, budget)?,
                    _ => {
                        budget.draw_for_copy(left.len().min(right.len())).ok()?;
                        (**left).cmp(right)
                    }
                }
            }
            (Value::Extension(left), Value::Extension(right)) => order_of_msgpack(left, right, budget)?,
            _ => return None,
        };
        Some(match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        })
    }

    /// A NaN is unequal to everything and neither greater nor less.
    fn holds_for_floats(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
        }
    }
}

fn order_of_msgpack(left: &[u8], right: &[u8], budget: &Budget<'_>) -> Option<Ordering> {
    match compare_ordered_metered(left, right, budget)? {
        (order, false) => Some(order),
        (_, true) => None,
    }
}

/// Whether one of two GeoJSON values is a point within the other, a region.
pub(super) fn is_within(left: &Value<'_>, right: &Value<'_>, budget: &Budget<'_>) -> Option<bool> {
    Some(geometry(left, budget)?.matches(&*geometry(right, budget)?, budget))
}

fn geometry<'g>(value: &'g Value<'_>, budget: &Budget<'_>) -> Option<Cow<'g, Geometry>> {
    match value {
        Value::Geometry(geometry, _) => Some(Cow::Borrowed(geometry)),
        Value::Bytes(BytesType::GeoJson, stored) => Geometry::of_stored(stored, budget).ok().map(Cow::Owned),
        _ => None,
    }
}
