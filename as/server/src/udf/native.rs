//! The functions that programs call in loops, as C functions in front of functions of the prelude: their short ways. Those of lists,
//! maps, bytes and texts are in files of their own, and leave only errors to the prelude.
//!
//! A short way does the usual cases itself: arguments of the right types, and values that are kept as they are. It leaves
//! everything else, such as errors, to the function of the prelude, before it has changed anything.
//!
//! # Time
//! A short way runs no instructions, which the hook counts, so it takes time for few elements only. Those that a function of
//! Lua may call in a loop, as metamethods, look at the clock themselves.

pub(super) mod bytes;
mod frame;
pub(super) mod list;
mod many;
pub(super) mod map;
mod next;
mod record;
mod text;

use std::ffi::c_int;
use std::ptr;

use mlua::{Function, Lua, ffi};

use frame::{be_original, integer_at, is_kept, leave, look, look_sometimes, push_content, string_at};

use super::raw::{self, CLASS_INDEX};
use super::value::class;

type CFunction = unsafe extern "C-unwind" fn(*mut ffi::lua_State) -> c_int;

/// The short ways by name.
const QUICK: &[(&[u8], CFunction)] = &[
    (b"aerospike_exists", record::exists),
    (b"aerospike_get_current_time", record::current_time),
    (b"aerospike_update", record::update),
    (b"bytes_append_byte", bytes::append::<1, false>),
    (b"bytes_append_bytes", bytes::append_bytes),
    (b"bytes_append_int16", bytes::append::<2, false>),
    (b"bytes_append_int16_be", bytes::append::<2, false>),
    (b"bytes_append_int16_le", bytes::append::<2, true>),
    (b"bytes_append_int32", bytes::append::<4, false>),
    (b"bytes_append_int32_be", bytes::append::<4, false>),
    (b"bytes_append_int32_le", bytes::append::<4, true>),
    (b"bytes_append_int64", bytes::append::<8, false>),
    (b"bytes_append_int64_be", bytes::append::<8, false>),
    (b"bytes_append_int64_le", bytes::append::<8, true>),
    (b"bytes_append_string", bytes::append_string),
    (b"bytes_append_var_int", bytes::append_varying),
    (b"bytes_get_byte", bytes::get::<1, false>),
    (b"bytes_get_bytes", bytes::get_bytes),
    (b"bytes_get_int16", bytes::get::<2, false>),
    (b"bytes_get_int16_be", bytes::get::<2, false>),
    (b"bytes_get_int16_le", bytes::get::<2, true>),
    (b"bytes_get_int32", bytes::get::<4, false>),
    (b"bytes_get_int32_be", bytes::get::<4, false>),
    (b"bytes_get_int32_le", bytes::get::<4, true>),
    (b"bytes_get_int64", bytes::get::<8, false>),
    (b"bytes_get_int64_be", bytes::get::<8, false>),
    (b"bytes_get_int64_le", bytes::get::<8, true>),
    (b"bytes_get_string", bytes::get_string),
    (b"bytes_get_type", bytes::get_type),
    (b"bytes_get_var_int", bytes::get_varying),
    (b"bytes_new", bytes::new),
    (b"bytes_set_byte", bytes::set::<1, false>),
    (b"bytes_set_bytes", bytes::set_bytes),
    (b"bytes_set_int16", bytes::set::<2, false>),
    (b"bytes_set_int16_be", bytes::set::<2, false>),
    (b"bytes_set_int16_le", bytes::set::<2, true>),
    (b"bytes_set_int32", bytes::set::<4, false>),
    (b"bytes_set_int32_be", bytes::set::<4, false>),
    (b"bytes_set_int32_le", bytes::set::<4, true>),
    (b"bytes_set_int64", bytes::set::<8, false>),
    (b"bytes_set_int64_be", bytes::set::<8, false>),
    (b"bytes_set_int64_le", bytes::set::<8, true>),
    (b"bytes_set_size", bytes::set_size),
    (b"bytes_set_string", bytes::set_string),
    (b"bytes_set_type", bytes::set_type),
    (b"bytes_set_var_int", bytes::set_varying),
    (b"bytes_size", bytes::size),
    (b"bytes_to_text", bytes::to_text),
    (b"coroutine_step", coroutine_step),
    (b"geojson_new", record::geojson),
    (b"geojson_to_text", record::geojson_text),
    (b"iterator_has_next", iterator_has_next),
    (b"iterator_next", iterator_next),
    (b"list_append", list::append),
    (b"list_concat", list::concat),
    (b"list_drop", list::drop),
    (b"list_get", list::get),
    (b"list_insert", list::insert_at),
    (b"list_iterate", list::iterate),
    (b"list_new", list::new),
    (b"list_of_table", list::of_table),
    (b"list_prepend", list::prepend),
    (b"list_remove", list::remove),
    (b"list_set", list::set),
    (b"list_size", list::size),
    (b"list_step", list::step),
    (b"list_take", list::take),
    (b"list_trim", list::trim),
    (b"map_get", map::get),
    (b"map_iterate", map::iterate),
    (b"map_key", map::key),
    (b"map_new", map::new),
    (b"map_of_table", map::of_table),
    (b"map_pair", map::pair),
    (b"map_remove", map::remove),
    (b"map_set", map::set),
    (b"map_size", map::size),
    (b"map_value", map::value),
    (b"math_max", many::of_numbers),
    (b"math_min", many::of_numbers),
    (b"next", next::next),
    (b"os_date", many::date),
    (b"pairs", next::pairs),
    (b"record_device_size", record::metadata::<5>),
    (b"record_digest", record::digest),
    (b"record_gen", record::metadata::<2>),
    (b"record_get", record_get),
    (b"record_key", record::key),
    (b"record_last_update_time", record::metadata::<1>),
    (b"record_memory_size", record::metadata::<4>),
    (b"record_numbins", record::metadata::<6>),
    (b"record_set", record_set),
    (b"record_set_ttl", record::set_ttl),
    (b"record_setname", record::set_name),
    (b"record_size", record::metadata::<3>),
    (b"record_ttl", record::metadata::<0>),
    (b"set_metatable", set_metatable),
    (b"string_char", many::of_numbers),
    (b"string_find", text::find),
    (b"string_format", many::format),
    (b"string_gmatch", text::gmatch),
    (b"string_gsub", text::gsub),
    (b"string_match", text::find_match),
    (b"string_pack", many::pack),
    (b"string_rep", string_rep),
    (b"table_insert", table_insert),
    (b"table_remove", table_remove),
    (b"table_unpack", table_unpack),
    (b"utf8_char", many::of_numbers),
];
/// Most elements that a short way moves.
const MOVED_MAX: i64 = 4_096;
/// Most values that it returns.
const RETURNED_MAX: i64 = 256;
/// Most bytes of a string that it repeats.
const REPEATED_SIZE_MAX: i64 = 4_096;

/// `quick(name, function, original)`: the short way of this name in front of a function; and Lua's own function, if it is that.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn maker(lua: &Lua) -> mlua::Result<Function> {
    // SAFETY: the function keeps to Lua's rules for C functions.
    unsafe { lua.create_c_function(make_quick) }
}

/// `quick(name, function, original)`
unsafe extern "C-unwind" fn make_quick(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The functions on the stack become the values of the closure.
    unsafe {
        ffi::lua_settop(state, 3);
        let mut size = 0;
        let name = ffi::luaL_checklstring(state, 1, &raw mut size);
        let name = std::slice::from_raw_parts(name.cast::<u8>(), size);
        let Some((_, function)) = QUICK.iter().find(|(other, _)| *other == name) else {
            return ffi::luaL_error(state, c"there is no such short way".as_ptr());
        };
        ffi::lua_pushcclosure(state, *function, 2);
    }
    1
}

/// `is_native(function)`: whether a function is not written in Lua.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn is_native(lua: &Lua) -> mlua::Result<Function> {
    /// `is_native(function)`
    unsafe extern "C-unwind" fn is_native(state: *mut ffi::lua_State) -> c_int {
        // SAFETY: a C function has room for 20 values.
        unsafe { ffi::lua_pushboolean(state, ffi::lua_iscfunction(state, 1)) };
        1
    }
    // SAFETY: the function keeps to Lua's rules for C functions.
    unsafe { lua.create_c_function(is_native) }
}

/// `keep_metatables(of_lists, of_iterators, of_bytes, of_maps, of_geojson)`: sets the metatables of new ones.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn metatable_keeper(lua: &Lua) -> mlua::Result<Function> {
    // SAFETY: the function keeps to Lua's rules for C functions.
    unsafe { lua.create_c_function(keep_metatables) }
}

unsafe extern "C-unwind" fn keep_metatables(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. Only the prelude calls this, with tables.
    unsafe {
        ffi::lua_settop(state, 5);
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, record::GEOJSON_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, map::MAP_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, bytes::BYTES_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, frame::ITERATOR_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, list::LIST_KEY.address());
    }
    0
}

/// `iterator.next(iterator)`
unsafe extern "C-unwind" fn iterator_next(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        match list::push_next(state) {
            Some(true) => {}
            Some(false) => ffi::lua_pushnil(state),
            // Iterators over maps have no next value here.
            None if map::has_next(state).is_some() => ffi::lua_pushnil(state),
            None => return leave(state, arguments),
        }
        1
    }
}

/// `iterator.has_next(iterator)`
unsafe extern "C-unwind" fn iterator_has_next(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let has_next = list::has_next(state).or_else(|| map::has_next(state));
        let Some(has_next) = has_next else { return leave(state, arguments) };
        ffi::lua_pushboolean(state, c_int::from(has_next));
        1
    }
}

/// Pushes the table `index` of the content of the record that is the first argument, and the entry there of the bin that is the
/// second one, if that bin was read or set before and has a value.
///
/// # Safety
/// In a C function that has two arguments, at its beginning.
unsafe fn push_entry(state: *mut ffi::lua_State) -> Option<(c_int, i64)> {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_type(state, 2) != ffi::LUA_TSTRING || !push_content(state, class::RECORD) {
            return None;
        }
        let content = ffi::lua_gettop(state);
        if ffi::lua_getfield(state, content, c"index".as_ptr()) != ffi::LUA_TTABLE {
            return None;
        }
        ffi::lua_pushvalue(state, 2);
        ffi::lua_rawget(state, -2);
        let at = integer_at(state, -1)?;
        if ffi::lua_getfield(state, content, c"values".as_ptr()) != ffi::LUA_TTABLE {
            return None;
        }
        // A table stands for a value that is not there.
        let kind = ffi::lua_rawgeti(state, -1, at);
        let has_value = ![ffi::LUA_TTABLE, ffi::LUA_TLIGHTUSERDATA, ffi::LUA_TNIL].contains(&kind);
        has_value.then_some((content, at))
    }
}

/// Pushes the value of the bin that is read, if it is plain and the record has no content yet: most functions read a few bins
/// only, and need none.
///
/// # Safety
/// In a C function that has two arguments, at its beginning.
unsafe fn push_plain_bin(state: *mut ffi::lua_State) -> bool {
    // SAFETY: a C function has room for 20 values. The bytes of the name are used while it is on the stack.
    unsafe {
        let is_unfilled = ffi::lua_type(state, 1) == ffi::LUA_TUSERDATA
            && ffi::lua_getmetatable(state, 1) != 0
            && ffi::lua_rawgeti(state, -1, CLASS_INDEX) == ffi::LUA_TNUMBER
            && ffi::lua_tointegerx(state, -1, ptr::null_mut()) == class::RECORD
            && ffi::lua_getiuservalue(state, 1, 1) == ffi::LUA_TNIL;
        ffi::lua_settop(state, 2);
        if is_unfilled
            && let Some(name) = string_at(state, 2)
            && let Some(id) = raw::record_id(state, 1)
            && let Some(session) = raw::session_of(state)
            && let Some(bin) = session.plain_bin(id, name)
        {
            raw::push_plain(state, &bin.value());
            return true;
        }
    }
    false
}

/// `record[name]`
unsafe extern "C-unwind" fn record_get(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if arguments == 2 && (push_plain_bin(state) || push_entry(state).is_some()) {
            return 1;
        }
        leave(state, arguments)
    }
}

/// `record[name] = value`
unsafe extern "C-unwind" fn record_set(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The entry of the bin is there in both tables, so this takes no memory.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if arguments == 3
            && is_kept(state, 3)
            && let Some((content, at)) = push_entry(state)
            && let values = ffi::lua_gettop(state) - 1
            && ffi::lua_getfield(state, content, c"too_many".as_ptr()) == ffi::LUA_TBOOLEAN
            && ffi::lua_toboolean(state, -1) == 0
            && ffi::lua_getfield(state, content, c"dirty".as_ptr()) == ffi::LUA_TTABLE
        {
            ffi::lua_pushboolean(state, 1);
            ffi::lua_rawseti(state, -2, at);
            ffi::lua_pushvalue(state, 3);
            ffi::lua_rawseti(state, values, at);
            return 0;
        }
        leave(state, arguments)
    }
}

/// `string.rep(string, count, separator)`
unsafe extern "C-unwind" fn string_rep(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let size = |index| string_at(state, index).and_then(|string| i64::try_from(string.len()).ok());
        let separator = match ffi::lua_gettop(state) {
            2 => Some(0),
            3 => size(3),
            _ => None,
        };
        let size = size(1).zip(separator).map(|(size, separator)| size.saturating_add(separator));
        let is_short = size.zip(integer_at(state, 2)).is_some_and(|(size, count)| {
            count <= REPEATED_SIZE_MAX && size.saturating_mul(count) <= REPEATED_SIZE_MAX
        });
        be_original(state, is_short)
    }
}

/// `setmetatable(table, metatable)`
unsafe extern "C-unwind" fn set_metatable(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. A metatable with a finalizer, and a table with a protected one, are left to the
    // prelude.
    unsafe {
        if ffi::lua_gettop(state) != 2
            || ffi::lua_type(state, 1) != ffi::LUA_TTABLE
            || ffi::lua_type(state, 2) != ffi::LUA_TTABLE
        {
            return leave(state, ffi::lua_gettop(state));
        }
        ffi::lua_pushstring(state, c"__gc".as_ptr());
        if ffi::lua_rawget(state, 2) != ffi::LUA_TNIL
            || ffi::luaL_getmetafield(state, 1, c"__metatable".as_ptr()) != ffi::LUA_TNIL
        {
            return leave(state, 2);
        }
        ffi::lua_settop(state, 2);
        ffi::lua_setmetatable(state, 1);
        1
    }
}

/// A call of the function that `coroutine.wrap` returned: continues the coroutine that is the closure's second value. The function of
/// the prelude raises its error.
unsafe extern "C-unwind" fn coroutine_step(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values, and `lua_checkstack` makes more. The coroutine lives as long as the closure.
    unsafe {
        // The count of instructions begins at zero in each coroutine.
        look(state);
        let coroutine = ffi::lua_tothread(state, ffi::lua_upvalueindex(2));
        let arguments = ffi::lua_gettop(state);
        if coroutine.is_null() || ffi::lua_checkstack(coroutine, arguments) == 0 {
            return ffi::luaL_error(state, c"too many arguments to resume".as_ptr());
        }
        ffi::lua_xmove(state, coroutine, arguments);
        let mut results = 0;
        let status = ffi::lua_resume(coroutine, state, arguments, &raw mut results);
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            ffi::lua_xmove(coroutine, state, 1);
            return leave(state, 1);
        }
        if ffi::lua_checkstack(state, results + 1) == 0 {
            ffi::lua_pop(coroutine, results);
            return ffi::luaL_error(state, c"too many results to resume".as_ptr());
        }
        ffi::lua_xmove(coroutine, state, results);
        results
    }
}

/// The length of the table at 1; none for other values, and for a table with a metatable.
///
/// # Safety
/// In a C function, with room for one more value.
unsafe fn plain_length(state: *mut ffi::lua_State) -> Option<i64> {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return None;
        }
        if ffi::lua_getmetatable(state, 1) != 0 {
            ffi::lua_pop(state, 1);
            return None;
        }
        i64::try_from(ffi::lua_rawlen(state, 1)).ok()
    }
}

/// `table.insert(table, value)`, `table.insert(table, position, value)`
unsafe extern "C-unwind" fn table_insert(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if let Some(length) = plain_length(state)
            && let Some(behind) = length.checked_add(1)
        {
            let at = match arguments {
                2 => Some(behind),
                3 => integer_at(state, 2),
                _ => None,
            };
            if let Some(at) = at.filter(|at| *at >= 1 && (length - MOVED_MAX..=behind).contains(at)) {
                for index in (at..=length).rev() {
                    ffi::lua_rawgeti(state, 1, index);
                    ffi::lua_rawseti(state, 1, index + 1);
                }
                ffi::lua_pushvalue(state, arguments);
                ffi::lua_rawseti(state, 1, at);
                return 0;
            }
        }
        leave(state, arguments)
    }
}

/// `table.remove(table)`, `table.remove(table, position)`
unsafe extern "C-unwind" fn table_remove(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if let Some(length) = plain_length(state) {
            let at = match arguments {
                1 => Some(length),
                2 => integer_at(state, 2),
                _ => None,
            };
            if let Some(at) = at.filter(|at| *at >= 1 && (length - MOVED_MAX..=length).contains(at)) {
                ffi::lua_rawgeti(state, 1, at);
                for index in at..length {
                    ffi::lua_rawgeti(state, 1, index + 1);
                    ffi::lua_rawseti(state, 1, index);
                }
                ffi::lua_pushnil(state);
                ffi::lua_rawseti(state, 1, length);
                return 1;
            }
        }
        leave(state, arguments)
    }
}

/// `table.unpack(table)`
unsafe extern "C-unwind" fn table_unpack(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values, and `lua_checkstack` makes more.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if arguments == 1
            && let Some(length) = plain_length(state).filter(|length| *length <= RETURNED_MAX)
            && let Ok(count) = c_int::try_from(length)
            && ffi::lua_checkstack(state, count) != 0
        {
            for index in 1..=length {
                ffi::lua_rawgeti(state, 1, index);
            }
            return count;
        }
        leave(state, arguments)
    }
}
