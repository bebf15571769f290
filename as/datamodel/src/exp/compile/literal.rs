//! Literals: values that stand for themselves.

use cf::msgpack::{BLOB, GEOJSON, Head, Kind, SEARCH, TEXT};

use super::{Compiler, StaticType};
use crate::exp::operators::size;
use crate::exp::program::{Constant, Instruction, Span};
use crate::exp::value::Type;
use crate::geojson::{EARTH_RADIUS_M, Geometry};
use crate::particle::BytesType;

/// Marker of an extension of one byte, which only search values may have.
const SHORTEST_EXTENSION: u8 = 0xd4;

impl Compiler<'_> {
    /// Compiles a value that is not a list.
    pub(super) fn literal(&mut self) -> Option<StaticType> {
        let (mut constant, result) = self.read_literal()?;
        if let Constant::Bytes(BytesType::GeoJson, text) = constant {
            let geometry = Geometry::parse(text.of(self.bytes), EARTH_RADIUS_M, self.budget).ok()?;
            constant = Constant::Geometry(self.program.geometries.len() as u32, text);
            self.program.geometries.push(geometry);
        }
        self.push(Instruction::Push(constant));
        Some(StaticType { result, is_unknown: false, is_open: false })
    }

    /// Reads a value that is not a list, and its type.
    pub(super) fn read_literal(&mut self) -> Option<(Constant, Option<Type>)> {
        let marker = self.reader.marker()?;
        let mut ahead = self.reader;
        let (size, constant, result) = match ahead.head()? {
            Head::Nil => (size::NIL, Constant::Nil, Some(Type::Nil)),
            Head::Bool(value) => (size::BYTES, Constant::Bool(value), Some(Type::Bool)),
            Head::Negative(value) => (size::NUMBER, Constant::Integer(value), Some(Type::Integer)),
            Head::Unsigned(value) => {
                (size::NUMBER, Constant::Integer(value.cast_signed()), Some(Type::Integer))
            }
            Head::Double(value) => (size::NUMBER, Constant::Float(value), Some(Type::Float)),
            Head::Raw(raw) => {
                let (&kind, value) = raw.split_first()?;
                let (bytes_type, result) = match kind {
                    TEXT => (BytesType::String, Type::Text),
                    BLOB => (BytesType::Blob, Type::Blob),
                    GEOJSON => (BytesType::GeoJson, Type::GeoJson),
                    kind if kind == BytesType::Hll as u8 => (BytesType::Hll, Type::Hll),
                    _ => return None,
                };
                let size = if bytes_type == BytesType::GeoJson { size::GEOJSON } else { size::BYTES };
                let len = value.len() as u32;
                let start = ahead.position() as u32 - len;
                (size, Constant::Bytes(bytes_type, Span { start, len }), Some(result))
            }
            Head::Map(_) => {
                (size::BYTES, Constant::Bytes(BytesType::Map, self.value_ahead()?), Some(Type::Map))
            }
            head @ Head::Extension(_) => {
                must_be_known(marker, &head)?;
                (size::BYTES, Constant::Extension(self.value_ahead()?), None)
            }
            Head::List(_) => return None,
        };
        self.grow(size)?;
        self.reader.skip(1)?;
        Some((constant, result))
    }

    /// Skips a value without examining it.
    pub(super) fn skip_literal(&mut self) -> Option<()> {
        let mut ahead = self.reader;
        must_be_known(ahead.marker()?, &ahead.head()?)?;
        self.reader.skip(1)
    }

    /// The whole of the next value, which remains unread.
    fn value_ahead(&self) -> Option<Span> {
        let mut ahead = self.reader;
        let len = ahead.value()?.len() as u32;
        Some(Span { start: self.position(), len })
    }
}

/// Refuses extensions of one byte that are not search values.
fn must_be_known(marker: u8, head: &Head<'_>) -> Option<()> {
    let is_search = matches!(head, Head::Extension(extension) if extension.kind == SEARCH)
        && matches!(head.kind(), Kind::Wildcard | Kind::Infinity);
    (marker != SHORTEST_EXTENSION || is_search).then_some(())
}
