//! Contents of secondary indexes: the keys of a record in an index, and the predicates of queries.
//!
//! An index covers a bin, or the target of a context in a bin, for values of one type: the value itself, or
//! the elements of a list, the keys of a map, or the values of a map. A key is a 64-bit number:
//! ```text
//! integer        the value itself
//! string, blob   the wyhash of the bytes
//! GeoJSON        the cells that contain it: one for a point, a covering for a region
//! ```
//! A value of another type has no key. In the protocol a key is called bval.

mod context;
mod predicate;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use cf::msgpack::{Head, Reader};
use proto::ResultCode;
use smallvec::SmallVec;

use crate::budget::Budget;
use crate::cdt::{self, ContainerShape, Header};
use crate::geojson::{self, Covering, EARTH_RADIUS_M, Geometry};
use crate::particle::{BytesType, Particle, type_number};

pub use context::{ContextError, check_context, context_text};
pub use predicate::Predicate;

/// Longest string or blob that has a key if it is the value of a bin. Strings and blobs in lists and maps
/// always have a key.
const BYTES_SIZE_MAX: usize = 2048;
/// Price of visiting an element.
const ELEMENT_STEPS: u64 = 8;
/// Price of sorting for each key.
const SORT_STEPS: usize = 4;
/// The first byte of elements that are text, bytes and GeoJSON.
const TEXT: u8 = type_number::STRING;
const BLOB: u8 = type_number::BLOB;
const GEOJSON: u8 = type_number::GEOJSON;

/// The type of an index's values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyType {
    Numeric,
    String,
    Blob,
    Geo2DSphere,
}

impl KeyType {
    /// All types, with their names in commands and lists, and their letters in system metadata.
    pub const ALL: [(Self, &'static str, char); 4] = [
        (Self::Numeric, "numeric", 'I'),
        (Self::String, "string", 'S'),
        (Self::Blob, "blob", 'B'),
        (Self::Geo2DSphere, "geo2dsphere", 'G'),
    ];

    /// Its name in commands and lists, and its letter in system metadata.
    #[must_use]
    pub fn name_and_letter(self) -> (&'static str, char) {
        let (_, name, letter) = Self::ALL[self as usize];
        (name, letter)
    }

    /// The index type for particles of type `number`.
    #[must_use]
    pub const fn from_particle_type(number: u8) -> Option<Self> {
        match number {
            type_number::INTEGER => Some(Self::Numeric),
            type_number::STRING => Some(Self::String),
            type_number::BLOB => Some(Self::Blob),
            type_number::GEOJSON => Some(Self::Geo2DSphere),
            _ => None,
        }
    }
}

/// The part of a value that the index covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndexType {
    /// The value itself.
    Default,
    /// Elements of a list.
    List,
    MapKeys,
    MapValues,
}

impl IndexType {
    /// All parts, in the order of their numbers on the wire, with their names in commands and lists, and their letters
    /// in system metadata.
    pub const ALL: [(Self, &'static str, char); 4] = [
        (Self::Default, "default", '.'),
        (Self::List, "list", 'L'),
        (Self::MapKeys, "mapkeys", 'K'),
        (Self::MapValues, "mapvalues", 'V'),
    ];

    /// Its name in commands and lists, and its letter in system metadata.
    #[must_use]
    pub fn name_and_letter(self) -> (&'static str, char) {
        let (_, name, letter) = Self::ALL[self as usize];
        (name, letter)
    }

    /// The index type with number `number` on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).map(|(index_type, ..)| *index_type)
    }
}

/// A key, in a form whose order is that of the index. Keys of GeoJSON are ordered as unsigned numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(i64);

impl Key {
    /// The key for a `bval` of the protocol.
    #[must_use]
    pub const fn from_bval(bval: i64, key_type: KeyType) -> Self {
        match key_type {
            KeyType::Geo2DSphere => Key(bval ^ i64::MIN),
            _ => Key(bval),
        }
    }

    /// The `bval` of the protocol.
    #[must_use]
    pub const fn bval(self, key_type: KeyType) -> i64 {
        Self::from_bval(self.0, key_type).0
    }

    const fn of_cell(cell: u64) -> Self {
        Self::from_bval(cell.cast_signed(), KeyType::Geo2DSphere)
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        Key(cf::wyhash::hash64(bytes).cast_signed())
    }
}

/// Keys of a record in an index, in ascending order and without duplicates.
pub type Keys = SmallVec<[Key; 4]>;

/// The values that an index covers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IndexedValue {
    pub bin: Box<[u8]>,
    /// The path inside the bin's list or map, if the index is not for its top. Steps are as for
    /// [`cdt::value_at`], in their shortest form.
    pub context: Option<Box<[u8]>>,
    pub index_type: IndexType,
    pub key_type: KeyType,
}

/// A value of the index's type, unconverted.
#[derive(Clone, Copy, Debug)]
enum Indexable<'a> {
    Integer(i64),
    /// A string or blob.
    Bytes(&'a [u8]),
    /// A GeoJSON value of a bin, with its cells.
    StoredGeoJson(&'a [u8]),
    /// The text of a GeoJSON value without cells.
    GeoJson(&'a [u8]),
}

impl IndexedValue {
    /// The keys of a record whose bin has the value `bin`.
    ///
    /// # Errors
    /// `Timeout` when the budget is exhausted.
    pub fn keys(&self, bin: &Particle<'_>, budget: &Budget<'_>) -> Result<Keys, ResultCode> {
        let mut keys = Keys::new();
        let visited = self.visit(bin, budget, &mut |found| {
            add_keys(found, &mut keys, budget);
            ControlFlow::Continue(())
        });
        if let ControlFlow::Break(result) = visited {
            return Err(result);
        }
        // The check at the end notices a failed draw.
        let _ = budget.draw_for(keys.len() * SORT_STEPS);
        keys.sort_unstable();
        keys.dedup();
        budget.check(Ok(keys))
    }

    /// Calls `visit` for each value of the index's type until `visit` breaks. Also ends when the budget is
    /// exhausted.
    fn visit(
        &self,
        bin: &Particle<'_>,
        budget: &Budget<'_>,
        visit: &mut dyn FnMut(Indexable<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<ResultCode> {
        let Some(context) = &self.context else { return self.visit_value(bin, budget, false, visit) };
        if !matches!(bin, Particle::Bytes(BytesType::List | BytesType::Map, _)) {
            return ControlFlow::Continue(());
        }
        match cdt::value_at(bin, context, budget) {
            Some(inner) if !budget.is_exhausted() => self.visit_value(&inner, budget, true, visit),
            _ if budget.is_exhausted() => ControlFlow::Break(ResultCode::Timeout),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Same as [`visit`](Self::visit), for a bin's value or, if `is_inner`, for the value that a context
    /// leads to.
    fn visit_value(
        &self,
        value: &Particle<'_>,
        budget: &Budget<'_>,
        is_inner: bool,
        visit: &mut dyn FnMut(Indexable<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<ResultCode> {
        match self.index_type {
            IndexType::Default => {
                if let Some(found) = self.found_in(value, is_inner) {
                    let _ = visit(found);
                }
                ControlFlow::Continue(())
            }
            IndexType::List => match value {
                Particle::Bytes(BytesType::List, list) => self.visit_elements(list, budget, visit),
                _ => ControlFlow::Continue(()),
            },
            IndexType::MapKeys | IndexType::MapValues => match value {
                Particle::Bytes(BytesType::Map, map) => self.visit_pairs(map, budget, visit),
                _ => ControlFlow::Continue(()),
            },
        }
    }

    fn found_in<'v>(&self, value: &'v Particle<'_>, is_inner: bool) -> Option<Indexable<'v>> {
        match (self.key_type, value) {
            (KeyType::Numeric, Particle::Integer(value)) => Some(Indexable::Integer(*value)),
            (KeyType::String, Particle::Bytes(BytesType::String, bytes))
            | (KeyType::Blob, Particle::Bytes(BytesType::Blob, bytes))
                if bytes.len() <= BYTES_SIZE_MAX =>
            {
                Some(Indexable::Bytes(bytes))
            }
            (KeyType::Geo2DSphere, Particle::Bytes(BytesType::GeoJson, stored)) if is_inner => {
                Some(Indexable::GeoJson(geojson::json(stored)))
            }
            (KeyType::Geo2DSphere, Particle::Bytes(BytesType::GeoJson, stored)) => {
                Some(Indexable::StoredGeoJson(stored))
            }
            _ => None,
        }
    }

    fn visit_elements(
        &self,
        list: &[u8],
        budget: &Budget<'_>,
        visit: &mut dyn FnMut(Indexable<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<ResultCode> {
        let Some(header) = Header::parse(ContainerShape::List, list) else {
            return ControlFlow::Continue(());
        };
        let mut reader = Reader::new(header.contents);
        for _ in 0..header.count {
            if budget.draw(ELEMENT_STEPS).is_err() {
                return ControlFlow::Break(ResultCode::Timeout);
            }
            if self.visit_element(&mut reader, true, budget, visit).is_none_or(|flow| flow.is_break()) {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    fn visit_pairs(
        &self,
        map: &[u8],
        budget: &Budget<'_>,
        visit: &mut dyn FnMut(Indexable<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<ResultCode> {
        let Some(header) = Header::parse(ContainerShape::Map, map) else { return ControlFlow::Continue(()) };
        let of_keys = self.index_type == IndexType::MapKeys;
        let mut reader = Reader::new(header.contents);
        for _ in 0..header.count {
            if budget.draw(2 * ELEMENT_STEPS).is_err() {
                return ControlFlow::Break(ResultCode::Timeout);
            }
            for is_key in [true, false] {
                let flow = self.visit_element(&mut reader, is_key == of_keys, budget, visit);
                if flow.is_none_or(|flow| flow.is_break()) {
                    return ControlFlow::Continue(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Skips an element, and visits it if it is `wanted`. `None` at the end of the readable bytes.
    fn visit_element(
        &self,
        reader: &mut Reader<'_>,
        wanted: bool,
        budget: &Budget<'_>,
        visit: &mut dyn FnMut(Indexable<'_>) -> ControlFlow<()>,
    ) -> Option<ControlFlow<()>> {
        let mut next = *reader;
        let head = next.head()?;
        match head {
            Head::List(_) | Head::Map(_) => reader.skip_metered(1, budget)?,
            _ => *reader = next,
        }
        let found = match (self.key_type, head) {
            _ if !wanted => None,
            (KeyType::Numeric, Head::Unsigned(value)) => i64::try_from(value).ok().map(Indexable::Integer),
            (KeyType::Numeric, Head::Negative(value)) => Some(Indexable::Integer(value)),
            (KeyType::String, Head::Raw([TEXT, bytes @ ..]))
            | (KeyType::Blob, Head::Raw([BLOB, bytes @ ..])) => Some(Indexable::Bytes(bytes)),
            (KeyType::Geo2DSphere, Head::Raw([GEOJSON, json @ ..])) => Some(Indexable::GeoJson(json)),
            _ => None,
        };
        Some(found.map_or(ControlFlow::Continue(()), visit))
    }
}

/// Adds the keys of a value. Invalid GeoJSON has none.
fn add_keys(found: Indexable<'_>, keys: &mut Keys, budget: &Budget<'_>) {
    match found {
        Indexable::Integer(value) => keys.push(Key(value)),
        Indexable::Bytes(bytes) => {
            // The check at the end notices a failed draw.
            let _ = budget.draw_for_copy(bytes.len());
            keys.push(Key::of_bytes(bytes));
        }
        Indexable::StoredGeoJson(stored) => keys.extend(geojson::cells(stored).map(Key::of_cell)),
        Indexable::GeoJson(json) => {
            let cells = Geometry::parse(json, EARTH_RADIUS_M, budget)
                .ok()
                .and_then(|geometry| geometry.cells(&Covering::STORED, budget));
            keys.extend(cells.into_iter().flatten().map(Key::of_cell));
        }
    }
}
