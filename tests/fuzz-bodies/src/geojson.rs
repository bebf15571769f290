//! GeoJSON texts: as values in their wire and stored form, compared with each other, and covered by cells.
//!
//! Input: length of the first text (two bytes), two texts.

use datamodel::Budget;
use datamodel::geojson::{self, Covering, EARTH_RADIUS_M, Geometry};

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let Some((&[high, low], rest)) = bytes.split_first_chunk() else { return };
    let (first, second) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
    // A record on disk may hold bytes that are not a valid value.
    let mut wire = Vec::new();
    geojson::to_wire(first, &mut wire);
    let stored: Vec<_> = [first, second]
        .map(|text| geojson::from_json(text, &Budget::unlimited()))
        .into_iter()
        .flatten()
        .collect();
    for value in &stored {
        wire.clear();
        geojson::to_wire(value, &mut wire);
        assert_eq!(
            geojson::from_wire(&wire, &Budget::unlimited()).as_ref(),
            Ok(value),
            "what is read can be written"
        );
        let cells: Vec<u64> = geojson::cells(value).collect();
        assert!(cells.is_sorted() && cells.len() <= Covering::STORED.cells_max);
        let geometry = Geometry::parse(geojson::json(value), EARTH_RADIUS_M, &Budget::unlimited())
            .expect("it was one before");
        assert_eq!(geometry.is_region(), geojson::is_region(value));
        // Regions may be empty, like a polygon without loops. The C server stores them without cells.
        assert!(geometry.is_region() || cells.len() == 1, "a point has a cell");
        let coarse = Covering { level_min: 1, level_max: 12, level_step: 2, cells_max: 8 };
        if let Some(ranges) = geometry.query_ranges(&coarse, &Budget::unlimited()) {
            assert!(ranges.is_sorted() && ranges.iter().all(|(low, high)| low <= high));
        }
    }
    if let [one, other] = &stored[..] {
        assert_eq!(
            geojson::compare(one, other, &Budget::unlimited()),
            geojson::compare(other, one, &Budget::unlimited())
        );
    }
    let _ = geojson::compare(first, second, &Budget::unlimited());
}
