//! Makes lists and maps of packed values, without handles to values, which would cost several times as much.
//!
//! # Frames
//! As Lua may leave a frame here with a jump, nothing in them must be dropped.

use std::ffi::{c_char, c_int};
use std::ptr;

use cf::msgpack::{self, Head, Kind, Reader};
use datamodel::{BytesType, Particle, geojson};
use mlua::{Value, ffi};

use super::native::{bytes, list, map};
use super::value::{Converter, DEPTH_MAX, ValueError, WATCHED_ELEMENTS, to_zero};
use super::watch::Watch;

/// The flag of a map whose pairs keep the order in which they came: in Lua it is a list of keys and values.
const PRESERVE_ORDER: u8 = 0x08;
/// Values of the stack that one level of nesting takes.
const LEVEL_STACK: c_int = 16;

/// Indexes of the functions that make values, during a call.
mod maker {
    use std::ffi::c_int;

    pub(super) const GEOJSON: c_int = 1;
}

/// Why a value cannot be made.
#[derive(Clone, Copy)]
enum Unusable {
    /// It is malformed.
    Malformed,
    Depth,
    Size,
    Timeout,
}

impl Converter<'_> {
    /// A bin's value in Lua.
    pub(super) fn value_of(&self, particle: &Particle<'_>) -> Result<Value, ValueError> {
        Ok(match particle {
            Particle::Integer(value) => Value::Integer(*value),
            Particle::Float(value) => Value::Number(*value),
            Particle::Bool(value) => Value::Boolean(*value),
            Particle::Bytes(BytesType::String, text) => Value::String(self.lua.create_string(to_zero(text))?),
            Particle::Bytes(BytesType::List | BytesType::Map, packed) => {
                self.unpack(&mut Reader::new(packed), 0, &mut 0)?.unwrap_or(Value::Nil)
            }
            Particle::Bytes(BytesType::GeoJson, stored) => {
                self.makers.geojson.call(self.lua.create_string(geojson::json(stored))?)?
            }
            Particle::Bytes(kind, bytes) => bytes::make(self.lua, bytes, i64::from(*kind as u8))?,
        })
    }

    /// The next value that `reader` has; `None` if it is malformed. `elements` counts those of several values.
    pub(super) fn unpack(
        &self,
        reader: &mut Reader<'_>,
        depth: usize,
        elements: &mut u32,
    ) -> Result<Option<Value>, ValueError> {
        let mut unpacker = Unpacker { watch: self.watch, reader, elements: *elements };
        let mut pushed = Err(Unusable::Malformed);
        // SAFETY: `exec_raw` has put the arguments on the stack, and catches errors.
        let value = unsafe {
            self.lua.exec_raw::<Value>(&self.makers.geojson, |state| {
                pushed = unpacker.push(state, depth);
                if pushed.is_ok() {
                    ffi::lua_replace(state, 1);
                }
                ffi::lua_settop(state, 1);
            })?
        };
        *elements = unpacker.elements;
        match pushed {
            Ok(()) => Ok(Some(value)),
            Err(Unusable::Malformed) => Ok(None),
            Err(Unusable::Depth) => Err(ValueError::Depth),
            Err(Unusable::Size) => Err(ValueError::Size),
            Err(Unusable::Timeout) => Err(ValueError::Timeout),
        }
    }
}

struct Unpacker<'a, 'r, 'b> {
    watch: &'a Watch,
    reader: &'r mut Reader<'b>,
    elements: u32,
}

impl Unpacker<'_, '_, '_> {
    /// Pushes the next value.
    ///
    /// # Safety
    /// In a call that catches errors, with the functions of [`maker`] as first values. There is room for a few more.
    unsafe fn push(&mut self, state: *mut ffi::lua_State, depth: usize) -> Result<(), Unusable> {
        self.elements += 1;
        if self.elements.is_multiple_of(WATCHED_ELEMENTS) && self.watch.is_over() {
            return Err(Unusable::Timeout);
        }
        if depth > DEPTH_MAX {
            return Err(Unusable::Depth);
        }
        let head = self.reader.head().ok_or(Unusable::Malformed)?;
        // SAFETY: as the caller says. The functions take what they are given, and return one value.
        unsafe {
            match head {
                // Stands for nil.
                Head::Nil | Head::Extension(_) => ffi::lua_pushlightuserdata(state, ptr::null_mut()),
                Head::Bool(value) => ffi::lua_pushboolean(state, c_int::from(value)),
                Head::Negative(value) => ffi::lua_pushinteger(state, value),
                Head::Unsigned(value) => ffi::lua_pushinteger(state, value.cast_signed()),
                Head::Double(value) => ffi::lua_pushnumber(state, value),
                Head::Raw([msgpack::TEXT, text @ ..]) => push_text(state, text),
                Head::Raw([msgpack::GEOJSON, json @ ..]) => {
                    ffi::lua_pushvalue(state, maker::GEOJSON);
                    push_text(state, json);
                    ffi::lua_call(state, 1, 1);
                }
                Head::Raw([kind, bytes @ ..]) => self.push_bytes(state, *kind, bytes)?,
                Head::Raw([]) => self.push_bytes(state, msgpack::BLOB, &[])?,
                Head::List(count) => {
                    let flags = self.description(count);
                    self.push_list(state, count - u32::from(flags.is_some()), flags, depth)?;
                }
                Head::Map(count) => self.push_map(state, count, depth)?,
            }
        }
        Ok(())
    }

    /// The flags in front of a container's elements, if it has them.
    fn description(&mut self, count: u32) -> Option<u8> {
        if count == 0 { None } else { self.reader.extension().map(|extension| extension.kind) }
    }

    /// Pushes bytes of this type.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    unsafe fn push_bytes(
        &mut self,
        state: *mut ffi::lua_State,
        kind: u8,
        bytes: &[u8],
    ) -> Result<(), Unusable> {
        // SAFETY: as the caller says. The bytes are those of the reader.
        let is_pushed = unsafe { bytes::push_bytes(state, bytes, i64::from(kind)) };
        if is_pushed { Ok(()) } else { Err(Unusable::Size) }
    }

    /// Pushes a list of the next `count` values.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    unsafe fn push_list(
        &mut self,
        state: *mut ffi::lua_State,
        count: u32,
        flags: Option<u8>,
        depth: usize,
    ) -> Result<(), Unusable> {
        // SAFETY: as the caller says, and `lua_checkstack` makes room.
        unsafe {
            if ffi::lua_checkstack(state, LEVEL_STACK) == 0 {
                return Err(Unusable::Depth);
            }
            let head = list::push_list(state, self.capacity(count).cast_unsigned(), flags);
            let proxy = ffi::lua_gettop(state);
            for _ in 0..count {
                self.push(state, depth + 1)?;
                list::append_top(state, proxy, head);
            }
        }
        Ok(())
    }

    /// Pushes a map with a header of `count`.
    ///
    /// # Safety
    /// As for [`push`](Self::push).
    unsafe fn push_map(
        &mut self,
        state: *mut ffi::lua_State,
        count: u32,
        depth: usize,
    ) -> Result<(), Unusable> {
        let flags = self.description(count);
        if flags.is_some() {
            self.reader.skip(1).ok_or(Unusable::Malformed)?;
        }
        let count = count - u32::from(flags.is_some());
        // SAFETY: as the caller says, and `lua_checkstack` makes room. Each pair is popped or taken by a table.
        unsafe {
            if flags.is_some_and(|flags| flags & PRESERVE_ORDER != 0) {
                return self.push_list(state, count.saturating_mul(2), None, depth);
            }
            if ffi::lua_checkstack(state, LEVEL_STACK) == 0 {
                return Err(Unusable::Depth);
            }
            ffi::lua_createtable(state, 0, self.capacity(count) / 2);
            let values = ffi::lua_gettop(state);
            let (mut distinct, mut others, mut has_bad_key) = (0, 0, false);
            for _ in 0..count {
                let kind = self.reader.kind();
                self.push(state, depth + 1)?;
                self.push(state, depth + 1)?;
                match kind {
                    Some(kind) if kind.is_integer() || kind == Kind::Text => {
                        ffi::lua_pushvalue(state, -2);
                        distinct += i64::from(ffi::lua_rawget(state, values) == ffi::LUA_TNIL);
                        ffi::lua_pop(state, 1);
                        ffi::lua_rawset(state, values);
                    }
                    Some(Kind::Bytes) => {
                        if others == 0 {
                            // The pairs whose keys are bytes, one after the other.
                            ffi::lua_createtable(state, 2, 0);
                            ffi::lua_insert(state, values + 1);
                        }
                        ffi::lua_rawseti(state, values + 1, others + 2);
                        ffi::lua_rawseti(state, values + 1, others + 1);
                        others += 2;
                    }
                    _ => {
                        has_bad_key = true;
                        ffi::lua_pop(state, 2);
                    }
                }
            }
            if has_bad_key {
                ffi::lua_settop(state, values - 1);
                ffi::lua_pushlightuserdata(state, ptr::null_mut());
                return Ok(());
            }
            ffi::lua_pushvalue(state, values);
            map::push_map(state, distinct, flags);
            let made = ffi::lua_gettop(state);
            for index in (1..=others).step_by(2) {
                ffi::lua_rawgeti(state, values + 1, index);
                ffi::lua_rawgeti(state, values + 1, index + 1);
                map::set_top(state, made);
            }
            ffi::lua_replace(state, values);
            ffi::lua_settop(state, values);
        }
        Ok(())
    }

    /// Room for `count` elements. A count may be wrong: the room depends on the bytes that exist.
    fn capacity(&self, count: u32) -> c_int {
        c_int::try_from((count as usize).min(self.reader.rest().len())).unwrap_or(c_int::MAX)
    }
}

/// Pushes a text, which ends with its first zero byte.
///
/// # Safety
/// There is room for a value.
unsafe fn push_text(state: *mut ffi::lua_State, text: &[u8]) {
    let text = to_zero(text);
    // SAFETY: as the caller says.
    unsafe { ffi::lua_pushlstring(state, text.as_ptr().cast::<c_char>(), text.len()) };
}
