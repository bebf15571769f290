//! Compares cells with those of the C server and containment with plane geometry, and tests hostile bytes.

use proptest::prelude::*;

use super::*;

fn from_wire(wire: &[u8]) -> Result<Vec<u8>, ResultCode> {
    super::from_wire(wire, &Budget::unlimited())
}

fn from_json(json: &[u8]) -> Result<Vec<u8>, ResultCode> {
    super::from_json(json, &Budget::unlimited())
}

/// Texts, with the flags and cells that the C server stores for them.
const GOLDEN: [(&str, u8, &[u64]); 20] = [
    (r#"{"type":"Point","coordinates":[0,0]}"#, 0, &[0x1000_0000_0000_0001]),
    (r#"{"type":"Point","coordinates":[-122.0986857,37.4214209]}"#, 0, &[0x808f_ba11_c61b_097f]),
    (r#"{"type":"Point","coordinates":[45,35.26438968275465]}"#, 0, &[0x3fff_ffff_ffff_ffff]),
    (r#"{"type":"Point","coordinates":[180.0,-90]}"#, 0, &[0xb000_0000_0000_0001]),
    (
        r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[1.5,-2e0]}}"#,
        0,
        &[0x1aae_686c_e154_f865],
    ),
    (
        r#"{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]]]}"#,
        1,
        &[
            0x0555_5555_5555_5555,
            0x0fd0_0000_0000_0000,
            0x0fe4_0000_0000_0000,
            0x0ffc_0000_0000_0000,
            0x1040_0000_0000_0000,
            0x1a84_0000_0000_0000,
            0x1a9c_0000_0000_0000,
            0x1aa4_0000_0000_0000,
            0x1aac_0000_0000_0000,
        ],
    ),
    (
        "{\"type\":\"Polygon\",\"coordinates\":[[[0,0],[0,10],[10,10],[10,0],[0,0]],[[2,2],[8,\
         2],[8,8],[2,8],[2,2]],[[4,4],[4,6],[6,6],[6,4],[4,4]]]}",
        1,
        &[
            0x0555_5555_5555_5555,
            0x0fd0_0000_0000_0000,
            0x0fe4_0000_0000_0000,
            0x0ffc_0000_0000_0000,
            0x1040_0000_0000_0000,
            0x1a84_0000_0000_0000,
            0x1a9c_0000_0000_0000,
            0x1aa4_0000_0000_0000,
            0x1aac_0000_0000_0000,
        ],
    ),
    (
        "{\"type\":\"Polygon\",\"coordinates\":[[[-122.5,37],[-121,37],[-121,38.08],[-122.5,38\
         .08],[-122.5,37]]]}",
        1,
        &[
            0x8085_5000_0000_0000,
            0x8085_7000_0000_0000,
            0x8085_9000_0000_0000,
            0x8085_a400_0000_0000,
            0x808e_4000_0000_0000,
            0x808e_f000_0000_0000,
            0x808f_1000_0000_0000,
            0x808f_7000_0000_0000,
            0x808f_c000_0000_0000,
            0x8090_4000_0000_0000,
            0x8091_c000_0000_0000,
            0x809a_b000_0000_0000,
        ],
    ),
    (
        r#"{"type":"Polygon","coordinates":[[[179,-1],[-179,-1],[-179,1],[179,1],[179,-1]]]}"#,
        1,
        &[0x6555_0000_0000_0000, 0x6fff_0000_0000_0000, 0x7001_0000_0000_0000, 0x7aab_0000_0000_0000],
    ),
    (
        r#"{"type":"Polygon","coordinates":[[[0,80],[120,80],[-120,80],[0,80]]]}"#,
        1,
        &[
            0x4534_0000_0000_0000,
            0x4550_0000_0000_0000,
            0x4570_0000_0000_0000,
            0x4f90_0000_0000_0000,
            0x4fdc_0000_0000_0000,
            0x4ff0_0000_0000_0000,
            0x5010_0000_0000_0000,
            0x5030_0000_0000_0000,
            0x5ab0_0000_0000_0000,
            0x5ac4_0000_0000_0000,
            0x5acc_0000_0000_0000,
            0x5adc_0000_0000_0000,
        ],
    ),
    (
        r#"{"type":"Polygon","coordinates":[[[0,0],[10,0],[20,0],[0,0]]]}"#,
        1,
        &[
            0x0555_5555_5555_5555,
            0x0fff_ffff_ffff_ffff,
            0x1004_0000_0000_0000,
            0x100c_0000_0000_0000,
            0x1070_0000_0000_0000,
            0x1090_0000_0000_0000,
            0x10a4_0000_0000_0000,
            0x10a8_4000_0000_0000,
            0x1a10_0000_0000_0000,
            0x1a70_0000_0000_0000,
            0x1a90_0000_0000_0000,
            0x1ab0_0000_0000_0000,
        ],
    ),
    (r#"{"type":"Polygon","coordinates":[]}"#, 1, &[]),
    (
        "{\"type\":\"MultiPolygon\",\"coordinates\":[[[[44,34],[46,34],[46,36],[44,36],[44,34]\
         ]],[[[-100,-20],[-99,-20],[-99,-19],[-100,-20]]]]}",
        1,
        &[
            0x1555_0000_0000_0000,
            0x1557_0000_0000_0000,
            0x3ffd_0000_0000_0000,
            0x3fff_0000_0000_0000,
            0x4001_0000_0000_0000,
            0x4002_4000_0000_0000,
            0x4007_4000_0000_0000,
            0x9a2d_0400_0000_0000,
            0x9a2d_c000_0000_0000,
            0x9a2e_4000_0000_0000,
            0x9a31_f000_0000_0000,
            0x9a32_0400_0000_0000,
        ],
    ),
    (r#"{"type":"MultiPolygon","coordinates":[]}"#, 1, &[]),
    (
        r#"{"type":"AeroCircle","coordinates":[[-122.250629,37.871022],300]}"#,
        1,
        &[
            0x8085_7c25_5000_0000,
            0x8085_7c30_4000_0000,
            0x8085_7c30_c000_0000,
            0x8085_7c31_4000_0000,
            0x8085_7c31_b000_0000,
            0x8085_7c36_d000_0000,
            0x8085_7c37_3000_0000,
            0x8085_7c37_5000_0000,
            0x8085_7c39_f000_0000,
            0x8085_7c3a_4000_0000,
            0x8085_7c3a_c000_0000,
            0x8085_7c3b_1000_0000,
        ],
    ),
    (
        r#"{"type":"AeroCircle","coordinates":[[0,0],1000000.0]}"#,
        1,
        &[
            0x0513_0000_0000_0000,
            0x0515_0000_0000_0000,
            0x0517_0000_0000_0000,
            0x0530_0000_0000_0000,
            0x0550_0000_0000_0000,
            0x0570_0000_0000_0000,
            0x0f90_0000_0000_0000,
            0x0fbc_0000_0000_0000,
            0x0fd0_0000_0000_0000,
            0x0ff0_0000_0000_0000,
            0x1040_0000_0000_0000,
            0x1ac0_0000_0000_0000,
        ],
    ),
    (
        r#"{"type":"AeroCircle","coordinates":[[0,90],0]}"#,
        1,
        &[0x4555_5555_5555_5555, 0x4fff_ffff_ffff_ffff, 0x5000_0000_0000_0001, 0x5aaa_aaaa_aaaa_aaab],
    ),
    (r#"{"type":"AeroCircle","coordinates":[[0,0],-1]}"#, 1, &[]),
    (
        r#"{"type":"Polygon","coordinates":[[[-179,-89],[179,-89],[179,89],[-179,89],[-179,-89]]]}"#,
        1,
        &[
            0x5100_0000_0000_0000,
            0x5700_0000_0000_0000,
            0x5c00_0000_0000_0000,
            0x6400_0000_0000_0000,
            0x6c00_0000_0000_0000,
            0x7100_0000_0000_0000,
            0x7300_0000_0000_0000,
            0x7b00_0000_0000_0000,
            0x7d00_0000_0000_0000,
            0xa400_0000_0000_0000,
            0xa900_0000_0000_0000,
            0xaf00_0000_0000_0000,
        ],
    ),
    (
        "{\"type\":\"Polygon\",\"coordinates\":[[[25.0,30.0],[26.42,30.813],[24.755,31.236],[2\
         5.792,32.361],[24.045,32.351],[24.596,33.677],[22.939,33.236],[22.951,34.633],[21.545\
         ,33.804],[21.017,35.136],[20.0,34.0],[18.983,35.136],[18.455,33.804],[17.049,34.633],\
         [17.061,33.236],[15.404,33.677],[15.955,32.351],[14.208,32.361],[15.245,31.236],[13.5\
         8,30.813],[15.0,30.0],[13.58,29.187],[15.245,28.764],[14.208,27.639],[15.955,27.649],\
         [15.404,26.323],[17.061,26.764],[17.049,25.367],[18.455,26.196],[18.983,24.864],[20.0\
         ,26.0],[21.017,24.864],[21.545,26.196],[22.951,25.367],[22.939,26.764],[24.596,26.323\
         ],[24.045,27.649],[25.792,27.639],[24.755,28.764],[26.42,29.187],[25.0,30.0]]]}",
        1,
        &[
            0x130b_0000_0000_0000,
            0x1374_0000_0000_0000,
            0x137c_0000_0000_0000,
            0x1390_0000_0000_0000,
            0x13a4_0000_0000_0000,
            0x13bc_0000_0000_0000,
            0x13c4_0000_0000_0000,
            0x13f0_0000_0000_0000,
            0x140c_0000_0000_0000,
            0x1470_0000_0000_0000,
            0x1484_0000_0000_0000,
            0x1488_7000_0000_0000,
        ],
    ),
];

fn wire(json: &str) -> Vec<u8> {
    [&[0, 0, 0], json.as_bytes()].concat()
}

#[test]
fn cells_are_those_of_the_reference() {
    for (json, flags, cells) in GOLDEN {
        let stored = from_wire(&wire(json)).unwrap();
        assert_eq!(self::cells(&stored).collect::<Vec<_>>(), cells, "{json}");
        assert_eq!((stored[0], is_region(&stored)), (flags, flags == 1));
        assert_eq!(self::json(&stored), json.as_bytes());
        let mut expected = vec![flags, 0, cells.len() as u8];
        cells.iter().for_each(|cell| expected.extend_from_slice(&cell.to_be_bytes()));
        expected.extend_from_slice(json.as_bytes());
        let mut out = Vec::new();
        to_wire(&stored, &mut out);
        assert_eq!(out, expected);
        assert_eq!(from_wire(&out), Ok(stored), "cells from a client are ignored");
    }
}

#[test]
fn texts_without_a_point_or_region_are_refused() {
    for json in [
        "",
        "[]",
        "{}",
        r#"{"type":"Point"}"#,
        r#"{"type":"Point","coordinates":[1]}"#,
        r#"{"type":"Point","coordinates":[1,2,3]}"#,
        r#"{"type":"Point","coordinates":[1,"2"]}"#,
        r#"{"type":"Point","coordinates":[0,90.1]}"#,
        r#"{"type":"Point","coordinates":[180.1,0]}"#,
        r#"{"type":"point","coordinates":[1,2]}"#,
        r#"{"type":1,"coordinates":[1,2]}"#,
        r#"{"type":"LineString","coordinates":[[1,2],[3,4]]}"#,
        r#"{"type":"Feature","coordinates":[1,2]}"#,
        r#"{"type":"Feature","geometry":[]}"#,
        r#"{"type":"Feature","geometry":{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]}}}"#,
        r#"{"type":"Polygon","coordinates":[[0,0],[1,0],[1,1],[0,0]]}"#,
        r#"{"type":"Polygon","coordinates":[[[0,0],[1,0],[0,0]]]}"#,
        r#"{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,0],[0,0]]]}"#,
        r#"{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1]]]}"#,
        r#"{"type":"MultiPolygon","coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}"#,
        r#"{"type":"AeroCircle","coordinates":[[0,0]]}"#,
        r#"{"type":"AeroCircle","coordinates":[[0,0],null]}"#,
        // Whole faces of the cube would take more cells than allowed.
        r#"{"type":"AeroCircle","coordinates":[[0,0],1e8]}"#,
        r#"{"type":"Polygon","coordinates":[[[0,0],[10,10],[10,0],[0,10],[0,0]]]}"#,
    ] {
        assert_eq!(from_wire(&wire(json)), Err(ResultCode::InvalidGeoJson), "{json}");
    }
    let point = r#"{"type":"Point","coordinates":[1,2]}"#;
    for short in [&[][..], &[0], &[0, 0], &[0, 0, 1, 1, 2, 3], &[0, 0xff, 0xff]] {
        assert_eq!(from_wire(short), Err(ResultCode::InvalidGeoJson));
    }
    let with_cell = [&[0xff, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8], point.as_bytes()].concat();
    assert_eq!(from_wire(&with_cell), from_wire(&wire(point)));
}

#[test]
fn points_are_compared_with_regions_only() {
    let stored = |json: &str| from_json(json.as_bytes()).unwrap();
    let point = stored(r#"{"type":"Point","coordinates":[5,5]}"#);
    let outside = stored(r#"{"type":"Point","coordinates":[5,11]}"#);
    let square = stored(r#"{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]]]}"#);
    let holed = stored(
        r#"{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]],[[4,4],[6,4],[6,6],[4,6],[4,4]]]}"#,
    );
    let circle = stored(r#"{"type":"AeroCircle","coordinates":[[5,5],1]}"#);
    assert_eq!(compare(&point, &square, &Budget::unlimited()), Some(true));
    assert_eq!(compare(&square, &point, &Budget::unlimited()), Some(true));
    assert_eq!(compare(&outside, &square, &Budget::unlimited()), Some(false));
    assert_eq!(compare(&point, &holed, &Budget::unlimited()), Some(false));
    assert_eq!(compare(&point, &circle, &Budget::unlimited()), Some(true));
    assert_eq!(compare(&square, &square, &Budget::unlimited()), Some(false));
    assert_eq!(compare(&point, &point, &Budget::unlimited()), Some(false));
    assert_eq!(
        compare(&without_cells(json(&point)), &square, &Budget::unlimited()),
        Some(true),
        "an element of a list has no cells"
    );
    assert_eq!(compare(&without_cells(b"no"), &square, &Budget::unlimited()), None);
    assert_eq!(compare(&[], &square, &Budget::unlimited()), None);

    let query = Geometry::of_stored(&square, &Budget::unlimited()).unwrap();
    assert!(query.matches_stored(&point, true, &Budget::unlimited()));
    assert!(!query.matches_stored(&outside, true, &Budget::unlimited()));
    assert!(query.matches_stored(&outside, false, &Budget::unlimited()));
    assert!(!query.matches_stored(&holed, false, &Budget::unlimited()));
    assert!(!query.matches_stored(&without_cells(json(&point)), true, &Budget::unlimited()));
    assert!(query.matches_json(json(&point), true, &Budget::unlimited()));
    assert!(!query.matches_json(json(&outside), true, &Budget::unlimited()));
    let query = Geometry::of_stored(&point, &Budget::unlimited()).unwrap();
    assert!(query.matches_stored(&square, true, &Budget::unlimited()));
    assert!(!query.matches_stored(&holed, true, &Budget::unlimited()));
    assert!(query.matches_stored(&holed, false, &Budget::unlimited()));
    assert!(!query.matches_stored(&point, false, &Budget::unlimited()));
    let no_cell = [&[0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &b"x"[..]].concat();
    assert_eq!(compare(&no_cell, &square, &Budget::unlimited()), Some(false));
}

#[test]
fn queries_look_where_matches_can_be() {
    let [point, square] = [
        r#"{"type":"Point","coordinates":[5,5]}"#,
        r#"{"type":"Polygon","coordinates":[[[0,0],[10,0],[10,10],[0,10],[0,0]]]}"#,
    ]
    .map(|json| Geometry::parse(json.as_bytes(), EARTH_RADIUS_M, &Budget::unlimited()).unwrap());
    let ranges = point.query_ranges(&Covering::STORED, &Budget::unlimited()).unwrap();
    assert_eq!(ranges.len(), 30);
    assert!(ranges.is_sorted());
    let cell = point.cells(&Covering::STORED, &Budget::unlimited()).unwrap()[0];
    assert!(ranges.contains(&(cell, cell)));
    let stored = square.cells(&Covering::STORED, &Budget::unlimited()).unwrap();
    assert!(stored.iter().any(|&cell| ranges.contains(&(cell, cell))), "the square contains the point");
    let ranges =
        square.query_ranges(&Covering { level_max: 20, ..Covering::STORED }, &Budget::unlimited()).unwrap();
    assert!(ranges.iter().any(|range| (range.0..=range.1).contains(&cell)));

    let coarse = Covering { level_min: 0, level_max: 4, level_step: 2, cells_max: 8 };
    assert!(
        square
            .cells(&coarse, &Budget::unlimited())
            .unwrap()
            .iter()
            .all(|cell| [52, 56, 60].contains(&cell.trailing_zeros()))
    );
    let fine = Covering { level_min: 30, level_max: 30, level_step: 1, cells_max: 256 };
    assert_eq!(square.cells(&fine, &Budget::unlimited()), None, "given up before it takes all memory");
    let small = Geometry::parse(
        br#"{"type":"AeroCircle","coordinates":[[5,5],1e-3]}"#,
        EARTH_RADIUS_M,
        &Budget::unlimited(),
    )
    .unwrap();
    assert!(small.cells(&fine, &Budget::unlimited()).unwrap().iter().all(|cell| cell % 2 == 1));
}

#[test]
fn the_size_of_circles_depends_on_the_radius_of_the_earth() {
    let circle = |radius| {
        Geometry::parse(
            br#"{"type":"AeroCircle","coordinates":[[0,0],100000]}"#,
            radius,
            &Budget::unlimited(),
        )
        .unwrap()
    };
    let point =
        Geometry::parse(br#"{"type":"Point","coordinates":[1,0]}"#, EARTH_RADIUS_M, &Budget::unlimited())
            .unwrap();
    assert!(!circle(EARTH_RADIUS_M).matches(&point, &Budget::unlimited()));
    assert!(circle(EARTH_RADIUS_M / 2).matches(&point, &Budget::unlimited()));
    assert!(circle(0).matches(&point, &Budget::unlimited()));
}

/// Outlines of points around a center. They are so close that the plane can serve as a model.
fn outlines() -> impl Strategy<Value = Vec<[f64; 2]>> {
    let center = (-170.0..170.0f64, -1.0..1.0f64);
    let point = (0.0..std::f64::consts::TAU, 0.02..0.5f64);
    (center, prop::collection::vec(point, 3..60)).prop_map(|((x, y), mut points)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.iter().map(|(angle, radius)| [x + radius * angle.cos(), y + radius * angle.sin()]).collect()
    })
}

/// Whether a point is inside, by the number of edges to its right; `None` if it is close to an edge.
fn inside_in_plane(outline: &[[f64; 2]], [x, y]: [f64; 2]) -> Option<bool> {
    let mut inside = false;
    for (at, a) in outline.iter().enumerate() {
        let b = outline[(at + 1) % outline.len()];
        let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
        let along = ((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy);
        let along = along.clamp(0.0, 1.0);
        if (x - a[0] - along * dx).hypot(y - a[1] - along * dy) < 1e-3 {
            return None;
        }
        if (a[1] > y) != (b[1] > y) && x < a[0] + (y - a[1]) / dy * dx {
            inside = !inside;
        }
    }
    Some(inside)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn polygons_contain_the_same_points_as_in_the_plane(outline in outlines(), points in prop::collection::vec((-0.6..0.6f64, -0.6..0.6f64), 20), reversed: bool) {
        let [center_x, center_y] = [0, 1].map(|axis| outline.iter().map(|point| point[axis]).sum::<f64>() / outline.len() as f64);
        let mut ring: Vec<[f64; 2]> = outline.iter().chain(outline.first()).copied().collect();
        if reversed {
            ring.reverse();
        }
        let json = format!(r#"{{"type":"Polygon","coordinates":[{ring:?}]}}"#);
        let Ok(polygon) = Geometry::parse(json.as_bytes(), EARTH_RADIUS_M, &Budget::unlimited()) else { return Ok(()) };
        // Some polygons at places where faces of the cube meet get too many cells. Other servers refuse them
        // too.
        let Some(cells) = polygon.cells(&Covering::STORED, &Budget::unlimited()) else { return Ok(()) };
        prop_assert!(cells.is_sorted() && !cells.is_empty() && cells.len() <= 12);
        for (dx, dy) in points {
            let at = [center_x + dx, center_y + dy];
            let json = format!(r#"{{"type":"Point","coordinates":{at:?}}}"#);
            let point = Geometry::parse(json.as_bytes(), EARTH_RADIUS_M, &Budget::unlimited()).unwrap();
            if let Some(expected) = inside_in_plane(&outline, at) {
                prop_assert_eq!(polygon.matches(&point, &Budget::unlimited()), expected, "{:?}", at);
            }
            if polygon.matches(&point, &Budget::unlimited()) {
                let cell = point.cells(&Covering::STORED, &Budget::unlimited()).unwrap()[0];
                let ranges = polygon.query_ranges(&Covering::STORED, &Budget::unlimited()).unwrap();
                prop_assert!(ranges.iter().any(|range| (range.0..=range.1).contains(&cell)), "outside of the covering");
            }
        }
    }

    #[test]
    fn any_corners_make_a_region_or_none(corners in prop::collection::vec(prop::sample::select(vec![-180.0, -90.0, -45.0, -1e-9, 0.0, 45.0, 90.0, 179.9, 180.0]), 6..20), radius in prop_oneof![-1.0..1e7f64, Just(0.0), Just(1e-300), Just(1e300)]) {
        let mut ring: Vec<[f64; 2]> = corners.chunks_exact(2).map(|pair| [pair[0], f64::clamp(pair[1], -90.0, 90.0)]).collect();
        ring.push(ring[0]);
        for json in [
            format!(r#"{{"type":"Polygon","coordinates":[{ring:?}]}}"#),
            format!(r#"{{"type":"MultiPolygon","coordinates":[[{ring:?},{ring:?}],[{ring:?}]]}}"#),
            format!(r#"{{"type":"AeroCircle","coordinates":[{:?},{radius:?}]}}"#, ring[0]),
        ] {
            let Ok(stored) = from_json(json.as_bytes()) else { continue };
            let cells: Vec<u64> = cells(&stored).collect();
            prop_assert!(cells.is_sorted() && cells.len() <= 12);
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes: Vec<u8>, text in r#"(\{"type":"(Point|Polygon|AeroCircle)","coordinates":)?[\[\]0-9,.eE{}":-]{0,30}\}?"#) {
        for bytes in [bytes, wire(&text)] {
            let _ = from_wire(&bytes);
            let mut out = Vec::new();
            to_wire(&bytes, &mut out);
            prop_assert!(out.len() <= bytes.len());
            let _ = compare(&bytes, &wire(&text), &Budget::unlimited());
        }
    }
}
