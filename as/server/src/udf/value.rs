//! Conversion of values from bins and messages to Lua, and their text form; `packer` converts the other way.
//!
//! Values from a client may be nested arbitrarily deep and have wrong lengths; values of a function may contain
//! themselves. Depth, size and time of both conversions are bounded.

use std::rc::Rc;

use cf::msgpack::{self, Head, Reader};
use datamodel::particle::type_number;
use datamodel::{BytesType, Particle, geojson};
use mlua::{AnyUserData, Function, Lua, Table, Value};
use smallvec::SmallVec;

use super::bindings::bytes::{Buffer, Memory, hex};
use super::watch::Watch;

/// State that the prelude's primitives share with the interpreter.
pub(crate) struct Shared {
    pub(super) makers: Makers,
    pub(super) watch: Rc<Watch>,
    pub(super) memory: Rc<Memory>,
}

impl Shared {
    /// Converts values between `lua` and Rust.
    pub(super) fn converter<'a>(&'a self, lua: &'a Lua) -> Converter<'a> {
        Converter { lua, makers: &self.makers, watch: &self.watch, memory: &self.memory }
    }
}

/// Most nesting of lists and maps.
pub(super) const DEPTH_MAX: usize = 200;
/// Most bytes of a function's value.
pub(super) const PACKED_SIZE_MAX: usize = 64 << 20;
/// The flag of a map whose pairs keep the order in which they came: in Lua it is a list of keys and values.
const PRESERVE_ORDER: u8 = 0x08;
/// Most arguments of a call that takes the short way.
const PLAIN_ARGUMENTS_MAX: usize = 64;
/// Elements between two checks of the watch.
const WATCHED_ELEMENTS: u32 = 1_000;
/// Numbers of the classes of proxies, as the prelude counts them.
pub(super) mod class {
    pub(crate) const LIST: i64 = 1;
    pub(crate) const MAP: i64 = 2;
    pub(crate) const BYTES: i64 = 3;
    pub(crate) const GEOJSON: i64 = 5;
}

/// Why a value cannot be converted.
#[derive(Debug)]
pub(super) enum ValueError {
    /// It is nested too deeply, or contains itself.
    Depth,
    /// It is too large.
    Size,
    /// It is malformed, or of a type that has no form on the other side.
    Type,
    /// The time of the function is over.
    Timeout,
    /// Lua has not enough memory.
    Lua(mlua::Error),
}

impl From<mlua::Error> for ValueError {
    fn from(error: mlua::Error) -> Self {
        ValueError::Lua(error)
    }
}

impl std::fmt::Display for ValueError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            ValueError::Depth => "value is nested too deeply",
            ValueError::Size => "value is too large",
            ValueError::Type => "value type unexpected",
            ValueError::Timeout => "UDF Execution Timeout",
            ValueError::Lua(mlua::Error::MemoryError(_)) => "not enough memory",
            ValueError::Lua(error) => return write!(out, "{error}"),
        };
        out.write_str(text)
    }
}

/// The prelude's functions that make and open proxies.
pub(super) struct Makers {
    pub(super) open: Function,
    pub(super) list: Function,
    pub(super) map: Function,
    pub(super) bytes: Function,
    pub(super) geojson: Function,
    pub(super) pairs: Function,
}

/// The particle type and bytes of a function's result for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) particle_type: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Output {
    /// No value.
    pub(crate) const fn null() -> Self {
        Output { particle_type: type_number::NULL, bytes: Vec::new() }
    }

    /// A text.
    pub(crate) fn text(text: &[u8]) -> Self {
        Output { particle_type: type_number::STRING, bytes: text.to_vec() }
    }
}

/// A value that needs at most a string in the interpreter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Plain<'a> {
    Nil,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(&'a [u8]),
}

/// Arguments that are all plain.
pub(super) type PlainArguments<'a> = SmallVec<[Plain<'a>; 4]>;

impl<'a> Plain<'a> {
    /// The arguments of a call as [`Converter::arguments`] returns them, if all are plain.
    pub(super) fn arguments(packed: &'a [u8]) -> Option<PlainArguments<'a>> {
        let mut arguments = PlainArguments::new();
        let mut reader = Reader::new(packed);
        let Some(count) = reader.list_header() else { return Some(arguments) };
        for _ in 0..count {
            // Arguments before a malformed one count.
            let Some(head) = reader.head() else { break };
            arguments.push(match head {
                Head::Nil => Plain::Nil,
                Head::Bool(value) => Plain::Boolean(value),
                Head::Negative(value) => Plain::Integer(value),
                Head::Unsigned(value) => Plain::Integer(value.cast_signed()),
                Head::Double(value) => Plain::Number(value),
                Head::Raw([msgpack::TEXT, text @ ..]) => Plain::Text(to_zero(text)),
                Head::Raw(_) | Head::Extension(_) | Head::List(_) | Head::Map(_) => return None,
            });
            if arguments.len() > PLAIN_ARGUMENTS_MAX {
                return None;
            }
        }
        Some(arguments)
    }

    /// A function's result for a client.
    pub(super) fn output(self) -> Output {
        let output = |particle_type, bytes: &[u8]| Output { particle_type, bytes: bytes.to_vec() };
        match self {
            Plain::Nil => Output::null(),
            Plain::Boolean(value) => output(type_number::BOOL, &[u8::from(value)]),
            Plain::Integer(value) => output(type_number::INTEGER, &value.to_be_bytes()),
            Plain::Number(value) => output(type_number::FLOAT, &value.to_bits().to_be_bytes()),
            Plain::Text(text) => output(type_number::STRING, to_zero(text)),
        }
    }
}

/// Converts values for one interpreter.
pub(super) struct Converter<'a> {
    pub(super) lua: &'a Lua,
    pub(super) makers: &'a Makers,
    pub(super) watch: &'a Watch,
    pub(super) memory: &'a Rc<Memory>,
}

/// A string up to its first zero byte, as Lua gets it from C.
pub(super) fn to_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Converter<'_> {
    /// The class and content of a proxy; nothing for other userdata.
    pub(super) fn open(&self, proxy: &AnyUserData) -> Result<Option<(i64, Table)>, ValueError> {
        let (class, content): (Option<i64>, Option<Table>) = self.makers.open.call(proxy)?;
        Ok(class.zip(content))
    }

    /// A bin's value in Lua.
    pub(super) fn value_of(&self, particle: &Particle<'_>) -> Result<Value, ValueError> {
        Ok(match particle {
            Particle::Integer(value) => Value::Integer(*value),
            Particle::Float(value) => Value::Number(*value),
            Particle::Bool(value) => Value::Boolean(*value),
            Particle::Bytes(BytesType::String, text) => self.string(to_zero(text))?,
            Particle::Bytes(BytesType::List | BytesType::Map, packed) => {
                self.unpack(packed, true)?.unwrap_or(Value::Nil)
            }
            Particle::Bytes(BytesType::GeoJson, stored) => {
                self.makers.geojson.call(self.lua.create_string(geojson::json(stored))?)?
            }
            Particle::Bytes(kind, bytes) => self.bytes(bytes, i64::from(*kind as u8))?,
        })
    }

    /// The arguments of a call: the elements of a packed list. Anything but a list means no arguments.
    pub(super) fn arguments(&self, packed: &[u8]) -> Result<Vec<Value>, ValueError> {
        let mut reader = Reader::new(packed);
        let Some(count) = reader.list_header() else { return Ok(Vec::new()) };
        let mut unpacker = Unpacker { converter: self, elements: 0 };
        let mut arguments = Vec::new();
        let described = unpacker.description(&mut reader, count).is_some();
        for _ in 0..count - u32::from(described) {
            match unpacker.value(&mut reader, 1)? {
                Some(value) => arguments.push(if value.is_null() { Value::Nil } else { value }),
                // Arguments before a malformed one count.
                None => break,
            }
        }
        Ok(arguments)
    }

    /// A packed value; `None` if it is malformed.
    fn unpack(&self, packed: &[u8], _is_stored: bool) -> Result<Option<Value>, ValueError> {
        Unpacker { converter: self, elements: 0 }.value(&mut Reader::new(packed), 0)
    }

    fn string(&self, text: &[u8]) -> Result<Value, ValueError> {
        Ok(Value::String(self.lua.create_string(text)?))
    }

    pub(super) fn bytes(&self, bytes: &[u8], kind: i64) -> Result<Value, ValueError> {
        let buffer = Buffer::of(bytes, kind, self.memory).ok_or(ValueError::Size)?;
        Ok(self.makers.bytes.call(self.lua.create_userdata(buffer)?)?)
    }

    /// The text of a value in messages.
    pub(super) fn text(&self, value: &Value) -> Result<Vec<u8>, ValueError> {
        let mut writer = TextWriter { converter: self, out: Vec::new(), elements: 0 };
        writer.put(value, 0)?;
        Ok(writer.out)
    }

    /// Checks the watch from time to time.
    pub(super) fn count(&self, elements: &mut u32) -> Result<(), ValueError> {
        *elements += 1;
        if elements.is_multiple_of(WATCHED_ELEMENTS) && self.watch.is_over() {
            return Err(ValueError::Timeout);
        }
        Ok(())
    }
}

pub(super) fn buffer_bytes(content: &Table) -> Result<(Vec<u8>, i64), ValueError> {
    let data: AnyUserData = content.raw_get("data")?;
    let buffer = data.borrow::<Buffer>()?;
    Ok((buffer.bytes().to_vec(), buffer.kind()))
}

pub(super) fn json(content: &Table) -> Result<Vec<u8>, ValueError> {
    let json: mlua::String = content.raw_get("json")?;
    Ok(json.as_bytes().to_vec())
}

struct Unpacker<'c, 'a> {
    converter: &'c Converter<'a>,
    elements: u32,
}

impl Unpacker<'_, '_> {
    /// The flags in front of a container's elements, if it has them.
    fn description(&mut self, reader: &mut Reader<'_>, count: u32) -> Option<u8> {
        if count == 0 { None } else { reader.extension().map(|extension| extension.kind) }
    }

    fn value(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<Option<Value>, ValueError> {
        self.converter.count(&mut self.elements)?;
        if depth > DEPTH_MAX {
            return Err(ValueError::Depth);
        }
        let Some(head) = reader.head() else { return Ok(None) };
        Ok(Some(match head {
            Head::Nil | Head::Extension(_) => Value::NULL,
            Head::Bool(value) => Value::Boolean(value),
            Head::Negative(value) => Value::Integer(value),
            Head::Unsigned(value) => Value::Integer(value.cast_signed()),
            Head::Double(value) => Value::Number(value),
            Head::Raw([msgpack::TEXT, text @ ..]) => self.converter.string(to_zero(text))?,
            Head::Raw([msgpack::GEOJSON, json @ ..]) => {
                self.converter.makers.geojson.call(self.converter.lua.create_string(to_zero(json))?)?
            }
            Head::Raw([kind, bytes @ ..]) => self.converter.bytes(bytes, i64::from(*kind))?,
            Head::Raw([]) => self.converter.bytes(&[], i64::from(msgpack::BLOB))?,
            Head::List(count) => return self.list(reader, count, depth),
            Head::Map(count) => return self.map(reader, count, depth),
        }))
    }

    fn list(
        &mut self,
        reader: &mut Reader<'_>,
        count: u32,
        depth: usize,
    ) -> Result<Option<Value>, ValueError> {
        // A count may be wrong: the reservation depends on the bytes that exist.
        let flags = self.description(reader, count);
        self.list_of(reader, count - u32::from(flags.is_some()), flags, depth)
    }

    /// A list of the next `count` values.
    fn list_of(
        &mut self,
        reader: &mut Reader<'_>,
        count: u32,
        flags: Option<u8>,
        depth: usize,
    ) -> Result<Option<Value>, ValueError> {
        let capacity = (count as usize).min(reader.rest().len());
        let elements = self.converter.lua.create_table_with_capacity(capacity, 4)?;
        for index in 0..count {
            let Some(value) = self.value(reader, depth + 1)? else { return Ok(None) };
            elements.raw_set(index + 1, value)?;
        }
        Ok(Some(self.converter.makers.list.call((elements, count, flags))?))
    }

    fn map(
        &mut self,
        reader: &mut Reader<'_>,
        count: u32,
        depth: usize,
    ) -> Result<Option<Value>, ValueError> {
        let flags = self.description(reader, count);
        if flags.is_some() && reader.skip(1).is_none() {
            return Ok(None);
        }
        let count = count - u32::from(flags.is_some());
        if flags.is_some_and(|flags| flags & PRESERVE_ORDER != 0) {
            return self.list_of(reader, count.saturating_mul(2), None, depth);
        }
        let lua = self.converter.lua;
        let capacity = (count as usize).min(reader.rest().len());
        let (keys, values) =
            (lua.create_table_with_capacity(capacity, 0)?, lua.create_table_with_capacity(capacity, 0)?);
        let mut has_bad_key = false;
        for index in 0..count {
            let kind = reader.kind();
            has_bad_key |= !kind.is_some_and(|kind| {
                kind.is_integer() || matches!(kind, msgpack::Kind::Text | msgpack::Kind::Bytes)
            });
            let Some(key) = self.value(reader, depth + 1)? else { return Ok(None) };
            let Some(value) = self.value(reader, depth + 1)? else { return Ok(None) };
            keys.raw_set(index + 1, key)?;
            values.raw_set(index + 1, value)?;
        }
        if has_bad_key {
            return Ok(Some(Value::NULL));
        }
        Ok(Some(self.converter.makers.map.call((keys, values, count, flags))?))
    }
}

struct TextWriter<'c, 'a> {
    converter: &'c Converter<'a>,
    out: Vec<u8>,
    elements: u32,
}

impl TextWriter<'_, '_> {
    /// Appends the text of a value. Returns whether it has one.
    fn put(&mut self, value: &Value, depth: usize) -> Result<bool, ValueError> {
        self.converter.count(&mut self.elements)?;
        if depth > DEPTH_MAX {
            return Err(ValueError::Depth);
        }
        if self.out.len() > PACKED_SIZE_MAX {
            return Err(ValueError::Size);
        }
        match value {
            Value::Boolean(value) => self.put_text(if *value { "true" } else { "false" }),
            Value::Integer(value) => self.put_text(&value.to_string()),
            Value::Number(value) => self.put_text(&format_double(*value)),
            Value::String(text) => self.put_quoted(&text.as_bytes()),
            Value::UserData(proxy) => {
                let Some((class, content)) = self.converter.open(proxy)? else { return Ok(false) };
                return self.put_content(class, &content, depth);
            }
            _ => self.put_text("NIL"),
        }
        Ok(true)
    }

    fn put_text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn put_quoted(&mut self, text: &[u8]) {
        self.out.push(b'"');
        self.out.extend_from_slice(text);
        self.out.push(b'"');
    }

    fn put_content(&mut self, class: i64, content: &Table, depth: usize) -> Result<bool, ValueError> {
        match class {
            class::LIST => self.put_list(content, depth)?,
            class::MAP => self.put_map(content, depth)?,
            class::BYTES => {
                let (bytes, _) = buffer_bytes(content)?;
                if bytes.is_empty() {
                    return Ok(false);
                }
                self.put_text(&hex(&bytes));
            }
            class::GEOJSON => self.put_quoted(&json(content)?),
            _ => self.put_text("[ REC ]"),
        }
        Ok(true)
    }

    fn put_list(&mut self, content: &Table, depth: usize) -> Result<(), ValueError> {
        let count: u32 = content.raw_get("n")?;
        self.out.push(b'[');
        for index in 1..=count {
            if index > 1 {
                self.put_text(", ");
            }
            if !self.put(&content.raw_get(index)?, depth + 1)? {
                self.put_text("<NULL>");
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// Appends the pairs of a map; a pair without a text ends it.
    fn put_map(&mut self, content: &Table, depth: usize) -> Result<(), ValueError> {
        let (keys, values): (Table, Table) = self.converter.makers.pairs.call(content)?;
        self.out.push(b'{');
        for index in 1..=keys.raw_len() {
            let start = self.out.len();
            if index > 1 {
                self.put_text(", ");
            }
            let mut has_text = self.put(&keys.raw_get(index)?, depth + 1)?;
            self.out.push(b':');
            has_text = has_text && self.put(&values.raw_get(index)?, depth + 1)?;
            if !has_text {
                self.out.truncate(start);
                break;
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// The number in the format `%.16g` of C.
fn format_double(value: f64) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let scientific = format!("{value:.15e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| -> String {
        if digits.contains('.') {
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            digits.to_owned()
        }
    };
    if (-4..16).contains(&exponent) {
        let decimals = usize::try_from(15 - exponent).unwrap_or(0);
        trim(&format!("{value:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    }
}
