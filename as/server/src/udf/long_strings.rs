//! Detects that a call makes long strings. One instruction that copies or compares such a string takes long,
//! but the hook checks the clock only between instructions. So a call on a service thread must not make one:
//! it ends with an error, and is repeated in the pool.
//!
//! Lua passes the purpose of a new block to its allocator. During a call an allocator of this file is in
//! front of the library's.
//!
//! It looks at the clock too before it gives a large block: one instruction may take long and ask for such blocks, for example a call
//! through a chain of `__call`. When the time of the call is over, there are none.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use mlua::ffi;

use super::watch::Watch;

/// Maximum number of bytes of an interpreter's values.
pub(super) const MEMORY_MAX: usize = 96 << 20;
/// Bytes of a large block.
const LARGE_SIZE_MIN: usize = 256 << 10;
/// Bytes of the block of a long string. Comparing two strings of half that size takes about 0.1 ms at worst.
const LONG_SIZE_MIN: usize = 16 << 10;

thread_local! {
    /// The running call of this thread.
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Running {
    /// The library's allocator.
    behind: ffi::lua_Alloc,
    /// The time of the call.
    watch: *const Watch,
    is_refusing: bool,
    has_made_one: bool,
}

/// Whether the call of this thread has made a long string.
pub(super) fn has_call_made_one() -> bool {
    RUNNING.get().is_some_and(|running| running.has_made_one)
}

/// The watch over a call; it ends when this is dropped.
pub(super) struct LongStringWatch {
    state: *mut ffi::lua_State,
    behind: ffi::lua_Alloc,
    data: *mut c_void,
    /// A call of another interpreter of this thread.
    outer: Option<Running>,
}

impl LongStringWatch {
    /// Begins to watch for long strings. With `is_refusing` it refuses them: making one is then an error of
    /// memory. `watch` has the time of the call.
    ///
    /// # Safety
    /// The interpreter of `state` and the watch live as long as the result, and only this thread uses them. No other code
    /// replaces its allocator.
    pub(super) unsafe fn begin(state: *mut ffi::lua_State, watch: *const Watch, is_refusing: bool) -> Self {
        let mut data = ptr::null_mut();
        // SAFETY: the state exists. The new allocator passes every request on to the present one, with its
        // data.
        unsafe {
            let behind = ffi::lua_getallocf(state, &raw mut data);
            let outer = RUNNING.replace(Some(Running { behind, watch, is_refusing, has_made_one: false }));
            ffi::lua_setallocf(state, allocate, data);
            LongStringWatch { state, behind, data, outer }
        }
    }

    /// Whether the call has made a long string, or tried to.
    pub(super) fn has_made_one(&self) -> bool {
        has_call_made_one()
    }
}

impl Drop for LongStringWatch {
    fn drop(&mut self) {
        // SAFETY: as `begin` requires, the state exists. It gets its previous allocator back.
        unsafe { ffi::lua_setallocf(self.state, self.behind, self.data) };
        RUNNING.set(self.outer);
    }
}

/// Lua's allocator during a call.
unsafe extern "C" fn allocate(
    data: *mut c_void,
    block: *mut c_void,
    old_size: usize,
    new_size: usize,
) -> *mut c_void {
    // It is set as long as this is the allocator.
    let Some(running) = RUNNING.get() else { return ptr::null_mut() };
    // Without an old block, the old size is the kind of the new one.
    let is_string = block.is_null() && old_size == ffi::LUA_TSTRING as usize;
    if is_string && new_size >= LONG_SIZE_MIN {
        RUNNING.set(Some(Running { has_made_one: true, ..running }));
        if running.is_refusing {
            return ptr::null_mut();
        }
    }
    // A block that grows has its size in `old_size`.
    let is_large = new_size >= LARGE_SIZE_MIN && (block.is_null() || new_size > old_size);
    // SAFETY: as `begin` requires, the watch lives as long as this is the allocator.
    if is_large && unsafe { (*running.watch).is_over() } {
        return ptr::null_mut();
    }
    // SAFETY: Lua keeps to the contract of an allocator, and the arguments are passed on unchanged.
    unsafe { (running.behind)(data, block, old_size, new_size) }
}
