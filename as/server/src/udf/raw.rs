//! The parts of an interpreter that need Lua's C interface: proxies, C functions around Lua ones, the hook that checks
//! the deadline, and calls of small functions.
//!
//! # Proxies
//! A value of this server in Lua (a list, a record …) is a userdata whose metatable gives its class and whose
//! first user value is a table with its elements, the *content*. Programs cannot reach the content or the
//! metatable, and Lua's collector frees cycles. The userdata of a record holds its number; its content is
//! made when first needed. Most functions read only some numbers and short texts; that needs no content.
//!
//! # Frames
//! The C functions here hold nothing that must be dropped when Lua raises an error, because Lua leaves their frames
//! with a jump.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use mlua::{Function, Lua, Table, Value, ffi};

use super::bindings::record::Session;
use super::long_strings::{self, LongStringWatch};
use super::value::Plain;
use super::watch::{Look, Watch};

/// Instructions between two checks of the clock. One instruction may copy or compare tens of megabytes.
const WATCHED_INSTRUCTIONS: c_int = 250;
/// With so many KiB of values, and long strings or a deep stack among them, single instructions may be slow.
const LARGE_KIB: c_int = 8 << 10;
/// A stack with so many calls is deep.
const DEEP_LEVEL: c_int = 200;
/// Instructions between two checks then, and after instructions that took longer than [`SLOW_TIME`].
const SLOW_INSTRUCTIONS: c_int = 8;
const SLOW_TIME: Duration = Duration::from_millis(2);
/// The error of a function whose time is over.
const TIMEOUT: &CStr = c"UDF Execution Timeout";
/// Index of a class's number in its metatable.
pub(super) const CLASS_INDEX: ffi::lua_Integer = 1;
/// Index of the function in the metatable of records that makes a record's content.
const FILL_INDEX: ffi::lua_Integer = 2;
/// Number of stack values that a call needs in addition to the function's arguments.
const CALL_STACK: c_int = 8;

/// A key of an interpreter's registry, identified by its address.
pub(super) struct RegistryKey(#[expect(dead_code, reason = "keys without bytes might share an address")] u8);

/// Key of the [`Watch`].
static WATCH_KEY: RegistryKey = RegistryKey(0);
/// Key of the [`Session`].
static SESSION_KEY: RegistryKey = RegistryKey(1);
/// Key of the metatable of records.
static RECORD_KEY: RegistryKey = RegistryKey(2);
/// Key of the value of the variable `aerospike`.
static AEROSPIKE_KEY: RegistryKey = RegistryKey(3);
/// Key of a result or error that is not a plain value. The value is never nil, so that setting it takes no
/// memory.
static KEPT_KEY: RegistryKey = RegistryKey(4);

impl RegistryKey {
    /// A key, of which each has another number.
    pub(super) const fn new(number: u8) -> Self {
        RegistryKey(number)
    }

    pub(super) fn address(&self) -> *const c_void {
        ptr::from_ref(self).cast()
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
    /// `watched(function)`: a C function that checks the deadline and then acts as the given C function,
    /// which has no values of its own. So its errors have the names and places that they have in plain Lua,
    /// and errors of metamethods stay unchanged.
    pub(super) watched: Function,
    /// `look_soon()`: checks the clock after few further instructions, as they may be slow.
    pub(super) look_soon: Function,
    /// `make_record(number)`: a new record.
    pub(super) make_record: Function,
}

/// The values whose addresses the registry of an interpreter holds. The interpreter owns them as its application data, which is
/// dropped after its state is closed.
struct RegistryValues {
    watch: Rc<Watch>,
    session: Rc<Session>,
}

/// Makes the primitives of `lua`; from now on `watch` limits all its functions.
///
/// # Errors
/// When there is not enough memory.
pub(super) fn install(lua: &Lua, watch: &Rc<Watch>, session: &Rc<Session>) -> mlua::Result<Primitives> {
    assert!(lua.app_data_ref::<RegistryValues>().is_none(), "an interpreter is watched once");
    let values = RegistryValues { watch: Rc::clone(watch), session: Rc::clone(session) };
    let (watch, session) = (Rc::as_ptr(&values.watch), Rc::as_ptr(&values.session));
    // No other code can remove it, because only this file knows the type.
    lua.set_app_data(values);
    // SAFETY: `exec_raw` gives a state with room for a few values and catches errors. Watch and session live as long as the
    // interpreter, which owns a part in both.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            ffi::lua_pushlightuserdata(state, watch.cast_mut().cast::<c_void>());
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, WATCH_KEY.address());
            ffi::lua_pushlightuserdata(state, session.cast_mut().cast::<c_void>());
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, SESSION_KEY.address());
            ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, WATCHED_INSTRUCTIONS);
        })?;
    }
    // SAFETY: these functions follow Lua's rules for C functions.
    unsafe {
        Ok(Primitives {
            proxy: lua.create_c_function(make_proxy)?,
            open: lua.create_c_function(open_proxy)?,
            wrap: lua.create_c_function(wrap_function)?,
            watched: lua.create_c_function(make_watched)?,
            look_soon: lua.create_c_function(look_soon)?,
            make_record: lua.create_c_function(make_record)?,
        })
    }
}

/// Raises an error in the running function when its time is over, and from then on after each instruction, so that a
/// program that catches the error cannot continue.
unsafe extern "C-unwind" fn look_at_watch(state: *mut ffi::lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: a hook has room for some values on the stack.
    unsafe {
        let watch = watch_of(state);
        let look = watch.map_or(Look::Usual, |watch| watch.look(SLOW_TIME));
        if look == Look::Over {
            ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, 1);
            raise_timeout(state);
        }
        // Single instructions on long strings may take milliseconds, and so does a change of the count on a deep stack.
        let count = ffi::lua_gethookcount(state);
        let is_large = ffi::lua_gc(state, ffi::LUA_GCCOUNT) >= LARGE_KIB
            && (long_strings::has_call_made_one() || is_deep(state));
        let next = if is_large || look == Look::Slow {
            SLOW_INSTRUCTIONS
        } else {
            count.saturating_mul(2).min(WATCHED_INSTRUCTIONS)
        };
        if next != count {
            ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, next);
            if let Some(watch) = watch {
                watch.note_look();
            }
        }
    }
}

/// Whether many calls are on the stack.
///
/// # Safety
/// In a hook.
unsafe fn is_deep(state: *mut ffi::lua_State) -> bool {
    // SAFETY: as the caller says. The record is plain data, which is only written.
    unsafe {
        let mut frame = std::mem::zeroed::<ffi::lua_Debug>();
        ffi::lua_getstack(state, DEEP_LEVEL, &raw mut frame) != 0
    }
}

/// `look_soon()`
unsafe extern "C-unwind" fn look_soon(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: it changes only the time at which the hook of the running thread is called.
    unsafe { ffi::lua_sethook(state, Some(look_at_watch), ffi::LUA_MASKCOUNT, SLOW_INSTRUCTIONS) };
    0
}

/// The watch of an interpreter.
///
/// # Safety
/// There is room for a value on the stack, and the watch is not used after the running call.
pub(super) unsafe fn watch_of<'a>(state: *mut ffi::lua_State) -> Option<&'a Watch> {
    // SAFETY: as the caller says. The registry holds the address of the interpreter's watch, which is there as long as the
    // interpreter runs.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, WATCH_KEY.address());
        let watch = ffi::lua_touserdata(state, -1).cast::<Watch>().as_ref();
        ffi::lua_pop(state, 1);
        watch
    }
}

/// The session of an interpreter.
///
/// # Safety
/// As for [`watch_of`].
pub(super) unsafe fn session_of<'a>(state: *mut ffi::lua_State) -> Option<&'a Session> {
    // SAFETY: as the caller says. The registry holds the address of the interpreter's session, which is there as long as the
    // interpreter runs.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, SESSION_KEY.address());
        let session = ffi::lua_touserdata(state, -1).cast::<Session>().as_ref();
        ffi::lua_pop(state, 1);
        session
    }
}

/// Raises the error of a function whose time is over.
///
/// # Safety
/// In a C function whose frame has nothing that must be dropped.
pub(super) unsafe fn raise_timeout(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as the caller says.
    unsafe { ffi::luaL_error(state, TIMEOUT.as_ptr()) }
}

/// `proxy(content, metatable)`
unsafe extern "C-unwind" fn make_proxy(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values; `settop` makes sure that two exist. Only the prelude calls
    // this, with two tables.
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
    // SAFETY: a C function has room for 20 values, of which six are used.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) != ffi::LUA_TUSERDATA || ffi::lua_getmetatable(state, 1) == 0 {
            return 0;
        }
        // Other userdata have no class in their metatable.
        if ffi::lua_rawgeti(state, 2, CLASS_INDEX) != ffi::LUA_TNUMBER {
            return 0;
        }
        if ffi::lua_getiuservalue(state, 1, 1) == ffi::LUA_TNIL {
            fill_record(state);
        }
    }
    2
}

/// Makes the content of the record at 1, whose metatable is at 2; it replaces the nil on top of the stack.
///
/// # Safety
/// In a C function, with room for two more values.
unsafe fn fill_record(state: *mut ffi::lua_State) {
    // SAFETY: as the caller says. The called function is one of the prelude, which takes one value and returns one.
    unsafe {
        let Some(id) = record_id(state, 1) else { return };
        if ffi::lua_rawgeti(state, 2, FILL_INDEX) != ffi::LUA_TFUNCTION {
            ffi::lua_pop(state, 1);
            return;
        }
        ffi::lua_pushinteger(state, id);
        ffi::lua_call(state, 1, 1);
        ffi::lua_replace(state, -2);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setiuservalue(state, 1, 1);
    }
}

/// The number of the record behind a proxy, if it is one.
///
/// # Safety
/// There is a userdata at `index`.
pub(super) unsafe fn record_id(state: *mut ffi::lua_State, index: c_int) -> Option<i64> {
    // SAFETY: as the caller says. Proxies of other classes have no bytes; those of records have the bytes of a number, which
    // were set when it was made. Lua aligns them for any value.
    unsafe {
        let has_id = ffi::lua_rawlen(state, index) == size_of::<i64>();
        has_id.then(|| ffi::lua_touserdata(state, index).cast::<i64>().read_unaligned())
    }
}

/// Pushes a new record.
///
/// # Safety
/// In a C function, with room for two more values.
unsafe fn push_record(state: *mut ffi::lua_State, id: i64) {
    // SAFETY: as the caller says. Lua gives the bytes that are asked for.
    unsafe {
        ffi::lua_newuserdatauv(state, size_of::<i64>(), 1).cast::<i64>().write_unaligned(id);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, RECORD_KEY.address());
        ffi::lua_setmetatable(state, -2);
    }
}

/// `make_record(number)`
unsafe extern "C-unwind" fn make_record(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. A value that is not a number counts as 0, the id of no record.
    unsafe { push_record(state, ffi::lua_tointegerx(state, 1, ptr::null_mut())) };
    1
}

/// Pushes a value.
///
/// # Safety
/// In a C function, with room for one more value.
pub(super) unsafe fn push_plain(state: *mut ffi::lua_State, value: &Plain<'_>) {
    // SAFETY: as the caller says.
    unsafe {
        match *value {
            Plain::Nil => ffi::lua_pushnil(state),
            Plain::Boolean(value) => ffi::lua_pushboolean(state, c_int::from(value)),
            Plain::Integer(value) => ffi::lua_pushinteger(state, value),
            Plain::Number(value) => ffi::lua_pushnumber(state, value),
            Plain::Text(text) => {
                ffi::lua_pushlstring(state, text.as_ptr().cast::<c_char>(), text.len());
            }
        }
    }
}

/// A call of a global function with a record and plain values.
pub(super) struct PlainCall<'a> {
    pub(super) function: &'a [u8],
    /// Number of the record.
    pub(super) record: i64,
    pub(super) arguments: &'a [Plain<'a>],
}

/// The end of a call. A value that is not plain is `None` and can be [taken](Entry::take_kept).
pub(super) enum Ended<'a> {
    /// There is no such function.
    NotFound,
    Returned(Option<Plain<'a>>),
    Raised(Option<Plain<'a>>),
}

/// Calls functions of an interpreter without handles to values: several handles cost more than a small function.
pub(super) struct Entry {
    /// The main thread of the interpreter, which lives as long as the interpreter.
    state: *mut ffi::lua_State,
    /// Keeps the interpreter alive.
    _lua: Lua,
}

/// A call, and the details of its end from [`call_function`].
struct CallFrame<'a> {
    call: PlainCall<'a>,
    is_found: Cell<bool>,
    is_kept: Cell<bool>,
}

impl Entry {
    /// The entry of `lua`, whose records have the metatable `record`. Before each call the variable `aerospike` is set.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(super) fn new(lua: &Lua, record: Table, aerospike: Value) -> mlua::Result<Self> {
        let mut own = ptr::null_mut();
        // SAFETY: `exec_raw` has put the arguments on the stack, which has room for a few more values, and
        // catches errors.
        unsafe {
            lua.exec_raw::<()>((record, aerospike), |state| {
                ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, ffi::LUA_RIDX_MAINTHREAD);
                own = ffi::lua_tothread(state, -1);
                ffi::lua_pop(state, 1);
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, AEROSPIKE_KEY.address());
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, RECORD_KEY.address());
                ffi::lua_pushboolean(state, 0);
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, KEPT_KEY.address());
            })?;
        }
        Ok(Entry { state: own, _lua: lua.clone() })
    }

    /// Detects long strings that a call makes, until the result is dropped; refuses them with `is_refusing`. `watch` is that of the
    /// interpreter.
    pub(super) fn watch_long_strings(&self, watch: &Rc<Watch>, is_refusing: bool) -> LongStringWatch {
        // SAFETY: the caller has the interpreter, and keeps it and its watch until the call has ended. The library sets its
        // allocator only when it makes an interpreter.
        unsafe { LongStringWatch::begin(self.state, Rc::as_ptr(watch), is_refusing) }
    }

    /// Makes a call, and passes its end to `read`.
    pub(super) fn call<T>(&self, call: PlainCall<'_>, read: impl FnOnce(Ended<'_>) -> T) -> T {
        let frame = CallFrame { call, is_found: Cell::new(true), is_kept: Cell::new(false) };
        let state = self.state;
        // SAFETY: the state lives as long as its interpreter, of which this has a part. Pushing a C function
        // without values and an address takes no memory, so it raises no error. The frame outlives the call.
        unsafe {
            let top = ffi::lua_gettop(state);
            if ffi::lua_checkstack(state, CALL_STACK) == 0 {
                return read(Ended::Raised(Some(Plain::Text(b"not enough memory"))));
            }
            ffi::lua_pushcclosure(state, call_function, 0);
            ffi::lua_pushlightuserdata(state, ptr::from_ref(&frame).cast_mut().cast::<c_void>());
            let status = ffi::lua_pcall(state, 1, 1, 0);
            let value = if frame.is_kept.get() { None } else { plain_at_top(state) };
            let done = if status != ffi::LUA_OK {
                if value.is_none() {
                    // The key exists, so this takes no memory.
                    ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, KEPT_KEY.address());
                }
                read(Ended::Raised(value))
            } else if frame.is_found.get() {
                read(Ended::Returned(value))
            } else {
                read(Ended::NotFound)
            };
            ffi::lua_settop(state, top);
            done
        }
    }

    /// Takes the value kept by the last call.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(super) fn take_kept(lua: &Lua) -> mlua::Result<Value> {
        // SAFETY: `exec_raw` gives a state with room for a few values and catches errors.
        unsafe {
            lua.exec_raw((), |state| {
                ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, KEPT_KEY.address());
                ffi::lua_pushboolean(state, 0);
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, KEPT_KEY.address());
            })
        }
    }
}

/// The value on top of the stack, if it is plain.
///
/// # Safety
/// There is a value, which stays on the stack as long as the result is used.
unsafe fn plain_at_top<'a>(state: *mut ffi::lua_State) -> Option<Plain<'a>> {
    // SAFETY: as the caller says. Nothing here changes the value or takes memory: only strings are read.
    unsafe {
        Some(match ffi::lua_type(state, -1) {
            ffi::LUA_TNIL => Plain::Nil,
            ffi::LUA_TBOOLEAN => Plain::Boolean(ffi::lua_toboolean(state, -1) != 0),
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, -1) != 0 => {
                Plain::Integer(ffi::lua_tointegerx(state, -1, ptr::null_mut()))
            }
            ffi::LUA_TNUMBER => Plain::Number(ffi::lua_tonumberx(state, -1, ptr::null_mut())),
            ffi::LUA_TSTRING => {
                let mut size = 0;
                let text = ffi::lua_tolstring(state, -1, &raw mut size);
                Plain::Text(std::slice::from_raw_parts(text.cast::<u8>(), size))
            }
            _ => return None,
        })
    }
}

/// Makes the call; the only argument is the address of its frame.
unsafe extern "C-unwind" fn call_function(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: only `Entry::call` calls this, with the address of a frame that outlives the call. `luaL_checkstack` makes room
    // for all that is pushed.
    unsafe {
        let frame = ffi::lua_touserdata(state, 1).cast::<CallFrame<'_>>();
        let Some(CallFrame { call, is_found, is_kept }) = frame.as_ref() else { return 0 };
        let count = c_int::try_from(call.arguments.len()).unwrap_or(c_int::MAX - CALL_STACK);
        ffi::luaL_checkstack(state, count + CALL_STACK, ptr::null());
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, ffi::LUA_RIDX_GLOBALS);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, AEROSPIKE_KEY.address());
        ffi::lua_setfield(state, 2, c"aerospike".as_ptr());
        ffi::lua_pushlstring(state, call.function.as_ptr().cast::<c_char>(), call.function.len());
        if ffi::lua_rawget(state, 2) == ffi::LUA_TNIL {
            is_found.set(false);
            return 0;
        }
        push_record(state, call.record);
        for argument in call.arguments {
            push_plain(state, argument);
        }
        ffi::lua_call(state, count + 1, 1);
        if plain_at_top(state).is_none() {
            is_kept.set(true);
            ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, KEPT_KEY.address());
            return 0;
        }
    }
    1
}

/// The bytes of the string at `index`; none for other values.
///
/// # Safety
/// They are used only while the string is on the stack.
pub(super) unsafe fn string_at<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<&'a [u8]> {
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

/// `watched(function)`
unsafe extern "C-unwind" fn make_watched(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the function is the only value on the stack, and becomes that of the closure.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_pushcclosure(state, call_watched, 1);
    }
    1
}

/// Checks the deadline, and then acts as the C function in the closure.
unsafe extern "C-unwind" fn call_watched(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. The prelude passes functions of Lua's libraries. These
    // have no values of their own, so this frame contains the same as a frame of their own.
    unsafe {
        if watch_of(state).is_some_and(Watch::is_over) {
            return raise_timeout(state);
        }
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(function) => function(state),
            None => 0,
        }
    }
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

/// Calls the wrapped function with all arguments and returns all its results.
unsafe extern "C-unwind" fn call_wrapped(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the closure's only value is a function. The stack has room for it in addition to the arguments.
    // `lua_call` takes as many arguments as there were, and makes room for the results.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, arguments, ffi::LUA_MULTRET);
        ffi::lua_gettop(state)
    }
}
