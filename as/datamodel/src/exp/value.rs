//! Types of expressions, and their values during an evaluation.

use std::borrow::Cow;
use std::rc::Rc;

use cf::msgpack::{put_double, put_integer, put_nil, put_raw_header};

use crate::budget::Budget;
use crate::geojson::{self, Geometry};
use crate::particle::{BytesType, Particle};

const MSGPACK_FALSE: u8 = 0xc2;
const MSGPACK_TRUE: u8 = 0xc3;

/// The type of an expression's value, as requests number it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Type {
    Nil = 0,
    Bool = 1,
    Integer = 2,
    Text = 3,
    List = 4,
    Map = 5,
    Blob = 6,
    Float = 7,
    GeoJson = 8,
    Hll = 9,
}

impl Type {
    /// The type with number `number`. Only the low 32 bits of the number count.
    pub(super) const fn from_number(number: u64) -> Option<Self> {
        Some(match number as u32 {
            0 => Self::Nil,
            1 => Self::Bool,
            2 => Self::Integer,
            3 => Self::Text,
            4 => Self::List,
            5 => Self::Map,
            6 => Self::Blob,
            7 => Self::Float,
            8 => Self::GeoJson,
            9 => Self::Hll,
            _ => return None,
        })
    }

    /// The type of particles of type `bytes_type`; some have none.
    const fn of_bytes(bytes_type: BytesType) -> Option<Self> {
        Some(match bytes_type {
            BytesType::String => Self::Text,
            BytesType::Blob => Self::Blob,
            BytesType::Hll => Self::Hll,
            BytesType::Map => Self::Map,
            BytesType::List => Self::List,
            BytesType::GeoJson => Self::GeoJson,
            _ => return None,
        })
    }
}

/// Bytes that are borrowed from the request or the record, made during the evaluation, or shared with a
/// variable.
#[derive(Clone, Debug)]
pub(super) enum Bytes<'v> {
    Borrowed(&'v [u8]),
    Owned(Vec<u8>),
    Shared(Rc<Vec<u8>>),
}

impl std::ops::Deref for Bytes<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

impl<'v> From<Cow<'v, [u8]>> for Bytes<'v> {
    #[inline]
    fn from(bytes: Cow<'v, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => Bytes::Borrowed(bytes),
            Cow::Owned(bytes) => Bytes::Owned(bytes),
        }
    }
}

/// The value of an expression.
#[derive(Clone, Debug)]
pub(super) enum Value<'v> {
    /// An undefined value.
    Unknown,
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// All other particles, in stored form.
    Bytes(BytesType, Bytes<'v>),
    /// A point or region from the expression, and its text.
    Geometry(&'v Geometry, &'v [u8]),
    /// An extension value of msgpack, which can only be compared.
    Extension(&'v [u8]),
}

impl<'v> Value<'v> {
    /// Whether the value is of type `wanted`.
    #[inline]
    pub(super) fn is(&self, wanted: Type) -> bool {
        match self {
            Value::Unknown | Value::Extension(_) => false,
            Value::Nil => wanted == Type::Nil,
            Value::Bool(_) => wanted == Type::Bool,
            Value::Integer(_) => wanted == Type::Integer,
            Value::Float(_) => wanted == Type::Float,
            Value::Bytes(bytes_type, _) => Type::of_bytes(*bytes_type) == Some(wanted),
            Value::Geometry(..) => wanted == Type::GeoJson,
        }
    }

    /// The value in a form whose copies are cheap.
    pub(super) fn shared(self) -> Self {
        match self {
            Value::Bytes(bytes_type, Bytes::Owned(bytes)) => {
                Value::Bytes(bytes_type, Bytes::Shared(Rc::new(bytes)))
            }
            value => value,
        }
    }

    /// Appends the value as msgpack, as an argument of an operation.
    pub(super) fn write_msgpack(&self, out: &mut Vec<u8>) {
        match self {
            Value::Unknown | Value::Nil => put_nil(out),
            Value::Bool(value) => out.push(if *value { MSGPACK_TRUE } else { MSGPACK_FALSE }),
            Value::Integer(value) => put_integer(out, *value),
            Value::Float(value) => put_double(out, *value),
            Value::Bytes(BytesType::List | BytesType::Map, bytes) => out.extend_from_slice(bytes),
            Value::Bytes(BytesType::GeoJson, stored) => {
                put_raw(out, BytesType::GeoJson, geojson::json(stored));
            }
            Value::Bytes(bytes_type, bytes) => put_raw(out, *bytes_type, bytes),
            Value::Geometry(_, text) => put_raw(out, BytesType::GeoJson, text),
            Value::Extension(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// The value as a particle that borrows from it; `None` if it has no particle, or none in stored form.
    pub(super) fn as_particle(&self) -> Option<Particle<'_>> {
        Some(match self {
            Value::Unknown | Value::Nil | Value::Extension(_) | Value::Geometry(..) => return None,
            Value::Bool(value) => Particle::Bool(*value),
            Value::Integer(value) => Particle::Integer(*value),
            Value::Float(value) => Particle::Float(*value),
            Value::Bytes(bytes_type, bytes) => Particle::Bytes(*bytes_type, Cow::Borrowed(bytes)),
        })
    }

    /// The value as an owned particle; `None` if it has none.
    pub(super) fn into_particle(self, budget: &Budget<'_>) -> Option<Particle<'static>> {
        Some(match self {
            Value::Unknown | Value::Nil | Value::Extension(_) => return None,
            Value::Bool(value) => Particle::Bool(value),
            Value::Integer(value) => Particle::Integer(value),
            Value::Float(value) => Particle::Float(value),
            Value::Bytes(bytes_type, bytes) => {
                budget.draw_for_copy(bytes.len()).ok()?;
                let bytes = match bytes {
                    Bytes::Borrowed(bytes) => bytes.to_vec(),
                    Bytes::Owned(bytes) => bytes,
                    Bytes::Shared(bytes) => Rc::try_unwrap(bytes).unwrap_or_else(|bytes| (*bytes).clone()),
                };
                Particle::owned(bytes_type, bytes)
            }
            Value::Geometry(_, text) => {
                Particle::owned(BytesType::GeoJson, geojson::from_json(text, budget).ok()?)
            }
        })
    }
}

impl<'v> From<Particle<'v>> for Value<'v> {
    #[inline]
    fn from(particle: Particle<'v>) -> Self {
        match particle {
            Particle::Integer(value) => Value::Integer(value),
            Particle::Float(value) => Value::Float(value),
            Particle::Bool(value) => Value::Bool(value),
            Particle::Bytes(bytes_type, bytes) => Value::Bytes(bytes_type, bytes.into()),
        }
    }
}

fn put_raw(out: &mut Vec<u8>, bytes_type: BytesType, value: &[u8]) {
    put_raw_header(out, (value.len() as u32).saturating_add(1));
    out.push(bytes_type as u8);
    out.extend_from_slice(value);
}
