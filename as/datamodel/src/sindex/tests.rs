//! Compares keys and predicates with a naive model, and keys with those of the C server.

use cf::msgpack::{put_double, put_integer, put_list_header, put_map_header, put_nil, put_raw_header};
use proptest::prelude::*;

use super::*;
use crate::budget::unlimited;
use crate::geojson::GeoSettings;

/// A value in a list or map.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Nil,
    Integer(i64),
    Double(f64),
    String(Vec<u8>),
    Blob(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    fn put(&self, out: &mut Vec<u8>) {
        let mut put_raw = |kind: u8, bytes: &[u8]| {
            put_raw_header(out, bytes.len() as u32 + 1);
            out.push(kind);
            out.extend_from_slice(bytes);
        };
        match self {
            Value::Nil => put_nil(out),
            Value::Integer(value) => put_integer(out, *value),
            Value::Double(value) => put_double(out, *value),
            Value::String(bytes) => put_raw(TEXT, bytes),
            Value::Blob(bytes) => put_raw(BLOB, bytes),
            Value::List(values) => {
                put_list_header(out, values.len() as u32);
                values.iter().for_each(|value| value.put(out));
            }
        }
    }

    /// The value's key in an index of type `key_type`.
    fn key(&self, key_type: KeyType) -> Option<Key> {
        match (key_type, self) {
            (KeyType::Numeric, Value::Integer(value)) => Some(Key(*value)),
            (KeyType::String, Value::String(bytes)) | (KeyType::Blob, Value::Blob(bytes)) => {
                Some(Key(cf::wyhash::hash64(bytes).cast_signed()))
            }
            _ => None,
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        (-3i64..3).prop_map(Value::Integer),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("a number", |value| !value.is_nan()).prop_map(Value::Double),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::String),
        prop::collection::vec(b'a'..b'd', 0..2).prop_map(Value::Blob),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| prop::collection::vec(inner, 0..5).prop_map(Value::List))
}

fn indexed(index_type: IndexType, key_type: KeyType) -> IndexedValue {
    IndexedValue { bin: b"b"[..].into(), context: None, index_type, key_type }
}

fn keys(indexed: &IndexedValue, particle: &Particle<'_>) -> Vec<Key> {
    unlimited(|budget| indexed.keys(particle, budget)).expect("no end to the budget").to_vec()
}

fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort();
    keys.dedup();
    keys
}

fn list_particle(values: &[Value]) -> Particle<'static> {
    let mut wire = Vec::new();
    Value::List(values.to_vec()).put(&mut wire);
    Particle::from_wire(type_number::LIST, &wire, &Budget::unlimited()).expect("a list").into_static()
}

impl Particle<'_> {
    fn into_static(self) -> Particle<'static> {
        match self {
            Particle::Bytes(bytes_type, bytes) => Particle::owned(bytes_type, bytes.into_owned()),
            Particle::Integer(value) => Particle::Integer(value),
            Particle::Float(value) => Particle::Float(value),
            Particle::Bool(value) => Particle::Bool(value),
        }
    }
}

const KEY_TYPES: [KeyType; 3] = [KeyType::Numeric, KeyType::String, KeyType::Blob];

proptest! {
    #[test]
    fn lists_have_the_keys_of_their_elements(values in prop::collection::vec(value(), 0..30)) {
        // The test makes no list that begins with such a value, because every reader would take it for a
        // description.
        let particle = list_particle(&values);
        for key_type in KEY_TYPES {
            let expected = sorted(values.iter().filter_map(|value| value.key(key_type)).collect());
            prop_assert_eq!(keys(&indexed(IndexType::List, key_type), &particle), expected.clone());
            prop_assert!(keys(&indexed(IndexType::MapKeys, key_type), &particle).is_empty());
            prop_assert!(keys(&indexed(IndexType::Default, key_type), &particle).is_empty());
            // Each key finds exactly the values that have it.
            for value in &values {
                let Some(predicate) = equality(value) else { continue };
                let matches = predicate.matches(&indexed(IndexType::List, key_type), &particle, &Budget::unlimited());
                prop_assert_eq!(matches, Ok(predicate.key_type() == key_type));
                prop_assert!(predicate.key_type() != key_type || expected.contains(&predicate.ranges()[0].0));
            }
        }
    }

    #[test]
    fn maps_have_those_of_keys_or_values(
        pairs in prop::collection::vec((-50i64..50, value()), 0..20), inner in prop::collection::vec(value(), 1..9),
    ) {
        let mut pairs: Vec<(i64, Value)> = pairs;
        pairs.sort_by_key(|(key, _)| *key);
        pairs.dedup_by_key(|(key, _)| *key);
        pairs.push((99, Value::List(inner.clone())));
        let mut wire = Vec::new();
        put_map_header(&mut wire, pairs.len() as u32);
        for (key, value) in &pairs {
            put_integer(&mut wire, *key);
            value.put(&mut wire);
        }
        let particle = Particle::from_wire(type_number::MAP, &wire, &Budget::unlimited()).expect("a map");
        let of_keys = sorted(pairs.iter().map(|(key, _)| Key(*key)).collect());
        prop_assert_eq!(keys(&indexed(IndexType::MapKeys, KeyType::Numeric), &particle), of_keys);
        for key_type in KEY_TYPES {
            let expected = sorted(pairs.iter().filter_map(|(_, value)| value.key(key_type)).collect());
            prop_assert_eq!(keys(&indexed(IndexType::MapValues, key_type), &particle), expected);
            // By key 99 the context leads to the list.
            let mut indexed = indexed(IndexType::List, key_type);
            indexed.context = Some([0x92, 0x22, 99][..].into());
            let expected = sorted(inner.iter().filter_map(|value| value.key(key_type)).collect());
            prop_assert_eq!(keys(&indexed, &particle), expected);
            indexed.context = Some([0x92, 0x22, 98][..].into());
            prop_assert!(keys(&indexed, &particle).is_empty());
        }
    }

    #[test]
    fn any_bytes_have_keys_or_none(bytes: Vec<u8>, context: Vec<u8>) {
        for bytes_type in [BytesType::List, BytesType::Map, BytesType::GeoJson] {
            let particle = Particle::owned(bytes_type, bytes.clone());
            for (index_type, ..) in IndexType::ALL {
                for (key_type, ..) in KeyType::ALL {
                    let mut indexed = indexed(index_type, key_type);
                    let _ = indexed.keys(&particle, &Budget::unlimited());
                    indexed.context = Some(context.clone().into());
                    let _ = indexed.keys(&particle, &Budget::unlimited());
                }
            }
        }
        let _ = check_context(&context);
        let _ = context_text(&context);
        let _ = Predicate::parse(&bytes, &GEO, &Budget::unlimited());
    }
}

const GEO: GeoSettings = GeoSettings {
    strict: true,
    covering: Covering { level_min: 1, level_max: 20, level_step: 1, cells_max: 12 },
    earth_radius_m: EARTH_RADIUS_M,
};

/// The predicate for a value, if there is one.
fn equality(value: &Value) -> Option<Predicate> {
    match value {
        Value::Integer(value) => Some(Predicate::Integers { low: *value, high: *value }),
        Value::String(bytes) => Some(Predicate::String(bytes.as_slice().into())),
        Value::Blob(bytes) => Some(Predicate::Blob(bytes.as_slice().into())),
        _ => None,
    }
}

#[test]
fn keys_are_those_of_the_established_server() {
    let long = "x".repeat(49);
    for (text, bval) in [
        ("", -2_723_515_086_152_880_595),
        ("a", 5_474_182_612_203_764_128),
        ("ab", 7_470_174_162_151_505_226),
        ("abc", 6_950_277_668_693_737_238),
        ("abcd", 5_791_072_429_862_620_633),
        ("0123456789abcdef", 5_771_066_529_700_089_868),
        ("0123456789abcdefg", -1_451_782_806_161_228_872),
        (&long[..48], 7_411_538_375_408_172_670),
        (&long, -2_430_885_242_069_928_427),
    ] {
        let particle = Particle::Bytes(BytesType::String, text.as_bytes().into());
        let found = keys(&indexed(IndexType::Default, KeyType::String), &particle);
        assert_eq!(found, [Key::from_bval(bval, KeyType::String)], "{text}");
        assert!(keys(&indexed(IndexType::Default, KeyType::Blob), &particle).is_empty());
    }
    let longest = |size| Particle::owned(BytesType::String, vec![b'x'; size]);
    assert_eq!(keys(&indexed(IndexType::Default, KeyType::String), &longest(2048)).len(), 1);
    assert!(keys(&indexed(IndexType::Default, KeyType::String), &longest(2049)).is_empty());
}

/// A stored GeoJSON value and its text have the same cells.
#[test]
fn geojson_has_its_cells_wherever_it_is() {
    let point = br#"{"type":"Point","coordinates":[-122.4,37.6]}"#;
    let circle = br#"{"type":"AeroCircle","coordinates":[[-122.4,37.6],1000]}"#;
    let cells = |json: &[u8]| -> (Vec<i64>, Vec<i64>) {
        let stored =
            Particle::owned(BytesType::GeoJson, geojson::from_json(json, &Budget::unlimited()).expect("one"));
        let mut list = vec![0x91];
        put_raw_header(&mut list, json.len() as u32 + 1);
        list.push(GEOJSON);
        list.extend_from_slice(json);
        let list = Particle::owned(BytesType::List, list);
        let bvals = |keys: Vec<Key>| keys.into_iter().map(|key| key.bval(KeyType::Geo2DSphere)).collect();
        (
            bvals(keys(&indexed(IndexType::Default, KeyType::Geo2DSphere), &stored)),
            bvals(keys(&indexed(IndexType::List, KeyType::Geo2DSphere), &list)),
        )
    };
    let of_point = vec![0x808f_77a7_134c_b995_u64.cast_signed()];
    assert_eq!(cells(point), (of_point.clone(), of_point));
    let first = 0x808f_7700_b000_0000_u64.cast_signed();
    let (stored, in_list) = cells(circle);
    assert_eq!((stored.len(), stored[0]), (12, first));
    assert_eq!(stored, in_list);
}

fn field(name: &[u8], particle_type: u8, value: &[u8]) -> Vec<u8> {
    [&[1, name.len() as u8], name, &[particle_type], value].concat()
}

fn range(low: i64, high: i64) -> Vec<u8> {
    [&8u32.to_be_bytes()[..], &low.to_be_bytes(), &8u32.to_be_bytes(), &high.to_be_bytes()].concat()
}

fn sized_value(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u32).to_be_bytes()[..], value].concat()
}

#[test]
fn predicates_are_read_and_checked() {
    let parse = |field: &[u8]| {
        Predicate::parse(field, &GEO, &Budget::unlimited())
            .map(|(name, predicate)| (name.to_vec(), predicate.key_type(), predicate.is_equality()))
    };
    let ok = |key_type, is_equality| Ok((b"bin".to_vec(), key_type, is_equality));
    assert_eq!(parse(&field(b"bin", 1, &range(-5, 5))), ok(KeyType::Numeric, false));
    assert_eq!(parse(&field(b"bin", 1, &range(5, 5))), ok(KeyType::Numeric, true));
    assert_eq!(parse(&field(b"bin", 3, &sized_value(b""))), ok(KeyType::String, true));
    assert_eq!(parse(&field(b"bin", 4, &sized_value(&[0; 2047]))), ok(KeyType::Blob, true));
    let region = sized_value(br#"{"type":"AeroCircle","coordinates":[[-122.4,37.6],1000]}"#);
    assert_eq!(parse(&field(b"bin", 23, &region)), ok(KeyType::Geo2DSphere, false));
    let mut short = field(b"bin", 1, &range(1, 2));
    short.pop();
    let mut many = field(b"bin", 1, &range(1, 2));
    many[0] = 2;
    for wrong in [
        short,
        many,
        Vec::new(),
        vec![1],
        field(b"", 1, &range(1, 2)),
        field(&[b'x'; 16], 1, &range(1, 2)),
        field(b"bin", 1, &range(2, 1)),
        field(b"bin", 2, &range(1, 2)),
        field(b"bin", 3, &sized_value(&[0; 2048])),
        field(b"bin", 3, &[0, 0, 0, 5, b'x']),
        field(b"bin", 23, &sized_value(b"")),
        field(b"bin", 23, &sized_value(b"{}")),
    ] {
        assert_eq!(parse(&wrong), Err(ResultCode::Parameter), "{wrong:?}");
    }
}

#[test]
fn contexts_are_checked_and_shown() {
    use ContextError::{Invalid, NotShortest};
    let by_key = [&[0x92, 0x22, 0xa2, TEXT][..], b"s"].concat();
    let deep = [0x98, 0x00, 0x10, 0x01, 0x10, 0x20, 0x7f, 0x11, 0xff];
    assert_eq!((check_context(&by_key), context_text(&by_key).as_str()), (Ok(()), "[map_key(<string#1>)]"));
    assert_eq!(
        (check_context(&deep), context_text(&deep).as_str()),
        (Ok(()), "[index(16), rank(16), map_index(127), list_rank(-1)]")
    );
    for (wrong, error) in [
        (&[][..], Invalid),
        (&[0x90], Invalid),
        (&[0x91, 0x10], Invalid),
        (&[0x92, 0x12, 0x01], Invalid),
        (&[0x92, 0x14, 0x01], Invalid),
        (&[0x92, 0x24, 0x01], Invalid),
        (&[0x92, 0x10], Invalid),
        (&[0x92, 0x10, 0xcc, 0x05], NotShortest),
        (&[0x92, 0xcc, 0x10, 0x05], NotShortest),
        (&[0xdc, 0, 2, 0x10, 0x05], NotShortest),
    ] {
        assert_eq!(check_context(wrong), Err(error), "{wrong:?}");
    }
}
