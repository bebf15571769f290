//! Compares cells, regions and coverings with those of another implementation of the S2 library.
//!
//! Cells must be the same bit for bit. Points must be in the same regions; coverings may have other cells, because
//! later versions of the library choose differently, but must contain the same points.

use std::f64::consts::PI;

use proptest::prelude::*;
use s2rst::s1::Angle;
use s2rst::s2;

use super::{CellId, Covering, LatLng, Polygon, Region, Vector};
use crate::budget::Budget;

fn their_point(point: Vector) -> s2::Point {
    let mut theirs = s2::Point::from_coords(1.0, 0.0, 0.0);
    (theirs.0.x, theirs.0.y, theirs.0.z) = (point.x, point.y, point.z);
    theirs
}

fn point(lat: f64, lng: f64) -> Vector {
    LatLng::from_degrees(lat, lng).expect("a position").to_point()
}

/// A point at `distance` from `center`, an angle, in the direction of `azimuth`.
fn beside(center: Vector, distance: f64, azimuth: f64) -> Vector {
    let other = if center.z.abs() < 0.9 { Vector::new(0.0, 0.0, 1.0) } else { Vector::new(1.0, 0.0, 0.0) };
    let scaled =
        |vector: Vector, factor: f64| Vector::new(vector.x * factor, vector.y * factor, vector.z * factor);
    let plus = |a: Vector, b: Vector| Vector::new(a.x + b.x, a.y + b.y, a.z + b.z);
    let east = other.cross(center);
    let east = scaled(east, 1.0 / east.norm());
    let north = center.cross(east);
    let aside = plus(scaled(north, azimuth.cos()), scaled(east, azimuth.sin()));
    let found = plus(scaled(center, distance.cos()), scaled(aside, distance.sin()));
    scaled(found, 1.0 / found.norm())
}

/// Compares both implementations of a region. `far` is the largest distance of tested points from its center.
fn compare(ours: &Region, theirs: &dyn s2::Region, center: Vector, far: f64) {
    let budget = Budget::unlimited();
    let covering = Covering::STORED.of(ours, &budget).expect("a covering");
    let their_covering = s2::region_coverer::RegionCoverer::new()
        .min_level(1u8.try_into().expect("a level"))
        .max_cells(12)
        .covering(theirs);
    let covers = |cells: &[CellId], point| {
        let id = CellId::from_point(point);
        cells.iter().any(|cell| cell.contains(id))
    };
    for step in 0..400 {
        let share = f64::from(step) / 400.0;
        let asked = beside(center, far * share, 40.0 * PI * share);
        let is_inside = ours.contains(asked, &budget);
        assert_eq!(is_inside, theirs.contains_point(&their_point(asked)), "{asked:?}");
        if is_inside {
            assert!(covers(&covering, asked), "{asked:?}");
            assert!(their_covering.contains_point(their_point(asked)), "{asked:?}");
        }
    }
    // Every cell must be necessary.
    for cell in covering {
        assert!(theirs.intersects_cell(&s2::Cell::from(s2::CellId(cell.0))), "{cell:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cells_are_the_same(lat in -90.0..=90.0, lng in -180.0..=180.0, level in 0u32..=30) {
        let (ours, point) = (CellId::from_point(point(lat, lng)), point(lat, lng));
        let theirs = s2::CellId::from_point(&their_point(point));
        prop_assert_eq!(ours.0, theirs.0);
        let (parent, their_parent) = (ours.parent(level), theirs.parent_at_level((level as u8).try_into().expect("a level")));
        prop_assert_eq!(parent.0, their_parent.0);
        prop_assert_eq!(parent.range_min().0, their_parent.range_min().0);
        prop_assert_eq!(parent.range_max().0, their_parent.range_max().0);
        let (center, their_center) = (parent.center(), their_parent.to_point());
        prop_assert_eq!(center.components(), [their_center.0.x, their_center.0.y, their_center.0.z]);
    }

    #[test]
    fn circles_have_the_same_points(lat in -90.0..=90.0, lng in -180.0..=180.0, exponent in -6.0..-0.2) {
        let (center, radius) = (point(lat, lng), 10f64.powf(exponent));
        let theirs = s2::Cap::from_center_angle(their_point(center), Angle::from_radians(radius));
        compare(&Region::Cap(super::Cap::new(center, radius)), &theirs, center, radius * 1.5);
    }

    #[test]
    fn polygons_have_the_same_points(
        lat in -90.0..=90.0,
        lng in -180.0..=180.0,
        exponent in -5.0..-0.3,
        corners in proptest::collection::vec(0.3..1.0, 3..12),
    ) {
        let (center, radius) = (point(lat, lng), 10f64.powf(exponent));
        let count = corners.len() as f64;
        let vertices: Vec<Vector> = (0..).zip(&corners)
            .map(|(at, share)| beside(center, radius * share, -2.0 * PI * f64::from(at) / count))
            .collect();
        let mut outline = s2::Loop::new(vertices.iter().map(|vertex| their_point(*vertex)).collect());
        outline.normalize();
        let theirs = s2::Polygon::from_loops(vec![outline]);
        let ours = Polygon::new(vec![vertices], &Budget::unlimited()).expect("a polygon");
        compare(&Region::Polygon(Box::new(ours)), &theirs, center, radius * 1.5);
    }
}
