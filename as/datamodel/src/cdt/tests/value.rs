//! Values as trees, for the models.

use std::cmp::Ordering;

use cf::msgpack::{
    BLOB, Head, Reader, TEXT, put_double, put_extension_header, put_integer, put_list_header, put_map_header,
    put_nil, put_raw_header,
};

use super::{Step, list_from_wire, map_from_wire};
use crate::cdt::{list_to_wire, map_to_wire};
use crate::particle::{BytesType, Particle};

/// A reproducible source of choices.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    pub(super) fn integer(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as usize) as i64
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Text(String),
    List(List),
    Map(Map),
    Blob(Vec<u8>),
    Double(f64),
}

#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct List {
    pub(super) is_ordered: bool,
    pub(super) items: Vec<Value>,
}

/// Pairs in the order of their keys, even if the flags do not say so.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Map {
    /// 0 unordered, 1 by key, 3 by key and value; 8 in results.
    pub(super) flags: u8,
    pub(super) pairs: Vec<(Value, Value)>,
}

pub(super) fn order(a: &Value, b: &Value) -> Ordering {
    let first_difference = |mut orders: Box<dyn Iterator<Item = Ordering> + '_>| {
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::List(List { items: a, .. }), Value::List(List { items: b, .. })) => {
            first_difference(Box::new(a.iter().zip(b).map(|(a, b)| order(a, b)))).then(a.len().cmp(&b.len()))
        }
        (Value::Map(Map { pairs: a, .. }), Value::Map(Map { pairs: b, .. })) => {
            a.len().cmp(&b.len()).then_with(|| {
                let pairs = a.iter().zip(b);
                first_difference(Box::new(pairs.flat_map(|(a, b)| [order(&a.0, &b.0), order(&a.1, &b.1)])))
            })
        }
        _ => a.rank().cmp(&b.rank()),
    }
}

impl Value {
    fn rank(&self) -> u8 {
        match self {
            Self::Nil => 0,
            Self::Bool(_) => 1,
            Self::Int(_) => 2,
            Self::Text(_) => 3,
            Self::List(_) => 4,
            Self::Map(_) => 5,
            Self::Blob(_) => 6,
            Self::Double(_) => 7,
        }
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        Self::List(List { is_ordered: false, items })
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        order(self, other).is_eq()
    }

    fn random_scalar(random: &mut Random) -> Self {
        match random.below(12) {
            0 => Self::Nil,
            1 => Self::Bool(random.chance(50)),
            2 => Self::Text((*random.pick(&["", "a", "b", "ab"])).to_owned()),
            3 => Self::Blob(random.pick(&[vec![], vec![1], vec![0, 1]]).clone()),
            4 => Self::Double(*random.pick(&[1.5, -2.25, 3.0])),
            5 => Self::Int(*random.pick(&[i64::MIN, i64::MAX, 300, -300, 70_000])),
            _ => Self::Int(random.integer(-8, 8)),
        }
    }

    pub(super) fn random(random: &mut Random, depth: usize) -> Self {
        if depth == 0 || random.chance(70) {
            return Self::random_scalar(random);
        }
        if random.chance(50) {
            Self::List(Self::random_list(random, depth - 1))
        } else {
            Self::Map(Self::random_map(random, depth - 1))
        }
    }

    fn random_count(random: &mut Random, depth: usize) -> usize {
        if depth == 2 && random.chance(10) { 100 + random.below(300) } else { random.below(9) }
    }

    fn random_list(random: &mut Random, depth: usize) -> List {
        let count = Self::random_count(random, depth);
        let mut list = List {
            is_ordered: random.chance(40),
            items: (0..count).map(|_| Self::random(random, depth)).collect(),
        };
        list.restore_order();
        list
    }

    pub(super) fn random_key(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::Text((*random.pick(&["a", "b", "c"])).to_owned()),
            1 => Self::Blob(random.pick(&[vec![], vec![7]]).clone()),
            _ => Self::Int(random.integer(-4, 12)),
        }
    }

    fn random_map(random: &mut Random, depth: usize) -> Map {
        let mut map = Map { flags: *random.pick(&[0, 1, 3]), pairs: Vec::new() };
        for _ in 0..Self::random_count(random, depth) {
            let key =
                if random.chance(50) { Self::random_key(random) } else { Self::Int(random.integer(0, 999)) };
            let value = Self::random(random, depth);
            map.put(key, value);
        }
        map
    }

    /// A list or map for a bin.
    pub(super) fn random_container(random: &mut Random) -> Self {
        if random.chance(50) {
            Self::List(Self::random_list(random, 2))
        } else {
            Self::Map(Self::random_map(random, 2))
        }
    }

    /// A bin with this value, sometimes with an index.
    pub(super) fn stored(&self, random: &mut Random) -> Particle<'static> {
        let with_index = if random.chance(50) { 0x10 } else { 0 };
        let mut bytes = Vec::new();
        match self {
            Self::List(list) => {
                list.put_to(&mut bytes, u8::from(list.is_ordered) | with_index);
                Particle::owned(BytesType::List, list_from_wire(&bytes).unwrap().into_owned())
            }
            Self::Map(map) => {
                map.put_to(&mut bytes, map.flags | with_index);
                Particle::owned(BytesType::Map, map_from_wire(&bytes).unwrap().into_owned())
            }
            _ => unreachable!("bins of these tests are containers"),
        }
    }

    pub(super) fn packed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_to(&mut out);
        out
    }

    fn put_to(&self, out: &mut Vec<u8>) {
        let raw = |out: &mut Vec<u8>, kind, bytes: &[u8]| {
            put_raw_header(out, bytes.len() as u32 + 1);
            out.push(kind);
            out.extend_from_slice(bytes);
        };
        match self {
            Self::Nil => put_nil(out),
            Self::Bool(value) => out.push(0xc2 + u8::from(*value)),
            Self::Int(value) => put_integer(out, *value),
            Self::Text(text) => raw(out, TEXT, text.as_bytes()),
            Self::Blob(bytes) => raw(out, BLOB, bytes),
            Self::Double(value) => put_double(out, *value),
            Self::List(list) => list.put_to(out, u8::from(list.is_ordered)),
            Self::Map(map) => map.put_to(out, map.flags),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        match reader.head().unwrap() {
            Head::Nil => Self::Nil,
            Head::Bool(value) => Self::Bool(value),
            Head::Negative(value) => Self::Int(value),
            Head::Unsigned(value) => Self::Int(value.cast_signed()),
            Head::Double(value) => Self::Double(value),
            Head::Raw([TEXT, text @ ..]) => Self::Text(String::from_utf8(text.to_vec()).unwrap()),
            Head::Raw([_, bytes @ ..]) => Self::Blob(bytes.to_vec()),
            Head::List(count) => {
                let flags = reader.extension().map(|description| description.kind);
                let count = count - u32::from(flags.is_some());
                let items = (0..count).map(|_| Self::read(reader)).collect();
                Self::List(List { is_ordered: flags == Some(1), items })
            }
            Head::Map(count) => {
                let flags = reader.extension().map(|description| description.kind);
                if flags.is_some() {
                    reader.skip(1).unwrap();
                }
                let count = count - u32::from(flags.is_some());
                let pairs = (0..count).map(|_| (Self::read(reader), Self::read(reader))).collect();
                Self::Map(Map { flags: flags.unwrap_or(0), pairs })
            }
            other => panic!("{other:?}"),
        }
    }

    /// The value of a bin or an answer.
    pub(super) fn of_particle(particle: &Particle<'_>) -> Self {
        let whole = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            let value = Self::read(&mut reader);
            assert!(reader.is_at_end(), "nothing follows the value");
            value
        };
        match particle {
            Particle::Integer(value) => Self::Int(*value),
            Particle::Float(value) => Self::Double(*value),
            Particle::Bool(value) => Self::Bool(*value),
            Particle::Bytes(BytesType::String, text) => Self::Text(String::from_utf8(text.to_vec()).unwrap()),
            Particle::Bytes(BytesType::Blob, bytes) => Self::Blob(bytes.to_vec()),
            Particle::Bytes(BytesType::List, bytes) => whole(&list_to_wire(bytes).into_bytes()),
            Particle::Bytes(BytesType::Map, bytes) => whole(&map_to_wire(bytes).into_bytes()),
            other @ Particle::Bytes(..) => panic!("{other:?}"),
        }
    }

    /// Sorts the elements of answers, so that answers can be compared as sets.
    pub(super) fn with_order_undone(mut self) -> Self {
        match &mut self {
            Self::List(list) => list.items.sort_by_cached_key(|item| format!("{item:?}")),
            Self::Map(map) => map.pairs.sort_by_cached_key(|pair| format!("{pair:?}")),
            _ => {}
        }
        self
    }

    /// Sorts equal elements of ordered lists in bin values (flags inside them may differ), so that values can
    /// be compared.
    pub(super) fn with_ties_undone(mut self) -> Self {
        match &mut self {
            Self::List(list) => {
                list.items = list.items.drain(..).map(Self::with_ties_undone).collect();
                if list.is_ordered {
                    list.items.sort_by_cached_key(|item| format!("{item:?}"));
                }
            }
            Self::Map(map) => {
                let pairs = map.pairs.drain(..);
                map.pairs = pairs.map(|(key, value)| (key, value.with_ties_undone())).collect();
            }
            _ => {}
        }
        self
    }

    /// Sorts ordered lists at any depth.
    pub(super) fn restore_order(&mut self) {
        match self {
            Self::List(list) => list.restore_order(),
            Self::Map(map) => map.pairs.iter_mut().for_each(|(_, value)| value.restore_order()),
            _ => {}
        }
    }

    /// Positions of the elements that are containers.
    pub(super) fn container_positions(&self) -> Vec<usize> {
        let is_container = |value: &Value| matches!(value, Self::List(_) | Self::Map(_));
        match self {
            Self::List(list) => {
                (0..list.items.len()).filter(|&position| is_container(&list.items[position])).collect()
            }
            Self::Map(map) => {
                (0..map.pairs.len()).filter(|&position| is_container(&map.pairs[position].1)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn values(&self) -> Vec<&Value> {
        match self {
            Self::List(list) => list.items.iter().collect(),
            Self::Map(map) => map.pairs.iter().map(|(_, value)| value).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn element_mut(&mut self, position: usize) -> &mut Self {
        match self {
            Self::List(list) => &mut list.items[position],
            Self::Map(map) => &mut map.pairs[position].1,
            _ => unreachable!("only containers have elements"),
        }
    }

    /// A step that leads to the element at a position.
    pub(super) fn step_to(&self, random: &mut Random, position: usize) -> Step {
        let values = self.values();
        let sought = values[position];
        let is_unique = values.iter().filter(|value| value.is(sought)).count() == 1;
        let below = values.iter().filter(|value| order(value, sought).is_lt()).count();
        let count = values.len() as i64;
        let from_either_end =
            |random: &mut Random, index: usize| index as i64 - if random.chance(50) { 0 } else { count };
        let shape = match self {
            Self::List(_) => 0x10,
            _ => 0x20,
        } * i64::from(random.chance(80));
        let is_rank_clear = is_unique || matches!(self, Self::List(List { is_ordered: true, .. }));
        match random.below(4) {
            1 if is_unique => Step { number: shape + 1, argument: Self::Int(from_either_end(random, below)) },
            2 if matches!(self, Self::Map(_)) => {
                let Self::Map(map) = self else { unreachable!("it was a map") };
                Step { number: shape + 2, argument: map.pairs[position].0.clone() }
            }
            3 if is_unique => Step { number: shape + 3, argument: sought.clone() },
            _ => {
                debug_assert!(is_rank_clear || !is_unique);
                Step { number: shape, argument: Self::Int(from_either_end(random, position)) }
            }
        }
    }
}

impl List {
    fn put_to(&self, out: &mut Vec<u8>, flags: u8) {
        put_list_header(out, self.items.len() as u32 + u32::from(flags != 0));
        if flags != 0 {
            put_extension_header(out, 0, flags);
        }
        self.items.iter().for_each(|item| item.put_to(out));
    }

    pub(super) fn restore_order(&mut self) {
        self.items.iter_mut().for_each(Value::restore_order);
        if self.is_ordered {
            self.items.sort_by(order);
        }
    }

    pub(super) fn contains(&self, value: &Value) -> bool {
        self.items.iter().any(|item| item.is(value))
    }
}

impl Map {
    fn put_to(&self, out: &mut Vec<u8>, flags: u8) {
        put_map_header(out, self.pairs.len() as u32 + u32::from(flags != 0));
        if flags != 0 {
            put_extension_header(out, 0, flags);
            put_nil(out);
        }
        for (key, value) in &self.pairs {
            key.put_to(out);
            value.put_to(out);
        }
    }

    pub(super) fn position(&self, key: &Value) -> Option<usize> {
        self.pairs.iter().position(|pair| pair.0.is(key))
    }

    pub(super) fn put(&mut self, key: Value, value: Value) {
        match self.position(&key) {
            Some(position) => self.pairs[position].1 = value,
            None => {
                let place = self.pairs.partition_point(|pair| order(&pair.0, &key).is_lt());
                self.pairs.insert(place, (key, value));
            }
        }
    }
}
