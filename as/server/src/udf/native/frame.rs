//! Arguments, userdata and fields, as the native functions see them; the clock, and the way to the prelude.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi;

pub(super) use super::super::raw::string_at;
use super::super::raw::{self, CLASS_INDEX, RegistryKey};
use super::super::value::class;
use super::super::watch::Watch;

/// Bytes of a text that are looked at in about the time of a step.
const STEP_BYTES: usize = 256;
/// Calls of metamethods between two checks of the watch.
const WATCHED_CALLS: u32 = 1_024;

thread_local! {
    /// Calls of metamethods on this thread.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Looks at the clock in one of many calls. A function of Lua may call a metamethod in a loop, in which no hook looks.
///
/// # Safety
/// In a short way, which has changed nothing.
pub(super) unsafe fn look_sometimes(state: *mut ffi::lua_State) {
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
pub(super) unsafe fn look(state: *mut ffi::lua_State) {
    // SAFETY: as the caller says.
    unsafe {
        if raw::watch_of(state).is_some_and(Watch::is_over) {
            raw::raise_timeout(state);
        }
    }
}

/// An argument that must be an integer is none.
pub(super) struct NoInteger;

/// The argument at `index` as an integer; `default` if there is none. Texts and floats count if they are whole numbers.
///
/// # Safety
/// `index` is a positive number.
pub(super) unsafe fn integer_argument(
    state: *mut ffi::lua_State,
    index: c_int,
    default: i64,
) -> Result<i64, NoInteger> {
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
pub(super) unsafe fn leave(state: *mut ffi::lua_State, arguments: c_int) -> c_int {
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

/// The kinds of userdata that have a native beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Tag {
    Bytes = 0x8d1c_6a0f_52e3_b901,
    List = 0x8d1c_6a0f_52e3_b902,
    ListIterator = 0x8d1c_6a0f_52e3_b903,
    MapIterator = 0x8d1c_6a0f_52e3_b904,
}

/// The beginning of a userdata.
///
/// # Safety
/// The type has the layout of C, and its first field is the tag. No userdata that a program can have begins with the tag unless it has
/// a valid value of this type: others have fewer bytes, begin with the number of a record, which is small, or are the library's, which
/// begin with an address or a small number.
pub(super) unsafe trait Tagged {
    const TAG: Tag;
}

/// The beginning of the userdata at `index`; `None` for other values.
///
/// # Safety
/// The userdata stays on the stack as long as the result is used.
pub(super) unsafe fn tagged_at<T: Tagged>(state: *mut ffi::lua_State, index: c_int) -> Option<*mut T> {
    // SAFETY: as the caller says. A value that is no userdata has no address, and one without so many bytes is another one.
    unsafe {
        let value = ffi::lua_touserdata(state, index).cast::<T>();
        if value.is_null() || ffi::lua_rawlen(state, index) < size_of::<T>() {
            return None;
        }
        (value.cast::<u64>().read() == T::TAG as u64).then_some(value)
    }
}

/// Pushes the content of the first argument, if that is a proxy of this class; otherwise pushes up to three values.
///
/// # Safety
/// In a C function that has an argument, with room for three more values.
pub(super) unsafe fn push_content(state: *mut ffi::lua_State, class: i64) -> bool {
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
pub(super) unsafe fn integer_at(state: *mut ffi::lua_State, index: c_int) -> Option<i64> {
    // SAFETY: as the caller says.
    unsafe {
        (ffi::lua_isinteger(state, index) != 0).then(|| ffi::lua_tointegerx(state, index, ptr::null_mut()))
    }
}

/// A field of the content at `index`, if it is an integer.
///
/// # Safety
/// There is a table at `index`, and room for one more value.
pub(super) unsafe fn integer_field(state: *mut ffi::lua_State, index: c_int, name: &CStr) -> Option<i64> {
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
pub(super) unsafe fn set_integer_field(state: *mut ffi::lua_State, index: c_int, name: &CStr, value: i64) {
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
pub(super) unsafe fn is_whole_text(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: as the caller says. The bytes stay where they are while the string is on the stack.
    unsafe {
        let mut size = 0;
        let text = ffi::lua_tolstring(state, index, &raw mut size);
        memchr::memchr(0, std::slice::from_raw_parts(text.cast::<u8>(), size)).is_none()
    }
}

/// Steps of keeping the value at `index` in a list or map: the bytes of a text are looked at.
///
/// # Safety
/// `index` is one of the stack.
pub(super) unsafe fn steps_of(state: *mut ffi::lua_State, index: c_int) -> usize {
    // SAFETY: as the caller says.
    1 + unsafe { string_at(state, index) }.map_or(0, |text| text.len() / STEP_BYTES)
}

/// Whether the value at `index` is kept in a list or map as it is.
///
/// # Safety
/// There is a value at `index`, a positive number, and room for two more values.
pub(super) unsafe fn is_kept(state: *mut ffi::lua_State, index: c_int) -> bool {
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

/// Whether the userdata at `index` is a list, map, bytes, record or GeoJSON.
///
/// # Safety
/// `index` is a positive number. There is room for two more values.
pub(super) unsafe fn is_proxy_with_value(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        let is_number = ffi::lua_rawgeti(state, -1, CLASS_INDEX) == ffi::LUA_TNUMBER;
        let class = ffi::lua_tointegerx(state, -1, ptr::null_mut());
        ffi::lua_pop(state, 2);
        is_number && (class::LIST..=class::GEOJSON).contains(&class)
    }
}

/// Makes the value on top of the stack nil if it stands for nil.
///
/// # Safety
/// There is a value.
pub(super) unsafe fn uncover_nil(state: *mut ffi::lua_State) {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_type(state, -1) == ffi::LUA_TLIGHTUSERDATA {
            ffi::lua_pop(state, 1);
            ffi::lua_pushnil(state);
        }
    }
}

/// Is Lua's own function, if `is_short`.
///
/// # Safety
/// In a short way, at its beginning. The original is a C function without values of its own.
pub(super) unsafe fn be_original(state: *mut ffi::lua_State, is_short: bool) -> c_int {
    // SAFETY: as the caller says. The function finds nothing else in this frame than in one of its own.
    unsafe {
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(2)) {
            Some(original) if is_short => original(state),
            _ => leave(state, ffi::lua_gettop(state)),
        }
    }
}

/// Whether there is a userdata of this class at `index`.
///
/// # Safety
/// There is room for two more values.
pub(super) unsafe fn is_of_class(state: *mut ffi::lua_State, index: c_int, class: i64) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA || ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        let is_number = ffi::lua_rawgeti(state, -1, CLASS_INDEX) == ffi::LUA_TNUMBER;
        let is_class = is_number && ffi::lua_tointegerx(state, -1, ptr::null_mut()) == class;
        ffi::lua_pop(state, 2);
        is_class
    }
}

/// Key of the metatable of iterators.
pub(super) static ITERATOR_KEY: RegistryKey = RegistryKey::new(6);
