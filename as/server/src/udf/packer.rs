//! Packs Lua values as they are stored in bins and sent to clients.
//!
//! A list or map from a bin or an argument keeps its flags. When stored again, it is ordered as before, whatever the
//! function did to it.

use std::cmp::Ordering;

use cf::msgpack;
use datamodel::particle::type_number;
use datamodel::{Budget, BytesType, Particle, geojson};
use mlua::{Table, Value};
use proto::ResultCode;

use super::value::{
    Converter, DEPTH_MAX, Output, PACKED_SIZE_MAX, Plain, ValueError, buffer_bytes, class, json, to_zero,
};

/// Flags of a list or map: ordered, a map ordered by value too, and with an index.
mod flags {
    pub(super) const ORDERED: u8 = 0x01;
    pub(super) const VALUE_ORDERED: u8 = 0x02;
    pub(super) const INDEX: u8 = 0x10;
}

/// The purpose of packing a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// For storing: lists and maps keep their order and their index.
    Bin,
    /// For the client or another node: lists have no flags there, as in the C server.
    Result,
}

/// Why a value cannot be stored in a bin.
enum ParticleError {
    Result(ResultCode),
    Value(ValueError),
}

impl From<ValueError> for ParticleError {
    fn from(error: ValueError) -> Self {
        ParticleError::Value(error)
    }
}

/// # Values of Lua to packed values
impl Converter<'_> {
    /// A function's result for a client. A value without a form there is null.
    pub(super) fn output(&self, value: &Value) -> Result<Output, ValueError> {
        let output = |particle_type, bytes| Ok(Output { particle_type, bytes });
        match value {
            Value::Boolean(value) => Ok(Plain::Boolean(*value).output()),
            Value::Integer(value) => Ok(Plain::Integer(*value).output()),
            Value::Number(value) => Ok(Plain::Number(*value).output()),
            Value::String(text) => Ok(Plain::Text(&text.as_bytes()).output()),
            Value::UserData(proxy) => {
                let Some((class, content)) = self.open(proxy)? else { return Ok(Output::null()) };
                match class {
                    class::LIST => output(type_number::LIST, self.packed(value, Purpose::Result)?),
                    class::MAP => output(type_number::MAP, self.packed(value, Purpose::Result)?),
                    class::BYTES => output(type_number::BLOB, buffer_bytes(&content)?.0),
                    class::GEOJSON => output(type_number::GEOJSON, geojson::without_cells(&json(&content)?)),
                    _ => Ok(Output::null()),
                }
            }
            _ => Ok(Output::null()),
        }
    }

    /// A value in its stored form.
    ///
    /// # Errors
    /// The result of a save that this value makes impossible.
    pub(super) fn to_particle(&self, value: &Value) -> Result<Particle<'static>, ResultCode> {
        self.particle(value).map_err(|error| match error {
            ParticleError::Result(result) => result,
            ParticleError::Value(ValueError::Timeout) => ResultCode::Timeout,
            ParticleError::Value(ValueError::Size | ValueError::Depth) => ResultCode::RecordTooBig,
            ParticleError::Value(_) => ResultCode::IncompatibleType,
        })
    }

    fn particle(&self, value: &Value) -> Result<Particle<'static>, ParticleError> {
        Ok(match value {
            Value::Boolean(value) => Particle::Bool(*value),
            Value::Integer(value) => Particle::Integer(*value),
            Value::Number(value) => Particle::Float(*value),
            Value::String(text) => Particle::owned(BytesType::String, to_zero(&text.as_bytes()).to_vec()),
            Value::UserData(proxy) => {
                let (class, content) = self.open(proxy)?.ok_or(ValueError::Type)?;
                match class {
                    class::LIST => self.container(type_number::LIST, value)?,
                    class::MAP => self.container(type_number::MAP, value)?,
                    class::BYTES => {
                        let (bytes, kind) = buffer_bytes(&content)?;
                        Particle::owned(blob_type(kind), bytes)
                    }
                    class::GEOJSON => {
                        let json = json(&content)?;
                        let stored = geojson::from_json(&json, &Budget::unlimited());
                        // Text that is no GeoJSON is kept unchanged.
                        Particle::owned(
                            BytesType::GeoJson,
                            stored.unwrap_or_else(|_| geojson::without_cells(&json)),
                        )
                    }
                    _ => return Err(ValueError::Type.into()),
                }
            }
            _ => return Err(ValueError::Type.into()),
        })
    }

    fn container(&self, number: u8, value: &Value) -> Result<Particle<'static>, ParticleError> {
        let packed = self.packed(value, Purpose::Bin)?;
        let particle = Particle::from_wire(number, &packed, &Budget::unlimited());
        match particle.map_err(ParticleError::Result)? {
            Particle::Bytes(kind, bytes) => Ok(Particle::owned(kind, bytes.into_owned())),
            _ => Err(ValueError::Type.into()),
        }
    }

    /// The packed form of a value.
    pub(super) fn packed(&self, value: &Value, purpose: Purpose) -> Result<Vec<u8>, ValueError> {
        let mut packer = Packer { converter: self, purpose, out: Vec::new(), elements: 0 };
        packer.put(value, 0)?;
        Ok(packer.out)
    }
}

/// The particle type of bytes with this type number; plain bytes for an unknown number.
fn blob_type(kind: i64) -> BytesType {
    let known = u8::try_from(kind).ok().and_then(BytesType::from_number);
    match known {
        Some(
            BytesType::String | BytesType::Map | BytesType::List | BytesType::GeoJson | BytesType::Vector,
        )
        | None => BytesType::Blob,
        Some(known) => known,
    }
}

struct Packer<'c, 'a> {
    converter: &'c Converter<'a>,
    purpose: Purpose,
    out: Vec<u8>,
    elements: u32,
}

impl Packer<'_, '_> {
    fn put(&mut self, value: &Value, depth: usize) -> Result<(), ValueError> {
        self.converter.count(&mut self.elements)?;
        if depth > DEPTH_MAX {
            return Err(ValueError::Depth);
        }
        if self.out.len() > PACKED_SIZE_MAX {
            return Err(ValueError::Size);
        }
        match value {
            Value::Boolean(value) => self.out.push(if *value { 0xc3 } else { 0xc2 }),
            Value::Integer(value) => msgpack::put_integer(&mut self.out, *value),
            Value::Number(value) => msgpack::put_double(&mut self.out, *value),
            Value::String(text) => self.put_raw(msgpack::TEXT, to_zero(&text.as_bytes())),
            Value::UserData(proxy) => {
                if let Some((class, content)) = self.converter.open(proxy)? {
                    return self.put_content(class, &content, depth);
                }
                msgpack::put_nil(&mut self.out);
            }
            _ => msgpack::put_nil(&mut self.out),
        }
        Ok(())
    }

    fn put_raw(&mut self, kind: u8, bytes: &[u8]) {
        msgpack::put_raw_header(&mut self.out, bytes.len() as u32 + 1);
        self.out.push(kind);
        self.out.extend_from_slice(bytes);
    }

    fn put_content(&mut self, class: i64, content: &Table, depth: usize) -> Result<(), ValueError> {
        match class {
            class::LIST => self.put_list(content, depth)?,
            class::MAP => self.put_map(content, depth)?,
            class::BYTES => {
                let (bytes, kind) = buffer_bytes(content)?;
                self.put_raw(kind as u8, &bytes);
            }
            class::GEOJSON => self.put_raw(msgpack::GEOJSON, &json(content)?),
            _ => msgpack::put_nil(&mut self.out),
        }
        Ok(())
    }

    /// The flags of a list or map; only a whole bin has an index.
    fn flags_of(&self, content: &Table, depth: usize) -> Result<u8, ValueError> {
        let flags: Option<u8> = content.raw_get("flags")?;
        let is_whole = self.purpose == Purpose::Result || depth == 0;
        Ok(flags.unwrap_or(0) & if is_whole { !0 } else { !flags::INDEX })
    }

    fn put_list(&mut self, content: &Table, depth: usize) -> Result<(), ValueError> {
        let count: u32 = content.raw_get("n")?;
        let flags = match self.purpose {
            Purpose::Bin => self.flags_of(content, depth)? & (flags::ORDERED | flags::INDEX),
            Purpose::Result => 0,
        };
        msgpack::put_list_header(&mut self.out, count + u32::from(flags != 0));
        if flags != 0 {
            msgpack::put_extension_header(&mut self.out, 0, flags);
        }
        let mut starts = Vec::new();
        for index in 1..=count {
            if flags & flags::ORDERED != 0 {
                starts.push(self.out.len());
            }
            self.put(&content.raw_get(index)?, depth + 1)?;
        }
        self.sort_from(&starts);
        Ok(())
    }

    /// Sorts the values that begin at `starts`; the last one ends where the output ends.
    fn sort_from(&mut self, starts: &[usize]) {
        let Some(first) = starts.first().copied() else { return };
        let ends = starts[1..].iter().copied().chain([self.out.len()]);
        let mut values: Vec<&[u8]> =
            starts.iter().zip(ends).map(|(start, end)| &self.out[*start..end]).collect();
        let order = |left: &&[u8], right: &&[u8]| msgpack::compare(left, right).unwrap_or(Ordering::Equal);
        if !values.is_sorted_by(|left, right| order(left, right).is_le()) {
            values.sort_by(order);
            let sorted = values.concat();
            self.out.truncate(first);
            self.out.extend_from_slice(&sorted);
        }
    }

    fn put_map(&mut self, content: &Table, depth: usize) -> Result<(), ValueError> {
        let (keys, values): (Table, Table) = self.converter.makers.pairs.call(content)?;
        let count = keys.raw_len() as u32;
        let known = flags::ORDERED | flags::VALUE_ORDERED | flags::INDEX;
        let mut flags = self.flags_of(content, depth)? & known;
        if flags != 0 {
            flags |= flags::ORDERED;
        }
        msgpack::put_map_header(&mut self.out, count + u32::from(flags != 0));
        if flags != 0 {
            msgpack::put_extension_header(&mut self.out, 0, flags);
            msgpack::put_nil(&mut self.out);
        }
        for index in 1..=count {
            self.put(&keys.raw_get(index)?, depth + 1)?;
            self.put(&values.raw_get(index)?, depth + 1)?;
        }
        Ok(())
    }
}
