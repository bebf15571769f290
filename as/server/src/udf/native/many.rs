//! Functions of Lua's libraries that take any number of arguments, or a text of any number of parts: a program may pass the same
//! long text many times, and each takes its time, which no hook looks at.

use std::ffi::c_int;
use std::ptr;

use mlua::ffi;

use super::super::long_strings::MEMORY_MAX;
use super::frame::{be_original, look, string_at};

/// A few arguments take little time, whatever they are.
const FEW: c_int = 4;
/// Most objects that are compared at once, by their metamethods.
const OBJECTS_MAX: usize = 64;
/// Most arguments of `string.format`: making the text of a number takes some time.
const FORMATTED_MAX: c_int = 1 << 16;
/// Most bytes of a format of `os.date`.
const DATE_SIZE_MAX: usize = 64 << 10;

/// Whether the texts among the arguments are no longer than all texts that an interpreter has memory for.
///
/// # Safety
/// In a C function with so many arguments.
unsafe fn are_texts_short(state: *mut ffi::lua_State, arguments: c_int) -> bool {
    // SAFETY: as the caller says.
    let size = |index| unsafe { string_at(state, index) }.map_or(0, <[u8]>::len);
    (1..=arguments).map(size).fold(0, usize::saturating_add) <= MEMORY_MAX
}

/// `math.max`, `math.min`, `string.char`, `utf8.char`
pub(super) unsafe extern "C-unwind" fn of_numbers(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let is_short = arguments <= FEW || {
            let is_object =
                |index: &c_int| [ffi::LUA_TTABLE, ffi::LUA_TUSERDATA].contains(&ffi::lua_type(state, *index));
            are_texts_short(state, arguments) && (1..=arguments).filter(is_object).count() <= OBJECTS_MAX
        };
        be_original(state, is_short)
    }
}

/// `string.pack(format, …)`
pub(super) unsafe extern "C-unwind" fn pack(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        look(state);
        of_numbers(state)
    }
}

/// `string.format(format, …)`
pub(super) unsafe extern "C-unwind" fn format(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        look(state);
        let arguments = ffi::lua_gettop(state);
        if arguments <= FEW {
            return be_original(state, true);
        }
        let is_short = arguments <= FORMATTED_MAX && {
            make_texts(state, arguments);
            are_texts_short(state, arguments)
        };
        be_original(state, is_short)
    }
}

/// Replaces each argument of `string.format` with a metatable, of which the format takes the text, by that text: a metamethod may
/// be one of Lua's own functions, in which no hook looks.
///
/// # Safety
/// As for [`are_texts_short`].
unsafe fn make_texts(state: *mut ffi::lua_State, arguments: c_int) {
    // SAFETY: as the caller says. There is room for 20 more values, and the format stays on the stack.
    unsafe {
        let Some(format) = string_at(state, 1) else { return };
        let (mut index, mut rest) = (1, format);
        while let Some(at) = memchr::memchr(b'%', rest) {
            rest = &rest[at + 1..];
            if let [b'%', others @ ..] = rest {
                rest = others;
                continue;
            }
            index += 1;
            if index > arguments {
                return;
            }
            let is_modifier = |byte: &u8| b"-+# 0123456789.".contains(byte);
            let conversion = rest.iter().find(|byte| !is_modifier(byte));
            let kind = ffi::lua_type(state, index);
            if conversion == Some(&b's')
                && (kind == ffi::LUA_TTABLE || kind == ffi::LUA_TUSERDATA)
                && ffi::lua_getmetatable(state, index) != 0
            {
                ffi::lua_pop(state, 1);
                look(state);
                ffi::luaL_tolstring(state, index, ptr::null_mut());
                ffi::lua_replace(state, index);
            }
        }
    }
}

/// `os.date(format, time)`
pub(super) unsafe extern "C-unwind" fn date(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        look(state);
        let size = string_at(state, 1).map_or(0, <[u8]>::len);
        be_original(state, size <= DATE_SIZE_MAX)
    }
}
