//! Compiles the text of modules.
//!
//! Lua takes a text in pieces, between which it looks at the clock: the time of compiling may grow with the square of the size, for
//! example for a long chain of `elseif`.

use std::ffi::{CString, c_char, c_void};

use mlua::{Function, Lua, ffi};

use super::raw;
use super::watch::Watch;

/// Bytes that are compiled between two looks at the clock, in `sandbox.lua` too.
pub(super) const PIECE_SIZE: usize = 128;

/// What is left of a text.
struct Text<'a>(&'a [u8]);

/// The main function of a text, whose errors name the place `name`.
///
/// # Errors
/// The error of the compiler, or that the time is over.
pub(super) fn compile(lua: &Lua, text: &[u8], name: &str) -> mlua::Result<Function> {
    let name = CString::new(name).map_err(mlua::Error::external)?;
    let mut text = Text(text);
    // SAFETY: `exec_raw` gives a state with room for a few values, and catches errors. Text and name outlive the call.
    unsafe {
        lua.exec_raw((), |state| {
            let data = (&raw mut text).cast::<c_void>();
            if ffi::lua_load(state, next_piece, data, name.as_ptr(), c"t".as_ptr()) != ffi::LUA_OK {
                ffi::lua_error(state);
            }
        })
    }
}

/// The next piece of the text at `data`; empty at its end.
unsafe extern "C-unwind" fn next_piece(
    state: *mut ffi::lua_State,
    data: *mut c_void,
    size: *mut usize,
) -> *const c_char {
    // SAFETY: only `compile` passes this, with the address of its text, which nothing else uses meanwhile. The frame has nothing that
    // must be dropped. `size` is a variable of Lua.
    unsafe {
        if raw::watch_of(state).is_some_and(Watch::is_over) {
            raw::raise_timeout(state);
        }
        let text = &mut *data.cast::<Text<'_>>();
        let (piece, rest) = text.0.split_at(text.0.len().min(PIECE_SIZE));
        text.0 = rest;
        size.write(piece.len());
        piece.as_ptr().cast::<c_char>()
    }
}
