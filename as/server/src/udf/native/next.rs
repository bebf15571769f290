//! `next` and `pairs`. Lua's own code may call `next` many times without an instruction between, as a metamethod, and each call
//! may walk over very many slots without values, while no hook looks.

use std::cell::Cell;
use std::ffi::c_int;

use mlua::ffi;

use super::super::watch::was_over;
use super::frame::{be_original, look};

/// Calls of `next` between two looks at the clock.
const WATCHED_CALLS: u32 = 32;

thread_local! {
    /// Calls of `next` on this thread.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// `next(table, key)`: it walks over slots without values, which may be very many, and C functions call it as a metamethod.
pub(super) unsafe extern "C-unwind" fn next(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe {
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        if calls.is_multiple_of(WATCHED_CALLS) || was_over() {
            look(state);
        }
        be_original(state, true)
    }
}

/// `pairs(table)`; the function of the prelude is `next`.
pub(super) unsafe extern "C-unwind" fn pairs(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TNONE {
            return be_original(state, true);
        }
        if ffi::luaL_getmetafield(state, 1, c"__pairs".as_ptr()) != ffi::LUA_TNIL {
            ffi::lua_pop(state, 1);
            return be_original(state, true);
        }
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushnil(state);
    }
    3
}
