//! Functions of programs on records, `aerospike` and GeoJSON: those that read and set single values of the session.
//!
//! # Frames
//! Nothing that Lua may leave with a jump is borrowed from the session: values are copied first.

use std::ffi::c_int;
use std::ptr;

use cf::clock::StoredMillis;
use datamodel::{BytesType, Particle};
use mlua::ffi;

use super::super::bindings::record::{Session, metadata_number};
use super::super::raw::{self, RegistryKey};
use super::super::record::RecordState;
use super::super::value::{class, to_zero};
use super::bytes;
use super::frame::{integer_argument, integer_field, is_of_class, is_whole_text, leave, string_at};

/// Key of the metatable of GeoJSON.
pub(super) static GEOJSON_KEY: RegistryKey = RegistryKey::new(9);
/// Numbers have 32 bits.
const U32_MASK: i64 = 0xffff_ffff;
/// The type of plain bytes.
const BLOB: i64 = 4;

/// The number of the record at `index`, and the session; `None` for other values.
///
/// # Safety
/// In a C function, with room for two more values. The session is used during the call.
unsafe fn record_at<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<(i64, &'a Session)> {
    // SAFETY: as the caller says.
    unsafe {
        if !is_of_class(state, index, class::RECORD) {
            return None;
        }
        raw::record_id(state, index).zip(raw::session_of(state))
    }
}

/// `record.gen(record)`, and others that return a number: the field has this index in `METADATA_NAMES`.
pub(super) unsafe extern "C-unwind" fn metadata<const FIELD: usize>(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let Some((id, session)) = record_at(state, 1) else { return leave(state, ffi::lua_gettop(state)) };
        let number = session.read(id, |record| metadata_number(record, METADATA_NAMES[FIELD])).flatten();
        ffi::lua_pushinteger(state, number.unwrap_or(0));
        1
    }
}

/// Names of metadata that are numbers.
const METADATA_NAMES: [&[u8]; 7] =
    [b"ttl", b"last_update_time", b"gen", b"size", b"memory_size", b"device_size", b"numbins"];

/// `record.key(record)`
pub(super) unsafe extern "C-unwind" fn key(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let key = record_at(state, 1).and_then(|(id, session)| session.plain_key(id));
        let Some(key) = key else { return leave(state, ffi::lua_gettop(state)) };
        raw::push_plain(state, &key.value());
        1
    }
}

/// `record.setname(record)`
pub(super) unsafe extern "C-unwind" fn set_name(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let name = record_at(state, 1).and_then(|(id, session)| session.plain_set_name(id));
        let Some(name) = name else { return leave(state, ffi::lua_gettop(state)) };
        raw::push_plain(state, &name.value());
        1
    }
}

/// `record.digest(record)`
pub(super) unsafe extern "C-unwind" fn digest(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let Some((id, session)) = record_at(state, 1) else { return leave(state, ffi::lua_gettop(state)) };
        match session.read(id, |record| record.input.digest) {
            Some(digest) => {
                bytes::push_bytes(state, &digest.0, BLOB);
            }
            None => ffi::lua_pushnil(state),
        }
        1
    }
}

/// `record.set_ttl(record, ttl)`
pub(super) unsafe extern "C-unwind" fn set_ttl(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let (Some((id, session)), Ok(ttl)) = (record_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, ffi::lua_gettop(state));
        };
        session.change(id, |record| record.set_ttl((ttl & U32_MASK) as u32));
        0
    }
}

/// `aerospike:exists(record)`
pub(super) unsafe extern "C-unwind" fn exists(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let record = is_of_class(state, 1, class::AEROSPIKE).then(|| record_at(state, 2)).flatten();
        let Some((id, session)) = record else { return leave(state, ffi::lua_gettop(state)) };
        let exists = session.read(id, RecordState::exists).unwrap_or(false);
        ffi::lua_pushboolean(state, c_int::from(exists));
        1
    }
}

/// The bins of a record's content, which is on the stack.
struct Bins {
    count: i64,
    /// Indexes of the tables with their names and values, and which of them must be saved.
    names: c_int,
    values: c_int,
    dirty: c_int,
}

/// Pushes the tables of the bins of the record at 2, if all that must be saved are plain values.
///
/// # Safety
/// In a function of a program, with a record at 2.
unsafe fn push_plain_bins(state: *mut ffi::lua_State) -> Option<Bins> {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_getiuservalue(state, 2, 1) != ffi::LUA_TTABLE {
            return None;
        }
        let content = ffi::lua_gettop(state);
        let count = integer_field(state, content, c"count")?;
        let has_too_many = ffi::lua_getfield(state, content, c"too_many".as_ptr()) != ffi::LUA_TBOOLEAN
            || ffi::lua_toboolean(state, -1) != 0;
        if has_too_many {
            return None;
        }
        let names = content + 2;
        for name in [c"names", c"values", c"dirty"] {
            if ffi::lua_getfield(state, content, name.as_ptr()) != ffi::LUA_TTABLE {
                return None;
            }
        }
        let bins = Bins { count, names, values: names + 1, dirty: names + 2 };
        for at in 1..=count {
            ffi::lua_rawgeti(state, bins.dirty, at);
            let kind = ffi::lua_rawgeti(state, bins.values, at);
            let is_plain = [ffi::LUA_TNUMBER, ffi::LUA_TBOOLEAN, ffi::LUA_TSTRING].contains(&kind);
            if ffi::lua_toboolean(state, -2) != 0 && !is_plain {
                return None;
            }
            ffi::lua_pop(state, 2);
        }
        Some(bins)
    }
}

/// Saves the bins of the record; `None` if that is not possible. Then the record is as before.
///
/// # Safety
/// As for [`push_plain_bins`], with its result.
unsafe fn save(state: *mut ffi::lua_State, id: i64, session: &Session, bins: &Bins) -> Option<()> {
    session.change(id, RecordState::begin_save)?.ok()?;
    // SAFETY: as the caller says.
    if unsafe { set_bins(state, id, session, bins) }.is_none() {
        session.change(id, RecordState::undo_save);
        return None;
    }
    session.change(id, RecordState::end_save)
}

/// Sets the bins of the record that must be saved; `None` if one cannot be set.
///
/// # Safety
/// As for [`save`].
unsafe fn set_bins(state: *mut ffi::lua_State, id: i64, session: &Session, bins: &Bins) -> Option<()> {
    // SAFETY: as the caller says. Names and texts are copied while they are on the stack; no error is raised meanwhile.
    unsafe {
        for at in 1..=bins.count {
            ffi::lua_rawgeti(state, bins.dirty, at);
            if ffi::lua_toboolean(state, -1) != 0 {
                ffi::lua_rawgeti(state, bins.names, at);
                let kind = ffi::lua_rawgeti(state, bins.values, at);
                let particle = match kind {
                    ffi::LUA_TBOOLEAN => Particle::Bool(ffi::lua_toboolean(state, -1) != 0),
                    ffi::LUA_TNUMBER if ffi::lua_isinteger(state, -1) != 0 => {
                        Particle::Integer(ffi::lua_tointegerx(state, -1, ptr::null_mut()))
                    }
                    ffi::LUA_TNUMBER => Particle::Float(ffi::lua_tonumberx(state, -1, ptr::null_mut())),
                    _ => Particle::owned(BytesType::String, to_zero(string_at(state, -1)?).to_vec()),
                };
                let name = string_at(state, -2)?;
                session.change(id, |record| record.set_bin(name, particle))?.ok()?;
                ffi::lua_pop(state, 2);
            }
            ffi::lua_pop(state, 1);
        }
        for at in 1..=bins.count {
            ffi::lua_pushboolean(state, 0);
            ffi::lua_rawseti(state, bins.dirty, at);
        }
        Some(())
    }
}

/// `aerospike:update(record)`. What fails is done once more by the prelude, which tells the failure.
pub(super) unsafe extern "C-unwind" fn update(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let record = is_of_class(state, 1, class::AEROSPIKE).then(|| record_at(state, 2)).flatten();
        let Some((id, session)) = record else { return leave(state, arguments) };
        let Some(Ok(())) = session.read(id, RecordState::update) else { return leave(state, arguments) };
        let saved = push_plain_bins(state).and_then(|bins| save(state, id, session, &bins));
        if saved.is_none() {
            return leave(state, arguments);
        }
        ffi::lua_pushinteger(state, 0);
        1
    }
}

/// `aerospike:get_current_time()`
pub(super) unsafe extern "C-unwind" fn current_time(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let session = is_of_class(state, 1, class::AEROSPIKE).then(|| raw::session_of(state)).flatten();
        let Some(session) = session else { return leave(state, ffi::lua_gettop(state)) };
        let now = if session.is_read_only() { 0 } else { StoredMillis::now().0.cast_signed() };
        ffi::lua_pushinteger(state, now);
        1
    }
}

/// `geojson(text)`
pub(super) unsafe extern "C-unwind" fn geojson(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if arguments != 2 || ffi::lua_type(state, 2) != ffi::LUA_TSTRING || !is_whole_text(state, 2) {
            return leave(state, arguments);
        }
        ffi::lua_newuserdatauv(state, 0, 1);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_setfield(state, -2, c"json".as_ptr());
        ffi::lua_setiuservalue(state, -2, 1);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, GEOJSON_KEY.address());
        ffi::lua_setmetatable(state, -2);
        1
    }
}

/// `tostring(geojson)`
pub(super) unsafe extern "C-unwind" fn geojson_text(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if !is_of_class(state, 1, class::GEOJSON) {
            return leave(state, ffi::lua_gettop(state));
        }
        ffi::lua_getiuservalue(state, 1, 1);
        ffi::lua_getfield(state, -1, c"json".as_ptr());
        ffi::lua_pushstring(state, c"\"".as_ptr());
        ffi::lua_insert(state, -2);
        ffi::lua_pushstring(state, c"\"".as_ptr());
        ffi::lua_concat(state, 3);
        1
    }
}
