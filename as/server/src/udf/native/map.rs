//! Maps: their content, and the functions of programs on them.
//!
//! # Storage
//! The content of a map is a table, its user value. It has the values by key in `values`, those whose keys are bytes in `blobs`
//! (by the text of the key, with the key itself in `blob_keys`; both are made with the first), the count `n`, the `keys`
//! in their order once that is asked for, and the `flags` from the description in the bin or argument that the map comes from.

use std::ffi::{c_char, c_int};
use std::ptr;

use mlua::ffi;

use super::super::packing;
use super::super::raw::RegistryKey;
use super::super::value::class;
use super::bytes::bytes_at;
use super::frame::{
    ITERATOR_KEY, Tag, Tagged, integer_argument, integer_field, is_of_class, is_proxy_with_value,
    is_whole_text, leave, look, look_sometimes, push_content, set_integer_field, steps_of, tagged_at,
    uncover_nil,
};

/// Keys or pairs between two looks at the clock.
const WATCHED_PAIRS: i64 = 4_096;
/// Default of the argument of `map(table, capacity)`, which has no effect.
const CAPACITY: i64 = 32;

/// Key of the metatable of maps.
pub(super) static MAP_KEY: RegistryKey = RegistryKey::new(8);

/// Pushes a map of the values by key in the table at the top of the stack, which it replaces.
///
/// # Safety
/// There are `count` values, and room for three more values on the stack.
pub(in super::super) unsafe fn push_map(state: *mut ffi::lua_State, count: i64, flags: Option<u8>) {
    // SAFETY: as the caller says.
    unsafe {
        ffi::lua_createtable(state, 0, if flags.is_some() { 4 } else { 2 });
        ffi::lua_insert(state, -2);
        ffi::lua_setfield(state, -2, c"values".as_ptr());
        ffi::lua_pushinteger(state, count);
        ffi::lua_setfield(state, -2, c"n".as_ptr());
        if let Some(flags) = flags {
            ffi::lua_pushinteger(state, i64::from(flags));
            ffi::lua_setfield(state, -2, c"flags".as_ptr());
        }
        ffi::lua_newuserdatauv(state, 0, 1);
        ffi::lua_insert(state, -2);
        ffi::lua_setiuservalue(state, -2, 1);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, MAP_KEY.address());
        ffi::lua_setmetatable(state, -2);
    }
}

/// The table that has the value of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Values,
    Blobs,
    /// There is none: the value is no key, or there is no table for bytes yet.
    None,
}

/// Pushes the table that has the value of the key at `key`, and the key in it, unless there is none. With `makes_blobs` that for
/// bytes is made.
///
/// # Safety
/// The content is at `content`. Both indexes are positive numbers. There is room for four more values.
unsafe fn push_place(state: *mut ffi::lua_State, content: c_int, key: c_int, makes_blobs: bool) -> Place {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, key) {
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, key) != 0 => {
                ffi::lua_getfield(state, content, c"values".as_ptr());
                ffi::lua_pushvalue(state, key);
                Place::Values
            }
            ffi::LUA_TSTRING => {
                ffi::lua_getfield(state, content, c"values".as_ptr());
                push_whole_text(state, key);
                Place::Values
            }
            ffi::LUA_TUSERDATA => {
                let Some(head) = bytes_at(state, key).filter(|head| (**head).is_plain()) else {
                    return Place::None;
                };
                if ffi::lua_getfield(state, content, c"blobs".as_ptr()) != ffi::LUA_TTABLE {
                    ffi::lua_pop(state, 1);
                    if !makes_blobs {
                        return Place::None;
                    }
                    ffi::lua_createtable(state, 0, 1);
                    ffi::lua_pushvalue(state, -1);
                    ffi::lua_setfield(state, content, c"blob_keys".as_ptr());
                    ffi::lua_createtable(state, 0, 1);
                    ffi::lua_pushvalue(state, -1);
                    ffi::lua_setfield(state, content, c"blobs".as_ptr());
                    ffi::lua_remove(state, -2);
                }
                let bytes = (*head).bytes();
                ffi::lua_pushlstring(state, bytes.as_ptr().cast::<c_char>(), bytes.len());
                Place::Blobs
            }
            _ => Place::None,
        }
    }
}

/// Pushes the string at `index` up to its first zero byte.
///
/// # Safety
/// There is a string, and room for a value.
unsafe fn push_whole_text(state: *mut ffi::lua_State, index: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        if is_whole_text(state, index) {
            ffi::lua_pushvalue(state, index);
        } else {
            ffi::lua_pushstring(state, ffi::lua_tolstring(state, index, ptr::null_mut()));
        }
    }
}

/// Pushes the value of the key at `key`, or nil.
///
/// # Safety
/// As for [`push_place`].
pub(in super::super) unsafe fn push_value(state: *mut ffi::lua_State, content: c_int, key: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        if push_place(state, content, key, false) == Place::None {
            ffi::lua_pushnil(state);
            return;
        }
        ffi::lua_rawget(state, -2);
        uncover_nil(state);
        ffi::lua_replace(state, -2);
    }
}

/// Whether a value can be in a map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    Record,
    No,
}

/// Pushes the value at `index` as it is kept, if it can be.
///
/// # Safety
/// `index` is a positive number. There is room for two more values.
unsafe fn push_kept(state: *mut ffi::lua_State, index: c_int) -> Kept {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER | ffi::LUA_TBOOLEAN | ffi::LUA_TLIGHTUSERDATA => {
                ffi::lua_pushvalue(state, index);
            }
            ffi::LUA_TNIL | ffi::LUA_TNONE => ffi::lua_pushlightuserdata(state, ptr::null_mut()),
            ffi::LUA_TSTRING => push_whole_text(state, index),
            ffi::LUA_TUSERDATA if is_proxy_with_value(state, index) => {
                ffi::lua_pushvalue(state, index);
                if is_of_class(state, index, class::RECORD) {
                    return Kept::Record;
                }
            }
            _ => return Kept::No,
        }
        Kept::Yes
    }
}

/// Counts a key that was added or removed.
///
/// # Safety
/// The content is at `content`, a positive number. There is room for a value.
unsafe fn count_key(state: *mut ffi::lua_State, content: c_int, added: i64) {
    // SAFETY: as the caller says. The fields are there, so this takes no memory.
    unsafe {
        let count = integer_field(state, content, c"n").unwrap_or(0);
        set_integer_field(state, content, c"n", count + added);
        if ffi::lua_getfield(state, content, c"keys".as_ptr()) != ffi::LUA_TNIL {
            ffi::lua_pushnil(state);
            ffi::lua_setfield(state, content, c"keys".as_ptr());
        }
        ffi::lua_pop(state, 1);
    }
}

/// Sets the value of the key at `key` to the value at `value`.
///
/// # Safety
/// The content is at `content`. All indexes are positive numbers. There is room for seven more values.
unsafe fn put(state: *mut ffi::lua_State, content: c_int, key: c_int, value: c_int) {
    // SAFETY: as the caller says. When there is no memory for the pair, the map stays as it was.
    unsafe {
        let top = ffi::lua_gettop(state);
        let place = push_place(state, content, key, true);
        if place != Place::None {
            let table = top + 1;
            ffi::lua_pushvalue(state, top + 2);
            let is_new = ffi::lua_rawget(state, table) == ffi::LUA_TNIL;
            ffi::lua_pop(state, 1);
            if place == Place::Blobs {
                ffi::lua_getfield(state, content, c"blob_keys".as_ptr());
                ffi::lua_pushvalue(state, top + 2);
                ffi::lua_pushvalue(state, key);
                ffi::lua_rawset(state, -3);
                ffi::lua_pop(state, 1);
            }
            ffi::lua_pushvalue(state, value);
            ffi::lua_rawset(state, table);
            if is_new {
                count_key(state, content, 1);
            }
        }
        ffi::lua_settop(state, top);
    }
}

/// Removes the key at `key`.
///
/// # Safety
/// As for [`put`].
unsafe fn remove_key(state: *mut ffi::lua_State, content: c_int, key: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        let top = ffi::lua_gettop(state);
        let place = push_place(state, content, key, false);
        if place != Place::None {
            let table = top + 1;
            ffi::lua_pushvalue(state, top + 2);
            let is_there = ffi::lua_rawget(state, table) != ffi::LUA_TNIL;
            ffi::lua_pop(state, 1);
            if is_there {
                if place == Place::Blobs {
                    ffi::lua_getfield(state, content, c"blob_keys".as_ptr());
                    ffi::lua_pushvalue(state, top + 2);
                    ffi::lua_pushnil(state);
                    ffi::lua_rawset(state, -3);
                    ffi::lua_pop(state, 1);
                }
                ffi::lua_pushnil(state);
                ffi::lua_rawset(state, table);
                count_key(state, content, -1);
            }
        }
        ffi::lua_settop(state, top);
    }
}

/// `map[key]`
pub(super) unsafe extern "C-unwind" fn get(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if !push_content(state, class::MAP) {
            return leave(state, arguments);
        }
        if arguments < 2 {
            ffi::lua_pushnil(state);
        } else {
            push_value(state, ffi::lua_gettop(state), 2);
        }
        1
    }
}

/// `map[key] = value`
pub(super) unsafe extern "C-unwind" fn set(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if arguments < 3 {
            ffi::lua_settop(state, 3);
        }
        if !push_content(state, class::MAP) {
            return leave(state, arguments);
        }
        let content = ffi::lua_gettop(state);
        match push_kept(state, 3) {
            Kept::Yes => put(state, content, 2, content + 1),
            Kept::Record => {}
            Kept::No => remove_key(state, content, 2),
        }
        0
    }
}

/// `map.remove(map, key)`
pub(super) unsafe extern "C-unwind" fn remove(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if !push_content(state, class::MAP) {
            return leave(state, arguments);
        }
        if arguments >= 2 {
            remove_key(state, ffi::lua_gettop(state), 2);
        }
        0
    }
}

/// `map.size(map)`, `#map`
pub(super) unsafe extern "C-unwind" fn size(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        if !push_content(state, class::MAP) {
            return leave(state, arguments);
        }
        ffi::lua_getfield(state, -1, c"n".as_ptr());
        1
    }
}

/// `map.new(capacity)`
pub(super) unsafe extern "C-unwind" fn new(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if arguments != 1 {
            return 0;
        }
        match integer_argument(state, 1, 0) {
            Err(_) => return leave(state, arguments),
            Ok(..1) => return 0,
            Ok(_) => {}
        }
        ffi::lua_createtable(state, 0, 0);
        push_map(state, 0, None);
        1
    }
}

/// `map(table, capacity)`: the pairs of a table whose keys and values can be in a map.
pub(super) unsafe extern "C-unwind" fn of_table(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The key on the stack is never changed.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if integer_argument(state, 3, CAPACITY).is_err() {
            return leave(state, arguments);
        }
        let has_source = (2..=3).contains(&arguments) && ffi::lua_type(state, 2) == ffi::LUA_TTABLE;
        ffi::lua_createtable(state, 0, 0);
        push_map(state, 0, None);
        if !has_source {
            return 1;
        }
        let map = ffi::lua_gettop(state);
        ffi::lua_getiuservalue(state, map, 1);
        let content = map + 1;
        let mut steps = 0;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 2) != 0 {
            steps += steps_of(state, -1) + steps_of(state, -2);
            if steps >= WATCHED_PAIRS as usize {
                steps = 0;
                look(state);
            }
            let value = ffi::lua_gettop(state);
            if push_kept(state, value) != Kept::No {
                put(state, content, value - 1, value + 1);
            }
            ffi::lua_settop(state, value - 1);
        }
        ffi::lua_settop(state, map);
        1
    }
}

/// Sets the value of the key below the top of the stack to the value there, and pops both, in the map at `map`.
///
/// # Safety
/// `map` is a positive number. There is room for eight more values.
pub(in super::super) unsafe fn set_top(state: *mut ffi::lua_State, map: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        let value = ffi::lua_gettop(state);
        ffi::lua_getiuservalue(state, map, 1);
        put(state, value + 1, value - 1, value);
        ffi::lua_settop(state, value - 2);
    }
}

/// Pushes the keys of the map: integers, then texts, then bytes, each in their order.
///
/// # Safety
/// The content is at `content`, a positive number. There is room for six more values, in a C function or a call that catches errors.
pub(in super::super) unsafe fn push_keys(state: *mut ffi::lua_State, content: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_getfield(state, content, c"keys".as_ptr()) == ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_pop(state, 1);
        ffi::lua_pushcclosure(state, packing::make_sorted_keys, 0);
        ffi::lua_getfield(state, content, c"values".as_ptr());
        ffi::lua_call(state, 1, 1);
        let keys = ffi::lua_gettop(state);
        if ffi::lua_getfield(state, content, c"blobs".as_ptr()) == ffi::LUA_TTABLE {
            let count = ffi::lua_rawlen(state, keys) as i64;
            ffi::lua_pushcclosure(state, packing::make_sorted_keys, 0);
            ffi::lua_insert(state, -2);
            ffi::lua_call(state, 1, 1);
            let texts = ffi::lua_gettop(state);
            ffi::lua_getfield(state, content, c"blob_keys".as_ptr());
            for index in 1..=ffi::lua_rawlen(state, texts) as i64 {
                if index % WATCHED_PAIRS == 0 {
                    look(state);
                }
                ffi::lua_rawgeti(state, texts, index);
                ffi::lua_rawget(state, texts + 1);
                ffi::lua_rawseti(state, keys, count + index);
            }
        }
        ffi::lua_settop(state, keys);
        ffi::lua_pushvalue(state, keys);
        ffi::lua_setfield(state, content, c"keys".as_ptr());
    }
}

/// An iterator over a map; the content of the map and its keys are its user values.
#[repr(C)]
struct Iterator {
    tag: Tag,
    at: i64,
}

// SAFETY: `iterate` alone makes such userdata.
unsafe impl Tagged for Iterator {
    const TAG: Tag = Tag::MapIterator;
}

/// `map.pairs(map)`, `map.keys(map)` and `map.values(map)`: the function in the closure, which makes the next step, and an iterator.
pub(super) unsafe extern "C-unwind" fn iterate(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if !push_content(state, class::MAP) {
            return leave(state, arguments);
        }
        let content = ffi::lua_gettop(state);
        push_keys(state, content);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let iterator = ffi::lua_newuserdatauv(state, size_of::<Iterator>(), 2).cast::<Iterator>();
        iterator.write(Iterator { tag: Iterator::TAG, at: 0 });
        ffi::lua_pushvalue(state, content);
        ffi::lua_setiuservalue(state, -2, 1);
        ffi::lua_pushvalue(state, content + 1);
        ffi::lua_setiuservalue(state, -2, 2);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, ITERATOR_KEY.address());
        ffi::lua_setmetatable(state, -2);
        2
    }
}

/// Whether the iterator that is the first argument has a next key; `None` if it is no iterator over a map.
///
/// # Safety
/// In a C function, with room for a value.
pub(super) unsafe fn has_next(state: *mut ffi::lua_State) -> Option<bool> {
    // SAFETY: as the caller says.
    unsafe {
        let iterator = tagged_at::<Iterator>(state, 1)?;
        ffi::lua_getiuservalue(state, 1, 2);
        Some((*iterator).at < ffi::lua_rawlen(state, -1) as i64)
    }
}

/// Pushes the key of the next pair of an iterator over a map, and the value if `with_value`; returns whether there is one.
///
/// # Safety
/// In a C function, at its beginning.
unsafe fn push_pair(state: *mut ffi::lua_State, with_value: bool) -> bool {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let Some(iterator) = tagged_at::<Iterator>(state, 1) else { return false };
        ffi::lua_settop(state, 1);
        ffi::lua_getiuservalue(state, 1, 1);
        ffi::lua_getiuservalue(state, 1, 2);
        if ffi::lua_rawgeti(state, 3, (*iterator).at + 1) == ffi::LUA_TNIL {
            return false;
        }
        (*iterator).at += 1;
        if with_value {
            push_value(state, 2, 4);
        }
    }
    true
}

/// The next step of `map.pairs(map)`
pub(super) unsafe extern "C-unwind" fn pair(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { if push_pair(state, true) { 2 } else { 0 } }
}

/// The next step of `map.keys(map)`
pub(super) unsafe extern "C-unwind" fn key(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { c_int::from(push_pair(state, false)) }
}

/// The next step of `map.values(map)`
pub(super) unsafe extern "C-unwind" fn value(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { c_int::from(push_pair(state, true)) }
}
