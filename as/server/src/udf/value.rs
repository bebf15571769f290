//! Conversion of values from bins and messages to Lua, with `unpacking`; `packer`, `packing` and `printing` convert the other way.
//!
//! Values from a client may be nested arbitrarily deep and have wrong lengths; values of a function may contain
//! themselves. Depth, size and time of both conversions are bounded.

use std::rc::Rc;

use cf::msgpack::{self, Head, Reader};
use datamodel::particle::type_number;
use mlua::{AnyUserData, Function, Lua, Table, Value};
use smallvec::SmallVec;

use super::watch::Watch;

/// State that the prelude's primitives share with the interpreter.
pub(crate) struct Shared {
    pub(super) makers: Makers,
    pub(super) watch: Rc<Watch>,
}

impl Shared {
    /// Converts values between `lua` and Rust.
    pub(super) fn converter<'a>(&'a self, lua: &'a Lua) -> Converter<'a> {
        let Shared { makers, watch } = self;
        Converter { lua, makers, watch }
    }
}

/// Maximum depth of nested lists and maps.
pub(super) const DEPTH_MAX: usize = 200;
/// Maximum number of bytes of a function's value.
pub(super) const PACKED_SIZE_MAX: usize = 64 << 20;
/// Most arguments of a call that takes the short way.
const PLAIN_ARGUMENTS_MAX: usize = 64;
/// Elements between two checks of the watch.
pub(super) const WATCHED_ELEMENTS: u32 = 1_000;
/// Numbers of the classes of proxies, as the prelude counts them.
pub(super) mod class {
    pub(crate) const LIST: i64 = 1;
    pub(crate) const MAP: i64 = 2;
    pub(crate) const BYTES: i64 = 3;
    pub(crate) const RECORD: i64 = 4;
    pub(crate) const GEOJSON: i64 = 5;
    pub(crate) const AEROSPIKE: i64 = 6;
}

/// The reason why a value cannot be converted.
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
    pub(super) geojson: Function,
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
            // Arguments before a malformed one are valid.
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
}

/// A string up to its first zero byte, as Lua gets it from C.
pub(super) fn to_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Converter<'_> {
    /// The class and content of a proxy; nothing for other userdata. A list has none, and neither have bytes.
    pub(super) fn open(&self, proxy: &AnyUserData) -> Result<Option<(i64, Option<Table>)>, ValueError> {
        let (class, content): (Option<i64>, Value) = self.makers.open.call(proxy)?;
        Ok(class.map(|class| (class, content.as_table().cloned())))
    }

    /// The arguments of a call: the elements of a packed list. Anything but a list means no arguments.
    pub(super) fn arguments(&self, packed: &[u8]) -> Result<Vec<Value>, ValueError> {
        let mut reader = Reader::new(packed);
        let Some(count) = reader.list_header() else { return Ok(Vec::new()) };
        let (mut arguments, mut elements) = (Vec::new(), 0);
        let described = count > 0 && reader.extension().is_some();
        for _ in 0..count - u32::from(described) {
            match self.unpack(&mut reader, 1, &mut elements)? {
                Some(value) => arguments.push(if value.is_null() { Value::Nil } else { value }),
                // Arguments before a malformed one are valid.
                None => break,
            }
        }
        Ok(arguments)
    }
}

pub(super) fn json(content: Option<&Table>) -> Result<Vec<u8>, ValueError> {
    let content = content.ok_or(ValueError::Type)?;
    let json: mlua::String = content.raw_get("json")?;
    Ok(json.as_bytes().to_vec())
}
