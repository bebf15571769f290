//! The parts of an interpreter that Lua's C interface must be used for: proxies, C functions around Lua ones, the hook
//! that watches the deadline, and moving an interpreter between threads.
//!
//! # Proxies
//! A value of this server's own in Lua (a list, a record …) is a userdata without bytes, whose metatable tells its class
//! and whose first user value is a table that holds what is in it, its *content*. Programs reach neither the content nor
//! the metatable, and Lua's collector frees what is in circles.
//!
//! # Frames
//! The C functions here hold nothing that must be dropped when Lua raises an error: Lua leaves their frames by a jump.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::time::Instant;

use mlua::{Function, Lua, ffi};

/// Instructions between two looks at the clock. One may copy tens of megabytes.
const WATCHED_INSTRUCTIONS: c_int = 1_000;
/// Where a class's metatable has its number.
const CLASS_INDEX: ffi::lua_Integer = 1;

/// Its address is the key of the [`Watch`] in an interpreter's registry.
static WATCH_KEY: u8 = 0;

/// Until when the function that runs may run.
#[derive(Default)]
pub(super) struct Watch {
    deadline: Cell<Option<Instant>>,
    /// Says that nobody waits for the function any more.
    is_unwanted: RefCell<Option<Box<dyn Fn() -> bool>>>,
    has_expired: Cell<bool>,
}

impl Watch {
    /// A function begins that may run until `deadline`.
    pub(super) fn begin(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.has_expired.set(false);
    }

    /// A function begins that may run until `deadline`, or until `is_unwanted` says so.
    pub(super) fn begin_while_wanted(&self, deadline: Instant, is_unwanted: Box<dyn Fn() -> bool>) {
        self.begin(deadline);
        *self.is_unwanted.borrow_mut() = Some(is_unwanted);
    }

    /// The function that runs may run until `deadline`, if its time is not over already.
    pub(super) fn extend(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
    }

    /// The function has ended. Returns whether its time was over: then the interpreter is of no use any more.
    pub(super) fn end(&self) -> bool {
        self.deadline.set(None);
        *self.is_unwanted.borrow_mut() = None;
        self.has_expired.get()
    }

    /// Whether the time of the function is over.
    pub(super) fn is_over(&self) -> bool {
        if self.has_expired.get() {
            return true;
        }
        let is_late = self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
        let is_over = is_late || self.is_unwanted.borrow().as_ref().is_some_and(|is_unwanted| is_unwanted());
        self.has_expired.set(is_over);
        is_over
    }
}

/// The C functions that the prelude builds on.
pub(super) struct Primitives {
    /// `proxy(content, metatable)`: a new proxy.
    pub(super) proxy: Function,
    /// `open(value)`: the class and content of a proxy; nothing for other values.
    pub(super) open: Function,
    /// `wrap(function)`: a C function that calls a Lua function, so that errors and names are those of a C function.
    pub(super) wrap: Function,
}

/// Makes the primitives of `lua`, which has all its functions watched by `watch` from now on.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn install(lua: &Lua, watch: &Watch) -> mlua::Result<Primitives> {
    let watch: *const Watch = watch;
    // SAFETY: `exec_raw` gives a state with room for a few values and catches errors. The watch lives as long as the
    // interpreter: both are parts of one `Interpreter`, which drops the interpreter first.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            ffi::lua_pushlightuserdata(state, watch.cast_mut().cast::<c_void>());
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, ptr::addr_of!(WATCH_KEY).cast());
            ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, WATCHED_INSTRUCTIONS);
        })?;
    }
    // SAFETY: these functions keep to Lua's rules for C functions.
    unsafe {
        Ok(Primitives {
            proxy: lua.create_c_function(make_proxy)?,
            open: lua.create_c_function(open_proxy)?,
            wrap: lua.create_c_function(wrap_function)?,
        })
    }
}

/// Raises an error in the running function when its time is over, and from then on after each instruction, so that a
/// program that catches the error does not get on.
unsafe extern "C-unwind" fn look_at_watch(state: *mut ffi::lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: a hook has room for some values on the stack. The registry holds the address of the interpreter's watch, which
    // is there as long as the interpreter runs.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, ptr::addr_of!(WATCH_KEY).cast());
        let watch = ffi::lua_touserdata(state, -1).cast::<Watch>().as_ref();
        ffi::lua_pop(state, 1);
        if watch.is_some_and(Watch::is_over) {
            ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, 1);
            ffi::luaL_error(state, c"UDF Execution Timeout".as_ptr());
        }
    }
}

/// `proxy(content, metatable)`
unsafe extern "C-unwind" fn make_proxy(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values; `settop` makes sure that two are there. Only the prelude calls this, with
    // two tables.
    unsafe {
        ffi::lua_settop(state, 2);
        ffi::lua_newuserdatauv(state, 0, 1);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setiuservalue(state, -2, 1);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_setmetatable(state, -2);
    }
    1
}

/// `open(value)`
unsafe extern "C-unwind" fn open_proxy(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values, of which three are used.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) != ffi::LUA_TUSERDATA || ffi::lua_getmetatable(state, 1) == 0 {
            return 0;
        }
        // Other userdata have no class in their metatable.
        if ffi::lua_rawgeti(state, 2, CLASS_INDEX) != ffi::LUA_TNUMBER {
            return 0;
        }
        ffi::lua_getiuservalue(state, 1, 1);
    }
    2
}

/// `wrap(function)`
unsafe extern "C-unwind" fn wrap_function(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the function is the only value on the stack, and becomes that of the closure.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_pushcclosure(state, call_wrapped, 1);
    }
    1
}

/// Calls the function that is wrapped, with all arguments, and gives all its results.
unsafe extern "C-unwind" fn call_wrapped(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the closure's only value is a function. There is room for it beside the arguments. `lua_call` takes as many
    // arguments as there were, and makes room for the results.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, arguments, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}

/// What belongs to one interpreter, with every handle into it.
pub(super) struct Movable<T>(pub(super) T);

// SAFETY: an interpreter and its handles share counters that are not atomic. All of them are in one `T`, which moves as a
// whole and is used by one thread at a time: nothing of it is given out for longer than a borrow of the `Movable`.
unsafe impl<T> Send for Movable<T> {}
