//! The geometry of a GeoJSON text: a point or a region.

use super::json::Value;
use crate::budget::Budget;
use crate::s2::{Cap, CellId, LatLng, Polygon, Region, Vector};

/// Price of parsing a byte of text.
const PARSED_BYTE_STEPS: usize = 5;

/// A point, as the smallest cell that contains it, or a region.
#[derive(Clone, Debug)]
pub(super) enum PointOrRegion {
    Point(CellId),
    Region(Region),
}

/// Reads a Point, Polygon, MultiPolygon, AeroCircle, or a Feature with one of them. Distances are measured on a
/// sphere of radius `earth_radius_m`. `None` also if the budget is exhausted.
pub(super) fn parse(json: &[u8], earth_radius_m: f64, budget: &Budget<'_>) -> Option<PointOrRegion> {
    budget.draw_for(json.len() * PARSED_BYTE_STEPS).ok()?;
    let root = Value::parse(json).filter(|root| root.is_object())?;
    let geometry = match root.member("type")? {
        kind if kind.is_text("Feature") => root.member("geometry").filter(|geometry| geometry.is_object())?,
        _ => root,
    };
    let kind = geometry.member("type")?;
    let coordinates = || geometry.member("coordinates");
    Some(match () {
        () if kind.is_text("Point") => PointOrRegion::Point(CellId::from_point(point(coordinates()?)?)),
        () if kind.is_text("Polygon") => {
            PointOrRegion::Region(Region::Polygon(Box::new(polygon(coordinates()?, budget)?)))
        }
        () if kind.is_text("MultiPolygon") => {
            let polygons =
                coordinates()?.elements()?.map(|value| polygon(value, budget)).collect::<Option<_>>()?;
            PointOrRegion::Region(Region::Union(polygons))
        }
        () if kind.is_text("AeroCircle") => {
            let [center, radius] = coordinates()?.array()?;
            let (center, radius_m) = (point(center)?, radius.number()?);
            PointOrRegion::Region(Region::Cap(Cap::new(center, radius_m / earth_radius_m)))
        }
        () => return None,
    })
}

/// A longitude and a latitude in degrees.
fn point(value: Value<'_>) -> Option<Vector> {
    let [lng, lat] = value.array()?.map(Value::number);
    LatLng::from_degrees(lat?, lng?).map(LatLng::to_point)
}

/// Loops of points: an outline and holes, or any loops that do not cross.
fn polygon(value: Value<'_>, budget: &Budget<'_>) -> Option<Polygon> {
    let loops = value.elements()?.map(outline).collect::<Option<_>>()?;
    Polygon::new(loops, budget)
}

/// At least three different consecutive points, then the first one again.
fn outline(value: Value<'_>) -> Option<Vec<Vector>> {
    let mut points = value.elements()?.map(point).collect::<Option<Vec<Vector>>>()?;
    points.dedup();
    (points.len() >= 4 && points.first() == points.last()).then_some(())?;
    points.pop();
    Some(points)
}
