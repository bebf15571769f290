//! The short ways of the functions that programs call in loops: on lists, maps and iterators, and on plain tables.
//!
//! Each is a C function in front of a function of the prelude. It does the usual cases itself: arguments of the right
//! types, and values that are kept as they are. It leaves everything else, such as errors, to the function of the prelude,
//! before it has changed anything.
//!
//! # Time
//! A short way runs no instructions, which the hook counts, so it takes time for few elements only. Those that a function of
//! Lua may call in a loop, as metamethods, look at the clock themselves.

pub(super) mod bytes;
pub(super) mod list;
mod text;

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::{Function, Lua, ffi};

use super::raw::{self, CLASS_INDEX};
use super::value::class;
use super::watch::Watch;

type CFunction = unsafe extern "C-unwind" fn(*mut ffi::lua_State) -> c_int;

/// The short ways by name.
const QUICK: &[(&[u8], CFunction)] = &[
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
    (b"iterator_has_next", list::has_next),
    (b"iterator_next", list::next),
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
    (b"map_get", map_get),
    (b"map_set", map_set),
    (b"map_size", map_size),
    (b"map_pair", map_pair),
    (b"map_key", map_key),
    (b"map_value", map_value),
    (b"record_get", record_get),
    (b"record_set", record_set),
    (b"string_find", text::find),
    (b"string_gmatch", text::gmatch),
    (b"string_gsub", text::gsub),
    (b"string_match", text::find_match),
    (b"string_rep", string_rep),
    (b"table_insert", table_insert),
    (b"table_remove", table_remove),
    (b"table_unpack", table_unpack),
];
/// Calls of metamethods between two checks of the watch.
const WATCHED_CALLS: u32 = 1_024;
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

/// `blob_text(bytes)`: the bytes as a string, if they are plain ones.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn blob_text(lua: &Lua) -> mlua::Result<Function> {
    // SAFETY: the function keeps to Lua's rules for C functions.
    unsafe { lua.create_c_function(bytes::blob_text) }
}

/// `keep_metatables(of_lists, of_iterators, of_bytes)`: sets the metatables of new ones.
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
        ffi::lua_settop(state, 3);
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, bytes::BYTES_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, list::ITERATOR_KEY.address());
        ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, list::LIST_KEY.address());
    }
    0
}

thread_local! {
    /// Calls of metamethods on this thread.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Looks at the clock in one of many calls. A function of Lua may call a metamethod in a loop, in which no hook looks.
///
/// # Safety
/// In a short way, which has changed nothing.
unsafe fn look_sometimes(state: *mut ffi::lua_State) {
    let calls = CALLS.get().wrapping_add(1);
    CALLS.set(calls);
    // SAFETY: as the caller says. There is room for a value.
    unsafe {
        if calls.is_multiple_of(WATCHED_CALLS) && raw::watch_of(state).is_some_and(Watch::is_over) {
            raw::raise_timeout(state);
        }
    }
}

/// Looks at the clock.
///
/// # Safety
/// In a C function whose frame has nothing that must be dropped, with room for a value.
unsafe fn look(state: *mut ffi::lua_State) {
    // SAFETY: as the caller says.
    unsafe {
        if raw::watch_of(state).is_some_and(Watch::is_over) {
            raw::raise_timeout(state);
        }
    }
}

/// An argument that must be an integer is none.
struct NoInteger;

/// The argument at `index` as an integer; `default` if there is none. Texts and floats count if they are whole numbers.
///
/// # Safety
/// `index` is a positive number.
unsafe fn integer_argument(state: *mut ffi::lua_State, index: c_int, default: i64) -> Result<i64, NoInteger> {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_isnoneornil(state, index) != 0 {
            return Ok(default);
        }
        let mut is_integer = 0;
        let value = ffi::lua_tointegerx(state, index, &raw mut is_integer);
        if is_integer == 0 { Err(NoInteger) } else { Ok(value) }
    }
}

/// Leaves the call to the function of the prelude, with its first `arguments` values.
///
/// # Safety
/// In a short way, which has changed nothing.
unsafe fn leave(state: *mut ffi::lua_State, arguments: c_int) -> c_int {
    // SAFETY: the closure's first value is a function. There is room for it beside the arguments. `lua_call` makes room for the
    // results.
    unsafe {
        ffi::lua_settop(state, arguments);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, arguments, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}

/// Pushes the content of the first argument, if that is a proxy of this class; otherwise pushes up to three values.
///
/// # Safety
/// In a C function that has an argument, with room for three more values.
unsafe fn push_content(state: *mut ffi::lua_State, class: i64) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        ffi::lua_type(state, 1) == ffi::LUA_TUSERDATA
            && ffi::lua_getmetatable(state, 1) != 0
            && ffi::lua_rawgeti(state, -1, CLASS_INDEX) == ffi::LUA_TNUMBER
            && ffi::lua_tointegerx(state, -1, ptr::null_mut()) == class
            && ffi::lua_getiuservalue(state, 1, 1) == ffi::LUA_TTABLE
    }
}

/// The integer at `index`; none for other values, also for numbers that are whole.
///
/// # Safety
/// `index` is one of the stack.
unsafe fn integer_at(state: *mut ffi::lua_State, index: c_int) -> Option<i64> {
    // SAFETY: as the caller says.
    unsafe {
        (ffi::lua_isinteger(state, index) != 0).then(|| ffi::lua_tointegerx(state, index, ptr::null_mut()))
    }
}

/// A field of the content at `index`, if it is an integer.
///
/// # Safety
/// There is a table at `index`, and room for one more value.
unsafe fn integer_field(state: *mut ffi::lua_State, index: c_int, name: &CStr) -> Option<i64> {
    // SAFETY: as the caller says. Contents have no metatables, so no code of a program runs.
    unsafe {
        ffi::lua_getfield(state, index, name.as_ptr());
        let value = integer_at(state, -1);
        ffi::lua_pop(state, 1);
        value
    }
}

/// Sets a field of the content at `index`. It is there already, so this takes no memory.
///
/// # Safety
/// There is a table at `index`, a positive number, and room for one more value.
unsafe fn set_integer_field(state: *mut ffi::lua_State, index: c_int, name: &CStr, value: i64) {
    // SAFETY: as the caller says.
    unsafe {
        ffi::lua_pushinteger(state, value);
        ffi::lua_setfield(state, index, name.as_ptr());
    }
}

/// Whether the string at `index` has no zero byte, with which it would end in a list or map.
///
/// # Safety
/// There is a string at `index`.
unsafe fn is_whole_text(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: as the caller says. The bytes stay where they are while the string is on the stack.
    unsafe {
        let mut size = 0;
        let text = ffi::lua_tolstring(state, index, &raw mut size);
        memchr::memchr(0, std::slice::from_raw_parts(text.cast::<u8>(), size)).is_none()
    }
}

/// Whether the value at `index` is kept in a list or map as it is.
///
/// # Safety
/// There is a value at `index`, a positive number, and room for two more values.
unsafe fn is_kept(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER | ffi::LUA_TBOOLEAN => true,
            ffi::LUA_TSTRING => is_whole_text(state, index),
            ffi::LUA_TUSERDATA if ffi::lua_getmetatable(state, index) != 0 => {
                ffi::lua_rawgeti(state, -1, CLASS_INDEX);
                let kind = integer_at(state, -1);
                ffi::lua_pop(state, 2);
                kind.is_some_and(|kind| {
                    [class::LIST, class::MAP, class::BYTES, class::GEOJSON].contains(&kind)
                })
            }
            _ => false,
        }
    }
}

/// Whether the value at `index` is the key of a map as it is: an integer, or a text.
///
/// # Safety
/// There is a value at `index`.
unsafe fn is_key(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER => ffi::lua_isinteger(state, index) != 0,
            ffi::LUA_TSTRING => is_whole_text(state, index),
            _ => false,
        }
    }
}

/// Makes the value on top of the stack nil if it stands for nil.
///
/// # Safety
/// There is a value.
unsafe fn uncover_nil(state: *mut ffi::lua_State) {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_type(state, -1) == ffi::LUA_TLIGHTUSERDATA {
            ffi::lua_pop(state, 1);
            ffi::lua_pushnil(state);
        }
    }
}

/// `map.size(map)`, `#map`
unsafe extern "C-unwind" fn map_size(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if (1..=2).contains(&arguments) && push_content(state, class::MAP) {
            ffi::lua_getfield(state, -1, c"n".as_ptr());
            return 1;
        }
        leave(state, arguments)
    }
}

/// `map[key]`
unsafe extern "C-unwind" fn map_get(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if arguments == 2
            && is_key(state, 2)
            && push_content(state, class::MAP)
            && ffi::lua_getfield(state, -1, c"values".as_ptr()) == ffi::LUA_TTABLE
        {
            ffi::lua_pushvalue(state, 2);
            ffi::lua_rawget(state, -2);
            uncover_nil(state);
            return 1;
        }
        leave(state, arguments)
    }
}

/// `map[key] = value`
unsafe extern "C-unwind" fn map_set(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. When there is no memory for the pair, the map stays as it was.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if arguments == 3
            && is_key(state, 2)
            && is_kept(state, 3)
            && push_content(state, class::MAP)
            && let content = ffi::lua_gettop(state)
            && let Some(count) = integer_field(state, content, c"n")
            && ffi::lua_getfield(state, content, c"values".as_ptr()) == ffi::LUA_TTABLE
        {
            let values = ffi::lua_gettop(state);
            ffi::lua_pushvalue(state, 2);
            let is_new = ffi::lua_rawget(state, values) == ffi::LUA_TNIL;
            ffi::lua_pushvalue(state, 2);
            ffi::lua_pushvalue(state, 3);
            ffi::lua_rawset(state, values);
            if is_new {
                set_integer_field(state, content, c"n", count + 1);
                if ffi::lua_getfield(state, content, c"keys".as_ptr()) != ffi::LUA_TNIL {
                    ffi::lua_pushnil(state);
                    ffi::lua_setfield(state, content, c"keys".as_ptr());
                }
            }
            return 0;
        }
        leave(state, arguments)
    }
}

/// Pushes key and value of the next pair of an iterator over a map, if the key is an integer or a text.
///
/// # Safety
/// In a short way, at its beginning.
unsafe fn push_pair(state: *mut ffi::lua_State) -> bool {
    // SAFETY: a C function has room for 20 values. Iterators are made by the prelude alone.
    unsafe {
        if !(1..=2).contains(&ffi::lua_gettop(state)) || !push_content(state, class::ITERATOR) {
            return false;
        }
        let iterator = ffi::lua_gettop(state);
        let Some(at) = integer_field(state, iterator, c"at") else { return false };
        if ffi::lua_getfield(state, iterator, c"map".as_ptr()) != ffi::LUA_TTABLE
            || ffi::lua_getfield(state, -1, c"values".as_ptr()) != ffi::LUA_TTABLE
            || ffi::lua_getfield(state, iterator, c"keys".as_ptr()) != ffi::LUA_TTABLE
        {
            return false;
        }
        ffi::lua_rawgeti(state, -1, at + 1);
        if ![ffi::LUA_TNUMBER, ffi::LUA_TSTRING].contains(&ffi::lua_type(state, -1)) {
            return false;
        }
        set_integer_field(state, iterator, c"at", at + 1);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawget(state, -4);
        uncover_nil(state);
    }
    true
}

/// The next step of `map.pairs(map)`
unsafe extern "C-unwind" fn map_pair(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if push_pair(state) { 2 } else { leave(state, arguments) }
    }
}

/// The next step of `map.keys(map)`
unsafe extern "C-unwind" fn map_key(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if !push_pair(state) {
            return leave(state, arguments);
        }
        ffi::lua_pop(state, 1);
        1
    }
}

/// The next step of `map.values(map)`
unsafe extern "C-unwind" fn map_value(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if push_pair(state) { 1 } else { leave(state, arguments) }
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

/// The bytes of the string at `index`; none for other values.
///
/// # Safety
/// They are used only while the string is on the stack.
unsafe fn string_at<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<&'a [u8]> {
    // SAFETY: as the caller says. The value is a string, which is not converted.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut size = 0;
        let bytes = ffi::lua_tolstring(state, index, &raw mut size);
        Some(std::slice::from_raw_parts(bytes.cast::<u8>(), size))
    }
}

/// Is Lua's own function, if `is_short`.
///
/// # Safety
/// In a short way, at its beginning. The original is a C function without values of its own.
unsafe fn be_original(state: *mut ffi::lua_State, is_short: bool) -> c_int {
    // SAFETY: as the caller says. The function finds nothing else in this frame than in one of its own.
    unsafe {
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(2)) {
            Some(original) if is_short => original(state),
            _ => leave(state, ffi::lua_gettop(state)),
        }
    }
}

/// `string.rep(string, count)`
unsafe extern "C-unwind" fn string_rep(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let size = string_at(state, 1).and_then(|string| i64::try_from(string.len()).ok());
        let is_short = ffi::lua_gettop(state) == 2
            && size.zip(integer_at(state, 2)).is_some_and(|(size, count)| {
                count <= REPEATED_SIZE_MAX && size.saturating_mul(count) <= REPEATED_SIZE_MAX
            });
        be_original(state, is_short)
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
